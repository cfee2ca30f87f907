// Promises 1 to 5 and 7 of docs/engine.md over random schedules, with one step in flight and with
// two: arrivals, cancels, stops, n > 1, tiny pools and budgets, preemption, priorities, broken
// logits, steps that run out of memory, clients that cannot be told, all of it also while steps are
// in flight. The executor pretends: each slot of its KV cache holds a hash of the
// tokens up to there, read through the block table, so that a wrong block, a stale prefix or a
// skipped row changes what is generated. A failing seed is printed; MOESAIC_SIMULATOR_SEED runs it
// alone, MOESAIC_SIMULATOR_SCHEDULES sets how many are run.

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <deque>
#include <limits>
#include <new>
#include <random>
#include <set>
#include <stdexcept>
#include <utility>

#include "engine/core.h"

namespace moesaic::engine {
namespace {

constexpr int64_t kVocab = 40;
constexpr int32_t kEos = 3;

uint64_t mix(uint64_t state, uint64_t value) {
  state ^= value + 0x9e3779b97f4a7c15ULL + (state << 6) + (state >> 2);
  state *= 0xff51afd7ed558ccdULL;
  return state ^ (state >> 33);
}

/// What goes wrong in a schedule.
struct Faults {
  uint64_t nan_every = 0;   ///< one of so many histories gives NaN; 0 = none
  int64_t throw_every = 0;  ///< one of so many steps throws std::bad_alloc; 0 = none
};

/// Logits after a history with this hash.
void fill_logits(uint64_t history, const Faults& faults, std::span<float> logits) {
  uint64_t x = history;
  for (float& logit : logits) {
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    logit = static_cast<float>(x >> 40) * 0x1p-21f;
  }
  if (faults.nan_every > 0 && history % faults.nan_every == 0) {
    logits[history % logits.size()] = std::numeric_limits<float>::quiet_NaN();
  }
}

/// Lets tokens come by their remainder and that of how many there were, and the end after six.
class EveryThird : public Constraint {
 public:
  std::unique_ptr<Path> start() const noexcept override { return std::make_unique<Way>(); }

 private:
  class Way : public Path {
   public:
    bool allow(std::span<uint32_t> words) noexcept override {
      std::fill(words.begin(), words.end(), 0);
      if (count_ > 20) return false;
      for (int64_t id = 0; id < kVocab; ++id) {
        const bool may = id == kEos ? count_ >= 6 : count_ < 10 && (id + last_ + count_) % 3 == 0;
        if (may) words[static_cast<size_t>(id / 32)] |= 1U << (id % 32);
      }
      return true;
    }
    void accept(int32_t token) noexcept override {
      ++count_;
      last_ = token;
    }

   private:
    int64_t count_ = 0, last_ = 0;
  };
};

/// Computes a step when it is submitted or when it is waited for, as comes.
class FakeExecutor : public Executor {
 public:
  FakeExecutor(const EngineOptions& options, const Faults& faults, int depth, uint64_t seed)
      : options_(options),
        faults_(faults),
        depth_(depth),
        random_(seed),
        cache_(static_cast<size_t>(options.num_blocks * options.block_size), 0xdead) {
    late_choices_ = random_() % 3 == 0;
  }

