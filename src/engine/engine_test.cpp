#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <new>
#include <thread>

#include "engine/executor_testing.h"

namespace moesaic::engine {
namespace {

constexpr int64_t kVocab = 16;

/// Always prefers the token after the last one. Waits at a gate when told to; the token kBad gives
/// NaN, kFatal throws, kHungry finds no memory.
constexpr int32_t kBad = 13;
constexpr int32_t kFatal = 14;
constexpr int32_t kHungry = 15;
constexpr int64_t kOpen = 1 << 30;

class Script : public TestExecutor {
 public:
  void compute(const StepBatch& batch, const Choose& choose) override {
    {
      std::unique_lock lock(mutex);
      entered = true;
      open.wait(lock, [&] { return permits > 0; });
      --permits;
    }
    ++steps;
    count(1, 1, 0, 0, batch.rows());
    for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
      const int32_t token = batch.token_ids[static_cast<size_t>(batch.logit_rows[i])];
      if (token == kFatal) throw std::runtime_error("the device is gone");
      if (token == kHungry) throw std::bad_alloc();
      std::vector<float> logits(kVocab, 0.0f);
      logits[static_cast<size_t>((token + 1) % 10)] = 5.0f;
      if (token == kBad) logits[0] = std::numeric_limits<float>::quiet_NaN();
      choose(i, logits);
    }
  }
  int64_t vocab_size() const override { return kVocab; }
  void set_closed(bool value) { allow(value ? 0 : kOpen); }
  /// Lets so many steps through.
  void allow(int64_t count) {
    std::lock_guard lock(mutex);
    permits = count;
    open.notify_all();
  }
  std::mutex mutex;
  std::condition_variable open;
  int64_t permits = kOpen;
  std::atomic<int> steps{0};
  std::atomic<bool> entered{false};
};

class Waiter : public OutputSink {
 public:
  void deliver(SequenceOutput&& output) override {
    std::lock_guard lock(mutex_);
    if (breaks && output.finish == FinishReason::kNone) throw std::runtime_error("no memory left");
    tokens_.insert(tokens_.end(), output.tokens.begin(), output.tokens.end());
    cached_ = std::max(cached_, output.cached_prompt_tokens);
    if (output.finish != FinishReason::kNone) {
      ++ends_;
      reason_ = output.finish;
      ended_.notify_all();
    }
  }
  FinishReason wait(int ends = 1) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(ended_.wait_for(lock, std::chrono::seconds(20), [&] { return ends_ >= ends; }));
    return reason_;
  }
  std::vector<int32_t> tokens() {
    std::lock_guard lock(mutex_);
    return tokens_;
  }
  int ends() {
    std::lock_guard lock(mutex_);
    return ends_;
  }
  int32_t cached_prompt_tokens() {
    std::lock_guard lock(mutex_);
    return cached_;
  }
  std::atomic<bool> breaks{false};

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::vector<int32_t> tokens_;
  int ends_ = 0;
  int32_t cached_ = 0;
  FinishReason reason_ = FinishReason::kNone;
};

/// Writes down what it is told.
class Notes : public EngineObserver {
 public:
  void on_step(const StepNews& news) override {
    prompt += news.prompt_rows;
    decode += news.decode_rows;
    first_tokens += static_cast<int64_t>(news.first_tokens.size());
    tokens += static_cast<int64_t>(news.next_tokens.size());
  }
  void on_finished(const Finished& news) override {
    std::lock_guard lock(mutex);
    finished.push_back(news);
  }
  std::atomic<int64_t> prompt{0}, decode{0}, first_tokens{0}, tokens{0};
  std::mutex mutex;
  std::vector<Finished> finished;
};

class EngineTest : public testing::Test {
 protected:
  void start(int64_t max_sequences = 256) {
    EngineOptions options;
    options.max_sequences = max_sequences;
    options.num_blocks = 32;
    options.block_size = 4;
    options.max_model_len = 100;
    options.eos_ids = {9};
    auto script = std::make_unique<Script>();
    script_ = script.get();
    engine_ = std::make_unique<Engine>(options, std::move(script), notes_);
  }
  std::shared_ptr<Waiter> ask(std::vector<int32_t> prompt, int32_t max_tokens = 4,
                              Refusal expected = Refusal::kNone, int32_t n = 1,
                              uint64_t group = 0) {
    auto waiter = std::make_shared<Waiter>();
    Request request;
    request.id = last_id_ = next_id_++;
    request.group = group;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.sampling.max_tokens = max_tokens;
    request.sampling.n = n;
    request.sink = waiter;
    EXPECT_EQ(engine_->submit(std::move(request)), expected);
    return waiter;
  }
  void wait_until_idle() {
    while (!engine_->idle()) std::this_thread::yield();
  }
  std::shared_ptr<Notes> notes_ = std::make_shared<Notes>();
  std::unique_ptr<Engine> engine_;
  Script* script_ = nullptr;
  RequestId next_id_ = 1, last_id_ = 0;
};

