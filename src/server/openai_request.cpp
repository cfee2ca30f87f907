#include "server/openai_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/parse.hpp>
#include <charconv>
#include <limits>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "server/fields.h"

namespace moesaic::server {
namespace {

namespace json = boost::json;

/// A number inside [low, high], or above `low` only when `open_low`. NaN fails every comparison
/// and so is refused.
double checked(std::string_view name, double value, double low, double high, bool open_low,
               const char* range) {
  const bool inside = (open_low ? value > low : value >= low) && value <= high;
  if (!inside) value_error(name, fmt::format("{} must be {}", name, range));
  return value;
}

int64_t checked_int(std::string_view name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    value_error(name, fmt::format("{} must be from {} to {}, not {}", name, low, high, value));
  }
  return value;
}

void parse_temperatures(const Fields& fields, const SamplingDefaults& defaults,
                        engine::SamplingParams& out) {
  const auto pick = [&](const char* name, std::optional<double> fallback, double otherwise) {
    const auto given = fields.number(name);
    return given ? *given : fallback.value_or(otherwise);
  };
  out.temperature = static_cast<float>(checked(
      "temperature", pick("temperature", defaults.temperature, 1), 0, 2, false, "from 0 to 2"));
  out.top_p = static_cast<float>(
      checked("top_p", pick("top_p", defaults.top_p, 1), 0, 1, true, "above 0 and at most 1"));
  out.min_p = static_cast<float>(
      checked("min_p", pick("min_p", defaults.min_p, 0), 0, 1, false, "from 0 to 1"));
  out.repetition_penalty = static_cast<float>(
      checked("repetition_penalty", pick("repetition_penalty", defaults.repetition_penalty, 1),
              1e-4, 1e4, false, "from 0.0001 to 10000"));
  out.presence_penalty = static_cast<float>(
      checked("presence_penalty", pick("presence_penalty", {}, 0), -2, 2, false, "from -2 to 2"));
  out.frequency_penalty = static_cast<float>(
      checked("frequency_penalty", pick("frequency_penalty", {}, 0), -2, 2, false, "from -2 to 2"));
  const int64_t top_k = fields.integer("top_k").value_or(defaults.top_k.value_or(0));
  out.top_k =
      static_cast<int32_t>(checked_int("top_k", top_k, -1, std::numeric_limits<int32_t>::max()));
}

void parse_logit_bias(const Fields& fields, const RequestLimits& limits, engine::TokenRules& out) {
  const json::object* bias = fields.object("logit_bias");
  if (bias == nullptr) return;
  if (static_cast<int64_t>(bias->size()) > limits.max_logit_bias) {
    value_error("logit_bias", fmt::format("logit_bias has {} entries; --max-logit-bias is {}",
                                          bias->size(), limits.max_logit_bias));
  }
  for (const auto& [key, value] : *bias) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || end != key.data() + key.size()) {
      value_error("logit_bias", "a key of logit_bias is not a token id");
    }
    if (id < 0 || id >= limits.vocab_size) {
      value_error("logit_bias", fmt::format("logit_bias: token id {} is outside the model's "
                                            "vocabulary of {} ids",
                                            id, limits.vocab_size));
    }
    if (!value.is_number()) schema_error("logit_bias", "values must be numbers");
    const double amount = checked("logit_bias", value.to_number<double>(), -100, 100, false,
                                  "from -100 to 100 for each token");
    out.logit_bias.emplace_back(static_cast<int32_t>(id), static_cast<float>(amount));
  }
  // As text the keys differ ("7" and "07"), so the reader of the JSON has let them pass.
  std::sort(out.logit_bias.begin(), out.logit_bias.end());
  const auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
  if (std::adjacent_find(out.logit_bias.begin(), out.logit_bias.end(), same) !=
      out.logit_bias.end()) {
    value_error("logit_bias", "logit_bias has a token id twice");
  }
}

/// A list of ids in which some may be missing but none need be twice.
std::vector<int32_t> parse_id_list(const Fields& fields, const char* name,
                                   const RequestLimits& limits) {
  const json::array* list = fields.array(name);
  if (list == nullptr) return {};
  if (static_cast<int64_t>(list->size()) > limits.vocab_size) {
    value_error(name, fmt::format("{} has {} entries; the model's vocabulary has {} ids", name,
                                  list->size(), limits.vocab_size));
  }
  return read_token_ids(*list, name, limits.vocab_size);
}

