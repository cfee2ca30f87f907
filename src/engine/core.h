#pragma once

// The engine without its thread: a plain object that a simulator can drive step by step. It reads
// no clock; time is passed in.

#include <functional>
#include <map>
#include <memory>

#include "engine/block_pool.h"
#include "engine/engine.h"
#include "engine/scheduler.h"

namespace moesaic::engine {

class EngineCore {
 public:
  /// `clock` gives the time; `executor` and `observer` outlive the core.
  EngineCore(const EngineOptions& options, Executor& executor, EngineObserver& observer,
             std::function<TimePoint()> clock);
  ~EngineCore();

  /// Refuses a request that can never run: its longest possible sequence does not fit the context
  /// or the pool, or its prompt has ids outside the vocabulary. Else makes it ready for add(); what
  /// that costs is paid here, by the caller's thread.
  static Refusal admit(const EngineOptions& options, int64_t vocab_size, Request& request);

  /// Takes a request that admit() has let through.
  void add(Request request);
  /// Ends sequence `index`, or all with -1, with `reason`. False when the request is unknown.
  bool finish(RequestId id, int32_t index, FinishReason reason);
  /// Plans a step and allocates for it; false when there is nothing to do.
  bool plan_step();
  /// Computes the step just planned; no finish() comes between. When the executor throws
  /// std::bad_alloc or base::RequestError, the requests of that step end with kError. Anything else
  /// passes through, and the core must then be told to fail_all().
  void run_step();
  /// Ends everything with `reason`.
  void fail_all(FinishReason reason);

  bool idle() const { return requests_.empty(); }
  struct Load {
    int64_t running = 0, waiting = 0;  ///< requests: with a running sequence, and the others
  };
  Load load() const;
  const EngineStats& stats();
  /// Asserts that every block is free, cached or held by as many running sequences as it counts,
  /// and that nothing is held when idle.
  void check_invariants() const;
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  struct Step;
  void note_started(const Plan& plan, TimePoint now);
  void build(Step& step) const;
  bool execute(Step& step);
  void count_experts();
  void take_logits(Step& step, int64_t first, int64_t count, float* logits);
  void take_row(const Step& step, int64_t row, std::span<float> logits, struct RowResult& result);
  void advance(Step& step);
  bool accept(Sequence& sequence, struct RowResult& result, TimePoint now);
  bool deliver(LiveRequest& request, SequenceOutput&& output);
  FinishReason reason_to_stop(const Sequence& sequence, int32_t token,
                              std::optional<int32_t>& stop_token) const;
  void end(Sequence& sequence, SequenceOutput output);
  void end_request(LiveRequest& request);

  EngineOptions options_;
  Executor& executor_;
  EngineObserver& observer_;
  std::function<TimePoint()> clock_;
  BlockPool pool_;
  Scheduler scheduler_;
  std::map<RequestId, std::unique_ptr<LiveRequest>> requests_;
  uint64_t arrivals_ = 0;
  model::ExpertCounts counts_;
  EngineStats stats_;
  std::unique_ptr<Step> step_;  ///< planned and not yet run
};

}  // namespace moesaic::engine
