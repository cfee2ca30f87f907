#include "backend/sampling/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "base/hash.h"

namespace moesaic::backend {
namespace {

/// Allows some tokens, whatever came before, and counts what comes.
class These : public Constraint::Path {
 public:
  explicit These(std::set<int32_t> tokens) : tokens_(std::move(tokens)) {}
  bool allow(std::span<uint32_t> words) noexcept override {
    std::fill(words.begin(), words.end(), 0);
    for (const int32_t id : tokens_) words[static_cast<size_t>(id / 32)] |= 1U << (id % 32);
    return works;
  }
  void accept(int32_t token) noexcept override { accepted.push_back(token); }

  bool works = true;
  std::vector<int32_t> accepted;

 private:
  std::set<int32_t> tokens_;
};

struct Case {
  SampleRow params;
  TokenRules rules;
  std::vector<int32_t> prompt, output, eos;
  std::shared_ptr<These> path;
  uint64_t seed = 1;

  /// None when the row is broken.
  std::optional<Sampled> operator()(std::vector<float> logits) const {
    SampleRow row = params;
    row.seed = seed;
    row.position = static_cast<int64_t>(output.size());
    const std::set<int32_t> distinct(prompt.begin(), prompt.end());
    SamplingState state;
    state.rules = token_rules(rules);
    state.prompt_ids =
        std::make_shared<const std::vector<int32_t>>(distinct.begin(), distinct.end());
    state.eos_ids = eos;
    state.path = path.get();
    row.constrained = row.constrained || path != nullptr;
    for (int32_t id : output) state.append(id);
    Sampled sampled = sample(logits, row, &state);
    if (sampled.broken) return std::nullopt;
    return sampled;
  }
};

/// Shares of each token over many seeds.
std::map<int32_t, double> shares(Case chooser, const std::vector<float>& logits,
                                 int draws = 20000) {
  std::map<int32_t, double> result;
  for (int i = 0; i < draws; ++i) {
    chooser.seed = static_cast<uint64_t>(i);
    result[chooser(logits)->token] += 1.0 / draws;
  }
  return result;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestOfEqual) {
  Case greedy;
  greedy.params.temperature = 0;
  EXPECT_EQ(greedy({0, 3, 1, 3})->token, 1);
}

TEST(Sampler, FollowsTheSoftmax) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f)};
  const auto got = shares({}, logits);
  EXPECT_NEAR(got.at(0), 1.0 / 8, 0.01);
  EXPECT_NEAR(got.at(1), 2.0 / 8, 0.01);
  EXPECT_NEAR(got.at(2), 5.0 / 8, 0.01);
}

TEST(Sampler, TemperatureSharpens) {
  Case cold;
  cold.params.temperature = 0.5f;
  const auto got = shares(cold, {0.0f, std::log(2.0f)});
  EXPECT_NEAR(got.at(1), 4.0 / 5, 0.01);
}

TEST(Sampler, TopKKeepsTheBest) {
  Case top;
  top.params.top_k = 2;
  const auto got = shares(top, {1, 5, 3, 4.9f, 5}, 2000);
  EXPECT_EQ(got.size(), 2u);
  EXPECT_TRUE(got.contains(1) && got.contains(4));
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  Case top;
  top.params.top_p = 0.7f;  // 5/8 alone is too little, 7/8 is enough
  const auto got = shares(top, {0.0f, std::log(2.0f), std::log(5.0f)}, 2000);
  EXPECT_EQ(got.size(), 2u);
  EXPECT_FALSE(got.contains(0));
  top.params.top_p = 0.6f;
  EXPECT_EQ(shares(top, {0.0f, std::log(2.0f), std::log(5.0f)}, 500).size(), 1u);
}

TEST(Sampler, TopPOfAFlatRowKeepsItsShare) {
  Case top;
  top.params.top_p = 0.5f;
  top.params.temperature = 2.0f;
  std::vector<float> flat(100, 1.0f);
  for (const auto& [id, share] : shares(top, flat, 3000)) EXPECT_LT(id, 50);
}

TEST(Sampler, MinPIsRelativeToTheBest) {
  Case least;
  least.params.min_p = 0.3f;
  const auto got = shares(least, {0.0f, std::log(2.0f), std::log(5.0f)}, 2000);
  EXPECT_EQ(got.size(), 2u);
  EXPECT_FALSE(got.contains(0));
}

