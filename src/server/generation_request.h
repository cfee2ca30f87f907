#pragma once

// One accepted generation request in the protocol's terms, after validation and tokenising.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/request.h"
#include "server/openai_response.h"
#include "server/reasoning.h"
#include "server/tool_calls.h"

namespace moesaic::server {

/// What the log-probabilities of one position hold, and the least that their JSON will.
inline size_t logprob_bytes(int32_t count) {
  return sizeof(int64_t) + sizeof(engine::PositionLogprobs) +
         static_cast<size_t>(count) * sizeof(engine::TokenLogprob);
}
inline size_t logprob_json_bytes(int32_t count) { return 40 * (1 + static_cast<size_t>(count)); }

struct GenerationRequest {
  ByteShare held;  ///< for all of it
  bool chat = false;
  ResponseIdentity identity;
  struct Prompt {
    std::vector<int32_t> ids;
    std::string text;        ///< shown by echo; of chat, the rendered template
    int32_t max_tokens = 0;  ///< of this prompt's sequences; at least 1
  };
  std::vector<Prompt> prompts;
  engine::SamplingParams sampling;  ///< max_tokens is each prompt's
  int32_t priority = 0;

  std::vector<std::string> stop;
  bool include_stop = false;
  bool skip_special = true;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool echo = false;
  bool echo_only = false;  ///< echo with max_tokens 0: what is generated is not shown
  bool return_token_ids = false;
  bool tokens_as_ids = false;
  bool prompt_details = false;  ///< usage says how many prompt tokens were cached

  std::string role = "assistant";  ///< chat: of the answer
  std::string echo_text;           ///< chat: the final message that echo repeats
  bool return_prompt_text = false;
  bool parse_tool_calls = false;
  const CallForm* call_form = &call_forms().front();
  std::shared_ptr<const TextParameters> text_parameters;  ///< of the tools
  const ReasoningForm* reasoning_form = nullptr;          ///< null: reasoning is part of the answer
  Reasoning reasoning = Reasoning::kNone;
  bool include_reasoning = true;
  bool parallel_tool_calls = true;
  bool named_call = false;  ///< the request named the function, and so the answer just stops

  /// Whether the answer has the logprobs of its prompts before those of the text.
  bool echoes_logprobs() const { return !chat && echo && sampling.logprobs >= 0; }
  int64_t prompt_tokens() const {
    int64_t sum = 0;
    for (const Prompt& prompt : prompts) sum += static_cast<int64_t>(prompt.ids.size());
    return sum;
  }
};

/// What is known of one prompt beside its ids.
struct PromptState {
  std::vector<engine::PositionLogprobs> logprobs;  ///< [prompt - 1] when asked for
  std::vector<int64_t> offsets;  ///< prompt_offsets(), when it is echoed with logprobs
  int64_t cached_tokens = 0;
  bool is_done = false;  ///< its first choice has begun, so that `logprobs` are all there
  std::vector<engine::SequenceOutput> early;  ///< of other choices, which wait for them
};

/// What one delivery made certain about a choice.
struct ChoiceDelta {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<engine::PositionLogprobs> logprobs;
  std::vector<int64_t> offsets;  ///< of each of `logprobs`: where its token begins in the text
};

/// One choice so far. A stream keeps no text or tokens here.
struct ChoiceState {
  int32_t index = 0;
  int32_t prompt = 0;
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<engine::PositionLogprobs> logprobs;
  std::vector<int64_t> offsets;  ///< of each of `logprobs`
  int64_t generated = 0;
  int64_t characters = 0;   ///< before the next token, shown or held back; with an echoed prompt's
  int64_t shown_calls = 0;  ///< tool calls streamed
  bool started = false;     ///< its first event is out
  bool done = false;
  ChoiceEnd end;
  ReasoningParser reasoning;
  ToolCallParser tools;

  /// Once it is written.
  void drop_content() {
    text = {};
    tokens = {};
    logprobs = {};
    offsets = {};
  }
};

}  // namespace moesaic::server
