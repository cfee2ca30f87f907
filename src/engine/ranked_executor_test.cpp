#include "engine/ranked_executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <random>

#include "backend/host/host_backend.h"
#include "engine/core.h"
#include "model/golden_testing.h"

namespace moesaic::engine {
namespace {

using model::golden::checkpoints;
using model::golden::golden_names;
using model::golden::Prompt;
using model::golden::Tokens;

constexpr int64_t kBlockSize = 16;

struct Given : OutputSink {
  void deliver(SequenceOutput&& output) override {
    tokens.insert(tokens.end(), output.tokens.begin(), output.tokens.end());
    finish = output.finish;
  }
  Tokens tokens;
  FinishReason finish = FinishReason::kNone;
};

using MakeBackend =
    std::function<std::unique_ptr<backend::Backend>(int64_t rank, base::ThreadPool&)>;

std::unique_ptr<backend::Backend> best(int64_t, base::ThreadPool& pool) {
  return backend::make_cpu_backend(pool);
}

/// A golden checkpoint over ranks, in float32.
class Ranks {
 public:
  Ranks(const std::string& name, int64_t count, bool expert_parallel, int64_t blocks = 200,
        const MakeBackend& make = best)
      : spec_(model::load_spec(checkpoints() / name)), blocks_(blocks) {
    const auto checkpoint = checkpoint::Checkpoint::open(checkpoints() / name);
    for (int64_t r = 0; r < count; ++r) {
      Rank& rank = ranks_.emplace_back();
      const model::Shard shard{.ranks = count, .rank = r, .expert_parallel = expert_parallel};
      rank.pool = std::make_unique<base::ThreadPool>(1, /*pin=*/false);
      rank.backend = make(r, *rank.pool);
      rank.weights = model::load_weights(
          model::lay_out_weights(spec_, *rank.backend, tensor::DType::kF32, shard), *rank.backend,
          *rank.pool, checkpoint, {});
      rank.cache = std::make_unique<model::KvCache>(spec_, shard, *rank.backend,
                                                    tensor::DType::kF32, kBlockSize, blocks);
    }
    std::vector<RankedExecutor::Rank> list;
    for (Rank& rank : ranks_) {
      list.push_back({&rank.weights, rank.backend.get(), rank.cache.get(), rank.pool.get()});
    }
    executor_ = std::make_unique<RankedExecutor>(spec_, list, 256);
  }

  const model::ModelSpec& spec() const { return spec_; }
  RankedExecutor& executor() { return *executor_; }
  EngineOptions options() const {
    EngineOptions options;
    options.block_size = kBlockSize;
    options.num_blocks = blocks_;
    options.max_rows = 256;
    options.max_model_len = blocks_ * kBlockSize;
    return options;
  }

  /// Greedy answers of `count` tokens, all prompts together.
  std::vector<std::shared_ptr<Given>> answer(const std::vector<Tokens>& prompts, int32_t count) {
    EngineObserver observer;
    EngineCore core(options(), *executor_, observer, [] { return TimePoint(); });
    std::vector<std::shared_ptr<Given>> given;
    for (const Tokens& prompt : prompts) {
      Request request;
      request.id = given.size() + 1;
      request.prompt = prompt;
      request.sampling.temperature = 0;
      request.sampling.max_tokens = count;
      request.sampling.ignore_eos = true;
      request.sink = given.emplace_back(std::make_shared<Given>());
      core.add(std::move(request));
    }
    while (core.schedule_step()) {
      core.submit_step();
      if (core.in_flight() > 0) core.wait_step();
    }
    core.check_invariants();
    return given;
  }