  int depth() const override { return depth_; }
  void submit(std::shared_ptr<const Step> step) override {
    EXPECT_LT(static_cast<int>(flights_.size()), depth_);
    check(*step);
    const bool fails = fails_now();
    if (fails && random_() % 2 == 0) throw std::bad_alloc();
    last_wanted_ = static_cast<int64_t>(step->samples.size());
    flights_.push_back({std::move(step), {}, fails, false});
    if (random_() % 2 == 0) return;
    for (InFlight& flight : flights_) compute(flight);
  }
  std::vector<Sampled> wait() override {
    compute(flights_.front());
    InFlight flight = std::move(flights_.front());
    flights_.pop_front();
    if (flight.fails) throw std::bad_alloc();
    rows_ += static_cast<uint64_t>(flight.step->batch.rows());
    return std::move(flight.sampled);
  }
  void set_sampling_state(const SampleRow& row, backend::SamplingState state) override {
    // Not before the steps that were submitted earlier have used what the slot holds.
    for (InFlight& flight : flights_) compute(flight);
    const auto slot = static_cast<size_t>(row.state);
    EXPECT_LE(slot, static_cast<size_t>(depth_ * options_.max_sequences));
    if (slot >= states_.size()) states_.resize(slot + 1);
    states_[slot] = std::move(state);
  }
  bool chooses_ahead(const SampleRow& row) const override {
    return !late_choices_ || (row.logprobs < 0 && !row.constrained);
  }
  int64_t vocab_size() const override { return kVocab; }
  ExpertCounts expert_counts() const override { return {1, 2, {rows_, 0}}; }
  /// Of steps that did not fail.
  uint64_t rows() const { return rows_; }
  uint64_t followers() const { return followers_; }

 private:
  struct InFlight {
    std::shared_ptr<const Step> step;
    std::vector<Sampled> sampled;
    bool fails = false;
    bool computed = false;
  };

  bool fails_now() { return faults_.throw_every > 0 && ++steps_ % faults_.throw_every == 0; }

  void check(const Step& step) {
    const StepBatch& batch = step.batch;
    EXPECT_GT(batch.rows(), 0);
    EXPECT_LE(batch.rows(), options_.max_rows);
    EXPECT_LE(batch.sequences(), options_.max_sequences);
    EXPECT_EQ(batch.logit_rows.size(), step.samples.size());
    const std::set<int64_t> slots(batch.slots.begin(), batch.slots.end());
    EXPECT_EQ(static_cast<int64_t>(slots.size()), batch.rows()) << "two rows write one slot";
    for (const int32_t length : batch.context_lens) EXPECT_LE(length, options_.max_model_len);
    for (const int32_t token : batch.token_ids) {
      if (token >= 0) continue;
      EXPECT_FALSE(flights_.empty()) << "stands for what is known";
      EXPECT_LT(-1 - token, last_wanted_) << "stands for nothing";
      ++followers_;
    }
  }

  void compute(InFlight& flight) {
    if (flight.computed) return;
    flight.computed = true;
    const StepBatch& batch = flight.step->batch;
    flight.sampled.resize(flight.step->samples.size());
    size_t wanted = 0;
    for (size_t s = 0; s < batch.context_lens.size(); ++s) {
      for (int32_t row = batch.seq_starts[s]; row < batch.seq_starts[s + 1]; ++row) {
        const int32_t position = batch.positions[static_cast<size_t>(row)];
        EXPECT_EQ(position, batch.context_lens[s] - (batch.seq_starts[s + 1] - row));
        int32_t token = batch.token_ids[static_cast<size_t>(row)];
        if (token < 0) token = chosen_.at(static_cast<size_t>(-1 - token));
        const uint64_t before = position == 0 ? 17 : cache_[slot(batch, s, position - 1)];
        const size_t here = slot(batch, s, position);
        EXPECT_EQ(here, static_cast<size_t>(batch.slots[static_cast<size_t>(row)]));
        cache_[here] = mix(before, static_cast<uint64_t>(token));
        if (wanted == batch.logit_rows.size() || batch.logit_rows[wanted] != row) continue;
        flight.sampled[wanted] = choose(cache_[here], flight.step->samples[wanted]);
        ++wanted;
      }
    }
    EXPECT_EQ(wanted, batch.logit_rows.size());
    chosen_.clear();
    for (const Sampled& sampled : flight.sampled) chosen_.push_back(sampled.token);
  }

  Sampled choose(uint64_t history, const SampleRow& row) {
    std::vector<float> logits(kVocab);
    fill_logits(history, faults_, logits);
    backend::SamplingState* state =
        row.state < 0 ? nullptr : &states_.at(static_cast<size_t>(row.state));
    Sampled sampled = backend::sample(logits, row, state);
    if (state != nullptr && !sampled.broken) state->append(sampled.token);
    return sampled;
  }

