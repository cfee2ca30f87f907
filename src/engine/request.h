#pragma once

// What crosses between the HTTP side and the engine thread: requests in, tokens out. No strings, no
// JSON, no sockets here.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "backend/sampling/sampling.h"

namespace moesaic::engine {

using RequestId = uint64_t;
/// Monotonic time; the engine never reads a wall clock.
using TimePoint = std::chrono::steady_clock::time_point;

using backend::Constraint;
using backend::PositionLogprobs;
using backend::token_rules;
using backend::TokenLogprob;
using backend::TokenRules;

/// How to choose tokens. Ranges are validated before a request reaches the engine.
struct SamplingParams {
  float temperature = 1.0f;  ///< 0 = greedy
  float top_p = 1.0f;
  int32_t top_k = 0;  ///< 0 or -1 = off
  float min_p = 0.0f;
  float presence_penalty = 0.0f;                              ///< over output tokens
  float frequency_penalty = 0.0f;                             ///< over output tokens
  float repetition_penalty = 1.0f;                            ///< over prompt and output tokens
  std::shared_ptr<const TokenRules> rules = token_rules({});  ///< never null
  std::shared_ptr<const Constraint> constraint;               ///< null without one
  std::optional<uint64_t> seed;                               ///< none = the engine draws one
  int32_t n = 1;                                              ///< sequences of one request
  int32_t max_tokens = 16;
  int32_t min_tokens = 0;  ///< EOS and stop ids are masked before
  bool ignore_eos = false;
  int32_t logprobs = -1;         ///< -1 = none; k = the sampled token and the k best
  int32_t prompt_logprobs = -1;  ///< -1 = none; needs logits of every prompt row
};

enum class FinishReason : uint8_t {
  kNone,
  kStop,    ///< EOS, a stop token id, or a stop string found by the HTTP side
  kLength,  ///< max_tokens or the context's end
  kAbort,   ///< cancelled by the client or by shutdown
  kError,   ///< this request failed (for example NaN logits)
};

/// News of one sequence after one step. Deliveries of one sequence are in order; exactly one has a
/// finish reason, and it is the last.
struct SequenceOutput {
  int32_t index = 0;  ///< 0 .. n-1
  std::vector<int32_t> tokens;
  std::vector<PositionLogprobs> logprobs;  ///< one per token when asked for
  FinishReason finish = FinishReason::kNone;
  std::optional<int32_t> stop_token;  ///< the id that stopped it, when not EOS
  std::vector<PositionLogprobs>
      prompt_logprobs;               ///< with the first delivery of index 0; [prompt-1]
  int32_t cached_prompt_tokens = 0;  ///< with the first delivery
};

/// Where outputs go. Called on the engine thread; must not block or throw.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  virtual void deliver(SequenceOutput&& output) = 0;
};

struct Request {
  RequestId id = 0;
  /// Requests of one group take turns with those of other groups as one (docs/engine.md); the
  /// prompts of one client request are a group. They have one priority. 0 = a group of its own.
  uint64_t group = 0;
  std::vector<int32_t> prompt;
  /// Those of `prompt`, ascending, each once; set by EngineCore::admit() where a penalty wants
  /// them.
  std::shared_ptr<const std::vector<int32_t>> prompt_ids;
  SamplingParams sampling;
  int32_t priority = 0;  ///< lower runs first with --scheduling-policy priority
  std::shared_ptr<OutputSink> sink;
};

}  // namespace moesaic::engine