 private:
  struct Rank {
    std::unique_ptr<base::ThreadPool> pool;
    std::unique_ptr<backend::Backend> backend;
    model::LoadedWeights weights;
    std::unique_ptr<model::KvCache> cache;
  };
  model::ModelSpec spec_;
  int64_t blocks_;
  std::vector<Rank> ranks_;
  std::unique_ptr<RankedExecutor> executor_;
};

using Case = std::tuple<std::string, int, bool>;  // golden, ranks, expert parallel

class GoldenOverRanks : public testing::TestWithParam<Case> {};

TEST_P(GoldenOverRanks, GreedyTokensAreThoseOfOne) {
  const auto& [name, count, expert_parallel] = GetParam();
  Ranks ranks(name, count, expert_parallel);
  const std::vector<Prompt> prompts = model::golden::read_prompts(name, ranks.spec().vocab_size);
  std::vector<Tokens> inputs;
  for (const Prompt& prompt : prompts) inputs.push_back(prompt.tokens);
  const auto given = ranks.answer(inputs, 48);
  int64_t rows = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(given[i]->tokens, prompts[i].greedy) << "prompt " << i;
    EXPECT_EQ(given[i]->finish, FinishReason::kLength);
    rows += static_cast<int64_t>(inputs[i].size()) + 47;
  }
  const ExpertCounts counts = ranks.executor().expert_counts();
  const uint64_t sum = std::accumulate(counts.counts.begin(), counts.counts.end(), uint64_t{0});
  EXPECT_EQ(sum,
            static_cast<uint64_t>(rows * ranks.spec().max_top_k() * ranks.spec().moe_layers()));
}

/// Every golden, cut and with its experts dealt out; three ranks get uneven shares.
std::vector<Case> cases() {
  std::vector<Case> cases;
  for (const std::string& name : golden_names()) {
    const bool experts = model::load_spec(checkpoints() / name).max_experts() > 0;
    for (const int ranks : {2, 3, 4}) {
      cases.emplace_back(name, ranks, false);
      if (experts) cases.emplace_back(name, ranks, true);
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, GoldenOverRanks, testing::ValuesIn(cases()), [](const auto& info) {
  return std::get<0>(info.param) + "_" + std::to_string(std::get<1>(info.param)) +
         (std::get<2>(info.param) ? "_experts" : "_cut");
});

/// Finds no memory in the feed-forward part when told to.
class Hungry : public backend::HostBackend {
 public:
  Hungry(std::atomic<bool>& hungry, base::ThreadPool& pool)
      : HostBackend(backend::make_cpu_ops(pool, ""), &pool), hungry_(hungry) {}
  void ffn(const backend::StepView& step, const backend::FfnWeights& weights) override {
    if (hungry_) throw std::bad_alloc();
    HostBackend::ffn(step, weights);
  }

 private:
  std::atomic<bool>& hungry_;
};

class RankedFailure : public testing::TestWithParam<int> {};

TEST_P(RankedFailure, OfOneRankEndsTheStepAlone) {
  std::atomic<bool> hungry = false;
  std::atomic<bool> never = false;
  Ranks ranks("mixtral", 3, false, 200, [&](int64_t rank, base::ThreadPool& pool) {
    return std::make_unique<Hungry>(rank == GetParam() ? hungry : never, pool);
  });
  const std::vector<Prompt> prompts =
      model::golden::read_prompts("mixtral", ranks.spec().vocab_size);
  for (int round = 0; round < 3; ++round) {
    hungry = true;
    EXPECT_EQ(ranks.answer({prompts[0].tokens}, 4)[0]->finish, FinishReason::kError);
    hungry = false;
    EXPECT_EQ(ranks.answer({prompts[0].tokens}, 48)[0]->tokens, prompts[0].greedy);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, RankedFailure, testing::Values(0, 1, 2));

/// Requests come and go while others run, the pool is too small for them all, and some steps find
/// no memory: whoever ends well has said what one rank says.
TEST(RankedSchedule, GivesWhatOneRankGives) {
  std::atomic<bool> hungry = false;
  std::atomic<bool> never = false;
  Ranks ranks("olmoe", 2, true, 12, [&](int64_t rank, base::ThreadPool& pool) {
    return std::make_unique<Hungry>(rank == 1 ? hungry : never, pool);
  });
  const Tokens source = model::golden::read_prompts("olmoe", ranks.spec().vocab_size).back().tokens;
  Ranks one("olmoe", 1, false);
  std::vector<Tokens> prompts;
  for (size_t i = 0; i < 8; ++i) {
    prompts.emplace_back(source.begin(), source.begin() + static_cast<ptrdiff_t>(3 + 7 * i));
  }
  std::vector<Tokens> alone;
  for (const Tokens& prompt : prompts) alone.push_back(one.answer({prompt}, 20)[0]->tokens);

  EngineObserver observer;
  std::mt19937 random(5);
  uint64_t preemptions = 0;
  int whole = 0;
  int failed = 0;
  for (int schedule = 0; schedule < 20; ++schedule) {
    EngineCore core(ranks.options(), ranks.executor(), observer, [] { return TimePoint(); });
    std::vector<std::pair<size_t, std::shared_ptr<Given>>> asked;
    for (int step = 0; step < 200 && (step < 60 || !core.idle()); ++step) {
      if (step < 60 && random() % 4 == 0) {
        const size_t index = random() % prompts.size();
        asked.emplace_back(index, std::make_shared<Given>());
        Request request;
        request.id = asked.size();
        request.prompt = prompts[index];
        request.sampling.temperature = 0;
        request.sampling.max_tokens = 20;
        request.sampling.ignore_eos = true;
        request.sink = asked.back().second;
        core.add(std::move(request));
      }
      if (!asked.empty() && random() % 30 == 0) {
        core.finish(random() % asked.size() + 1, -1, FinishReason::kAbort);
      }
      hungry = random() % 25 == 0;
      if (core.schedule_step()) core.submit_step();
      if (core.in_flight() > 0) core.wait_step();
      hungry = false;
      core.check_invariants();
    }
    while (core.schedule_step()) {
      core.submit_step();
      if (core.in_flight() > 0) core.wait_step();
    }
    preemptions += core.stats().preemptions;
    for (const auto& [index, given] : asked) {
      const Tokens& wanted = alone[index];
      ASSERT_LE(given->tokens.size(), wanted.size());
      EXPECT_TRUE(std::equal(given->tokens.begin(), given->tokens.end(), wanted.begin()));
      whole += given->finish == FinishReason::kLength ? 1 : 0;
      failed += given->finish == FinishReason::kError ? 1 : 0;
    }
  }
  EXPECT_GT(whole, 50);
  EXPECT_GT(failed, 5);
  EXPECT_GT(preemptions, 5u);
}

}  // namespace
}  // namespace moesaic::engine