TEST(Sampler, PenaltiesActAsDocumented) {
  Case penal;
  penal.params.temperature = 0;
  penal.params.repetition_penalty = 2;
  penal.prompt = {0};
  EXPECT_EQ(penal({3, 2, 0})->token, 1);        // 3 / 2 < 2
  EXPECT_EQ(penal({-1, -1.5f, -9})->token, 1);  // -1 * 2 < -1.5
  Case frequent;
  frequent.params.temperature = 0;
  frequent.params.frequency_penalty = 0.5f;
  frequent.output = {0, 0, 0};
  EXPECT_EQ(frequent({1.4f, 0})->token, 1);
  EXPECT_EQ(frequent({1.6f, 0})->token, 0);
  frequent.params.presence_penalty = 0.5f;
  EXPECT_EQ(frequent({1.9f, 0})->token, 1);
}

TEST(Sampler, MasksAndBias) {
  Case allowed;
  allowed.rules.allowed_token_ids = {2, 0};
  EXPECT_EQ(shares(allowed, {0, 9, 0}, 500).size(), 2u);
  Case biased;
  biased.params.temperature = 0;
  biased.rules.logit_bias = {{2, 100.0f}};
  EXPECT_EQ(biased({0, 9, 0})->token, 2);
  Case bad;
  bad.params.temperature = 0;
  bad.rules.bad_words = {{1}, {0, 2}};
  bad.output = {0};
  EXPECT_EQ(bad({1, 9, 8})->token, 0);
  Case young;
  young.params.temperature = 0;
  young.params.min_tokens = 2;
  young.rules.stop_token_ids = {1};
  young.eos = {0};
  young.output = {2};
  EXPECT_EQ(young({9, 8, 1})->token, 2);
  young.output = {2, 2};
  EXPECT_EQ(young({9, 8, 1})->token, 0);
}

TEST(Sampler, RulesAreSortedAndHaveNothingTwice) {
  const auto rules = token_rules({.logit_bias = {},
                                  .allowed_token_ids = {5, 1, 5, 3, 1},
                                  .bad_words = {{2, 1}, {1}, {2, 1}},
                                  .stop_token_ids = {9, 9, 4}});
  EXPECT_EQ(rules->allowed_token_ids, (std::vector<int32_t>{1, 3, 5}));
  EXPECT_EQ(rules->bad_words, (std::vector<std::vector<int32_t>>{{1}, {2, 1}}));
  EXPECT_EQ(rules->stop_token_ids, (std::vector<int32_t>{4, 9}));
}

TEST(Sampler, AllowedIdsAreAllThatCanBeChosen) {
  std::mt19937 random(11);
  const std::vector<float> logits(70, 1.0f);
  for (int round = 0; round < 200; ++round) {
    Case chooser;
    std::set<int32_t> allowed;
    for (size_t i = 0; i <= random() % 20; ++i) {
      const auto id = static_cast<int32_t>(random() % logits.size());
      allowed.insert(id);
      for (size_t twice = 0; twice <= random() % 3; ++twice) {
        chooser.rules.allowed_token_ids.push_back(id);
      }
    }
    std::set<int32_t> chosen;
    for (const auto& [id, share] : shares(chooser, logits, 600)) chosen.insert(id);
    EXPECT_EQ(chosen, allowed);
  }
}

TEST(Sampler, AConstraintSaysWhatCanBeChosen) {
  std::vector<float> logits(100, 0.0F);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i);
  Case greedy;
  greedy.params.temperature = 0;
  greedy.params.logprobs = 1;
  greedy.path = std::make_shared<These>(std::set<int32_t>{3, 40, 64});
  greedy.output = {7, 8};
  const Sampled chosen = *greedy(logits);
  EXPECT_EQ(chosen.token, 64);
  EXPECT_EQ(chosen.logprobs.top.at(0).id, 99) << "log-probabilities are those of the model";
  EXPECT_EQ(greedy.path->accepted, (std::vector<int32_t>{7, 8}));
  greedy.rules.allowed_token_ids = {3, 50};
  EXPECT_EQ(greedy(logits)->token, 3);
  // With nothing in common, without a path, or with one that has failed nothing can be chosen.
  greedy.rules.allowed_token_ids = {50};
  EXPECT_FALSE(greedy(logits));
  greedy.rules = {};
  greedy.path->works = false;
  EXPECT_FALSE(greedy(logits));
  greedy.path = nullptr;
  greedy.params.constrained = true;
  EXPECT_FALSE(greedy(logits));
}

