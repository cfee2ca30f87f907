#pragma once

// The two endpoints' answers, whole and as server-sent events.

#include <memory>
#include <span>
#include <string>

#include "server/generation_request.h"

namespace moesaic::server {

class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;
  /// Events of one delta; may be empty. `last` marks the last event of the last choice. `held`
  /// counts what is written, and may throw RequestError.
  virtual std::string events(ChoiceState& choice, const ChoiceDelta& delta,
                             const PromptState& prompt, bool last, ByteShare& held) = 0;
  /// What follows all choices, with `[DONE]`.
  virtual std::string stream_end(const Usage& usage) = 0;
  /// The whole answer. Choices lose their text, tokens and logprobs to it. `held` as in events().
  virtual std::string whole(std::span<ChoiceState> choices, std::span<const PromptState> prompts,
                            const Usage& usage, ByteShare& held) = 0;
};

/// `accepted` and `names` outlive the format.
std::unique_ptr<AnswerFormat> completion_format(const GenerationRequest& accepted,
                                                const TokenNames& names);
std::unique_ptr<AnswerFormat> chat_format(const GenerationRequest& accepted,
                                          const TokenNames& names);

/// Of an accepted request's choice: its usage so far, for continuous_usage_stats.
Usage usage_of(const GenerationRequest& accepted, const ChoiceState& choice);

/// The last members of an event: usage when asked for at every event, the fingerprint on the last.
void write_event_tail(JsonWriter& json, const GenerationRequest& accepted,
                      const ChoiceState& choice, bool last);
/// The usage event, when asked for, and [DONE].
std::string write_stream_end(const GenerationRequest& accepted, std::string_view object,
                             const Usage& usage);

}  // namespace moesaic::server
