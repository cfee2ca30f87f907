#include "cli/bench_answer.h"

#include <fmt/format.h>

#include <array>
#include <boost/json/value.hpp>

#include "base/printable.h"
#include "base/strict_json.h"

namespace moesaic::cli {
namespace {

namespace json = boost::json;

/// Events for each token that was asked for: some servers and proxies cut text smaller than tokens.
constexpr int64_t kEventsPerToken = 16;

/// The member as a string that says something; null when it is none.
const json::string* text_of(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  const json::string* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr || text->empty() ? nullptr : text;
}

bool is_given(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value != nullptr && !value->is_null();
}

std::optional<int64_t> count_of(const json::object& usage, std::string_view name) {
  const json::value* value = usage.if_contains(name);
  constexpr int64_t kMost = int64_t{1} << 40;
  if (value == nullptr || !value->is_int64()) return std::nullopt;
  const int64_t count = value->get_int64();
  if (count < 0 || count > kMost) return std::nullopt;
  return count;
}

/// Whether a choice brings a token. One without text does (a token that is part of a character, or
/// that is not shown) unless the event is there for something else: the role, the end.
bool brings_token(const json::object& choice) {
  if (text_of(choice, "text") != nullptr) return true;
  const json::value* member = choice.if_contains("delta");
  const json::object* delta = member == nullptr ? nullptr : member->if_object();
  if (delta != nullptr) {
    constexpr std::array kTexts = {"content", "reasoning_content", "reasoning"};
    for (const char* name : kTexts) {
      if (text_of(*delta, name) != nullptr) return true;
    }
    if (is_given(*delta, "tool_calls")) return true;
    if (is_given(*delta, "role")) return false;
  }
  return !is_given(choice, "finish_reason");
}

std::string message_of(const json::object& object) {
  if (const json::string* text = text_of(object, "message")) return std::string(*text);
  if (const json::string* text = text_of(object, "error")) return std::string(*text);
  if (const json::value* inner = object.if_contains("error"); inner && inner->is_object()) {
    if (const json::string* text = text_of(inner->get_object(), "message")) {
      return std::string(*text);
    }
  }
  return {};
}

}  // namespace

void EventStream::feed(std::string_view bytes, const std::function<void(std::string_view)>& take) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    line_ += bytes.substr(0, end);
    if (line_.size() + data_.size() > kMaxEvent) {
      throw RequestFailure("an event of the stream is larger than 1 MiB");
    }
    if (end == std::string_view::npos) return;
    bytes.remove_prefix(end + 1);
    if (line_.ends_with('\r')) line_.pop_back();
    end_line(line_, take);
    line_.clear();
  }
}

void EventStream::end_line(const std::string& line,
                           const std::function<void(std::string_view)>& take) {
  constexpr std::string_view kData = "data:";
  if (line.starts_with(kData)) {
    std::string_view value = std::string_view(line).substr(kData.size());
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  } else if (line.empty() && has_data_) {
    take(data_);
    data_.clear();
    has_data_ = false;
  }
}

void StreamedAnswer::take(std::string_view data, double now) {
  if (done_) return;
  end_ = now;
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  json::value root;
  try {
    root = base::parse_strict_json(data);
  } catch (const base::JsonError& error) {
    throw RequestFailure(fmt::format("an event is not JSON: {}", error.what()));
  }
  const json::object* chunk = root.if_object();
  if (chunk == nullptr) throw RequestFailure("an event is no object");
  if (is_given(*chunk, "error")) {
    throw RequestFailure("the stream reports: " + error_message(data));
  }
  if (const json::value* usage = chunk->if_contains("usage"); usage && usage->is_object()) {
    const json::object& counts = usage->get_object();
    if (const auto count = count_of(counts, "prompt_tokens")) prompt_tokens_ = count;
    if (const auto count = count_of(counts, "completion_tokens")) output_tokens_ = count;
  }
  const json::value* choices = chunk->if_contains("choices");
  if (choices == nullptr || !choices->is_array()) return;
  bool token = false;
  for (const json::value& choice : choices->get_array()) {
    if (!choice.is_object()) throw RequestFailure("an event has a choice that is no object");
    token = token || brings_token(choice.get_object());
    finished_ = finished_ || is_given(choice.get_object(), "finish_reason");
  }
  if (token) take_token(now);
}

void StreamedAnswer::take_token(double now) {
  if (token_events_ == 0) {
    first_token_ = now;
  } else {
    gaps_.push_back(static_cast<float>(now - last_token_));
  }
  last_token_ = now;
  if (++token_events_ > kEventsPerToken * (max_tokens_ + 1)) {
    throw RequestFailure("the answer goes on far beyond the tokens that were asked for");
  }
}

void StreamedAnswer::check_complete() const {
  if (finished_ || (done_ && token_events_ > 0)) return;
  throw RequestFailure(token_events_ > 0 ? "the stream ended in the middle of the answer"
                                         : "the stream ended without an answer");
}

std::string error_message(std::string_view body) {
  std::string message;
  try {
    const json::value root = base::parse_strict_json(body);
    if (root.is_object()) message = message_of(root.get_object());
  } catch (const base::JsonError&) {
    message = {};  // plain text, then
  }
  if (message.empty()) message = body;
  while (!message.empty() && (message.back() == '\n' || message.back() == '\r')) {
    message.pop_back();
  }
  return base::printable(message);
}

}  // namespace moesaic::cli
