// Promises 1 to 4 and 7 of docs/engine.md over random schedules: arrivals, cancels, stops, n > 1,
// tiny pools and budgets, preemption, priorities. The executor pretends: each slot of its KV cache
// holds a hash of the tokens up to there, read through the block table, so that a wrong block, a
// stale prefix or a skipped row changes what is generated. A failing seed is printed;
// MOESAIC_SIMULATOR_SEED runs it alone, MOESAIC_SIMULATOR_SCHEDULES sets how many are run.

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "engine/core.h"
#include "engine/sampler.h"

namespace moesaic::engine {
namespace {

constexpr int64_t kVocab = 40;
constexpr int32_t kEos = 3;

uint64_t mix(uint64_t state, uint64_t value) {
  state ^= value + 0x9e3779b97f4a7c15ULL + (state << 6) + (state >> 2);
  state *= 0xff51afd7ed558ccdULL;
  return state ^ (state >> 33);
}

/// Logits after a history with this hash.
void fill_logits(uint64_t history, std::span<float> logits) {
  uint64_t x = history;
  for (float& logit : logits) {
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    logit = static_cast<float>(x >> 40) * 0x1p-21f;
  }
}

class FakeExecutor : public Executor {
 public:
  FakeExecutor(int64_t blocks, int64_t block_size)
      : block_size_(block_size), cache_(static_cast<size_t>(blocks * block_size), 0xdead) {}

  void execute(const model::StepBatch& batch, const model::LogitsSink& sink,
               model::ExpertCounts& counts) override {
    counts = {1, 2, {static_cast<int32_t>(batch.rows()), 0}};
    std::vector<float> logits;
    size_t wanted = 0;
    for (size_t s = 0; s < batch.context_lens.size(); ++s) {
      for (int32_t row = batch.seq_starts[s]; row < batch.seq_starts[s + 1]; ++row) {
        const int32_t position = batch.positions[static_cast<size_t>(row)];
        EXPECT_EQ(position, batch.context_lens[s] - (batch.seq_starts[s + 1] - row));
        const uint64_t before = position == 0 ? 17 : cache_[slot(batch, s, position - 1)];
        const size_t here = slot(batch, s, position);
        EXPECT_EQ(here, static_cast<size_t>(batch.slots[static_cast<size_t>(row)]));
        cache_[here] =
            mix(before, static_cast<uint64_t>(batch.token_ids[static_cast<size_t>(row)]));
        if (wanted < batch.logit_rows.size() && batch.logit_rows[wanted] == row) {
          logits.resize((wanted + 1) * kVocab);
          fill_logits(cache_[here], {logits.data() + wanted * kVocab, kVocab});
          ++wanted;
        }
      }
    }
    EXPECT_EQ(wanted, batch.logit_rows.size());
    // In two parts, as the decoder delivers many rows.
    const auto all = static_cast<int64_t>(wanted);
    const int64_t half = all / 2;
    if (half > 0) sink(0, half, logits.data());
    if (all > half) sink(half, all - half, logits.data() + half * kVocab);
  }
  int64_t vocab_size() const override { return kVocab; }