void parse_bad_words(const Fields& fields, const RequestLimits& limits, CommonRequest& out) {
  const json::array* words = fields.array("bad_words");
  if (words == nullptr) return;
  if (static_cast<int64_t>(words->size()) > limits.max_bad_words) {
    value_error("bad_words", fmt::format("bad_words has {} entries; --max-bad-words is {}",
                                         words->size(), limits.max_bad_words));
  }
  int64_t bytes = 0;
  for (const json::value& word : *words) {
    if (!word.is_string() || word.get_string().empty()) {
      schema_error("bad_words", "must be an array of strings that are not empty");
    }
    bytes += static_cast<int64_t>(word.get_string().size());
    if (bytes > limits.max_bad_words_bytes) {
      value_error("bad_words", fmt::format("the bad_words have more bytes than "
                                           "--max-bad-words-bytes, which is {}",
                                           limits.max_bad_words_bytes));
    }
    out.bad_words.emplace_back(word.get_string().data(), word.get_string().size());
  }
}

void parse_stop(const Fields& fields, const RequestLimits& limits, CommonRequest& out) {
  const json::value* stop = fields.find("stop");
  if (stop == nullptr) return;
  const auto add = [&](const json::value& value) {
    if (!value.is_string()) schema_error("stop", "must be a string or an array of strings");
    const std::string text(value.get_string().data(), value.get_string().size());
    if (text.empty()) value_error("stop", "a stop string must not be empty");
    if (text.find('\0') != std::string::npos) value_error("stop", "a stop string has a NUL");
    if (static_cast<int64_t>(text.size()) > limits.max_stop_bytes) {
      value_error("stop", fmt::format("a stop string has {} bytes; --max-stop-bytes is {}",
                                      text.size(), limits.max_stop_bytes));
    }
    out.stop.push_back(text);
  };
  if (!stop->is_array()) return add(*stop);
  if (static_cast<int64_t>(stop->get_array().size()) > limits.max_stop) {
    value_error("stop", fmt::format("stop has {} strings; --max-stop-sequences is {}",
                                    stop->get_array().size(), limits.max_stop));
  }
  for (const json::value& value : stop->get_array()) add(value);
}

void parse_token_rules(const Fields& fields, const RequestLimits& limits, CommonRequest& out) {
  engine::SamplingParams& sampling = out.sampling;
  sampling.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  sampling.min_tokens = static_cast<int32_t>(
      checked_int("min_tokens", fields.integer("min_tokens").value_or(0), 0, limits.max_model_len));
  out.rules.stop_token_ids = parse_id_list(fields, "stop_token_ids", limits);
  out.rules.allowed_token_ids = parse_id_list(fields, "allowed_token_ids", limits);
  if (fields.has("allowed_token_ids") && out.rules.allowed_token_ids.empty()) {
    value_error("allowed_token_ids", "allowed_token_ids must not be empty");
  }
  parse_logit_bias(fields, limits, out.rules);
  parse_stop(fields, limits, out);
  parse_bad_words(fields, limits, out);
}

void parse_counts(const Fields& fields, const RequestLimits& limits, CommonRequest& out) {
  const int64_t n = checked_int("n", fields.integer("n").value_or(1), 1, limits.max_n);
  out.sampling.n = static_cast<int32_t>(n);
  // vLLM ignores best_of; a value that could never have been right is still refused.
  if (const auto best_of = fields.integer("best_of")) {
    checked_int("best_of", *best_of, 1, limits.max_n);
  }
  if (n > 1 && out.sampling.temperature == 0) {
    value_error("n", "n above 1 needs a temperature above 0; greedy choices would all be the same");
  }
  if (const auto seed = fields.integer("seed")) out.sampling.seed = static_cast<uint64_t>(*seed);
  if (const auto priority = fields.integer("priority")) {
    if (*priority != 0 && !limits.priority_scheduling) {
      value_error("priority", "priority needs a server with --scheduling-policy priority");
    }
    out.priority =
        static_cast<int32_t>(checked_int("priority", *priority, std::numeric_limits<int32_t>::min(),
                                         std::numeric_limits<int32_t>::max()));
  }
  if (const auto keep = fields.integer("truncate_prompt_tokens")) {
    if (*keep == 0) value_error("truncate_prompt_tokens", "truncate_prompt_tokens must not be 0");
    out.truncate_prompt_tokens =
        checked_int("truncate_prompt_tokens", *keep, -1, limits.max_model_len);
  }
  const std::string side = fields.string("truncation_side").value_or("left");
  if (side != "left" && side != "right") schema_error("truncation_side", "must be left or right");
  out.truncate_right = side == "right";
}

