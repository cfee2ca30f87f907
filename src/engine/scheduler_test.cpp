#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>

namespace moesaic::engine {
namespace {

/// Requests of one sequence, or more, driven by hand: step() computes what was planned and gives
/// each sequence that is ready its next token.
class SchedulerTest : public testing::Test {
 protected:
  void start(int64_t blocks, int64_t block_size = 4) {
    options_.num_blocks = blocks;
    options_.block_size = block_size;
    pool_ = std::make_unique<BlockPool>(blocks, block_size);
    scheduler_ = std::make_unique<Scheduler>(options_, *pool_);
  }
  Sequence* add(std::vector<int32_t> prompt, int32_t n = 1, int32_t priority = 0,
                uint64_t group = 0) {
    LiveRequest& request = requests_.emplace_back();
    request.arrival = requests_.size();
    request.request.id = requests_.size();
    request.request.group = group;
    request.request.prompt = prompt;
    request.request.priority = priority;
    request.request.sampling.n = n;
    for (int32_t i = 0; i < n; ++i) {
      auto sequence = std::make_unique<Sequence>();
      sequence->request = &request;
      sequence->index = i;
      request.sequences.push_back(std::move(sequence));
    }
    for (const auto& sequence : request.sequences) scheduler_->add(sequence.get());
    return request.sequences[0].get();
  }
  static std::vector<int32_t> prompt(int64_t size, int32_t first = 1) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < size; ++i) tokens.push_back(first + static_cast<int32_t>(i));
    return tokens;
  }
  StepSchedule step() {
    StepSchedule schedule = scheduler_->schedule();
    scheduler_->commit(schedule);
    for (const Chunk& chunk : schedule.chunks) {
      scheduler_->landed(chunk);
      if (chunk.sequence->computed == chunk.sequence->size()) {
        chunk.sequence->output.push_back(999);
      }
    }
    pool_->check_invariants();
    return schedule;
  }
  static std::vector<int64_t> rows(const StepSchedule& schedule) {
    std::vector<int64_t> result;
    for (const Chunk& chunk : schedule.chunks) result.push_back(chunk.rows);
    return result;
  }

  EngineOptions options_;
  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<Scheduler> scheduler_;
  std::deque<LiveRequest> requests_;
};

using Rows = std::vector<int64_t>;

/// A sequence whose prompt's step is in flight and chooses its first token.
TEST_F(SchedulerTest, ATokenThatIsBeingChosenMayBeFollowed) {
  options_.max_model_len = 1000;
  start(64);
  Sequence* sequence = add(prompt(5));
  scheduler_->commit(scheduler_->schedule());
  EXPECT_TRUE(scheduler_->schedule().chunks.empty()) << "nothing is known to come";
  sequence->pending = 1;
  sequence->pending_step = scheduler_->steps();
  sequence->may_follow = true;
  sequence->request->request.sampling.max_tokens = 3;
  EXPECT_EQ(rows(scheduler_->schedule()), Rows{1});
  EXPECT_TRUE(scheduler_->schedule().chunks[0].decode);

  sequence->may_follow = false;
  EXPECT_TRUE(scheduler_->schedule().chunks.empty()) << "the executor cannot";
  sequence->may_follow = true;
  sequence->request->request.sampling.max_tokens = 1;
  EXPECT_TRUE(scheduler_->schedule().chunks.empty()) << "it is the last one";
  sequence->request->request.sampling.max_tokens = 3;
  options_.max_model_len = 6;
  EXPECT_TRUE(scheduler_->schedule().chunks.empty()) << "the context ends with it";
  options_.max_model_len = 1000;
  Sequence* other = add(prompt(3));
  EXPECT_EQ(rows(scheduler_->schedule()), (Rows{1, 3}));
  sequence->may_follow = false;
  scheduler_->commit(scheduler_->schedule());
  sequence->may_follow = true;
  EXPECT_TRUE(scheduler_->schedule().chunks.empty()) << "another step lies between";
  other->pending = 1;
}

