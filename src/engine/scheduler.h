#pragma once

// Chooses what the next step computes. It does no I/O and reads no clock: the same calls give the
// same schedules.

#include <set>
#include <unordered_map>
#include <vector>

#include "engine/block_pool.h"
#include "engine/engine.h"
#include "engine/sequence.h"

namespace moesaic::engine {

/// The rows of one sequence in the next step.
struct Chunk {
  Sequence* sequence = nullptr;
  int64_t rows = 0;
  int64_t new_blocks = 0;
  std::vector<BlockId> reused;  ///< blocks of the prefix cache that a starting sequence begins with
  bool decode = false;
};

/// A step's schedule. Making it changes nothing; commit() carries it out whole.
struct StepSchedule {
  std::vector<Sequence*> preempted;
  std::vector<Chunk> chunks;
  int64_t prefix_queries = 0, prefix_hits = 0;  ///< tokens
};

class Scheduler {
 public:
  Scheduler(const EngineOptions& options, BlockPool& pool);

  /// Blocks a sequence of `tokens` positions needs.
  int64_t blocks_for(int64_t tokens) const;

  /// Takes a sequence in; without memory for it (std::bad_alloc) nothing has changed.
  void add(Sequence* sequence);
  /// Takes a sequence out, wherever it is, and gives its blocks back: at once, or when no step in
  /// flight has rows of it any more.
  void remove(Sequence* sequence);

  /// Decodes first, oldest first; then prompts under way, of which each leaves some rows to those
  /// behind it; then waiting sequences, as far as token budget, sequence limit and blocks go.
  /// Groups take turns: next starts the one of which the fewest sequences run. Where blocks run
  /// out, or a group has no sequence running and there is no place left, the youngest sequence of
  /// the group that runs most gives up its own and will be recomputed. The oldest of all never
  /// does, so it always goes on. With steps in flight nobody gives up anything: where that would be
  /// needed the schedule is empty, and is to be made again when they have landed.
  StepSchedule schedule() const;

  /// Carries a schedule out: preempts, starts, allocates. Its step is in flight from then on.
  void commit(const StepSchedule& schedule);

  /// A chunk's step has landed: marks its rows as computed and offers its full blocks to the prefix
  /// cache, or if the sequence has been removed gives its blocks back when it was the last one.
  void landed(const Chunk& chunk);
  /// Likewise of a step that failed, whose sequences end.
  void lost(const Chunk& chunk);

  const std::vector<Sequence*>& running() const { return running_; }
  /// Removed, with blocks that steps in flight may still write.
  const std::vector<Sequence*>& retired() const { return retired_; }
  int64_t waiting() const;
  /// Schedules carried out so far; the number of the last one.
  uint64_t steps() const { return steps_; }
  /// Requests with a running sequence.
  int64_t running_requests() const;
  uint64_t preemptions() const { return preemptions_; }

 private:
  class Draft;
  bool reuses(const Sequence& sequence) const;
  bool publishes(const Sequence& sequence) const;
  void start(const Chunk& chunk);
  std::vector<BlockId> find_reusable(Sequence& sequence) const;
  void extend_keys(Sequence& sequence, int64_t blocks) const;
  int64_t rows_left(const Sequence& sequence) const;
  void end_flight(Sequence& sequence);
  void publish(Sequence& sequence);
  void give_back(Sequence& sequence);
  void count_running(Group& group, int64_t change);
  void forget_if_empty(LiveRequest& request);

  /// A group as it would stand with so many sequences running.
  struct Turn {
    Group* group;
    int64_t running;
  };
  struct TurnBefore {
    bool by_priority = false;
    bool operator()(const Turn& a, const Turn& b) const {
      if (by_priority && a.group->priority != b.group->priority) {
        return a.group->priority < b.group->priority;
      }
      if (a.running != b.running) return a.running < b.running;
      return a.group->arrival < b.group->arrival;
    }
  };

  const EngineOptions& options_;
  BlockPool& pool_;
  ServedBefore order_;
  std::vector<Sequence*> running_;  ///< in serving order
  std::vector<Sequence*> retired_;
  int64_t flights_ = 0;  ///< chunks in flight
  uint64_t steps_ = 0;
  std::unordered_map<uint64_t, Group> groups_;
  std::set<Turn, TurnBefore> turns_;  ///< of all groups
  uint64_t preemptions_ = 0;
};

}  // namespace moesaic::engine