void parse_stream(const Fields& fields, const RequestLimits& limits, CommonRequest& out) {
  out.stream = fields.boolean("stream").value_or(false);
  const json::object* options = fields.object("stream_options");
  if (options != nullptr && !out.stream) {
    value_error("stream_options", "stream_options needs stream to be true");
  }
  if (options != nullptr) {
    const Fields inner(*options, "stream_options");
    out.include_usage = inner.boolean("include_usage").value_or(false);
    out.continuous_usage =
        inner.boolean("continuous_usage_stats").value_or(false) && out.include_usage;
  }
  if (limits.force_usage) out.include_usage = true;
}

/// Fields that say how an answer must be built, here or in other servers: vLLM, SGLang, llama.cpp,
/// Ollama, TGI, Gemini's protocol and OpenAI's first one of functions.
constexpr std::array<std::string_view, 18> kConstraints = {"ebnf",
                                                           "format",
                                                           "function_call",
                                                           "functions",
                                                           "grammar",
                                                           "grammar_lazy",
                                                           "guided_choice",
                                                           "guided_decoding_backend",
                                                           "guided_grammar",
                                                           "guided_json",
                                                           "guided_regex",
                                                           "guided_whitespace_pattern",
                                                           "json_schema",
                                                           "regex",
                                                           "response_schema",
                                                           "structural_tag",
                                                           "structured_output",
                                                           "structured_outputs"};

/// null, false, "", "none" and [] are how clients write that they want none.
bool is_nothing(const json::value& value) {
  return value.is_null() || (value.is_bool() && !value.get_bool()) ||
         (value.is_string() && (value.get_string().empty() || value.get_string() == "none")) ||
         (value.is_array() && value.get_array().empty());
}

void refuse_constraints(const json::object& object, const std::string& where) {
  for (const std::string_view name : kConstraints) {
    const json::value* value = object.if_contains(json::string_view(name.data(), name.size()));
    if (value == nullptr || is_nothing(*value)) continue;
    not_yet(fmt::format("{}{}", where, name), fmt::format("structured output ({}{})", where, name));
  }
}

/// Fields that would change the answer and cannot be honoured are refused: ignoring them would
/// give unconstrained or unmarked text to a client that asked for the opposite.
void refuse_later_features(const json::object& body) {
  const Fields fields(body);
  refuse_constraints(body, "");
  // Where NVIDIA's containers look for them.
  if (const json::object* extension = fields.object("nvext")) {
    refuse_constraints(*extension, "nvext.");
  }
  if (const json::object* format = fields.object("response_format")) {
    const auto type = Fields(*format, "response_format").string("type");
    if (!type) schema_error("response_format.type", "is required");
    if (*type != "text") not_yet("response_format", "structured output (response_format)");
  }
  for (const char* name : {"prompt_embeds", "logprob_token_ids", "repetition_detection",
                           "thinking_token_budget", "kv_transfer_params", "cache_salt"}) {
    if (fields.has(name)) not_yet(name, name);
  }
  for (const char* name : {"use_beam_search", "watermarking"}) {
    if (fields.boolean(name).value_or(false)) not_yet(name, name);
  }
}

int32_t logprob_count(std::string_view name, int64_t count, const RequestLimits& limits) {
  if (count < 0 || count > limits.max_logprobs) {
    value_error(name, fmt::format("{} must be from 0 to {} (--max-logprobs), not {}", name,
                                  limits.max_logprobs, count));
  }
  return static_cast<int32_t>(count);
}

void parse_prompt_logprobs(const Fields& fields, const RequestLimits& limits, CommonRequest& out) {
  const auto count = fields.integer("prompt_logprobs");
  if (!count) return;
  if (out.stream) value_error("prompt_logprobs", "prompt_logprobs cannot be streamed");
  out.sampling.prompt_logprobs = logprob_count("prompt_logprobs", *count, limits);
}

void check_max_tokens(std::string_view name, const std::optional<int64_t>& value, int64_t low,
                      const RequestLimits& limits) {
  if (!value) return;
  if (*value < low) {
    value_error(name, fmt::format("{} must be at least {}, not {}", name, low, *value));
  }
  if (*value > limits.max_model_len) {
    value_error(name, fmt::format("{} is {}, but the model's maximum context length is {} tokens",
                                  name, *value, limits.max_model_len));
  }
}