  size_t slot(const StepBatch& batch, size_t sequence, int64_t position) const {
    const auto index =
        static_cast<int64_t>(sequence) * batch.max_blocks + position / options_.block_size;
    return static_cast<size_t>(batch.block_tables[static_cast<size_t>(index)] *
                                   options_.block_size +
                               position % options_.block_size);
  }

  const EngineOptions& options_;
  Faults faults_;
  int depth_;
  std::mt19937_64 random_;
  bool late_choices_;  ///< the host chooses where log-probabilities are wanted
  std::vector<uint64_t> cache_;
  std::vector<backend::SamplingState> states_;
  std::deque<InFlight> flights_;
  std::vector<int32_t> chosen_;
  int64_t last_wanted_ = 0;
  int64_t steps_ = 0;
  uint64_t rows_ = 0;
  uint64_t followers_ = 0;
};

/// What becomes of a sequence when it is alone.
struct Alone {
  std::vector<int32_t> tokens;
  std::vector<PositionLogprobs> logprobs;
  FinishReason finish = FinishReason::kNone;
  std::optional<int32_t> stop_token;
};

/// The plain loop.
Alone alone(const Request& request, int32_t index, const EngineOptions& options,
            const Faults& faults) {
  const SamplingParams& params = request.sampling;
  Alone result;
  uint64_t history = 17;
  std::vector<float> logits(kVocab);
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    history = mix(history, static_cast<uint64_t>(request.prompt[i]));
    const bool wanted = params.prompt_logprobs >= 0 && index == 0;
    if (!wanted || i + 1 == request.prompt.size()) continue;
    fill_logits(history, faults, logits);
    if (!backend::logprobs_of(logits, 0, 0)) result.finish = FinishReason::kError;
  }
  backend::SamplingState state;
  state.rules = params.rules;
  state.prompt_ids = request.prompt_ids;
  state.eos_ids = options.eos_ids;
  const auto path = params.constraint ? params.constraint->start() : nullptr;
  state.path = path.get();
  while (result.finish == FinishReason::kNone) {
    fill_logits(history, faults, logits);
    SampleRow row;
    row.temperature = params.temperature;
    row.top_p = params.top_p;
    row.top_k = params.top_k;
    row.min_p = params.min_p;
    row.presence_penalty = params.presence_penalty;
    row.frequency_penalty = params.frequency_penalty;
    row.repetition_penalty = params.repetition_penalty;
    row.seed = backend::sequence_seed(*params.seed, index);
    row.position = static_cast<int64_t>(result.tokens.size());
    row.min_tokens = params.min_tokens;
    row.logprobs = params.logprobs;
    row.constrained = params.constraint != nullptr;
    const Sampled sampled = backend::sample(logits, row, &state);
    if (sampled.broken) {
      result.finish = FinishReason::kError;
      break;
    }
    const int32_t token = sampled.token;
    if (params.max_tokens == 0) {
      result.finish = FinishReason::kLength;
      break;
    }
    result.tokens.push_back(token);
    result.logprobs.push_back(sampled.logprobs);
    state.append(token);
    history = mix(history, static_cast<uint64_t>(token));
    const auto size = static_cast<int64_t>(result.tokens.size());
    const bool may_stop = size >= params.min_tokens || params.constraint != nullptr;
    if (may_stop && token == kEos && !params.ignore_eos) {
      result.finish = FinishReason::kStop;
    } else if (may_stop &&
               std::find(params.rules->stop_token_ids.begin(), params.rules->stop_token_ids.end(),
                         token) != params.rules->stop_token_ids.end()) {
      result.finish = FinishReason::kStop;
      result.stop_token = token;
    } else if (size >= params.max_tokens ||
               static_cast<int64_t>(request.prompt.size()) + size >= options.max_model_len) {
      result.finish = FinishReason::kLength;
    }
  }
  return result;
}

bool same(const PositionLogprobs& a, const PositionLogprobs& b) {
  const auto equal = [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.id == y.id && x.logprob == y.logprob && x.rank == y.rank;
  };
  return equal(a.token, b.token) &&
         std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(), equal);
}

