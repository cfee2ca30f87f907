#include "server/openai_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <charconv>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "server/fields.h"
#include "server/request_fields.h"

namespace moesaic::server {
namespace {

namespace json = boost::json;

void parse_temperatures(const Fields& fields, const SamplingDefaults& defaults,
                        engine::SamplingParams& out) {
  const auto pick = [&](const char* name, std::optional<double> fallback, double otherwise) {
    const auto given = fields.number(name);
    return static_cast<float>(given ? *given : fallback.value_or(otherwise));
  };
  out.temperature = pick("temperature", defaults.temperature, 1);
  out.top_p = pick("top_p", defaults.top_p, 1);
  out.min_p = pick("min_p", defaults.min_p, 0);
  out.repetition_penalty = pick("repetition_penalty", defaults.repetition_penalty, 1);
  out.presence_penalty = pick("presence_penalty", {}, 0);
  out.frequency_penalty = pick("frequency_penalty", {}, 0);
  out.top_k = static_cast<int32_t>(fields.integer("top_k").value_or(defaults.top_k.value_or(0)));
}

void parse_logit_bias(const Fields& fields, const RequestLimits& limits, engine::TokenRules& out) {
  const json::object* bias = fields.object("logit_bias");
  if (bias == nullptr) return;
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
    out.logit_bias.emplace_back(static_cast<int32_t>(id), value.to_number<float>());
  }
  // As text the keys differ ("7" and "07"), so the reader of the JSON has let them pass.
  std::sort(out.logit_bias.begin(), out.logit_bias.end());
  const auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
  if (std::adjacent_find(out.logit_bias.begin(), out.logit_bias.end(), same) !=
      out.logit_bias.end()) {
    value_error("logit_bias", "logit_bias has a token id twice");
  }
}

void parse_bad_words(const Fields& fields, const RequestLimits& limits, CommonRequest& out) {
  const json::array* words = fields.array("bad_words");
  if (words == nullptr) return;
  int64_t bytes = 0;
  for (const json::value& word : *words) {
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
    const std::string text(value.get_string().data(), value.get_string().size());
    if (text.find('\0') != std::string::npos) value_error("stop", "a stop string has a NUL");
    if (static_cast<int64_t>(text.size()) > limits.max_stop_bytes) {
      value_error("stop", fmt::format("a stop string has {} bytes; --max-stop-bytes is {}",
                                      text.size(), limits.max_stop_bytes));
    }
    out.stop.push_back(text);
  };
  if (!stop->is_array()) return add(*stop);
  for (const json::value& value : stop->get_array()) add(value);
}

void parse_token_rules(const Fields& fields, const RequestLimits& limits, CommonRequest& out) {
  engine::SamplingParams& sampling = out.sampling;
  sampling.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  sampling.min_tokens = static_cast<int32_t>(fields.integer("min_tokens").value_or(0));
  const auto ids = [&](const char* name) {
    return fields.token_ids(name, limits.vocab_size).value_or(std::vector<int32_t>());
  };
  out.rules.stop_token_ids = ids("stop_token_ids");
  out.rules.allowed_token_ids = ids("allowed_token_ids");
  parse_logit_bias(fields, limits, out.rules);
  parse_stop(fields, limits, out);
  parse_bad_words(fields, limits, out);
}

void parse_counts(const Fields& fields, const RequestLimits& limits, CommonRequest& out) {
  out.sampling.n = static_cast<int32_t>(fields.integer("n").value_or(1));
  if (out.sampling.n > 1 && out.sampling.temperature == 0) {
    value_error("n", "n above 1 needs a temperature above 0; greedy choices would all be the same");
  }
  if (const auto seed = fields.integer("seed")) out.sampling.seed = static_cast<uint64_t>(*seed);
  if (const auto priority = fields.integer("priority")) {
    if (*priority != 0 && !limits.priority_scheduling) {
      value_error("priority", "priority needs a server with --scheduling-policy priority");
    }
    out.priority = static_cast<int32_t>(*priority);
  }
  if (const auto keep = fields.integer("truncate_prompt_tokens")) {
    if (*keep == 0) value_error("truncate_prompt_tokens", "truncate_prompt_tokens must not be 0");
    out.truncate_prompt_tokens = *keep;
  }
  out.truncate_right = fields.string("truncation_side") == "right";
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

void parse_prompt_logprobs(const Fields& fields, CommonRequest& out) {
  const auto count = fields.integer("prompt_logprobs");
  if (!count) return;
  if (out.stream) value_error("prompt_logprobs", "prompt_logprobs cannot be streamed");
  out.sampling.prompt_logprobs = static_cast<int32_t>(*count);
}

CompletionRequest::Prompt one_prompt(const json::value& value, std::string_view where,
                                     const RequestLimits& limits, bool truncated) {
  if (value.is_string()) {
    const json::string& text = value.get_string();
    if (text.empty()) value_error("prompt", "prompt must not be empty");
    check_prompt_bytes(static_cast<int64_t>(text.size()), "prompt", limits);
    return std::string(text.data(), text.size());
  }
  if (!value.is_array()) schema_error(where, "must be text or an array of token ids");
  if (value.get_array().empty()) value_error("prompt", "prompt must not be empty");
  if (!truncated) check_prompt_size(static_cast<int64_t>(value.get_array().size()), limits);
  return read_token_ids(value.get_array(), where, limits.vocab_size);
}

void parse_prompts(const Fields& fields, const RequestLimits& limits, CompletionRequest& out) {
  const json::value* prompt = fields.find("prompt");
  const bool many =
      prompt->is_array() && !prompt->get_array().empty() && !prompt->get_array()[0].is_number();
  const bool truncated = out.truncate_prompt_tokens.has_value();
  if (!many) {
    out.prompts.push_back(one_prompt(*prompt, "prompt", limits, truncated));
    return;
  }
  const json::array& list = prompt->get_array();
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

JsonForm json_form(const base::Settings& settings) {
  JsonForm form;
  form.any_blanks = !settings.get_bool("guided-decoding-disable-any-whitespace");
  form.more_properties = !settings.get_bool("guided-decoding-disable-additional-properties");
  const char* const flag = "--structured-outputs-config";
  const json::object config = object_of(settings.get_string("structured-outputs-config"), flag);
  try {
    const Fields fields(config);
    if (fields.boolean("disable_any_whitespace").value_or(false)) form.any_blanks = false;
    if (fields.boolean("disable_additional_properties").value_or(false)) {
      form.more_properties = false;
    }
  } catch (const base::RequestError& error) {
    throw base::UsageError(fmt::format("{}: {}", flag, error.what()));
  }
  return form;
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
    value_error("input_tokens",
                fmt::format("{}; the prompt has {} tokens, and --max-input-tokens is {}",
                            context_length_is(limits), tokens, limits.max_input_tokens));
  }
}

void check_prompt_bytes(int64_t bytes, const char* param, const RequestLimits& limits) {
  if (bytes <= limits.max_prompt_bytes) return;
  value_error(param, fmt::format("{}; the prompt has {} bytes, and --max-prompt-bytes is {}",
                                 context_length_is(limits), bytes, limits.max_prompt_bytes));
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
  limits.json = json_form(settings);
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
    for (const char* name : {"temperature", "top_p", "min_p", "repetition_penalty", "top_k"}) {
      check_field(config, *find_field(name, kCompletion), {});
    }
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

namespace {

/// What both endpoints have.
CommonRequest parse_common(const json::object& body, Body kind, const RequestLimits& limits,
                           const SamplingDefaults& defaults) {
  check_fields(body, kind, limits);
  const Fields fields(body, kind);
  CommonRequest out;
  out.model = fields.name("model").value_or("");
  parse_temperatures(fields, defaults, out.sampling);
  parse_token_rules(fields, limits, out);
  parse_counts(fields, limits, out);
  parse_stream(fields, limits, out);
  parse_prompt_logprobs(fields, out);
  out.constraint = parse_constraint(body, limits.json);
  out.include_stop = fields.boolean("include_stop_str_in_output").value_or(false);
  out.skip_special = fields.boolean("skip_special_tokens").value_or(true);
  out.echo = fields.boolean("echo").value_or(false);
  out.return_token_ids = fields.boolean("return_token_ids").value_or(false);
  out.tokens_as_ids =
      fields.boolean("return_tokens_as_token_ids").value_or(limits.return_tokens_as_token_ids);
  out.request_id = fields.name("request_id").value_or("");
  return out;
}

bool is_strict(const json::value& tool) {
  const json::value* strict = tool.at("function").get_object().if_contains("strict");
  return strict != nullptr && strict->is_bool() && strict->get_bool();
}

/// The function that a tool_choice names, which is one of the tools.
std::string named_function(const json::object& choice, const json::array& tools) {
  const Fields fields(choice, "tool_choice");
  const json::object* function = fields.object("function");
  if (fields.string("type") != "function" || function == nullptr) {
    value_error("tool_choice",
                "tool_choice must be none, auto, required, or "
                "{\"type\": \"function\", \"function\": {\"name\": ...}}");
  }
  const std::string name = Fields(*function, "tool_choice.function").string("name").value_or("");
  for (const json::value& tool : tools) {
    if (tool.at("function").at("name").get_string() == name) return name;
  }
  value_error("tool_choice", "tool_choice names a function that is not one of the tools");
}

/// Whether there may be calls, and which: an answer that must make some, or may make strict ones,
/// is held to it.
void parse_tool_choice(const Fields& fields, ChatRequest& out) {
  const json::value* choice = fields.find("tool_choice");
  const std::string word =
      choice != nullptr && choice->is_string()
          ? std::string(choice->get_string().data(), choice->get_string().size())
          : std::string();
  const bool named = choice != nullptr && choice->is_object();
  if (out.chat.tools.is_null()) {
    if (named || (!word.empty() && word != "none")) {
      value_error("tool_choice", "tool_choice needs tools");
    }
    return;
  }
  if (word == "none") return;
  const json::array& tools = out.chat.tools.get_array();
  out.parse_tool_calls = true;
  out.named_call = named;
  CallRules rules;
  rules.must = named || word == "required";
  rules.parallel = out.parallel_tool_calls && !named;
  if (named) rules.only = named_function(choice->get_object(), tools);
  if (!rules.must && std::none_of(tools.begin(), tools.end(), is_strict)) return;
  if (out.constraint) {
    value_error(out.constraint->param,
                fmt::format("{} and tools whose calls are forced or strict both say how the answer "
                            "is to be built; keep one",
                            out.constraint->param));
  }
  out.constraint = call_rules(tools, rules);
  out.held_to_calls = true;
}

}  // namespace

CompletionRequest parse_completion(const json::object& body, const RequestLimits& limits,
                                   const SamplingDefaults& defaults) {
  const Fields fields(body, kCompletion);
  CompletionRequest out;
  static_cast<CommonRequest&>(out) = parse_common(body, kCompletion, limits, defaults);
  out.add_special_tokens = fields.boolean("add_special_tokens").value_or(true);
  out.max_tokens = fields.integer("max_tokens");
  if (out.max_tokens == 0 && !out.echo) {
    value_error("max_tokens", "max_tokens must be at least 1, not 0; only echo can do without");
  }
  out.sampling.logprobs = static_cast<int32_t>(fields.integer("logprobs").value_or(-1));
  parse_prompts(fields, limits, out);
  return out;
}

ChatRequest parse_chat(const json::object& body, const RequestLimits& limits,
                       const SamplingDefaults& defaults, const ContentRules& content) {
  const Fields fields(body, kChat);
  ChatRequest out;
  static_cast<CommonRequest&>(out) = parse_common(body, kChat, limits, defaults);
  out.add_special_tokens = fields.boolean("add_special_tokens").value_or(false);
  out.max_tokens = fields.integer("max_tokens");
  if (const auto newer = fields.integer("max_completion_tokens")) out.max_tokens = newer;
  const int64_t top = fields.integer("top_logprobs").value_or(0);
  const bool logprobs = fields.boolean("logprobs").value_or(false);
  if (top != 0 && !logprobs) value_error("top_logprobs", "top_logprobs needs logprobs to be true");
  if (logprobs) out.sampling.logprobs = static_cast<int32_t>(top);
  out.chat = parse_chat_input(body, content);
  out.parallel_tool_calls = fields.boolean("parallel_tool_calls").value_or(true);
  out.return_prompt_text = fields.boolean("return_prompt_text").value_or(false);
  out.include_reasoning = fields.boolean("include_reasoning").value_or(true);
  parse_tool_choice(fields, out);
  return out;
}

}  // namespace moesaic::server