TEST(Sampler, AConstraintThatHasComeToItsEndDoesNotWaitForMinTokens) {
  std::vector<float> logits(100, 0.0F);
  Case young;
  young.params.min_tokens = 5;
  young.eos = {9};
  young.path = std::make_shared<These>(std::set<int32_t>{3, 9});
  const auto got = shares(young, logits, 100);
  EXPECT_EQ(got.size(), 1U);
  EXPECT_EQ(got.begin()->first, 3);
  young.path = std::make_shared<These>(std::set<int32_t>{9});
  EXPECT_EQ(young(logits)->token, 9);
}

TEST(Sampler, EachTokenIsWeakenedOnceWhereverItIs) {
  // 0 twice in the prompt, 1 twice in the output, 2 in both, 3 in neither.
  Case penal;
  penal.params.temperature = 0;
  penal.params.repetition_penalty = 2;
  penal.prompt = {2, 0, 0};
  penal.output = {1, 2, 1};
  EXPECT_EQ(penal({9, 0, 0, 4})->token, 0);     // 9 / 2 > 4
  EXPECT_EQ(penal({9, 0, 0, 4.6f})->token, 3);  // 9 / 2 < 4.6
  EXPECT_EQ(penal({0, 9, 0, 4})->token, 1);
  EXPECT_EQ(penal({0, 9, 0, 4.6f})->token, 3);
  EXPECT_EQ(penal({0, 0, 9, 4})->token, 2);
  EXPECT_EQ(penal({0, 0, 9, 4.6f})->token, 3);
}

TEST(Sampler, BrokenLogitsFailTheRow) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(Case{}({0, nan, 1}));
  EXPECT_FALSE(Case{}({0, infinity, 1}));
  EXPECT_FALSE(Case{}({-infinity, -infinity}));
  Case nothing;
  nothing.rules.allowed_token_ids = {1};
  EXPECT_FALSE(nothing({0, -infinity}));
  EXPECT_TRUE(Case{}({0, -infinity}));
}

TEST(Sampler, LogprobsAreOfTheRawLogits) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(1000);
  for (float& x : logits) x = normal(random);
  Case chooser;
  chooser.params.temperature = 0.3f;
  chooser.params.logprobs = 5;
  chooser.rules.logit_bias = {{7, 50.0f}};
  const auto got = chooser(logits);
  EXPECT_EQ(got->token, 7);
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x));
  EXPECT_NEAR(got->logprobs.token.logprob, logits[7] - std::log(sum), 1e-5);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  ASSERT_EQ(got->logprobs.top.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_NEAR(got->logprobs.top[i].logprob, sorted[i] - std::log(sum), 1e-5);
    EXPECT_EQ(got->logprobs.top[i].rank, static_cast<int32_t>(i + 1));
  }
  const auto rank =
      std::count_if(logits.begin(), logits.end(), [&](float x) { return x > logits[7]; });
  EXPECT_EQ(got->logprobs.token.rank, rank + 1);
}

TEST(Sampler, FiltersAgreeWithAPlainSort) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 4);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> logits(300);
    for (float& x : logits) x = std::round(normal(random) * 4) / 4;  // with ties
    Case chooser;
    chooser.params.top_p = 0.3f + 0.6f * static_cast<float>(round) / 50;
    chooser.params.top_k = round % 3 == 0 ? 20 : 0;
    std::vector<int32_t> order(logits.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    if (chooser.params.top_k > 0) order.resize(20);
    double total = 0;
    for (int32_t id : order) total += std::exp(logits[static_cast<size_t>(id)]);
    double sum = 0;
    size_t kept = 0;
    while (kept < order.size() && sum < chooser.params.top_p * total) {
      sum += std::exp(logits[static_cast<size_t>(order[kept++])]);
    }
    const std::vector<int32_t> allowed(order.begin(), order.begin() + static_cast<long>(kept));
    for (const auto& [id, share] : shares(chooser, logits, 200)) {
      EXPECT_NE(std::find(allowed.begin(), allowed.end(), id), allowed.end());
    }
  }
}