/// Collects a request's outputs and checks how they come.
class Collector : public OutputSink {
 public:
  explicit Collector(const Request& request)
      : got(static_cast<size_t>(request.sampling.n)),
        prompt_size_(static_cast<int32_t>(request.prompt.size())),
        logprobs_(request.sampling.logprobs >= 0) {}
  void deliver(SequenceOutput&& output) override {
    Alone& mine = got[static_cast<size_t>(output.index)];
    EXPECT_EQ(mine.finish, FinishReason::kNone) << "news after the end";
    EXPECT_LT(output.cached_prompt_tokens, prompt_size_);
    mine.finish = output.finish;
    if (output.finish == FinishReason::kNone && breaks_at == 0) {
      throw std::runtime_error("the client's memory is gone");
    }
    if (breaks_at > 0) --breaks_at;
    mine.tokens.insert(mine.tokens.end(), output.tokens.begin(), output.tokens.end());
    mine.stop_token = output.stop_token;
    EXPECT_EQ(output.logprobs.size(), logprobs_ ? output.tokens.size() : 0);
    mine.logprobs.insert(mine.logprobs.end(), output.logprobs.begin(), output.logprobs.end());
    if (!output.prompt_logprobs.empty()) prompt_logprobs = output.prompt_logprobs;
  }
  bool done() const {
    return std::none_of(got.begin(), got.end(),
                        [](const Alone& one) { return one.finish == FinishReason::kNone; });
  }
  std::vector<Alone> got;
  std::vector<PositionLogprobs> prompt_logprobs;
  int breaks_at = -1;  ///< deliveries until one throws; -1 = none does

 private:
  int32_t prompt_size_;
  bool logprobs_;
};

/// Counts ends.
class Ends : public EngineObserver {
 public:
  void on_finished(const Finished& finished) override {
    EXPECT_NE(finished.reason, FinishReason::kNone);
    EXPECT_GE(finished.queue_seconds, 0);
    EXPECT_GE(finished.prefill_seconds, 0);
    EXPECT_GE(finished.decode_seconds, 0);
    EXPECT_LT(finished.cached_tokens, finished.prompt_tokens);
    ++count;
  }
  size_t count = 0;
};

/// One random schedule.
class Schedule {
 public:
  Schedule(uint64_t seed, int depth) : random_(seed), depth_(depth) {
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
    if (chance(4)) faults_.nan_every = static_cast<uint64_t>(between(10, 200));
    if (chance(4)) faults_.throw_every = between(3, 60);
    executor_ = std::make_unique<FakeExecutor>(options_, faults_, depth, seed);
    core_ = std::make_unique<EngineCore>(options_, *executor_, ends_, [this] { return now_; });
    for (int i = 0; i < 3; ++i) beginnings_.push_back(tokens(between(1, options_.max_model_len)));
  }

  const EngineStats& stats() { return core_->stats(); }
  uint64_t followers() const { return executor_->followers(); }

  void run() {
    const int64_t requests = between(1, 14);
    int64_t submitted = 0;
    for (int64_t rounds = 0; submitted < requests || !core_->idle(); ++rounds) {
      ASSERT_LT(rounds, 20000) << "no end in sight";
      while (submitted < requests && (core_->idle() || chance(3))) submit(++submitted);
      disturb();
      const Oldest oldest = find_oldest();
      while (core_->schedule_step()) {
        core_->check_invariants();
        core_->submit_step();
        disturb();
      }
      if (core_->in_flight() > 0) core_->wait_step();
      core_->check_invariants();
      check_progress(oldest);
    }
    check_results();
  }