TEST_F(SchedulerTest, BlocksOfWhatEndedComeBackWhenItsStepsHaveLanded) {
  start(64);
  Sequence* sequence = add(prompt(5));
  const StepSchedule schedule = scheduler_->schedule();
  scheduler_->commit(schedule);
  const int64_t held = pool_->held();
  EXPECT_GT(held, 0);
  scheduler_->remove(sequence);
  EXPECT_EQ(pool_->held(), held);
  EXPECT_EQ(scheduler_->retired(), std::vector<Sequence*>{sequence});
  EXPECT_TRUE(scheduler_->running().empty());
  scheduler_->landed(schedule.chunks[0]);
  EXPECT_EQ(pool_->held(), 0);
  EXPECT_EQ(pool_->cached(), 0) << "nothing of it was offered";
  EXPECT_TRUE(scheduler_->retired().empty());
}

TEST_F(SchedulerTest, NobodyIsPreemptedWhileStepsAreInFlight) {
  start(5);
  Sequence* old = add(prompt(2 * pool_->block_size()));
  Sequence* young = add(prompt(2 * pool_->block_size(), 100));
  step();
  ASSERT_EQ(scheduler_->running().size(), 2u);
  const StepSchedule wanted = scheduler_->schedule();
  EXPECT_EQ(wanted.preempted, std::vector<Sequence*>{young}) << "a block is wanted";
  // As if a step of another sequence were still in flight.
  Chunk chunk;
  chunk.sequence = young;
  StepSchedule flight;
  flight.chunks.push_back(chunk);
  scheduler_->commit(flight);
  EXPECT_TRUE(scheduler_->schedule().chunks.empty());
  EXPECT_TRUE(scheduler_->schedule().preempted.empty());
  scheduler_->landed(chunk);
  EXPECT_EQ(scheduler_->schedule().preempted, std::vector<Sequence*>{young});
  EXPECT_EQ(scheduler_->running().front(), old);
}

TEST_F(SchedulerTest, ALongPromptIsCutIntoChunksBetweenDecodes) {
  options_.max_rows = 8;
  start(64);
  Sequence* early = add(prompt(3));
  step();
  Sequence* late = add(prompt(20, 100));
  for (const Rows& expected : {Rows{1, 7}, Rows{1, 7}, Rows{1, 6}, Rows{1, 1}}) {
    const StepSchedule schedule = step();
    EXPECT_EQ(rows(schedule), expected);
    EXPECT_EQ(schedule.chunks[0].sequence, early);
    EXPECT_TRUE(schedule.chunks[0].decode);
    EXPECT_EQ(schedule.chunks[1].sequence, late);
    EXPECT_EQ(schedule.chunks[1].decode, expected[1] == 1);
  }
}

TEST_F(SchedulerTest, AShortPromptWaitsForNoLongOne) {
  options_.max_rows = 64;
  start(1000);
  add(prompt(1000));
  EXPECT_EQ(rows(step()), Rows{64}) << "alone it has everything";
  add(prompt(3, 2000));
  EXPECT_EQ(rows(step()), (Rows{61, 3})) << "what the short one does not need goes back";
  EXPECT_EQ(rows(step()), (Rows{1, 63}));
  add(prompt(500, 3000));
  add(prompt(2, 4000));
  EXPECT_EQ(rows(step()), (Rows{1, 49, 12, 2})) << "each leaves a quarter of what is left";
  EXPECT_EQ(rows(step()), (Rows{1, 1, 47, 15}));
}

TEST_F(SchedulerTest, RowsThatNobodyElseCanUseGoToThePrompt) {
  options_.max_rows = 64;
  start(40);
  add(prompt(150));
  step();
  add(prompt(100, 500));  // has no blocks until the first has ended
  EXPECT_EQ(rows(step()), Rows{64});
  EXPECT_EQ(rows(step()), Rows{22});
}

TEST_F(SchedulerTest, PromptsOfOneGroupComeOneAfterTheOther) {
  options_.max_rows = 64;
  start(1000);
  add(prompt(100), 1, 0, 77);
  add(prompt(100, 500), 1, 0, 77);
  EXPECT_EQ(rows(step()), Rows{64});
  EXPECT_EQ(rows(step()), (Rows{36, 28}));
}