CompletionRequest::Prompt one_prompt(const json::value& value, std::string_view where,
                                     const RequestLimits& limits, bool truncated) {
  if (value.is_string()) {
    const json::string& text = value.get_string();
    if (text.empty()) value_error("prompt", "prompt must not be empty");
    if (static_cast<int64_t>(text.size()) > limits.max_prompt_bytes) {
      value_error("prompt", fmt::format("the prompt has {} bytes; --max-prompt-bytes is {}",
                                        text.size(), limits.max_prompt_bytes));
    }
    return std::string(text.data(), text.size());
  }
  if (!value.is_array()) schema_error(where, "must be text or an array of token ids");
  if (value.get_array().empty()) value_error("prompt", "prompt must not be empty");
  if (!truncated) check_prompt_size(static_cast<int64_t>(value.get_array().size()), limits);
  return read_token_ids(value.get_array(), where, limits.vocab_size);
}

void parse_prompts(const Fields& fields, const RequestLimits& limits, CompletionRequest& out) {
  const json::value* prompt = fields.find("prompt");
  if (prompt == nullptr) value_error("prompt", "prompt is required");
  const bool many =
      prompt->is_array() && !prompt->get_array().empty() && !prompt->get_array()[0].is_number();
  const bool truncated = out.truncate_prompt_tokens.has_value();
  if (!many) {
    out.prompts.push_back(one_prompt(*prompt, "prompt", limits, truncated));
    return;
  }
  const json::array& list = prompt->get_array();
  if (static_cast<int64_t>(list.size()) > limits.max_prompts) {
    value_error("prompt", fmt::format("there are {} prompts; --max-prompts is {}", list.size(),
                                      limits.max_prompts));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    out.prompts.push_back(one_prompt(list[i], fmt::format("prompt.{}", i), limits, truncated));
  }
}

json::object object_of(const std::string& text, const char* origin) {
  if (text.empty()) return {};
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  if (error || !value.is_object()) {
    throw base::UsageError(fmt::format("{}: not a JSON object", origin));
  }
  return std::move(value.as_object());
}

}  // namespace

std::string context_length_is(const RequestLimits& limits) {
  return fmt::format("This model's maximum context length is {} tokens", limits.max_model_len);
}

void check_prompt_size(int64_t tokens, const RequestLimits& limits) {
  if (tokens >= limits.max_model_len) {
    value_error("input_tokens",
                fmt::format("{}; the prompt has {} tokens and leaves no room for an "
                            "answer",
                            context_length_is(limits), tokens));
  }
  if (limits.max_input_tokens > 0 && tokens > limits.max_input_tokens) {
    value_error("input_tokens", fmt::format("the prompt has {} tokens; --max-input-tokens is {}",
                                            tokens, limits.max_input_tokens));
  }
}

RequestLimits request_limits(const base::Settings& settings, int64_t vocab_size,
                             int64_t max_model_len) {
  RequestLimits limits;
  limits.max_n = settings.get_int("max-n");
  limits.max_prompts = settings.get_int("max-prompts");
  limits.max_prompt_bytes = settings.get_int("max-prompt-bytes");
  limits.max_stop = settings.get_int("max-stop-sequences");
  limits.max_stop_bytes = settings.get_int("max-stop-bytes");
  limits.max_logit_bias = settings.get_int("max-logit-bias");
  limits.max_bad_words = settings.get_int("max-bad-words");
  limits.max_bad_words_bytes = settings.get_int("max-bad-words-bytes");
  limits.max_logprobs = settings.get_int("max-logprobs");
  limits.vocab_size = vocab_size;
  limits.max_model_len = max_model_len;
  limits.max_input_tokens = settings.get_int("max-input-tokens");
  limits.priority_scheduling = settings.get_string("scheduling-policy") == "priority";
  limits.return_tokens_as_token_ids = settings.get_bool("return-tokens-as-token-ids");
  limits.force_usage = settings.get_bool("enable-force-include-usage");
  return limits;
}

SamplingDefaults sampling_defaults(const std::string& text, const std::string& overrides) {
  const std::string file = "generation_config.json";
  json::object config = text.empty() ? json::object() : checkpoint::parse_json_file(text, file);
  const json::object own = object_of(overrides, "--override-generation-config");
  for (const auto& [key, value] : own) config[key] = value;
  SamplingDefaults defaults;
  try {
    const Fields fields(config);
    defaults.temperature = fields.number("temperature");
    defaults.top_p = fields.number("top_p");
    defaults.min_p = fields.number("min_p");
    defaults.repetition_penalty = fields.number("repetition_penalty");
    defaults.top_k = fields.integer("top_k");
    defaults.max_new_tokens = fields.integer("max_new_tokens");
    engine::SamplingParams unused;
    parse_temperatures(Fields(json::object{}), defaults, unused);
  } catch (const base::RequestError& error) {
    std::string key = error.param();
    if (key.starts_with("body.")) key.erase(0, 5);
    if (own.contains(key)) {
      throw base::UsageError(fmt::format("--override-generation-config: {}", error.what()));
    }
    throw base::ModelFileError(
        file, fmt::format("{}; correct it with --override-generation-config, or ignore it with "
                          "--generation-config vllm",
                          error.what()));
  }
  return defaults;
}