 private:
  struct Asked {
    Request request;
    std::shared_ptr<Collector> collector;
    bool disturbed = false;
  };
  /// The running sequence that is served first.
  struct Oldest {
    const Sequence* sequence = nullptr;
    int64_t computed = 0;
    Collector* collector = nullptr;
    size_t index = 0;
  };

  /// Time passes, and clients come between.
  void disturb() {
    if (chance(20)) interfere();
    core_->check_invariants();
    now_ += std::chrono::milliseconds(between(1, 50));
  }

  Oldest find_oldest() const {
    const auto& running = core_->scheduler().running();
    if (running.empty()) return {};
    const Sequence& first = *running.front();
    return {&first, first.computed, static_cast<Collector*>(first.request->request.sink.get()),
            static_cast<size_t>(first.index)};
  }

  /// Promise 4: whoever is first in serving order goes on in every step, or as soon as those that
  /// were in flight have landed.
  void check_progress(const Oldest& before) {
    const Sequence* last = std::exchange(oldest_, nullptr);
    if (before.sequence == nullptr) return;
    if (before.collector->got[before.index].finish != FinishReason::kNone) return;
    ASSERT_TRUE(before.sequence->running) << "the oldest was preempted";
    const bool on = before.sequence->computed > before.computed;
    stood_still_ = on ? 0 : before.sequence != last ? 1 : stood_still_ + 1;
    oldest_ = before.sequence;
    ASSERT_LT(stood_still_, depth_) << "the oldest stood still";
  }

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

  std::shared_ptr<const TokenRules> random_rules() {
    TokenRules rules;
    rules.stop_token_ids = tokens(between(0, 2));
    if (chance(2)) rules.allowed_token_ids = tokens(between(1, 60));
    if (chance(2)) rules.bad_words = {tokens(1), tokens(2)};
    if (chance(2)) rules.logit_bias = {{tokens(1)[0], -2.0f}};
    return token_rules(std::move(rules));
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
    params.max_tokens = static_cast<int32_t>(chance(20) ? 0 : between(1, 30));
    params.ignore_eos = chance(2);
    if (chance(4)) params.rules = random_rules();
    if (chance(4)) params.constraint = std::make_shared<const EveryThird>();
    if (chance(4)) params.min_tokens = static_cast<int32_t>(between(0, params.max_tokens));
    if (chance(4)) params.frequency_penalty = 0.5f;
    if (chance(5)) params.repetition_penalty = 1.3f;
    if (chance(5)) params.top_k = 5;
    if (chance(5)) params.logprobs = 2;
    if (chance(6)) params.prompt_logprobs = 1;
    // Requests of a group have one priority.
    request.group = chance(2) ? static_cast<uint64_t>(1000 + between(0, 2)) : 0;
    request.priority = static_cast<int32_t>(request.group != 0 ? request.group % 3 : between(0, 2));
    auto collector = std::make_shared<Collector>(request);
    request.sink = collector;
    if (EngineCore::admit(options_, kVocab, request) != Refusal::kNone) return;
    if (chance(40)) collector->breaks_at = static_cast<int>(between(0, 5));
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
      SCOPED_TRACE("request " + std::to_string(asked.request.id));
      check_result(asked);
    }
    const EngineStats& stats = core_->stats();
    uint64_t ended = 0;
    for (uint64_t count : stats.finished) ended += count;
    ASSERT_EQ(ended, asked_.size());
    ASSERT_EQ(ends_.count, asked_.size());
    ASSERT_EQ(stats.running + stats.waiting, 0);
  }

  void check_result(const Asked& asked) {
    std::vector<Alone> expected;
    bool broken = false;  // one sequence that fails ends its whole request
    for (int32_t i = 0; i < asked.request.sampling.n; ++i) {
      expected.push_back(alone(asked.request, i, options_, faults_));
      broken |= expected.back().finish == FinishReason::kError;
    }
    bool failed = false;
    for (size_t i = 0; i < expected.size(); ++i) {
      const Alone& got = asked.collector->got[i];
      failed |= got.finish == FinishReason::kError;
      const bool whole = got.finish != FinishReason::kError && !asked.disturbed;
      ASSERT_LE(got.tokens.size(), expected[i].tokens.size());
      if (whole) {
        ASSERT_EQ(got.tokens.size(), expected[i].tokens.size());
        ASSERT_EQ(got.finish, expected[i].finish);
        ASSERT_EQ(got.stop_token, expected[i].stop_token);
      }
      ASSERT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), expected[i].tokens.begin()))
          << "sequence " << i << " is not what it is alone";
      for (size_t t = 0; t < got.logprobs.size(); ++t) {
        ASSERT_TRUE(same(got.logprobs[t], expected[i].logprobs[t])) << "sequence " << i;
      }
    }
    const bool may_fail = broken || faults_.throw_every > 0 || asked.collector->breaks_at == 0;
    ASSERT_LE(failed, may_fail) << "failed though nothing of its own was wrong";
    if (!asked.disturbed) {
      ASSERT_LE(broken, failed) << "went on with NaN";
      if (asked.request.sampling.prompt_logprobs >= 0 && !failed) {
        ASSERT_EQ(asked.collector->prompt_logprobs.size(), asked.request.prompt.size() - 1);
      }
    }
  }

  std::mt19937_64 random_;
  int depth_;
  const Sequence* oldest_ = nullptr;
  int stood_still_ = 0;  ///< rounds in which the oldest did
  EngineOptions options_;
  Faults faults_;
  Ends ends_;
  TimePoint now_{};
  std::unique_ptr<FakeExecutor> executor_;
  std::unique_ptr<EngineCore> core_;
  std::vector<std::vector<int32_t>> beginnings_;
  std::vector<Asked> asked_;
};