TEST_F(EngineTest, RunsARequest) {
  start();
  const auto answer = ask({1});
  EXPECT_EQ(answer->wait(), FinishReason::kLength);
  EXPECT_EQ(answer->tokens(), (std::vector<int32_t>{2, 3, 4, 5}));
  EXPECT_EQ(ask({7}, 50)->wait(), FinishReason::kStop);
}

TEST_F(EngineTest, SaysWhatWasCached) {
  start();
  const std::vector<int32_t> prompt{1, 2, 3, 4, 5, 6, 7, 1, 2, 3};
  const auto first = ask(prompt), again = (first->wait(), wait_until_idle(), ask(prompt));
  again->wait();
  wait_until_idle();
  EXPECT_EQ(first->cached_prompt_tokens(), 0);
  EXPECT_EQ(again->cached_prompt_tokens(), 8);
  EXPECT_EQ(engine_->stats().prefix_hits, 8u);
  std::lock_guard lock(notes_->mutex);
  ASSERT_EQ(notes_->finished.size(), 2u);
  EXPECT_EQ(notes_->finished[0].cached_tokens, 0);
  EXPECT_EQ(notes_->finished[1].cached_tokens, 8);
}

TEST_F(EngineTest, CountsWhatItDoes) {
  start();
  ask({4, 1})->wait();
  wait_until_idle();
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.running + stats.waiting, 0);
  EXPECT_EQ(stats.prompt_tokens, 2u);
  EXPECT_EQ(stats.generated_tokens, 4u);
  EXPECT_EQ(stats.steps, 4u);
  EXPECT_EQ(stats.expert_tokens, std::vector<uint64_t>{5});
  EXPECT_EQ(stats.finished[static_cast<size_t>(FinishReason::kLength)], 1u);
  EXPECT_EQ(stats.blocks_total, 32);
  EXPECT_EQ(stats.blocks_free + stats.blocks_cached, 32);
  EXPECT_EQ(notes_->prompt, 2);
  EXPECT_EQ(notes_->decode, 3);
  EXPECT_EQ(notes_->first_tokens, 1);
  EXPECT_EQ(notes_->tokens, 3);
  EXPECT_EQ(stats.prefix_queries, 2u);
  EXPECT_EQ(stats.prefix_hits, 0u);
  EXPECT_EQ(stats.first_tokens, 1u);
  EXPECT_EQ(stats.next_tokens, 3u);
  std::lock_guard lock(notes_->mutex);
  ASSERT_EQ(notes_->finished.size(), 1u);
  const EngineObserver::Finished& news = notes_->finished[0];
  EXPECT_EQ(news.reason, FinishReason::kLength);
  EXPECT_EQ(news.prompt_tokens, 2);
  EXPECT_EQ(news.generated_tokens, 4);
  EXPECT_NEAR(news.queue_seconds + news.prefill_seconds + news.decode_seconds, news.e2e_seconds,
              1e-9);
  EXPECT_NEAR(stats.first_token_seconds, news.queue_seconds + news.prefill_seconds, 1e-9);
  EXPECT_GT(stats.next_token_seconds, 0);
  EXPECT_LE(stats.next_token_seconds, news.decode_seconds);
}

TEST_F(EngineTest, AStepWithoutMemoryFailsItsRequestsOnly) {
  start();
  EXPECT_EQ(ask({kHungry})->wait(), FinishReason::kError);
  EXPECT_EQ(ask({1})->wait(), FinishReason::kLength);
  EXPECT_TRUE(engine_->stats().alive);
  wait_until_idle();
  EXPECT_EQ(engine_->stats().blocks_held, 0);
}

TEST_F(EngineTest, AClientThatCannotBeToldFailsAlone) {
  start();
  script_->set_closed(true);
  const auto good = ask({1}, 8);
  const auto bad = ask({2}, 8);
  bad->breaks = true;
  script_->set_closed(false);
  EXPECT_EQ(bad->wait(), FinishReason::kError);
  EXPECT_EQ(good->wait(), FinishReason::kStop);
  EXPECT_EQ(good->tokens().size(), 8u);
  wait_until_idle();
  EXPECT_EQ(engine_->stats().blocks_held, 0);
}

TEST_F(EngineTest, OneSequenceStopsAndTheOthersGoOn) {
  start();
  script_->set_closed(true);
  const auto three = ask({0}, 6, Refusal::kNone, 3);
  engine_->finish(last_id_, 1, FinishReason::kStop);
  script_->set_closed(false);
  EXPECT_EQ(three->wait(3), FinishReason::kLength);
  EXPECT_EQ(three->tokens().size(), 12u);
  wait_until_idle();
  EXPECT_EQ(engine_->stats().finished[static_cast<size_t>(FinishReason::kLength)], 1u);
}