CommonRequest parse_common(const json::object& body, const RequestLimits& limits,
                           const SamplingDefaults& defaults) {
  const Fields fields(body);
  CommonRequest out;
  out.model = fields.name("model").value_or("");
  refuse_later_features(body);
  parse_temperatures(fields, defaults, out.sampling);
  parse_token_rules(fields, limits, out);
  parse_counts(fields, limits, out);
  parse_stream(fields, limits, out);
  parse_prompt_logprobs(fields, limits, out);
  out.include_stop = fields.boolean("include_stop_str_in_output").value_or(false);
  out.skip_special = fields.boolean("skip_special_tokens").value_or(true);
  fields.boolean("spaces_between_special_tokens");
  out.echo = fields.boolean("echo").value_or(false);
  out.return_token_ids = fields.boolean("return_token_ids").value_or(false);
  out.tokens_as_ids =
      fields.boolean("return_tokens_as_token_ids").value_or(limits.return_tokens_as_token_ids);
  out.request_id = fields.name("request_id").value_or("");
  fields.name("user");
  return out;
}

CompletionRequest parse_completion(const json::object& body, const RequestLimits& limits,
                                   const SamplingDefaults& defaults) {
  const Fields fields(body);
  CompletionRequest out;
  static_cast<CommonRequest&>(out) = parse_common(body, limits, defaults);
  if (fields.has("suffix")) not_yet("suffix", "filling in the middle (suffix)");
  out.add_special_tokens = fields.boolean("add_special_tokens").value_or(true);
  out.max_tokens = fields.integer("max_tokens");
  check_max_tokens("max_tokens", out.max_tokens, out.echo ? 0 : 1, limits);
  if (const auto count = fields.integer("logprobs")) {
    out.sampling.logprobs = logprob_count("logprobs", *count, limits);
  }
  parse_prompts(fields, limits, out);
  return out;
}

ChatRequest parse_chat(const json::object& body, const RequestLimits& limits,
                       const SamplingDefaults& defaults, const ContentRules& content) {
  const Fields fields(body);
  ChatRequest out;
  static_cast<CommonRequest&>(out) = parse_common(body, limits, defaults);
  out.add_special_tokens = fields.boolean("add_special_tokens").value_or(false);
  const auto newer = fields.integer("max_completion_tokens");
  check_max_tokens("max_completion_tokens", newer, 1, limits);
  out.max_tokens = fields.integer("max_tokens");
  check_max_tokens("max_tokens", out.max_tokens, 1, limits);
  if (newer) out.max_tokens = newer;
  const int64_t top = fields.integer("top_logprobs").value_or(0);
  const bool logprobs = fields.boolean("logprobs").value_or(false);
  if (top != 0 && !logprobs) value_error("top_logprobs", "top_logprobs needs logprobs to be true");
  if (logprobs) out.sampling.logprobs = logprob_count("top_logprobs", top, limits);
  out.chat = parse_chat_input(body, content);
  out.parallel_tool_calls = fields.boolean("parallel_tool_calls").value_or(true);
  out.return_prompt_text = fields.boolean("return_prompt_text").value_or(false);
  fields.string("reasoning_effort");
  fields.boolean("include_reasoning");

  const json::value* choice = fields.find("tool_choice");
  if (choice == nullptr) {
    out.parse_tool_calls = !out.chat.tools.is_null();
    return out;
  }
  if (choice->is_string() && choice->get_string() == "none") return out;
  if (out.chat.tools.is_null()) value_error("tool_choice", "tool_choice needs tools");
  if (choice->is_object() || (choice->is_string() && choice->get_string() == "required")) {
    not_yet("tool_choice", "a forced tool call (tool_choice required or a named function)");
  }
  if (!choice->is_string() || choice->get_string() != "auto") {
    schema_error("tool_choice", "must be none, auto, required or a function");
  }
  out.parse_tool_calls = true;
  return out;
}

}  // namespace moesaic::server