class Simulator : public testing::TestWithParam<int> {};

TEST_P(Simulator, KeepsThePromisesOverRandomSchedules) {
  const int depth = GetParam();
  if (const char* seed = std::getenv("MOESAIC_SIMULATOR_SEED")) {
    Schedule(std::strtoull(seed, nullptr, 10), depth).run();
    return;
  }
  spdlog::set_level(spdlog::level::off);  // failures are on purpose here
  const char* count = std::getenv("MOESAIC_SIMULATOR_SCHEDULES");
  const uint64_t schedules = count != nullptr ? std::strtoull(count, nullptr, 10) : 10000;
  uint64_t preemptions = 0;
  uint64_t prefix_hits = 0;
  uint64_t followers = 0;
  std::array<uint64_t, 5> ends{};
  for (uint64_t seed = 1; seed <= schedules; ++seed) {
    SCOPED_TRACE("rerun with MOESAIC_SIMULATOR_SEED=" + std::to_string(seed));
    Schedule schedule(seed, depth);
    schedule.run();
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
    preemptions += schedule.stats().preemptions;
    prefix_hits += schedule.stats().prefix_hits;
    followers += schedule.followers();
    for (size_t i = 0; i < ends.size(); ++i) ends[i] += schedule.stats().finished[i];
  }
  // The schedules must have been worth running.
  EXPECT_GT(preemptions, schedules / 10);
  EXPECT_GT(prefix_hits, schedules);
  EXPECT_GE(followers, depth > 1 ? 10 * schedules : 0);
  for (const FinishReason reason :
       {FinishReason::kStop, FinishReason::kLength, FinishReason::kAbort, FinishReason::kError}) {
    EXPECT_GT(ends[static_cast<size_t>(reason)], schedules / 20);
  }
  spdlog::set_level(spdlog::level::info);
  RecordProperty("preemptions", std::to_string(preemptions));
  RecordProperty("prefix_hits", std::to_string(prefix_hits));
}

INSTANTIATE_TEST_SUITE_P(Depths, Simulator, testing::Values(1, 2, 3),
                         [](const auto& info) { return "depth_" + std::to_string(info.param); });

}  // namespace
}  // namespace moesaic::engine