TEST_F(SchedulerTest, SchedulingChangesNothing) {
  options_.max_rows = 16;
  start(8);
  add(prompt(9));
  add(prompt(9));
  step();
  add(prompt(9));
  for (int i = 0; i < 30; ++i) {
    const int64_t free = pool_->free(), cached = pool_->cached();
    const StepSchedule once = scheduler_->schedule();
    const StepSchedule twice = scheduler_->schedule();
    EXPECT_EQ(rows(once), rows(twice));
    EXPECT_EQ(once.preempted, twice.preempted);
    EXPECT_EQ(pool_->free(), free);
    EXPECT_EQ(pool_->cached(), cached);
    step();
  }
}

TEST_F(SchedulerTest, FirstComeFirstServed) {
  options_.max_sequences = 2;
  start(64);
  Sequence* a = add(prompt(4));
  Sequence* b = add(prompt(4, 50));
  Sequence* c = add(prompt(4, 90));
  const StepSchedule schedule = step();
  ASSERT_EQ(schedule.chunks.size(), 2u);
  EXPECT_EQ(schedule.chunks[0].sequence, a);
  EXPECT_EQ(schedule.chunks[1].sequence, b);
  EXPECT_EQ(scheduler_->waiting(), 1);
  scheduler_->remove(a);
  EXPECT_EQ(step().chunks.back().sequence, c);
}

TEST_F(SchedulerTest, PriorityBeforeArrival) {
  options_.priority_scheduling = true;
  options_.max_sequences = 1;
  start(64);
  add(prompt(4), 1, 5);
  Sequence* urgent = add(prompt(4, 50), 1, -1);
  add(prompt(4, 90), 1, 5);
  EXPECT_EQ(step().chunks.front().sequence, urgent);
}

TEST_F(SchedulerTest, TheYoungestGivesItsBlocksUpAndComesBackFirst) {
  options_.prefix_caching = false;
  start(6, 2);
  Sequence* old = add(prompt(3));
  Sequence* young = add(prompt(3, 50));
  step();
  Sequence* waiting = add(prompt(5, 90));
  int64_t preempted_at = 0;
  for (int64_t i = 1; preempted_at == 0; ++i) {
    ASSERT_LT(i, 10);
    const int64_t computed = old->computed;
    const StepSchedule schedule = step();
    EXPECT_EQ(old->computed, computed + 1) << "the oldest goes on every step";
    if (!schedule.preempted.empty()) {
      EXPECT_EQ(schedule.preempted, std::vector<Sequence*>{young});
      preempted_at = i;
    }
  }
  EXPECT_EQ(young->computed, 0);
  EXPECT_TRUE(young->blocks.empty());
  EXPECT_EQ(scheduler_->preemptions(), 1u);
  // Its six tokens need more than the pool has left, so nobody restarts only to be pushed out
  // again.
  EXPECT_EQ(step().chunks.size(), 1u);
  scheduler_->remove(old);
  const StepSchedule schedule = step();
  EXPECT_EQ(schedule.chunks[0].sequence, young);
  EXPECT_EQ(schedule.chunks[0].rows,
            young->size() - 1);  // prompt and what it had generated, at once
  EXPECT_FALSE(waiting->running);
}

TEST_F(SchedulerTest, TheEndOfAPromptIsEvictedBeforeItsBeginning) {
  start(8);
  Sequence* first = add(prompt(13));
  step();
  scheduler_->remove(first);
  ASSERT_EQ(pool_->cached(), 3);
  Sequence* other = add(prompt(22, 500));  // six blocks: one of the three is taken
  step();
  scheduler_->remove(other);
  add(prompt(13));
  EXPECT_EQ(step().prefix_hits, 8);
}

TEST_F(SchedulerTest, StartsOnlyWithRoomForOneMoreToken) {
  for (const int64_t size : {11, 12}) {  // three blocks are free; 12 fill them, and want a 13th
    start(4);
    add(prompt(3));
    step();
    const Sequence* late = add(prompt(size, 100));
    step();
    EXPECT_EQ(late->running, size == 11);
  }
}

