#include "cli/bench_prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/printable.h"
#include "base/settings.h"
#include "base/strict_json.h"
#include "base/utf8.h"

namespace moesaic::cli {
namespace {

namespace json = boost::json;

constexpr size_t kMaxFile = size_t{256} << 20;

bool are_ids(const json::value& value) {
  return value.is_array() && !value.get_array().empty() &&
         std::all_of(value.get_array().begin(), value.get_array().end(),
                     [](const json::value& id) { return id.is_int64() && id.get_int64() >= 0; });
}

/// A text as the endpoint takes it.
Prompt of_text(json::string text, Endpoint endpoint) {
  if (endpoint == Endpoint::kCompletions) return {std::move(text), std::nullopt};
  json::object message{{"role", "user"}, {"content", std::move(text)}};
  return {json::array{std::move(message)}, std::nullopt};
}

Prompt of_object(const json::object& object, Endpoint endpoint, const std::string& origin) {
  const json::value* prompt = object.if_contains("prompt");
  const json::value* messages = object.if_contains("messages");
  if ((prompt == nullptr) == (messages == nullptr)) {
    throw base::UsageError(origin + R"(: expected a member "prompt" or a member "messages")");
  }
  if (messages != nullptr) {
    if (endpoint != Endpoint::kChat) {
      throw base::UsageError(origin + R"(: "messages" need --endpoint chat)");
    }
    if (!messages->is_array() || messages->get_array().empty()) {
      throw base::UsageError(origin + R"(: "messages" is not a list with messages)");
    }
    return {*messages, std::nullopt};
  }
  if (prompt->is_string()) return of_text(prompt->get_string(), endpoint);
  if (!are_ids(*prompt)) {
    throw base::UsageError(origin + R"(: "prompt" is neither text nor a list of token ids)");
  }
  if (endpoint == Endpoint::kChat) {
    throw base::UsageError(origin +
                           ": a chat cannot be given token ids; use --endpoint "
                           "completions");
  }
  return {*prompt, static_cast<int64_t>(prompt->get_array().size())};
}

Prompt of_line(std::string_view line, Endpoint endpoint, const std::string& origin) {
  if (!line.starts_with('{')) {
    if (!base::is_utf8(line)) throw base::UsageError(origin + ": the text is not UTF-8");
    return of_text(json::string(line), endpoint);
  }
  json::value value;
  try {
    value = base::parse_strict_json(line);
  } catch (const base::JsonError& error) {
    throw base::UsageError(fmt::format("{}: not JSON: {}", origin, error.what()));
  }
  return of_object(value.get_object(), endpoint, origin);
}

}  // namespace

NumberRange parse_range(const std::string& origin, const std::string& text,
                        const NumberRange& allowed) {
  const size_t dots = text.find("..");
  const auto number = [](const std::string& part) {
    return part == "auto" ? std::nullopt : base::parse_integer(part);
  };
  const auto low = number(text.substr(0, dots));
  const auto high = dots == std::string::npos ? low : number(text.substr(dots + 2));
  if (!low || !high || *low < allowed.low || *high > allowed.high || *low > *high) {
    throw base::UsageError(fmt::format(
        "{}: '{}' is neither a whole number in {}..{} nor a range such as 128..512 of them", origin,
        base::printable(text.substr(0, 40)), allowed.low, allowed.high));
  }
  return {*low, *high};
}

Prompts Prompts::random(const NumberRange& lengths, const NumberRange& ids) {
  Prompts prompts;
  prompts.lengths_ = lengths;
  prompts.ids_ = ids;
  return prompts;
}

Prompts Prompts::of_file(const std::string& path, Endpoint endpoint) {
  const std::optional<std::string> text = base::read_file(path, kMaxFile);
  if (!text) throw base::UsageError(fmt::format("--prompts {}: larger than 256 MiB", path));
  Prompts prompts;
  std::string_view rest = *text;
  for (int64_t number = 1; !rest.empty(); ++number) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    prompts.lines_.push_back(
        of_line(line, endpoint, fmt::format("--prompts {}, line {}", path, number)));
  }
  if (prompts.lines_.empty()) {
    throw base::UsageError(fmt::format("--prompts {}: there is no prompt in it", path));
  }
  return prompts;
}

Prompt Prompts::next(std::mt19937_64& random) {
  if (!lines_.empty()) {
    const Prompt& prompt = lines_[at_];
    at_ = (at_ + 1) % lines_.size();
    return prompt;
  }
  const int64_t length = std::uniform_int_distribution(lengths_.low, lengths_.high)(random);
  std::uniform_int_distribution id(ids_.low, ids_.high);
  json::array ids;
  ids.reserve(static_cast<size_t>(length));
  for (int64_t i = 0; i < length; ++i) ids.push_back(id(random));
  return {std::move(ids), length};
}

}  // namespace moesaic::cli
