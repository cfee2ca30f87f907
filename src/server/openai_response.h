#pragma once

// The OpenAI answers as JSON, field for field in the order and with the nulls of vLLM 0.32.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "server/json_writer.h"
#include "server/tool_calls.h"
#include "text/tokenizer.h"

namespace moesaic::server {

/// Every answer of one request starts with these.
struct ResponseIdentity {
  std::string id;
  std::string model;
  int64_t created = 0;  ///< Unix seconds
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  std::optional<int64_t> cached_tokens;  ///< only with --enable-prompt-tokens-details
};

/// How token strings are shown.
class TokenNames {
 public:
  /// `as_ids`: "token_id:N" instead of text; always so without a tokenizer.
  TokenNames(const text::Tokenizer* tokenizer, bool as_ids)
      : tokenizer_(tokenizer), as_ids_(as_ids || tokenizer == nullptr) {}
  std::string name(int32_t id) const;
  /// The token's text whatever `as_ids` says; "" without a tokenizer.
  std::string text(int32_t id) const;
  /// Raw bytes behind name().
  std::string bytes(int32_t id) const;
  bool as_ids() const { return as_ids_; }

 private:
  const text::Tokenizer* tokenizer_;
  bool as_ids_;
};

/// "stop", "length", "abort" or "error"; "" for none.
std::string_view finish_name(engine::FinishReason reason);

/// Why a choice ended, in the protocol's words.
struct ChoiceEnd {
  std::string finish_reason;  ///< "" = not yet
  std::string stop_string;    ///< "" = none
  std::optional<int32_t> stop_token;
};

/// Unicode characters of UTF-8 text.
int64_t count_characters(std::string_view text);

/// Characters before each token of an echoed prompt in its text, and before what follows it. Tokens
/// that are parts of one character begin where it begins. Where names are ids, characters of those.
std::vector<int64_t> prompt_offsets(const TokenNames& names,
                                    const std::shared_ptr<const text::Tokenizer>& tokenizer,
                                    std::span<const int32_t> ids, std::string_view text,
                                    bool skip_special);

/// The logprobs object of /v1/completions, four lists side by side.
class CompletionLogprobs {
 public:
  /// `held` counts the lists.
  CompletionLogprobs(const TokenNames& names, ByteShare& held);
  /// A token that has no probability: the first of an echoed prompt.
  void add_unknown(int32_t id, int64_t offset);
  /// `offsets`: of each position, the characters before its token.
  void add(std::span<const engine::PositionLogprobs> positions, std::span<const int64_t> offsets);
  void write(JsonWriter& json);

 private:
  const TokenNames& names_;
  JsonWriter offsets_, logprobs_, tokens_, tops_;
};
/// The logprobs object of /v1/chat/completions; at most `top` alternatives a position.
void write_chat_logprobs(JsonWriter& json, const TokenNames& names,
                         std::span<const engine::PositionLogprobs> positions, int32_t top);
/// The prompt_logprobs array, whose first element is null.
void write_prompt_logprobs(JsonWriter& json, const TokenNames& names,
                           std::span<const engine::PositionLogprobs> positions);

/// {"prompt_tokens", ...}; whole answers spell out the nulls, streams leave them out.
void write_usage(JsonWriter& json, const Usage& usage, bool with_nulls);

/// finish_reason and stop_reason members.
void write_choice_end(JsonWriter& json, const ChoiceEnd& end, bool stop_reason);

/// id, object, created and model of an answer just opened.
void write_identity(JsonWriter& json, const ResponseIdentity& identity, std::string_view object);

/// The members after choices of a whole answer, up to and with usage.
void write_tail(JsonWriter& json, const Usage& usage);

/// A list of finished tool calls; `first` is the index of the first in streams, -1 leaves indices
/// out.
void write_tool_calls(JsonWriter& json, std::span<const ToolCall> calls, int64_t first);

/// "moesaic-<version>".
std::string system_fingerprint();
std::string_view program_version();

/// `data: <json>\n\n`.
std::string sse_event(std::string_view json);
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

/// 16 random hexadecimal digits.
std::string random_hex();

}  // namespace moesaic::server