TEST_F(SchedulerTest, WhatIsPromisedToAPromptUnderWayIsNotGivenAway) {
  options_.max_rows = 8;
  start(6);
  Sequence* underway = add(prompt(16));
  step();
  EXPECT_EQ(underway->blocks.size(), 2u);
  Sequence* large = add(prompt(8, 100));  // three blocks with its first token; four are free
  EXPECT_EQ(rows(step()), Rows{8});
  EXPECT_FALSE(large->running);
  scheduler_->remove(large);
}

TEST_F(SchedulerTest, ReusesThePrefixButComputesTheLastToken) {
  start(64);
  Sequence* first = add(prompt(12));
  step();
  scheduler_->remove(first);
  EXPECT_EQ(pool_->held(), 0);
  EXPECT_EQ(pool_->cached(), 3);
  Sequence* same = add(prompt(12));
  Sequence* longer = add(prompt(14));
  const StepSchedule schedule = step();
  EXPECT_EQ(rows(schedule),
            (Rows{4, 2}));  // 12 tokens are three full blocks, but one must be computed
  EXPECT_EQ(schedule.prefix_queries, 26);
  EXPECT_EQ(schedule.prefix_hits, 20);
  EXPECT_EQ(pool_->references(same->blocks[0]), 2);
  EXPECT_EQ(same->blocks[0], longer->blocks[0]);
  EXPECT_NE(same->blocks[2], longer->blocks[2]);
}

TEST_F(SchedulerTest, ReusesWhatWasGeneratedToo) {
  start(64);
  Sequence* first = add(prompt(6));
  for (int i = 0; i < 4; ++i) step();
  std::vector<int32_t> next = prompt(6);
  next.insert(next.end(), first->output.begin(), first->output.end());
  scheduler_->remove(first);
  next.push_back(5);
  add(next);
  EXPECT_EQ(step().prefix_hits, 8);
}

TEST_F(SchedulerTest, WithoutPrefixCachingNothingIsKept) {
  options_.prefix_caching = false;
  start(64);
  Sequence* first = add(prompt(12));
  step();
  scheduler_->remove(first);
  EXPECT_EQ(pool_->free(), 64);
  add(prompt(12));
  EXPECT_EQ(rows(step()), Rows{12});
}

TEST_F(SchedulerTest, PromptLogprobsComputeEveryRow) {
  start(64);
  add(prompt(12));
  step();
  Sequence* wants = add(prompt(12));
  wants->request->request.sampling.prompt_logprobs = 0;
  EXPECT_EQ(rows(step()), (Rows{1, 12}));
}

TEST_F(SchedulerTest, SequencesOfARequestShareItsPrompt) {
  for (const bool caching : {true, false}) {
    options_.prefix_caching = caching;
    start(64);
    Sequence* first = add(prompt(10), 3);
    EXPECT_EQ(rows(step()), Rows{10});  // the others wait for the prompt
    const StepSchedule schedule = step();
    EXPECT_EQ(rows(schedule), (Rows{1, 2, 2}));
    EXPECT_EQ(pool_->references(first->blocks[0]), 3);
    EXPECT_EQ(pool_->references(first->blocks[1]), 3);
    EXPECT_EQ(pool_->references(first->blocks[2]), 1);
    EXPECT_EQ(pool_->held(), 5);
    EXPECT_EQ(schedule.prefix_hits, caching ? 16 : 0);
    for (const auto& sequence : first->request->sequences) scheduler_->remove(sequence.get());
    EXPECT_EQ(pool_->held(), 0);
  }
}

TEST_F(SchedulerTest, DoesNotStartAPromptThatCannotBeFinished) {
  options_.max_rows = 4;
  start(6);
  add(prompt(12));
  step();
  add(prompt(12, 50));  // three blocks are free now, but the first will want two of them
  for (int i = 0; i < 3; ++i) EXPECT_EQ(step().chunks.size(), 1u);
  EXPECT_EQ(scheduler_->preemptions(), 0u);
}

