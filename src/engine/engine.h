#pragma once

// Requests become steps (docs/engine.md is the contract). One engine thread owns scheduler, blocks,
// sampler and executor; the HTTP side talks to it through submit, finish and stats only.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/executor.h"
#include "engine/request.h"

namespace moesaic::engine {

struct EngineOptions {
  int64_t block_size = 16;
  int64_t num_blocks = 0;
  int64_t max_rows = 2048;      ///< token budget of one step
  int64_t max_sequences = 256;  ///< sequences running at once
  int64_t max_model_len = 0;    ///< prompt + output of one sequence
  bool prefix_caching = true;
  bool priority_scheduling = false;
  std::vector<int32_t> eos_ids;
  uint64_t seed = 0;  ///< of the seeds drawn for requests without one
};

/// Why a request was refused; kNone means it is in.
enum class Refusal : uint8_t {
  kNone,
  kTooLong,       ///< can never fit max_model_len or the block pool
  kUnknownToken,  ///< a prompt token for which the model has no embedding
  kDraining,
  kDead,  ///< the engine thread has failed
};

/// Counters since start and gauges of now; a consistent copy.
struct EngineStats {
  int64_t running = 0, waiting = 0;  ///< requests
  int64_t blocks_total = 0, blocks_free = 0, blocks_cached = 0, blocks_held = 0;
  uint64_t steps = 0, prompt_tokens = 0, generated_tokens = 0, preemptions = 0;
  uint64_t prefix_queries = 0, prefix_hits = 0;  ///< tokens
  /// First tokens of requests with the seconds since their arrivals, and further tokens of
  /// sequences with the seconds since the ones before; sums.
  uint64_t first_tokens = 0, next_tokens = 0;
  double first_token_seconds = 0, next_token_seconds = 0;
  std::array<uint64_t, 5> finished{};  ///< by FinishReason
  int64_t moe_layers = 0, experts = 0;
  std::vector<uint64_t> expert_tokens;  ///< [moe_layers, experts] since start
  bool alive = true;
  double seconds_since_progress = 0;  ///< 0 when idle; else since the last step ended
};

/// Called on the engine thread after each step and at each request's end; must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  struct StepNews {
    int64_t prompt_rows = 0, decode_rows = 0;
    double seconds = 0;
    std::vector<double> first_tokens;  ///< seconds since arrival, of requests that got their first
    std::vector<double> next_tokens;   ///< seconds since the sequence's last token
  };
  virtual void on_step(const StepNews&) {}
  struct Finished {
    FinishReason reason = FinishReason::kNone;
    int64_t prompt_tokens = 0, generated_tokens = 0, max_tokens = 0, n = 1, cached_tokens = 0;
    double queue_seconds = 0, prefill_seconds = 0, decode_seconds = 0, e2e_seconds = 0;
  };
  virtual void on_finished(const Finished&) {}
};

class Engine {
 public:
  Engine(const EngineOptions& options, std::unique_ptr<Executor> executor,
         std::shared_ptr<EngineObserver> observer);
  /// Aborts what is left and joins the thread.
  ~Engine();

  /// Hands a request over. On a refusal the sink is never called. Thread-safe.
  Refusal submit(Request request);

  /// Ends a sequence (or all, index -1) from outside: kAbort when the client went away, kStop when
  /// the HTTP side found a stop string. Takes effect within one step; the sink gets the final
  /// delivery. Unknown or ended ids are ignored. Thread-safe.
  void finish(RequestId id, int32_t index, FinishReason reason);

  /// No new requests from now on; running ones go on.
  void drain();
  /// True when nothing runs or waits.
  bool idle() const;

  EngineStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::engine
