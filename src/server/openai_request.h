#pragma once

// The OpenAI request bodies as typed, validated data. Nothing here tokenises or renders; what
// depends on the prompt's length is checked later.

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/settings.h"
#include "engine/request.h"
#include "server/constraint.h"
#include "text/chat_template.h"

namespace moesaic::server {

/// Published caps, and what of the model a request is checked against.
struct RequestLimits {
  int64_t max_n = 128;
  int64_t max_prompts = 256;
  int64_t max_prompt_bytes = 8 << 20;
  int64_t max_stop = 4;
  int64_t max_stop_bytes = 4096;
  int64_t max_logit_bias = 300;
  int64_t max_bad_words = 1024;
  int64_t max_bad_words_bytes = 64 << 10;  ///< of all of a request together
  int64_t max_logprobs = 20;
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;
  int64_t max_input_tokens = 0;  ///< of a prompt; 0 = what max_model_len leaves
  bool priority_scheduling = false;
  bool return_tokens_as_token_ids = false;  ///< default of the field of that name
  bool force_usage = false;
  JsonForm json;
};
RequestLimits request_limits(const base::Settings& settings, int64_t vocab_size,
                             int64_t max_model_len);

/// The words with which every error about too long a prompt begins; clients look for them.
std::string context_length_is(const RequestLimits& limits);
/// Refuses a prompt of so many tokens when it leaves no room for an answer.
void check_prompt_size(int64_t tokens, const RequestLimits& limits);
/// Refuses a text of more than --max-prompt-bytes; `param` is the member that holds it.
void check_prompt_bytes(int64_t bytes, const char* param, const RequestLimits& limits);

/// What generation_config.json says for requests that do not.
struct SamplingDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  std::optional<int64_t> max_new_tokens;  ///< caps every request, as in vLLM
};
/// `text` is the file ("" = none), `overrides` the --override-generation-config object ("" = none).
/// Throws UsageError when one is not a JSON object or a value has the wrong type.
SamplingDefaults sampling_defaults(const std::string& text, const std::string& overrides);

/// Fields of both endpoints.
struct CommonRequest {
  std::string model;                ///< "" = the one that is served
  engine::SamplingParams sampling;  ///< without max_tokens and rules
  engine::TokenRules rules;         ///< as asked; bad_words, being text, are not in it
  std::optional<ConstraintText> constraint;
  std::optional<int64_t> max_tokens;  ///< as asked
  std::vector<std::string> stop;
  std::vector<std::string> bad_words;
  bool include_stop = false;
  bool skip_special = true;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool echo = false;
  bool add_special_tokens = true;
  bool return_token_ids = false;
  bool tokens_as_ids = false;
  std::optional<int64_t> truncate_prompt_tokens;  ///< -1 = to what fits
  bool truncate_right = false;                    ///< drop from the end instead of the front
  int32_t priority = 0;
  std::string request_id;
};

struct CompletionRequest : CommonRequest {
  using Prompt = std::variant<std::string, std::vector<int32_t>>;
  std::vector<Prompt> prompts;
};

/// What a chat template is given.
struct ChatInput {
  boost::json::array messages;  ///< normalised: content is a string or parts, arguments are objects
  boost::json::value tools;     ///< null without tools
  boost::json::value documents;
  boost::json::object template_kwargs;
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  /// Name of the final message's role and its text, for echo.
  std::string last_role;
  std::string last_content;
};

struct ChatRequest : CommonRequest {
  ChatInput chat;
  bool parse_tool_calls = false;  ///< tools given and tool_choice not none
  bool named_call = false;        ///< tool_choice names the function
  bool held_to_calls = false;     ///< `constraint` has the form of calls: that of call_rules()
  bool include_reasoning = true;
  bool parallel_tool_calls = true;
  bool return_prompt_text = false;
};

/// In which shape messages reach the template.
struct ContentRules {
  /// --chat-template-content-format; kAuto = as they come, if the template shows them so.
  enum class Format : uint8_t { kAuto, kString, kParts } format = Format::kAuto;
  const text::ChatTemplate* chat_template = nullptr;  ///< null without one
};

CompletionRequest parse_completion(const boost::json::object& body, const RequestLimits& limits,
                                   const SamplingDefaults& defaults);
ChatRequest parse_chat(const boost::json::object& body, const RequestLimits& limits,
                       const SamplingDefaults& defaults, const ContentRules& content);
/// The members that make a chat prompt; /tokenize has them too. Throws RequestError when messages
/// or the template's arguments are wrong.
ChatInput parse_chat_input(const boost::json::object& body, const ContentRules& content);
}  // namespace moesaic::server