TEST_F(SchedulerTest, CancellingGivesBlocksBackWherever) {
  options_.max_rows = 4;
  options_.max_sequences = 2;
  start(64);
  Sequence* decoding = add(prompt(3));
  step();
  Sequence* prefilling = add(prompt(30, 50));
  Sequence* waiting = add(prompt(3, 90));
  step();
  EXPECT_GT(prefilling->computed, 0);
  EXPECT_LT(prefilling->computed, 30);
  for (Sequence* sequence : {waiting, prefilling, decoding}) scheduler_->remove(sequence);
  EXPECT_EQ(pool_->held(), 0);
  EXPECT_EQ(scheduler_->waiting(), 0);
  EXPECT_TRUE(scheduler_->running().empty());
  EXPECT_TRUE(step().chunks.empty());
}

TEST_F(SchedulerTest, AGroupThatRunsNothingGetsAPlaceOfOneThatRunsSeveral) {
  options_.max_sequences = 4;
  start(64);
  std::vector<Sequence*> many;
  for (int32_t i = 0; i < 6; ++i) many.push_back(add(prompt(4, 10 * i), 1, 0, 77));
  step();
  Sequence* small = add(prompt(3, 500));
  EXPECT_EQ(step().preempted, std::vector<Sequence*>{many[3]});
  EXPECT_EQ(step().chunks.back().sequence, small);
  Sequence* second = add(prompt(3, 600), 2);
  EXPECT_EQ(step().preempted, std::vector<Sequence*>{many[2]});
  step();
  EXPECT_TRUE(second->running);
  // All groups run something, so nobody is pushed out any more; a place that becomes free goes to
  // the group with the fewest, of these the one that came first.
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(step().preempted.empty());
  scheduler_->remove(small);
  EXPECT_EQ(step().chunks.back().sequence, second->request->sequences[1].get());
  scheduler_->remove(many[0]);
  EXPECT_EQ(step().chunks.back().sequence, many[2]);
  EXPECT_EQ(scheduler_->preemptions(), 2u);
}

TEST_F(SchedulerTest, WhereRowsAreFewerThanPlacesTheyAreWhatIsShared) {
  options_.max_sequences = 100;
  options_.max_rows = 3;
  start(64);
  for (int32_t i = 0; i < 6; ++i) add(prompt(1, 10 * i), 1, 0, 77);
  step();
  Sequence* small = add(prompt(1, 500));
  step();
  step();
  EXPECT_TRUE(small->running);
}

TEST_F(SchedulerTest, AGroupAloneHasEverything) {
  options_.max_sequences = 4;
  start(64);
  add(prompt(4), 6, 0, 77);
  add(prompt(4, 50), 6, 0, 77);
  for (int i = 0; i < 4; ++i) step();
  EXPECT_EQ(scheduler_->running().size(), 4u);
  EXPECT_EQ(scheduler_->preemptions(), 0u);
}

TEST_F(SchedulerTest, ABetterPriorityGivesNoPlaceAway) {
  options_.priority_scheduling = true;
  options_.max_sequences = 3;
  start(64);
  for (int32_t i = 0; i < 3; ++i) add(prompt(4, 10 * i), 1, 1, 77);
  step();
  add(prompt(3, 500), 1, 2);
  EXPECT_TRUE(step().preempted.empty());
  Sequence* urgent = add(prompt(3, 600), 1, 0);
  EXPECT_EQ(step().preempted.size(), 1u);
  EXPECT_EQ(step().chunks.back().sequence, urgent);
}

TEST_F(SchedulerTest, BlocksAreTakenFromTheGroupThatRunsMost) {
  options_.prefix_caching = false;
  start(8, 2);
  std::vector<Sequence*> many;
  for (int32_t i = 0; i < 3; ++i) many.push_back(add(prompt(3, 10 * i), 1, 0, 77));
  step();
  Sequence* small = add(prompt(3, 500));  // the youngest, but alone in its group
  step();
  ASSERT_TRUE(small->running);
  std::vector<Sequence*> preempted;
  for (int i = 0; i < 8 && preempted.empty(); ++i) preempted = step().preempted;
  EXPECT_EQ(preempted, std::vector<Sequence*>{many[2]});
  EXPECT_TRUE(small->running);
}

