#include "plan/names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <cctype>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/nearest.h"
#include "model/family.h"
#include "plan/shipped.h"

namespace moesaic::plan {

namespace {

struct Shipped {
  std::string name;
  std::vector<std::string> also;
  std::string source;
  std::vector<std::string> recalled;
  boost::json::object config;
};

std::vector<std::string> strings(const boost::json::value& list) {
  std::vector<std::string> out;
  for (const boost::json::value& entry : list.as_array()) out.emplace_back(entry.as_string());
  return out;
}

const std::vector<Shipped>& shipped() {
  static const std::vector<Shipped> all = [] {
    const std::string_view text = shipped_models();
    const boost::json::value data = boost::json::parse({text.data(), text.size()});
    std::vector<Shipped> models;
    for (const boost::json::value& model : data.at("models").as_array()) {
      models.push_back({.name = std::string(model.at("name").as_string()),
                        .also = strings(model.at("also")),
                        .source = std::string(model.at("source").as_string()),
                        .recalled = strings(model.at("recalled")),
                        .config = model.at("config").as_object()});
    }
    return models;
  }();
  return all;
}

/// A Hub name without its owner, in words: "Mixtral-8x7B_v0.1" is {mixtral, 8x7b, v0.1}.
std::vector<std::string> words_of(const std::string& name) {
  std::vector<std::string> words;
  std::string word;
  const size_t slash = name.rfind('/');
  for (const char c : name.substr(slash == std::string::npos ? 0 : slash + 1)) {
    if (c == '-' || c == '_' || c == ' ') {
      if (!word.empty()) words.push_back(std::move(word));
      word.clear();
    } else {
      word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

// Words that say how a model was trained on or stored, and leave its shape as it is. Anything else
// (distill, tiny, coder, merge, 2x, a date, ...) may stand for another shape.
constexpr std::array kHarmless = {"base",    "instruct", "chat", "it",      "hf",  "v0.1",
                                  "v0.2",    "v0.3",     "v1",   "v1.0",    "dpo", "sft",
                                  "dynamic", "bf16",     "fp16", "float16", "sym", "asym"};
// Words before the model's name that are known fine-tunes of the unchanged shape.
constexpr std::array kFineTunes = {"nous", "hermes", "2",    "dolphin", "2.5",
                                   "2.6",  "2.7",    "meta", "mistral", "openhermes"};

struct QuantWord {
  const char* word;
  const char* format;
};
constexpr std::array kQuantWords = {
    QuantWord{"awq", "awq"},          QuantWord{"gptq", "gptq"},   QuantWord{"fp8", "fp8"},
    QuantWord{"int8", "int8"},        QuantWord{"w8a8", "int8"},   QuantWord{"8bit", "int8"},
    QuantWord{"int4", "int4"},        QuantWord{"w4a16", "gptq"},  QuantWord{"4bit", "int4"},
    QuantWord{"bnb", "bitsandbytes"}, QuantWord{"mxfp4", "mxfp4"}, QuantWord{"eetq", "int8"},
    QuantWord{"nvfp4", "nvfp4"}};

template <size_t N>
bool holds(const std::array<const char*, N>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// What a name adds to a shipped model's; empty when something in it is not known to be harmless.
struct Match {
  size_t length = 0;  ///< words of the shipped name
  std::string quantization;
  bool bits16 = false;
};

std::optional<Match> match(const std::vector<std::string>& asked,
                           const std::vector<std::string>& known) {
  const auto at = std::search(asked.begin(), asked.end(), known.begin(), known.end());
  if (known.empty() || at == asked.end()) return std::nullopt;
  Match found;
  found.length = known.size();
  const bool fine = std::all_of(asked.begin(), at,
                                [](const std::string& word) { return holds(kFineTunes, word); });
  if (!fine) return std::nullopt;
  for (auto word = at + static_cast<ptrdiff_t>(known.size()); word != asked.end(); ++word) {
    const auto quant = std::find_if(kQuantWords.begin(), kQuantWords.end(),
                                    [&](const QuantWord& q) { return *word == q.word; });
    if (quant != kQuantWords.end()) {
      // A method says 4 bits of itself; a count of bits beside it says more.
      const bool bits = *word == "int4" || *word == "int8" || *word == "8bit";
      if (found.quantization.empty() || bits) found.quantization = quant->format;
    } else if (!holds(kHarmless, *word)) {
      return std::nullopt;
    }
    if (*word == "bf16" || *word == "fp16" || *word == "float16") found.bits16 = true;
  }
  return found;
}

/// A shipped name's words without those that fine-tunes leave out or change.
std::vector<std::string> stem_of(const std::string& name) {
  std::vector<std::string> words = words_of(name);
  while (words.size() > 1 && holds(kHarmless, words.back())) words.pop_back();
  return words;
}

/// A shipped model and what the asked name makes of it.
struct Found {
  const Shipped* model = nullptr;
  Match match;
  std::string relation;
};

bool same(const std::string& a, const std::string& b) { return words_of(a) == words_of(b); }

std::optional<Found> exact(const std::string& asked) {
  for (const Shipped& model : shipped()) {
    if (same(model.name, asked)) return Found{&model, {}, ""};
    for (const std::string& name : model.also) {
      if (same(name, asked)) return Found{&model, {}, "has the shape of " + model.name};
    }
  }
  return std::nullopt;
}

/// The shipped model with the longest name of which `asked` is a fine-tune or a quantised copy.
std::optional<Found> derived(const std::string& asked) {
  const std::vector<std::string> words = words_of(asked);
  Found best;
  for (const Shipped& model : shipped()) {
    std::vector<std::string> names = model.also;
    names.push_back(model.name);
    for (const std::string& name : names) {
      const std::optional<Match> found = match(words, stem_of(name));
      if (!found || found->length <= best.match.length) continue;
      best = {&model, *found, ""};
    }
  }
  if (best.model == nullptr) return std::nullopt;
  best.relation = fmt::format(
      "is recognised by its name as a {} of {}",
      best.match.quantization.empty() ? "fine-tune or copy" : "quantised copy", best.model->name);
  return best;
}

std::optional<Found> find_shipped(const std::string& asked) {
  constexpr size_t kLongestName = 200;
  if (asked.size() > kLongestName) return std::nullopt;
  if (std::optional<Found> found = exact(asked)) return found;
  return derived(asked);
}

boost::json::object config_of(const Found& found) {
  boost::json::object config = found.model->config;
  // "AWQ-fp16" is AWQ that computes in 16 bits.
  if (found.match.quantization.empty() && !found.match.bits16) return config;
  config.erase("quantization_config");
  if (auto* text = config.if_contains("text_config"); text != nullptr && text->is_object()) {
    text->as_object().erase("quantization_config");
  }
  if (!found.match.quantization.empty()) {
    config["quantization_config"] = {{"quant_method", found.match.quantization}};
  }
  return config;
}

ResolvedModel from_shipped(const Found& found, const std::string& asked) {
  ResolvedModel resolved;
  resolved.name = found.model->name;
  resolved.asked = asked;
  resolved.source = found.model->source;
  resolved.relation = found.relation;
  resolved.recalled = found.model->recalled;
  resolved.spec = model::parse_spec(config_of(found), found.model->name, model::Purpose::kPlan);
  return resolved;
}

ResolvedModel from_files(const std::string& path) {
  ResolvedModel resolved;
  resolved.name = path;
  resolved.asked = path;
  resolved.spec = model::load_spec(path, {}, model::Purpose::kPlan);
  resolved.source = resolved.spec.gguf ? "its own metadata" : "its own config.json";
  return resolved;
}

}  // namespace

std::vector<std::string> shipped_model_names() {
  std::vector<std::string> names;
  names.reserve(shipped().size());
  for (const Shipped& model : shipped()) names.push_back(model.name);
  return names;
}

std::optional<boost::json::object> shipped_config(const std::string& name) {
  const std::optional<Found> found = find_shipped(name);
  if (!found) return std::nullopt;
  return config_of(*found);
}

ResolvedModel resolve_model(const std::string& model) {
  std::error_code error;
  if (std::filesystem::exists(model, error)) return from_files(model);
  if (const std::optional<Found> found = find_shipped(model)) return from_shipped(*found, model);
  const std::vector<std::string> names = shipped_model_names();
  // Owners are left out of the comparison: who asks for a model seldom has them wrong.
  std::vector<std::string> bare;
  bare.reserve(names.size());
  for (const std::string& name : names) bare.push_back(name.substr(name.find('/') + 1));
  const std::string closest = base::nearest(model.substr(model.rfind('/') + 1), bare);
  const size_t index =
      static_cast<size_t>(std::find(bare.begin(), bare.end(), closest) - bare.begin());
  throw base::UsageError(fmt::format(
      "'{}' is neither a folder or config.json here nor a model whose facts are shipped, nor "
      "surely a fine-tune or quantised copy of one; give its config.json. The nearest shipped "
      "model "
      "is {}. Shipped are {}",
      model.substr(0, 200), names[index], fmt::join(bare, ", ")));
}

}  // namespace moesaic::plan