 private:
  size_t slot(const model::StepBatch& batch, size_t sequence, int64_t position) const {
    const auto index = static_cast<int64_t>(sequence) * batch.max_blocks + position / block_size_;
    return static_cast<size_t>(batch.block_tables[static_cast<size_t>(index)] * block_size_ +
                               position % block_size_);
  }
  int64_t block_size_;
  std::vector<uint64_t> cache_;
};

/// What a sequence generates when it is alone: the plain loop.
std::vector<int32_t> alone(const Request& request, int32_t index, const EngineOptions& options) {
  std::vector<int32_t> output;
  uint64_t history = 17;
  for (int32_t token : request.prompt) history = mix(history, static_cast<uint64_t>(token));
  std::unordered_map<int32_t, int32_t> counts;
  std::vector<float> logits(kVocab);
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  for (;;) {
    fill_logits(history, logits);
    SamplingContext context;
    context.params = &request.sampling;
    context.prompt = request.prompt;
    context.output = output;
    context.output_counts = &counts;
    context.eos_ids = options.eos_ids;
    context.seed = sequence_seed(*request.sampling.seed, index);
    const int32_t token = sample(logits, context)->token;
    output.push_back(token);
    ++counts[token];
    history = mix(history, static_cast<uint64_t>(token));
    const auto size = static_cast<int64_t>(output.size());
    const SamplingParams& params = request.sampling;
    const bool stop = (token == kEos && !params.ignore_eos) ||
                      std::find(params.stop_token_ids.begin(), params.stop_token_ids.end(),
                                token) != params.stop_token_ids.end();
    if (stop && size >= params.min_tokens) break;
    if (size >= params.max_tokens || prompt + size >= options.max_model_len) break;
  }
  return output;
}

/// Collects a request's outputs and checks how they come.
class Collector : public OutputSink {
 public:
  explicit Collector(int32_t n) : tokens(static_cast<size_t>(n)), ends(static_cast<size_t>(n)) {}
  void deliver(SequenceOutput&& output) override {
    const auto i = static_cast<size_t>(output.index);
    EXPECT_EQ(ends[i], FinishReason::kNone) << "news after the end";
    tokens[i].insert(tokens[i].end(), output.tokens.begin(), output.tokens.end());
    ends[i] = output.finish;
    if (!output.prompt_logprobs.empty()) prompt_logprobs = output.prompt_logprobs;
    if (want_logprobs) {
      EXPECT_EQ(output.logprobs.size(), output.tokens.size());
    }
  }
  bool done() const {
    return std::none_of(ends.begin(), ends.end(),
                        [](FinishReason reason) { return reason == FinishReason::kNone; });
  }
  std::vector<std::vector<int32_t>> tokens;
  std::vector<FinishReason> ends;
  std::vector<PositionLogprobs> prompt_logprobs;
  bool want_logprobs = false;
};

/// One random schedule.
class Schedule {
 public:
  explicit Schedule(uint64_t seed) : random_(seed) {
    options_.block_size = pick({1, 2, 3, 4, 8, 16, 32});
    options_.max_model_len = between(4, 60);
    const int64_t longest =
        (options_.max_model_len + options_.block_size - 1) / options_.block_size;
    options_.num_blocks = chance(2) ? longest : longest * between(1, 8);
    options_.max_rows = chance(3) ? between(1, 4) : between(4, 64);
    options_.max_sequences = between(1, 12);
    options_.prefix_caching = chance(2);
    options_.priority_scheduling = chance(3);
    options_.eos_ids = {kEos};
    executor_ = std::make_unique<FakeExecutor>(options_.num_blocks, options_.block_size);
    core_ = std::make_unique<EngineCore>(options_, *executor_, observer_, [this] { return now_; });
    for (int i = 0; i < 3; ++i) beginnings_.push_back(tokens(between(1, options_.max_model_len)));
  }

  const EngineStats& stats() { return core_->stats(); }

  void run() {
    const int64_t requests = between(1, 14);
    int64_t submitted = 0;
    for (int64_t steps = 0; submitted < requests || !core_->idle(); ++steps) {
      ASSERT_LT(steps, 20000) << "no end in sight";
      while (submitted < requests && (core_->idle() || chance(3))) submit(++submitted);
      if (chance(20)) interfere();
      now_ += std::chrono::milliseconds(between(1, 50));
      core_->step();
      core_->check_invariants();
    }
    core_->check_invariants();
    check_results();
  }

 private:
  struct Asked {
    Request request;
    std::shared_ptr<Collector> collector;
    bool disturbed = false;
  };

  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  bool chance(int64_t in) { return between(1, in) == 1; }
  int64_t pick(std::initializer_list<int64_t> values) {
    return *(values.begin() + between(0, static_cast<int64_t>(values.size()) - 1));
  }
  std::vector<int32_t> tokens(int64_t count) {
    std::vector<int32_t> list;
    for (int64_t i = 0; i < count; ++i) {
      list.push_back(static_cast<int32_t>(between(0, kVocab - 1)));
    }
    return list;
  }

