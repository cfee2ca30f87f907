#pragma once

// The engine without its thread: a plain object that a simulator can drive step by step. It reads
// no clock; time is passed in.

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

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

  // A step goes: schedule_step(), submit_step(), wait_step(). When the executor throws
  // std::bad_alloc or base::RequestError, the requests of that step end with kError. Anything else
  // passes through, and the core must then be told to fail_all().

  /// Schedules a step and allocates for it; false when there is nothing to do now, or no further
  /// step may be in flight.
  bool schedule_step();
  /// Hands the step just scheduled to the executor; no finish() comes between.
  void submit_step();
  /// Waits for the oldest step in flight, of which there must be one, and hands out what it chose.
  void wait_step();
  int64_t in_flight() const { return static_cast<int64_t>(flights_.size()); }
  /// Ends everything with `reason`. Steps in flight are given up: nothing is submitted any more.
  void fail_all(FinishReason reason);

  bool idle() const { return requests_.empty() && flights_.empty(); }
  struct Load {
    int64_t running = 0, waiting = 0;  ///< requests: with a running sequence, and the others
  };
  Load load() const;
  const EngineStats& stats();
  /// Asserts that every block is free, cached or held by as many running and retired sequences as
  /// it counts, and that nothing is held when idle.
  void check_invariants() const;
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  struct Flight;
  void note_started(const StepSchedule& schedule, TimePoint now);
  void build(Flight& flight);
  void add_wanted(Flight& flight, size_t chunk, int64_t position);
  void set_sampling_states(const Flight& flight);
  void land(Flight& flight, std::vector<Sampled>& sampled);
  void lose(const Flight& flight);
  void end_requests(const std::set<RequestId>& ids, FinishReason reason);
  void release_slot(Sequence& sequence);
  bool accept(Sequence& sequence, Sampled& sampled, TimePoint now);
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
  std::map<RequestId, std::shared_ptr<LiveRequest>> requests_;
  uint64_t arrivals_ = 0;
  EngineStats stats_;
  std::unique_ptr<Flight> scheduled_;  ///< and not submitted yet
  std::deque<std::unique_ptr<Flight>> flights_;
  TimePoint last_landing_;
  EngineObserver::StepNews news_;  ///< of the step that is landing
  std::vector<int32_t> free_slots_;
  int32_t slots_ = 0;  ///< that have been handed out, the free ones too
};

}  // namespace moesaic::engine
