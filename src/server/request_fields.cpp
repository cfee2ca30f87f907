#include "server/request_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <cmath>
#include <limits>

#include "server/fields.h"

namespace moesaic::server {
namespace {

namespace json = boost::json;
using enum FieldType;

constexpr unsigned kGenerate = kCompletion | kChat;
constexpr unsigned kTemplate = kChat | kTokenizeChat;
constexpr unsigned kEncode = kGenerate | kTokenizeText | kTokenizeChat;
constexpr unsigned kEvery = kEncode | kDetokenize;
constexpr double kMaxInt32 = std::numeric_limits<int32_t>::max();

constexpr Bound kContext{&RequestLimits::max_model_len, "the model's maximum context length"};
constexpr Bound kVocabulary{&RequestLimits::vocab_size, "the size of the model's vocabulary"};
constexpr Bound kMaxN{&RequestLimits::max_n, "--max-n"};
constexpr Bound kMaxLogprobs{&RequestLimits::max_logprobs, "--max-logprobs"};
constexpr Bound kMaxStop{&RequestLimits::max_stop, "--max-stop-sequences"};
constexpr Bound kMaxBias{&RequestLimits::max_logit_bias, "--max-logit-bias"};
constexpr Bound kMaxWords{&RequestLimits::max_bad_words, "--max-bad-words"};
constexpr Bound kMaxPrompts{&RequestLimits::max_prompts, "--max-prompts"};

// clang-format off
constexpr FieldRow kRows[] = {
    {"model", kEvery, kName, "A name of the model that is served; without one it is that model."},
    {"prompt", kCompletion, kPrompt, "Text or token ids, one prompt or many.", {}, {}, 1, kMaxPrompts, {}, {}, true},
    {"prompt", kTokenizeText, kString, "The text.", {}, {}, 0, {}, {}, {}, true},
    {"tokens", kDetokenize, kTokenIds, "The token ids.", {}, {}, 0, {}, {}, {}, true},
    {"messages", kTemplate, kObjects, "The conversation: role, and content as text or as an array of text parts.", {}, {}, 1, {}, {}, {}, true},
    {"max_completion_tokens", kChat, kInteger, "Most tokens of an answer; wins over max_tokens.", 1, kContext},
    {"max_tokens", kChat, kInteger, "Most tokens of an answer; without it, what the prompt leaves of the context.", 1, kContext},
    {"max_tokens", kCompletion, kInteger, "Most tokens of an answer, 16 without it; 0 only with echo.", 0.0, kContext},
    {"min_tokens", kGenerate, kInteger, "Tokens before which an answer does not end.", 0.0, kContext},
    {"n", kGenerate, kInteger, "Choices for each prompt.", 1, kMaxN},
    {"best_of", kGenerate, kInteger, "Has no effect: an answer is as many choices as n says.", 1, kMaxN},
    {"temperature", kGenerate, kNumber, "0 always takes the likeliest token.", 0.0, 2},
    {"top_p", kGenerate, kNumber, "Least probability that the tokens to choose from have together.", 0.0, 1, 0, {}, {}, {}, false, true},
    {"top_k", kGenerate, kInteger, "Number of tokens to choose from; 0 and -1 are all.", -1, kMaxInt32},
    {"min_p", kGenerate, kNumber, "Least probability of a token to choose, as a share of the likeliest one's.", 0.0, 1},
    {"presence_penalty", kGenerate, kNumber, "Taken from the logits of tokens that the answer has.", -2, 2},
    {"frequency_penalty", kGenerate, kNumber, "Taken for each time that the answer has the token.", -2, 2},
    {"repetition_penalty", kGenerate, kNumber, "Divides the logits of tokens that prompt or answer have.", 1e-4, 1e4},
    {"seed", kGenerate, kInteger, "The same seed gives the same answer."},
    {"stop", kGenerate, kStop, "Text that ends an answer and is not part of it.", {}, {}, 0, kMaxStop},
    {"include_stop_str_in_output", kGenerate, kBool, "The stop string is part of the answer."},
    {"stop_token_ids", kGenerate, kTokenIds, "Tokens that end an answer.", {}, {}, 0, kVocabulary},
    {"ignore_eos", kGenerate, kBool, "Go on after the end-of-sequence token."},
    {"logit_bias", kGenerate, kBias, "Added to the logits of these tokens.", -100, 100, 0, kMaxBias},
    {"allowed_token_ids", kGenerate, kTokenIds, "The only tokens to choose from.", {}, {}, 1, kVocabulary},
    {"bad_words", kGenerate, kStrings, "Words that an answer does not have.", {}, {}, 0, kMaxWords},
    {"logprobs", kCompletion, kInteger, "Log-probabilities of so many likeliest tokens beside each token.", 0.0, kMaxLogprobs},
    {"logprobs", kChat, kBool, "Log-probabilities of the tokens."},
    {"top_logprobs", kChat, kInteger, "Likeliest tokens beside each; needs logprobs.", 0.0, kMaxLogprobs},
    {"prompt_logprobs", kGenerate, kInteger, "The same for the tokens of the prompt.", 0.0, kMaxLogprobs},
    {"stream", kGenerate, kBool, "The answer as server-sent events, as it is made."},
    {"stream_options", kGenerate, kObject, "Only with stream."},
    {"stream_options.include_usage", kGenerate, kBool, "A last event with the usage."},
    {"stream_options.continuous_usage_stats", kGenerate, kBool, "Usage in every event."},
    {"echo", kCompletion, kBool, "The answer begins with the prompt."},
    {"echo", kChat, kBool, "The answer begins with the last message, where its role is the answer's."},
    {"add_special_tokens", kEncode, kBool, "Add what the tokenizer puts around a text. Default true for text, false for messages."},
    {"skip_special_tokens", kGenerate, kBool, "Leave special tokens out of the text. Default true."},
    {"spaces_between_special_tokens", kGenerate, kBool, "Has no effect: the tokenizer's own decoder says where blanks are."},
    {"truncate_prompt_tokens", kGenerate, kInteger, "Keep so many tokens of the prompt; -1 is what fits.", -1, kContext},
    {"truncation_side", kGenerate, kChoice, "Where truncate_prompt_tokens drops tokens. Default left.", {}, {}, 0, {}, "left|right"},
    {"return_token_ids", kGenerate, kBool, "Token ids of prompt and answer."},
    {"return_tokens_as_token_ids", kGenerate, kBool, "Tokens of logprobs as token_id:N."},
    {"priority", kGenerate, kInteger, "Lower goes first; needs --scheduling-policy priority.", -kMaxInt32 - 1, kMaxInt32},
    {"request_id", kGenerate, kName, "Part of the answer's id."},
    {"user", kGenerate, kName, "Has no effect: requests are not kept by who sent them."},
    {"session_id", kGenerate, kName, "Has no effect: there is one server."},
    {"length_penalty", kGenerate, kNumber, "Has no effect: it is for beam search, which is not supported yet."},
    {"stream_interval", kGenerate, kInteger, "Has no effect: events are sent as tokens come.", 1, kMaxInt32},
    {"routed_experts_prompt_start", kGenerate, kInteger, "Has no effect: answers do not tell the experts of their tokens.", 0.0, kMaxInt32},
    {"mm_payload", kGenerate, kChoice, "Has no effect: this model takes text only.", {}, {}, 0, {}, "tensors|none"},
    {"tools", kTemplate, kObjects, "Functions that the model may call.", {}, {}, 1},
    {"tool_choice", kChat, kToolChoice, "Whether there may be calls, or must be: of any function, or of the one that is named. Default auto with tools.", {}, {}, 0, {}, "none|auto|required"},
    {"parallel_tool_calls", kChat, kBool, "false takes the first call only."},
    {"documents", kTemplate, kArray, "Given to the chat template."},
    {"reasoning_effort", kTemplate, kString, "Given to the chat template."},
    {"include_reasoning", kChat, kBool, "false leaves the reasoning out of the answer."},
    {"chat_template_kwargs", kTemplate, kObject, "Given to the chat template."},
    {"add_generation_prompt", kTemplate, kBool, "End the prompt where an answer begins. Default true."},
    {"continue_final_message", kTemplate, kBool, "Go on with the last message."},
    {"return_prompt_text", kChat, kBool, "The rendered prompt."},
    {"return_token_strs", kTokenizeText | kTokenizeChat, kBool, "The text of each token."},
    {"response_format", kGenerate, kObject, "How the answer is built: text, json_object, json_schema with a schema, or regex with a value."},
    {"response_format.type", kGenerate, kString, "text, json_object, json_schema or regex.", {}, {}, 0, {}, {}, {}, true},
    {"structured_outputs", kGenerate, kObject, "How the answer is built: one of json (a JSON Schema), regex, choice, grammar (Lark or GBNF) and json_object."},
    {"guided_json", kGenerate, kAny, "A JSON Schema that the answer obeys; so are json_schema and response_format."},
    {"guided_json_object", kGenerate, kBool, "The answer is a JSON object."},
    {"guided_regex", kGenerate, kAny, "An expression that the whole answer matches."},
    {"guided_choice", kGenerate, kAny, "The answer is one of these texts."},
    {"guided_grammar", kGenerate, kAny, "Rules in Lark or GBNF that the answer obeys."},
    {"guided_whitespace_pattern", kGenerate, kString, "What may stand between the parts of a JSON answer."},
    {"guided_decoding_backend", kGenerate, kString, "Has no effect: there is one."},
    {"json_schema", kGenerate, kAny, "As guided_json."},
    {"regex", kGenerate, kAny, "As guided_regex."},
    {"ebnf", kGenerate, kAny, "As guided_grammar."},
    {"grammar", kGenerate, kAny, "As guided_grammar, or an object of a type, json or regex, and a value."},
    {"nvext", kGenerate, kObject, "Where some containers put guided_json and its like."},

    {"chat_template", kTemplate, kUnsupported, "a request may not bring its own template; set one with --chat-template"},
    {"mm_processor_kwargs", kTemplate, kUnsupported, "this model takes text only"},
    {"media_io_kwargs", kTemplate, kUnsupported, "this model takes text only"},
    {"return_mm_kwargs", kGenerate, kNotYet, "return_mm_kwargs"},
    {"return_token_offsets", kGenerate, kNotYet, "return_token_offsets"},
    {"vllm_xargs", kGenerate, kNotYet, "vllm_xargs"},
    {"ec_transfer_params", kGenerate, kNotYet, "ec_transfer_params"},
    {"suffix", kCompletion, kNotYet, "filling in the middle (suffix)"},
    {"prompt_embeds", kGenerate, kNotYet, "prompt_embeds"},
    {"logprob_token_ids", kGenerate, kNotYet, "logprob_token_ids"},
    {"repetition_detection", kGenerate, kNotYet, "repetition_detection"},
    {"thinking_token_budget", kGenerate, kNotYet, "thinking_token_budget"},
    {"kv_transfer_params", kGenerate, kNotYet, "kv_transfer_params"},
    {"cache_salt", kGenerate, kNotYet, "cache_salt"},
    {"use_beam_search", kGenerate, kNotYet, "use_beam_search"},
    {"watermarking", kGenerate, kNotYet, "watermarking"},
    // How an answer must be built, under names that are not understood: ignoring it would look like
    // obeying it.
    {"format", kGenerate, kConstraint, ""},
    {"function_call", kGenerate, kConstraint, ""},
    {"functions", kGenerate, kConstraint, ""},
    {"grammar_lazy", kGenerate, kConstraint, ""},
    {"response_schema", kGenerate, kConstraint, ""},
    {"structural_tag", kGenerate, kConstraint, ""},
    {"structured_output", kGenerate, kConstraint, ""},
};
// clang-format on

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

std::string_view after_dot(std::string_view name) {
  const size_t dot = name.find('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}
/// The member that holds that of the row; "" for one at the top.
std::string_view before_dot(std::string_view name) {
  const size_t dot = name.find('.');
  return dot == std::string_view::npos ? std::string_view{} : name.substr(0, dot);
}

std::vector<std::string_view> choices_of(const FieldRow& row) {
  std::vector<std::string_view> out;
  for (std::string_view rest = row.choices; !rest.empty();) {
    const size_t bar = rest.find('|');
    out.push_back(rest.substr(0, bar));
    rest = bar == std::string_view::npos ? std::string_view{} : rest.substr(bar + 1);
  }
  return out;
}

/// " (--max-n)", where a bound has a name.
std::string origin(const Bound& bound) {
  return bound.name.empty() ? std::string() : fmt::format(" ({})", bound.name);
}

std::string range_text(const FieldRow& row, const RequestLimits& limits) {
  const std::string low = fmt::format("{}", row.low.value(limits));
  const std::string high = fmt::format("{}{}", row.high.value(limits), origin(row.high));
  if (row.above) return fmt::format("above {} and at most {}", low, high);
  return fmt::format("from {} to {}", low, high);
}

/// NaN fails every comparison and so is refused.
bool in_range(const FieldRow& row, double value, const RequestLimits& limits) {
  const double low = row.low.value(limits);
  const bool high_enough = row.low.open || (row.above ? value > low : value >= low);
  return high_enough && (row.high.open || value <= row.high.value(limits));
}

void check_size(const FieldRow& row, size_t size, const RequestLimits& limits) {
  if (size < row.least) {
    value_error(row.name, fmt::format("{} must not be empty{}", row.name,
                                      row.required ? "" : "; leave it out instead"));
  }
  if (!row.most.open && static_cast<double>(size) > row.most.value(limits)) {
    value_error(row.name, fmt::format("{} has {} entries; at most {}{} are allowed", row.name, size,
                                      row.most.value(limits), origin(row.most)));
  }
}

bool is_text(const json::value& value) { return value.is_string() && !value.get_string().empty(); }

void check_bias(const Fields& fields, const FieldRow& row, const RequestLimits& limits) {
  const json::object* bias = fields.object(row.name);
  check_size(row, bias->size(), limits);
  for (const auto& [key, value] : *bias) {
    if (!value.is_number()) schema_error(fields.path(row.name), "values must be numbers");
    if (!in_range(row, value.to_number<double>(), limits)) {
      value_error(row.name,
                  fmt::format("a value of {} must be {}", row.name, range_text(row, limits)));
    }
  }
}

void check_array(const Fields& fields, const FieldRow& row, const RequestLimits& limits) {
  const json::array& list = *fields.array(row.name);
  check_size(row, list.size(), limits);
  for (size_t i = 0; i < list.size(); ++i) {
    if (row.type == kObjects && !list[i].is_object()) {
      schema_error(fmt::format("{}.{}", fields.path(row.name), i), "must be an object");
    }
    if (row.type == kStrings && !is_text(list[i])) {
      schema_error(fields.path(row.name), "must be an array of strings that are not empty");
    }
  }
}

void check_stop(const Fields& fields, const FieldRow& row, const RequestLimits& limits) {
  const auto check = [&](const json::value& value) {
    if (!value.is_string()) {
      schema_error(fields.path(row.name), "must be a string or an array of strings");
    }
    if (value.get_string().empty()) value_error(row.name, "a stop string must not be empty");
  };
  const json::value& value = *fields.find(row.name);
  if (!value.is_array()) return check(value);
  check_size(row, value.get_array().size(), limits);
  for (const json::value& item : value.get_array()) check(item);
}

void check_choice(const Fields& fields, const FieldRow& row) {
  const json::value& value = *fields.find(after_dot(row.name));
  const auto choices = choices_of(row);
  if (value.is_string() &&
      std::find(choices.begin(), choices.end(), view(value.get_string())) != choices.end()) {
    return;
  }
  if (!row.later.empty()) {
    const std::string_view holder = before_dot(row.name);
    not_yet(holder.empty() ? row.name : holder, std::string(row.later));
  }
  schema_error(row.name, fmt::format("must be {}", fmt::join(choices, " or ")));
}

/// `fields` hold the row's member itself, which is there and not null.
void check_member(const Fields& fields, const FieldRow& row, const RequestLimits& limits) {
  const std::string_view name = after_dot(row.name);
  const auto check_range = [&](double value, const std::string& shown) {
    if (in_range(row, value, limits)) return;
    value_error(row.name, fmt::format("{} must be {}{}", row.name, range_text(row, limits), shown));
  };
  switch (row.type) {
    case kBool:
      fields.boolean(name);
      return;
    case kInteger: {
      const int64_t value = *fields.integer(name);
      return check_range(static_cast<double>(value), fmt::format(", not {}", value));
    }
    case kNumber:
      return check_range(*fields.number(name), "");
    case kString:
      fields.string(name);
      return;
    case kName:
      fields.name(name);
      return;
    case kChoice:
      return check_choice(fields, row);
    case kObject:
      fields.object(name);
      return;
    case kArray:
    case kObjects:
    case kStrings:
    case kTokenIds:
      return check_array(fields, row, limits);
    case kStop:
      return check_stop(fields, row, limits);
    case kBias:
      return check_bias(fields, row, limits);
    case kPrompt:
      return;  // its many shapes are told apart where it is read
    case kUnsupported:
      value_error(row.name, std::string(row.help));
    case kNotYet:
      if (fields.find(name)->is_bool() && !fields.find(name)->get_bool()) return;
      not_yet(row.name, std::string(row.help));
    case kAny:
      return;
    case kToolChoice:
      return fields.find(name)->is_object() ? void() : check_choice(fields, row);
    case kConstraint:
      if (is_nothing(*fields.find(name))) return;
      not_yet(fields.path(name), fmt::format("structured output ({})", fields.path(name)));
  }
}

/// The types of a value that may be missing and then may be null as well.
json::value type_name(const FieldRow& row, const char* name) {
  if (row.required) return name;
  return json::array{name, "null"};
}

void add_range(json::object& schema, const FieldRow& row, const RequestLimits& limits) {
  const auto number = [&](const Bound& bound) -> json::value {
    const double value = bound.value(limits);
    if (value == std::floor(value)) return static_cast<int64_t>(value);
    return value;
  };
  if (!row.low.open) schema[row.above ? "exclusiveMinimum" : "minimum"] = number(row.low);
  if (!row.high.open) schema["maximum"] = number(row.high);
}

void add_size(json::object& schema, const FieldRow& row, const RequestLimits& limits) {
  if (row.least > 0) schema["minItems"] = row.least;
  if (!row.most.open) schema["maxItems"] = static_cast<int64_t>(row.most.value(limits));
}

json::object token_ids_schema(const FieldRow& row, const RequestLimits& limits) {
  json::object id{{"type", "integer"}, {"minimum", 0}};
  // Any id of the tokenizer can be turned back into text, those that the model lacks included.
  if (row.bodies != kDetokenize) id["maximum"] = limits.vocab_size - 1;
  return {{"type", "array"}, {"items", std::move(id)}};
}

json::object array_schema(const FieldRow& row, json::value items, const RequestLimits& limits) {
  json::object schema{{"type", type_name(row, "array")}, {"items", std::move(items)}};
  add_size(schema, row, limits);
  return schema;
}

json::object prompt_schema(const FieldRow& row, const RequestLimits& limits) {
  const json::object text{{"type", "string"}, {"minLength", 1}};
  json::object ids = token_ids_schema(row, limits);
  ids["minItems"] = 1;
  FieldRow many = row;
  many.required = true;
  json::object texts = array_schema(many, {{"anyOf", json::array{text, ids}}}, limits);
  return {{"anyOf", json::array{text, ids, texts}}};
}

json::object choices_schema(const FieldRow& row) {
  json::array values;
  for (const std::string_view choice : choices_of(row)) {
    values.emplace_back(json::string_view(choice.data(), choice.size()));
  }
  if (!row.required) values.emplace_back(nullptr);
  return {{"enum", std::move(values)}};
}

json::object field_schema(const FieldRow& row, const RequestLimits& limits) {
  json::object schema;
  switch (row.type) {
    case kBool:
      return {{"type", type_name(row, "boolean")}};
    case kInteger:
      schema["type"] = type_name(row, "integer");
      add_range(schema, row, limits);
      return schema;
    case kNumber:
      schema["type"] = type_name(row, "number");
      add_range(schema, row, limits);
      return schema;
    case kString:
    case kName:
      return {{"type", type_name(row, "string")}};
    case kChoice:
      return choices_schema(row);
    case kObject:
      return {{"type", type_name(row, "object")}};
    case kArray:
      return array_schema(row, json::object{}, limits);
    case kObjects:
      return array_schema(row, json::object{{"type", "object"}}, limits);
    case kStrings:
      return array_schema(row, {{"type", "string"}, {"minLength", 1}}, limits);
    case kStop: {
      json::object many = array_schema(row, {{"type", "string"}, {"minLength", 1}}, limits);
      return {{"anyOf", json::array{{{"type", "string"}, {"minLength", 1}}, std::move(many)}}};
    }
    case kTokenIds:
      return array_schema(row, token_ids_schema(row, limits).at("items"), limits);
    case kBias: {
      json::object value{{"type", "number"}};
      add_range(value, row, limits);
      return {{"type", type_name(row, "object")},
              {"additionalProperties", std::move(value)},
              {"maxProperties", static_cast<int64_t>(row.most.value(limits))}};
    }
    case kPrompt:
      return prompt_schema(row, limits);
    case kUnsupported:
      return {{"type", "null"}};
    case kNotYet:
      return {{"enum", {nullptr, false}}};
    case kAny:
      return {};
    case kToolChoice:
      return {{"anyOf", json::array{choices_schema(row), json::object{{"type", "object"}}}}};
    case kConstraint:
      return {{"enum", {nullptr, false, "", "none", json::array()}}};
  }
  return schema;
}

std::string description(const FieldRow& row) {
  if (row.type == kNotYet) return "Not supported yet.";
  if (row.type == kConstraint) return "This kind of structured output is not supported yet.";
  return std::string(row.help);
}

}  // namespace

std::span<const FieldRow> field_rows() { return kRows; }

const FieldRow* find_field(std::string_view name, unsigned bodies) {
  const auto found = std::find_if(std::begin(kRows), std::end(kRows), [&](const FieldRow& row) {
    return (row.bodies & bodies) != 0 && row.name == name;
  });
  return found == std::end(kRows) ? nullptr : found;
}

void check_field(const json::object& object, const FieldRow& row, const RequestLimits& limits) {
  const Fields fields(object, std::string(before_dot(row.name)));
  if (fields.has(after_dot(row.name))) return check_member(fields, row, limits);
  if (!row.required) return;
  // The protocol lets a prompt be absent, for the sake of others than text, which come later.
  if (row.type == kPrompt) value_error(row.name, "prompt is required");
  schema_error(row.name, "is required");
}

void check_fields(const json::object& body, Body kind, const RequestLimits& limits) {
  const Fields top(body);
  for (const FieldRow& row : kRows) {
    if ((row.bodies & kind) == 0) continue;
    const std::string_view holder = before_dot(row.name);
    const json::object* object = holder.empty() ? &body : top.object(holder);
    if (object != nullptr) check_field(*object, row, limits);
  }
  if ((kind & kGenerate) == 0) return;
  // Where NVIDIA's containers look for constraints.
  if (const json::object* extension = top.object("nvext")) {
    const Fields fields(*extension, "nvext");
    for (const FieldRow& row : kRows) {
      if (row.type == kConstraint && fields.has(row.name)) check_member(fields, row, limits);
    }
  }
}

json::object body_schema(Body kind, const RequestLimits& limits) {
  json::object properties;
  json::array required;
  for (const FieldRow& row : kRows) {
    if ((row.bodies & kind) == 0) continue;
    json::object schema = field_schema(row, limits);
    if (!row.help.empty() || row.type == kConstraint) schema["description"] = description(row);
    const std::string_view holder = before_dot(row.name);
    if (holder.empty()) {
      properties[row.name] = std::move(schema);
      if (row.required) required.emplace_back(json::string_view(row.name));
      continue;
    }
    json::object& outer = properties[holder].as_object();
    if (!outer.contains("properties")) outer["properties"] = json::object();
    outer["properties"].as_object()[after_dot(row.name)] = std::move(schema);
    if (row.required) outer["required"] = json::array{json::string_view(after_dot(row.name))};
  }
  json::object schema{{"type", "object"}, {"properties", std::move(properties)}};
  if (!required.empty()) schema["required"] = std::move(required);
  return schema;
}

}  // namespace moesaic::server