TEST(Sampler, ManyBestEntriesAreThoseOfASort) {
  std::mt19937 random(13);
  std::normal_distribution<float> normal(0, 3);
  const float infinity = std::numeric_limits<float>::infinity();
  for (int round = 0; round < 20; ++round) {
    std::vector<float> logits(3000);
    for (float& x : logits)
      x = std::round(normal(random) * 8) / 8 * (round % 2 == 0 ? 1.0f : 1e30f);
    for (int i = 0; i < 50; ++i) {
      logits[random() % logits.size()] = 0.0f;
      logits[random() % logits.size()] = -0.0f;
      logits[random() % logits.size()] = -infinity;
      logits[random() % logits.size()] = 1e-40f * (i % 2 == 0 ? 1.0f : -1.0f);
    }
    std::vector<int32_t> order(logits.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    for (const int32_t k : {1000, 1500, 3000, 5000}) {
      const auto got = logprobs_of(logits, 0, k);
      ASSERT_EQ(got->top.size(), std::min<size_t>(static_cast<size_t>(k), order.size()));
      for (size_t i = 0; i < got->top.size(); ++i) ASSERT_EQ(got->top[i].id, order[i]) << k;
    }
  }
}

TEST(Sampler, TopPOfALargeRowIsThatOfASort) {
  std::mt19937 random(7);
  for (const float spread : {0.5f, 3.0f, 12.0f}) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> logits(20000);
    for (float& x : logits) x = normal(random);
    std::vector<float> sorted = logits;
    std::sort(sorted.rbegin(), sorted.rend());
    double total = 0;
    for (float x : sorted) total += std::exp(static_cast<double>(x));
    for (const float top_p : {0.1f, 0.5f, 0.95f}) {
      double sum = 0;
      size_t kept = 0;
      while (sum < top_p * total) sum += std::exp(static_cast<double>(sorted[kept++]));
      Case chooser;
      chooser.params.top_p = top_p;
      const int draws = 400;
      std::map<int32_t, double> got = shares(chooser, logits, draws);
      double best_half = 0;  // of the kept probability, the better half by count
      double expected_half = 0;
      for (size_t i = 0; i < kept / 2; ++i) {
        expected_half += std::exp(static_cast<double>(sorted[i])) / sum;
      }
      for (const auto& [id, share] : got) {
        const float x = logits[static_cast<size_t>(id)];
        EXPECT_GE(x, sorted[std::min(kept, sorted.size() - 1)]) << "beyond top_p";
        if (kept >= 2 && x >= sorted[kept / 2 - 1]) best_half += share;
      }
      EXPECT_NEAR(best_half, expected_half, 0.12);
      if (kept > 2000) {
        EXPECT_GT(got.size(), 100u);
      }
    }
  }
}

/// The choice from its definition, in float64: entries in the order in which they are walked, with
/// their weights; what is not kept is not there.
std::vector<std::pair<int32_t, double>> kept_by_definition(const std::vector<float>& logits,
                                                           const SampleRow& row) {
  const double best = *std::max_element(logits.begin(), logits.end());
  std::vector<std::pair<int32_t, double>> kept;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((static_cast<double>(logits[i]) - best) / row.temperature);
    if (weight >= row.min_p) kept.emplace_back(static_cast<int32_t>(i), weight);
  }
  const bool by_rank = row.top_k > 0 || row.top_p < 1.0f;
  if (!by_rank) return kept;
  std::stable_sort(kept.begin(), kept.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  if (row.top_k > 0) kept.resize(std::min(kept.size(), static_cast<size_t>(row.top_k)));
  double total = 0, sum = 0;
  for (const auto& [id, weight] : kept) total += weight;
  size_t count = 0;
  while (count < kept.size() && sum < row.top_p * total) sum += kept[count++].second;
  kept.resize(count);
  if (row.top_k == 0 && count > 4096) std::sort(kept.begin(), kept.end());
  return kept;
}