/// The rule of turns as docs/engine.md says it, found anew for every start of random schedules.
class Turns : public SchedulerTest {
 protected:
  using Key = uint64_t;
  static Key key(const Sequence& sequence) {
    const Request& request = sequence.request->request;
    return request.group != 0 ? request.group : request.id;
  }
  struct Standing {
    int32_t priority = 0;
    int64_t running = 0;
    std::vector<Sequence*> ready;  ///< in serving order
  };
  std::map<Key, Standing> standings() {
    std::map<Key, Standing> result;
    std::vector<Sequence*> live;
    for (LiveRequest& request : requests_) {
      for (const auto& sequence : request.sequences) {
        if (!sequence->finished) live.push_back(sequence.get());
      }
    }
    std::sort(live.begin(), live.end(), ServedBefore{options_.priority_scheduling});
    for (Sequence* sequence : live) {
      Standing& standing = result[key(*sequence)];
      standing.priority = options_.priority_scheduling ? sequence->request->request.priority : 0;
      standing.running += sequence->running;
      const bool ready = sequence->index == 0 || sequence->request->prompt_done();
      if (!sequence->running && ready) standing.ready.push_back(sequence);
    }
    return result;
  }

  void check_starts(const StepSchedule& schedule, std::map<Key, Standing> groups) {
    for (const Chunk& chunk : schedule.chunks) {
      if (chunk.sequence->running) continue;
      Standing& own = groups.at(key(*chunk.sequence));
      for (const auto& [id, other] : groups) {
        if (other.ready.empty()) continue;
        EXPECT_LE(std::pair(own.priority, own.running), std::pair(other.priority, other.running))
            << "another group had the turn";
      }
      ASSERT_FALSE(own.ready.empty());
      EXPECT_EQ(own.ready.front(), chunk.sequence) << "not the group's first";
      own.ready.erase(own.ready.begin());
      ++own.running;
      ++starts_;
    }
  }

  void check_preempted(const StepSchedule& schedule, const std::map<Key, Standing>& groups) {
    if (schedule.preempted.empty()) return;
    const Sequence* first = schedule.preempted.front();
    for (const Sequence* other : scheduler_->running()) {
      if (options_.priority_scheduling &&
          other->request->request.priority < first->request->request.priority) {
        continue;
      }
      EXPECT_GE(groups.at(key(*first)).running, groups.at(key(*other)).running);
    }
    EXPECT_NE(first, scheduler_->running().front());
  }

  int starts_ = 0;
};

TEST_F(Turns, AreKeptOverRandomSchedules) {
  std::mt19937 random(3);
  const auto between = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  uint64_t preemptions = 0;
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(round);
    requests_.clear();
    options_.max_sequences = between(1, 8);
    options_.max_rows = between(1, 40);
    options_.priority_scheduling = round % 3 == 0;
    start(between(12, 60));
    for (int64_t i = 0; i < 40; ++i) {
      if (between(1, 3) == 1) {
        const int64_t group = between(0, 3);
        add(prompt(between(1, 20), static_cast<int32_t>(100 * i)),
            static_cast<int32_t>(between(1, 4)), static_cast<int32_t>(group % 2),
            group == 0 ? 0 : static_cast<uint64_t>(9000 + group));
      }
      const auto before = standings();
      const StepSchedule schedule = scheduler_->schedule();
      check_starts(schedule, before);
      check_preempted(schedule, before);
      step();
      for (LiveRequest& request : requests_) {
        for (const auto& sequence : request.sequences) {
          if (sequence->finished || sequence->output.size() < 6) continue;
          scheduler_->remove(sequence.get());
          sequence->finished = true;
        }
      }
      ASSERT_FALSE(HasFailure());
    }
    preemptions += scheduler_->preemptions();
  }
  EXPECT_GT(starts_, 3000);
  EXPECT_GT(preemptions, 200u);
}

}  // namespace
}  // namespace moesaic::engine