  void submit(int64_t id) {
    Request request;
    request.id = static_cast<RequestId>(id);
    // Most prompts share a beginning with others, so that prefixes are found.
    request.prompt = beginnings_[static_cast<size_t>(between(0, 2))];
    request.prompt.resize(
        static_cast<size_t>(between(1, static_cast<int64_t>(request.prompt.size()))));
    for (int32_t token : tokens(between(0, 6))) request.prompt.push_back(token);
    if (static_cast<int64_t>(request.prompt.size()) >= options_.max_model_len) {
      request.prompt.resize(static_cast<size_t>(options_.max_model_len - 1));
    }
    SamplingParams& params = request.sampling;
    params.seed = static_cast<uint64_t>(between(0, 1000));
    params.temperature = chance(3) ? 0.0f : 0.7f;
    params.n = static_cast<int32_t>(chance(3) ? between(2, 4) : 1);
    params.max_tokens = static_cast<int32_t>(between(1, 30));
    params.ignore_eos = chance(2);
    if (chance(4)) params.stop_token_ids = tokens(2);
    if (chance(4)) params.min_tokens = static_cast<int32_t>(between(0, params.max_tokens));
    if (chance(4)) params.frequency_penalty = 0.5f;
    if (chance(5)) params.repetition_penalty = 1.3f;
    if (chance(5)) params.top_k = 5;
    if (chance(5)) params.logprobs = 2;
    if (chance(6)) params.prompt_logprobs = 1;
    request.priority = static_cast<int32_t>(between(0, 2));
    auto collector = std::make_shared<Collector>(params.n);
    collector->want_logprobs = params.logprobs >= 0;
    request.sink = collector;
    if (!EngineCore::fits(options_, request)) return;
    asked_.push_back({request, collector});
    core_->add(std::move(request));
  }

  /// A client goes away, or a stop string is found in one of its sequences.
  void interfere() {
    if (asked_.empty()) return;
    Asked& victim =
        asked_[static_cast<size_t>(between(0, static_cast<int64_t>(asked_.size()) - 1))];
    if (victim.collector->done()) return;
    victim.disturbed = true;
    const auto index = static_cast<int32_t>(between(-1, victim.request.sampling.n - 1));
    core_->finish(victim.request.id, index, chance(2) ? FinishReason::kAbort : FinishReason::kStop);
  }

  void check_results() {
    for (const Asked& asked : asked_) {
      ASSERT_TRUE(asked.collector->done());
      for (int32_t i = 0; i < asked.request.sampling.n; ++i) {
        std::vector<int32_t> expected = alone(asked.request, i, options_);
        const auto& got = asked.collector->tokens[static_cast<size_t>(i)];
        if (asked.disturbed && got.size() < expected.size()) expected.resize(got.size());
        ASSERT_EQ(got, expected) << "request " << asked.request.id << " sequence " << i;
      }
      if (asked.request.sampling.prompt_logprobs >= 0 && !asked.disturbed) {
        ASSERT_EQ(asked.collector->prompt_logprobs.size(), asked.request.prompt.size() - 1);
      }
    }
    const EngineStats& stats = core_->stats();
    uint64_t ended = 0;
    for (uint64_t count : stats.finished) ended += count;
    ASSERT_EQ(ended, asked_.size());
    ASSERT_EQ(stats.running + stats.waiting, 0);
  }

  std::mt19937_64 random_;
  EngineOptions options_;
  EngineObserver observer_;
  TimePoint now_{};
  std::unique_ptr<FakeExecutor> executor_;
  std::unique_ptr<EngineCore> core_;
  std::vector<std::vector<int32_t>> beginnings_;
  std::vector<Asked> asked_;
};

TEST(Simulator, KeepsThePromisesOverRandomSchedules) {
  if (const char* seed = std::getenv("MOESAIC_SIMULATOR_SEED")) {
    Schedule(std::strtoull(seed, nullptr, 10)).run();
    return;
  }
  const char* count = std::getenv("MOESAIC_SIMULATOR_SCHEDULES");
  const uint64_t schedules = count != nullptr ? std::strtoull(count, nullptr, 10) : 10000;
  uint64_t preemptions = 0;
  uint64_t prefix_hits = 0;
  for (uint64_t seed = 1; seed <= schedules; ++seed) {
    SCOPED_TRACE("rerun with MOESAIC_SIMULATOR_SEED=" + std::to_string(seed));
    Schedule schedule(seed);
    schedule.run();
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
    preemptions += schedule.stats().preemptions;
    prefix_hits += schedule.stats().prefix_hits;
  }
  // The schedules must have been worth running.
  EXPECT_GT(preemptions, schedules / 10);
  EXPECT_GT(prefix_hits, schedules);
  RecordProperty("preemptions", std::to_string(preemptions));
  RecordProperty("prefix_hits", std::to_string(prefix_hits));
}

}  // namespace
}  // namespace moesaic::engine