TEST(Sampler, EveryFilterAtEveryTemperatureChoosesAsDefined) {
  std::mt19937 random(17);
  for (const float spread : {0.3f, 2.0f, 8.0f}) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> logits(9000);
    for (float& x : logits) x = normal(random);
    for (const float temperature : {0.6f, 1.0f, 1.7f}) {
      for (const float top_p : {1.0f, 0.9f, 0.4f}) {
        for (const float min_p : {0.0f, 0.02f, 0.3f}) {
          for (const int32_t top_k : {0, 50, 2000}) {
            Case chooser;
            chooser.params.temperature = temperature;
            chooser.params.top_p = top_p;
            chooser.params.min_p = min_p;
            chooser.params.top_k = top_k;
            const auto kept = kept_by_definition(logits, chooser.params);
            double total = 0;
            for (const auto& [id, weight] : kept) total += weight;
            for (uint64_t seed = 0; seed < 4; ++seed) {
              chooser.seed = seed;
              const int32_t token = chooser(logits)->token;
              const double share =
                  static_cast<double>(base::split_mix(base::split_mix(seed)) >> 11) * 0x1p-53;
              double before = 0;
              size_t at = 0;
              while (at < kept.size() && kept[at].first != token) before += kept[at++].second;
              ASSERT_LT(at, kept.size())
                  << token << " is not kept at temperature " << temperature << ", top_p " << top_p
                  << ", min_p " << min_p << ", top_k " << top_k;
              // Float sums: within 1e-4 of the distribution's mass.
              EXPECT_LE(before, (share + 1e-4) * total);
              EXPECT_GE(before + kept[at].second, (share - 1e-4) * total);
            }
          }
        }
      }
    }
  }
}

TEST(Sampler, MinPAndTopKTogether) {
  Case chooser;
  chooser.params.top_k = 3;
  chooser.params.min_p = 0.5f;
  const auto got = shares(chooser, {std::log(10.0f), std::log(6.0f), std::log(4.0f), 0}, 4000);
  ASSERT_EQ(got.size(), 2u);
  EXPECT_NEAR(got.at(0), 10.0 / 16, 0.03);
  EXPECT_NEAR(got.at(1), 6.0 / 16, 0.03);
}

TEST(Sampler, ASeedMeansTheSameTokensOnEveryMachine) {
  std::vector<float> logits(500);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>((i * 7919) % 101) / 25;
  }
  std::vector<int32_t> got;
  for (const auto& [top_k, top_p] : {std::pair{0, 1.0f}, {0, 0.8f}, {40, 0.9f}}) {
    Case chooser;
    chooser.params.top_k = top_k;
    chooser.params.top_p = top_p;
    chooser.seed = 42;
    for (int i = 0; i < 3; ++i) {
      got.push_back(chooser(logits)->token);
      chooser.output.push_back(got.back());
    }
  }
  EXPECT_EQ(got, (std::vector<int32_t>{171, 472, 224, 458, 211, 453, 197, 426, 27}));
}

TEST(Sampler, IdsThatTheRowDoesNotHaveAreHarmless) {
  Case odd;
  odd.params.temperature = 0;
  odd.rules.logit_bias = {{-1, 5.0f}, {3, 5.0f}, {1 << 30, 5.0f}};
  odd.rules.bad_words = {{-7}, {99}};
  odd.rules.allowed_token_ids = {-5, 1, 2, 3, 1 << 30};
  odd.params.repetition_penalty = 1.5f;
  odd.params.min_tokens = 5;
  odd.rules.stop_token_ids = {77};
  odd.eos = {-1, 50};
  odd.prompt = {-3, 9, 2};
  EXPECT_EQ(odd({9, 1, 1.2f})->token, 1);
}

TEST(Sampler, BrokenRowsHaveNoLogprobs) {
  const std::vector<float> broken = {0, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_FALSE(logprobs_of(broken, 0, 1));
}

TEST(Sampler, SequencesOfARequestHaveSeedsOfTheirOwn) {
  EXPECT_EQ(sequence_seed(5, 0), 5u);
  EXPECT_NE(sequence_seed(5, 1), sequence_seed(5, 2));
}

}  // namespace
}  // namespace moesaic::backend