TEST_F(EngineTest, ASmallRequestBesideAHugeOneIsSoonDone) {
  start(4);
  script_->set_closed(true);
  std::vector<std::shared_ptr<Waiter>> huge;
  for (int i = 0; i < 20; ++i) huge.push_back(ask({1, 2}, 80, Refusal::kNone, 1, 1));
  const auto small = ask({3}, 5);
  script_->allow(20);
  EXPECT_EQ(small->wait(), FinishReason::kLength);
  script_->set_closed(false);
  for (const auto& one : huge) one->wait();
}

TEST_F(EngineTest, OneRequestsNanIsItsOwn) {
  start();
  const auto good = ask({1}, 8);
  const auto bad = ask({kBad}, 8);
  EXPECT_EQ(bad->wait(), FinishReason::kError);
  EXPECT_EQ(good->wait(), FinishReason::kStop);
  EXPECT_EQ(good->tokens().size(), 8u);
  EXPECT_TRUE(engine_->stats().alive);
}

TEST_F(EngineTest, ADeadExecutorTellsEveryoneAndTakesNoMore) {
  start();
  script_->set_closed(true);
  const auto first = ask({1}, 90);
  const auto second = ask({kFatal}, 90);
  const auto third = ask({2}, 90);
  script_->set_closed(false);
  for (const auto& waiter : {first, second, third}) EXPECT_EQ(waiter->wait(), FinishReason::kError);
  EXPECT_FALSE(engine_->stats().alive);
  ask({1}, 4, Refusal::kDead);
}

TEST_F(EngineTest, RefusesWhatCanNeverFit) {
  start();
  ask({}, 4, Refusal::kTooLong);
  ask(std::vector<int32_t>(100, 1), 4, Refusal::kTooLong);
  EXPECT_EQ(ask(std::vector<int32_t>(99, 1), 4)->wait(), FinishReason::kLength);
}

TEST_F(EngineTest, RefusesTokensWithoutAnEmbedding) {
  start();
  const auto beside = ask({1}, 8);
  for (const int32_t id : {-1, static_cast<int32_t>(kVocab), INT32_MIN, INT32_MAX}) {
    ask({1, id}, 4, Refusal::kUnknownToken);
  }
  EXPECT_EQ(beside->wait(), FinishReason::kStop);
  EXPECT_TRUE(engine_->stats().alive);
}

TEST_F(EngineTest, CountsWhoWaitsDuringALongStepToo) {
  start(1);
  script_->set_closed(true);
  const auto running = ask({1}, 50);
  while (!script_->entered) std::this_thread::yield();
  const auto second = ask({1}), third = ask({1});
  EXPECT_EQ(engine_->stats().waiting, 2);
  script_->allow(1);
  // The next step has taken both from the inbox; they still wait.
  while (running->tokens().empty()) std::this_thread::yield();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(engine_->stats().waiting, 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  script_->set_closed(false);
  third->wait();
}

TEST_F(EngineTest, CancelsWithinAStep) {
  start();
  const auto long_one = ask({1}, 90);
  const RequestId id = last_id_;
  while (long_one->tokens().empty() && long_one->ends() == 0) std::this_thread::yield();
  engine_->finish(id, -1, FinishReason::kAbort);
  long_one->wait();
  engine_->finish(id, -1, FinishReason::kAbort);
  engine_->finish(999, -1, FinishReason::kAbort);
  EXPECT_EQ(ask({1})->wait(), FinishReason::kLength);
  while (!engine_->idle()) std::this_thread::yield();
  EXPECT_EQ(engine_->stats().blocks_held, 0);
  EXPECT_EQ(long_one->ends(), 1);
}

TEST_F(EngineTest, DrainsAndStops) {
  start();
  script_->set_closed(true);
  const auto running = ask({1}, 8);
  engine_->drain();
  ask({1}, 4, Refusal::kDraining);
  script_->set_closed(false);
  EXPECT_EQ(running->wait(), FinishReason::kStop);
}

TEST_F(EngineTest, StoppingAbortsWhatIsLeft) {
  start();
  script_->set_closed(true);
  const auto first = ask({1}, 90);
  const auto second = ask({2}, 90);
  while (!script_->entered) std::this_thread::yield();
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    script_->set_closed(false);
  });
  engine_.reset();
  opener.join();
  EXPECT_EQ(first->ends(), 1);
  EXPECT_EQ(second->ends(), 1);
}

TEST_F(EngineTest, IdlenessIsNoStall) {
  start();
  ask({1})->wait();
  wait_until_idle();
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  script_->set_closed(true);
  const auto before = std::chrono::steady_clock::now();
  const auto late = ask({1});
  const double told = engine_->stats().seconds_since_progress;
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - before;
  EXPECT_LE(told, passed.count());
  script_->set_closed(false);
  late->wait();
}

TEST_F(EngineTest, ReportsAStall) {
  start();
  script_->set_closed(true);
  const auto stuck = ask({1});
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  EXPECT_GT(engine_->stats().seconds_since_progress, 0.1);
  script_->set_closed(false);
  stuck->wait();
  while (!engine_->idle()) std::this_thread::yield();
  EXPECT_EQ(engine_->stats().seconds_since_progress, 0);
}

}  // namespace
}  // namespace moesaic::engine
