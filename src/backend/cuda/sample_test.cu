// The sampler against the same semantics in float64.
//
// Masks, biases, penalties, greedy choices, ids and ranks are exact. A random choice may differ
// where it is a near tie: where moving the random number, the weight that top_p asks for or the
// floor of min_p by 1e-5 (of the total; of the temperature) gives the device's token. Few rows may
// need that.

#include "backend/cuda/sample.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "backend/cuda/device_testing.h"

namespace moesaic::backend::cuda {
namespace {

using testing::DeviceArray;
using testing::Random;

constexpr cudaStream_t kStream = nullptr;
constexpr size_t kListed = 4096;  // tokens kept up to which the order is best first
constexpr double kNearTie = 1e-5;

uint64_t split_mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// What a sequence has in its slot, on the host.
struct Sequence {
  std::vector<int32_t> prompt, output, allowed, stop_ids;
  std::vector<std::pair<int32_t, float>> biases;
  std::vector<std::vector<int32_t>> bad_words;
};

/// The logits as the choice sees them; float operations in the order of engine/sampler.h.
std::vector<float> changed_logits(std::vector<float> x, const SampleRow& row, const Sequence& s) {
  if (row.slot < 0) return x;
  const auto known = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < x.size(); };
  const auto forbid = [&](int32_t id) {
    if (known(id)) x[static_cast<size_t>(id)] = -INFINITY;
  };
  if ((row.uses & kUsesAllowed) != 0) {
    const std::set<int32_t> allowed(s.allowed.begin(), s.allowed.end());
    for (size_t i = 0; i < x.size(); ++i) {
      if (!allowed.contains(static_cast<int32_t>(i))) x[i] = -INFINITY;
    }
  }
  for (const std::vector<int32_t>& word : s.bad_words) {
    if (word.empty() || word.size() - 1 > s.output.size()) continue;
    if (std::equal(word.begin(), word.end() - 1,
                   s.output.end() - static_cast<ptrdiff_t>(word.size()) + 1)) {
      forbid(word.back());
    }
  }
  if (static_cast<int32_t>(s.output.size()) < row.min_tokens) {
    for (int32_t id : s.stop_ids) forbid(id);
  }
  for (const auto& [id, bias] : s.biases) {
    if (known(id)) x[static_cast<size_t>(id)] += bias;
  }
  std::map<int32_t, int> counts;
  for (int32_t id : s.output) ++counts[id];
  if (row.repetition_penalty != 1.0f) {
    std::set<int32_t> seen(s.prompt.begin(), s.prompt.end());
    seen.insert(s.output.begin(), s.output.end());
    for (int32_t id : seen) {
      if (!known(id)) continue;
      float& logit = x[static_cast<size_t>(id)];
      logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
  }
  if (row.frequency_penalty != 0 || row.presence_penalty != 0) {
    for (const auto& [id, count] : counts) {
      const float weighed = row.frequency_penalty * static_cast<float>(count);
      x[static_cast<size_t>(id)] -= weighed + row.presence_penalty;
    }
  }
  return x;
}

std::vector<int32_t> sorted_ids(const std::vector<float>& x) {
  std::vector<int32_t> ids(x.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)];
  });
  return ids;
}

/// The token, with the near ties' shifts; `order` is sorted_ids(x).
int32_t choose(const std::vector<float>& x, const std::vector<int32_t>& order, const SampleRow& row,
               double shift_share, double shift_needed, double shift_floor) {
  const auto logit = [&](int32_t id) { return x[static_cast<size_t>(id)]; };
  const double best = logit(order[0]);
  const double t = row.temperature;
  const double floor = row.min_p > 0 ? best + t * (std::log(row.min_p) + shift_floor) : -INFINITY;
  const auto weight = [&](int32_t id) {
    return logit(id) < floor ? 0.0 : std::exp((logit(id) - best) / t);
  };
  std::vector<int32_t> kept = order;
  while (!kept.empty() && logit(kept.back()) == -INFINITY) kept.pop_back();
  const bool by_rank = row.top_k > 0 && static_cast<size_t>(row.top_k) < x.size();
  if (by_rank && static_cast<size_t>(row.top_k) < kept.size()) {
    kept.resize(static_cast<size_t>(row.top_k));
  }
  double total = 0;
  for (int32_t id : kept) total += weight(id);
  if (row.top_p < 1.0f) {
    double left = (row.top_p + shift_needed) * total;
    size_t count = 0;
    while (count < kept.size() && (count == 0 || left > 0)) left -= weight(kept[count++]);
    kept.resize(count);
  }
  if (!(by_rank || row.top_p < 1.0f) || kept.size() > kListed) std::sort(kept.begin(), kept.end());
  total = 0;
  for (int32_t id : kept) total += weight(id);
  const double share =
      static_cast<double>(split_mix(split_mix(row.seed) ^ static_cast<uint64_t>(row.position)) >>
                          11) *
      0x1p-53;
  double left = (share + shift_share) * total;
  int32_t last = kept[0];
  for (int32_t id : kept) {
    if (weight(id) > 0) last = id;
    left -= weight(id);
    if (left < 0) break;
  }
  return last;
}

struct Result {
  std::vector<int32_t> tokens, broken;
  std::vector<TokenChance> chances;
};

class SampleTest : public testing::DeviceTest {
 protected:
  static int64_t stride_of(int vocab) { return (vocab + 3) / 4 * 4 + 4; }

  static Result run(int vocab, const DeviceArray<float>& logits, const std::vector<SampleRow>& rows,
                    void* state) {
    const DeviceArray<SampleRow> device_rows(rows);
    const DeviceArray<int32_t> count(std::vector<int32_t>{static_cast<int32_t>(rows.size())});
    const DeviceArray<int32_t> tokens(rows.size()), broken(rows.size());
    const DeviceArray<TokenChance> chances(rows.size() * (1 + kMostLogprobs));
    const int most = static_cast<int>(rows.size()) + 2;
    const DeviceArray<uint8_t> work(sampler_work_bytes(vocab, most));
    sample(vocab, logits.get(), stride_of(vocab), device_rows.get(), {count.get(), most}, state,
           work.get(), {tokens.get(), broken.get(), chances.get()}, kStream);
    return {tokens.read(), broken.read(), chances.read()};
  }

  /// Rows of logits padded to the stride with NaN, which must not be looked at.
  static std::vector<float> padded(int vocab, const std::vector<std::vector<float>>& rows) {
    std::vector<float> all;
    for (const std::vector<float>& row : rows) {
      all.insert(all.end(), row.begin(), row.end());
      all.resize(all.size() + static_cast<size_t>(stride_of(vocab) - vocab), NAN);
    }
    return all;
  }

  static void expect_chances(const std::vector<float>& raw, const SampleRow& row, int32_t token,
                             const TokenChance* got) {
    const std::vector<int32_t> order = sorted_ids(raw);
    const double best = raw[static_cast<size_t>(order[0])];
    double sum = 0;
    for (float x : raw) sum += std::exp(x - best);
    const double norm = best + std::log(sum);
    const auto logprob = [&](int32_t id) { return raw[static_cast<size_t>(id)] - norm; };
    int rank = 1;
    for (float x : raw) rank += x > raw[static_cast<size_t>(token)] ? 1 : 0;
    EXPECT_EQ(got[0].id, token);
    EXPECT_EQ(got[0].rank, rank);
    EXPECT_NEAR(got[0].logprob, logprob(token), 1e-6 * std::fabs(logprob(token)) + 1e-6);
    for (int k = 0; k < std::min<int>(row.logprobs, static_cast<int>(raw.size())); ++k) {
      const int32_t id = order[static_cast<size_t>(k)];
      EXPECT_EQ(got[1 + k].id, id) << "rank " << k + 1;
      EXPECT_EQ(got[1 + k].rank, k + 1);
      EXPECT_NEAR(got[1 + k].logprob, logprob(id), 1e-6 * std::fabs(logprob(id)) + 1e-6);
    }
  }
};

struct Kind {
  const char* name;
  std::function<std::vector<float>(Random&, int)> draw;
};
const std::vector<Kind> kKinds{
    {"flat", [](Random& r, int n) { return r.normals(static_cast<size_t>(n), 1.0f); }},
    {"usual", [](Random& r, int n) { return r.normals(static_cast<size_t>(n), 2.5f); }},
    {"peaked",
     [](Random& r, int n) {
       std::vector<float> x = r.normals(static_cast<size_t>(n), 2.0f);
       for (int i = 0; i < 20; ++i) {
         x[static_cast<size_t>(r.between(0, n - 1))] += 4 * std::fabs(r.normal()) + 5;
       }
       return x;
     }},
    {"ties",
     [](Random& r, int n) {
       std::vector<float> x(static_cast<size_t>(n));
       for (float& y : x) y = static_cast<float>(r.between(-4, 4)) / 2;
       return x;
     }},
    {"equal", [](Random&, int n) { return std::vector<float>(static_cast<size_t>(n), 0.5f); }},
};

std::vector<SampleRow> ways_to_choose() {
  std::vector<SampleRow> ways;
  const auto add = [&](float t, float top_p, float min_p, int top_k) {
    SampleRow row;
    row.temperature = t;
    row.top_p = top_p;
    row.min_p = min_p;
    row.top_k = top_k;
    ways.push_back(row);
  };
  add(0, 1, 0, 0);
  add(1, 1, 0, 0);
  add(0.7f, 1, 0, 0);
  add(1.5f, 1, 0.05f, 0);
  add(1, 1, 0, 1);
  add(1, 1, 0, 50);
  add(0.8f, 1, 0, 3000);
  add(1, 1, 0, 6000);
  add(1, 0.9f, 0, 0);
  add(0.7f, 0.5f, 0, 0);
  add(1, 0.999f, 0, 0);
  add(1, 0.9f, 0, 50);
  add(1, 0.95f, 0, 7000);
  add(1, 0.9f, 0.02f, 0);
  add(1, 0.8f, 0.01f, 40);
  add(1, 1e-6f, 0, 0);
  return ways;
}

TEST_F(SampleTest, ChoosesAsFloat64Does) {
  Random random(1);
  int rows_seen = 0;
  int near_ties = 0;
  for (int vocab : {7, 1000, 50257, 151936}) {
    for (const Kind& kind : kKinds) {
      SCOPED_TRACE(std::string(kind.name) + ", vocabulary " + std::to_string(vocab));
      std::vector<std::vector<float>> logits;
      std::vector<std::vector<int32_t>> orders;
      for (int i = 0; i < 2; ++i) {
        logits.push_back(kind.draw(random, vocab));
        orders.push_back(sorted_ids(logits.back()));
      }
      std::vector<SampleRow> rows;
      for (const SampleRow& way : ways_to_choose()) {
        for (int i = 0; i < 4; ++i) {
          rows.push_back(way);
          rows.back().row = i % 2;
          rows.back().seed = random();
          rows.back().position = random.between(0, 5000);
          rows.back().logprobs = i == 3 ? kMostLogprobs : -1;
        }
      }
      const DeviceArray<float> device(padded(vocab, logits));
      const Result got = run(vocab, device, rows, nullptr);
      for (size_t i = 0; i < rows.size(); ++i) {
        const SampleRow& row = rows[i];
        SCOPED_TRACE("row " + std::to_string(i) + " t " + std::to_string(row.temperature) +
                     " top_p " + std::to_string(row.top_p) + " min_p " + std::to_string(row.min_p) +
                     " top_k " + std::to_string(row.top_k));
        const auto& x = logits[static_cast<size_t>(row.row)];
        const auto& order = orders[static_cast<size_t>(row.row)];
        ASSERT_EQ(got.broken[i], 0);
        ++rows_seen;
        if (row.temperature == 0) {
          EXPECT_EQ(got.tokens[i], order[0]);
        } else if (got.tokens[i] != choose(x, order, row, 0, 0, 0)) {
          ++near_ties;
          bool near = false;
          for (double a : {0.0, -kNearTie, kNearTie}) {
            for (double b : {0.0, -kNearTie, kNearTie}) {
              for (double c : {0.0, -kNearTie, kNearTie}) {
                near = near || got.tokens[i] == choose(x, order, row, a, b, c);
              }
            }
          }
          EXPECT_TRUE(near) << got.tokens[i] << " is not " << choose(x, order, row, 0, 0, 0);
        }
        if (row.logprobs >= 0) {
          expect_chances(x, row, got.tokens[i], got.chances.data() + i * (1 + kMostLogprobs));
        }
      }
    }
  }
  // Where tens of thousands of tokens weigh alike a bound at 1e-5 of the total is often near.
  EXPECT_LE(near_ties, rows_seen / 20);
  std::printf("%d near ties in %d rows\n", near_ties, rows_seen);
}

TEST_F(SampleTest, RowsAloneGiveTheBitsOfTheBatch) {
  Random random(2);
  constexpr int kVocab = 32003;
  std::vector<std::vector<float>> logits;
  for (const Kind& kind : kKinds) logits.push_back(kind.draw(random, kVocab));
  std::vector<SampleRow> rows;
  for (const SampleRow& way : ways_to_choose()) {
    rows.push_back(way);
    rows.back().row = random.between(0, static_cast<int>(logits.size()) - 1);
    rows.back().seed = random();
    rows.back().logprobs = 20;
  }
  const DeviceArray<float> device(padded(kVocab, logits));
  const Result all = run(kVocab, device, rows, nullptr);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Result alone = run(kVocab, device, {rows[i]}, nullptr);
    EXPECT_EQ(alone.tokens[0], all.tokens[i]);
    EXPECT_EQ(std::memcmp(alone.chances.data(), all.chances.data() + i * (1 + kMostLogprobs),
                          sizeof(TokenChance) * (1 + kMostLogprobs)),
              0);
  }
}

TEST_F(SampleTest, SlotsFollowTheirSequences) {
  Random random(3);
  constexpr int kVocab = 1003;
  constexpr int kSlots = 6;
  std::vector<Sequence> sequences(kSlots);
  std::vector<SampleRow> rows(kSlots);
  for (int s = 0; s < kSlots; ++s) {
    auto& sequence = sequences[static_cast<size_t>(s)];
    SampleRow& row = rows[static_cast<size_t>(s)];
    row.row = kSlots - 1 - s;
    row.slot = (s + 2) % kSlots;
    row.temperature = s % 2 == 0 ? 0.0f : 1.0f;
    row.uses = kUsesOutput | kUsesLists;
    row.seed = random();
    for (int i = 0; i < 50; ++i) sequence.prompt.push_back(random.between(0, kVocab - 1));
    sequence.prompt.push_back(kVocab + 5);  // no id of the row
  }
  // Few tokens are likely, so that words and penalties bite.
  std::vector<std::vector<float>> logits;
  for (int s = 0; s < kSlots; ++s) {
    logits.push_back(random.normals(kVocab, 0.5f));
    for (int id = 0; id < 6; ++id) {
      logits.back()[static_cast<size_t>(id * 150 + s)] = 6 + 0.1f * random.normal();
    }
  }
  rows[0].repetition_penalty = 1.3f;
  rows[1].frequency_penalty = 0.37f;
  rows[1].presence_penalty = -0.2f;
  rows[2].repetition_penalty = 0.8f;
  rows[2].frequency_penalty = 0.11f;
  sequences[2].biases = {{5, 7.5f}, {2, 3.25f}, {5, 0.125f}, {900, -100.0f}, {5000, 1.0f}};
  rows[3].uses |= kUsesAllowed;
  for (int i = 0; i < 5; ++i) sequences[3].allowed.push_back(i * 150 + 1);
  sequences[3].allowed.push_back(-3);
  rows[4].min_tokens = 5;
  sequences[4].stop_ids = {4, 154, 304, 1002};
  sequences[4].bad_words = {{454, 604}, {604}, {754, 754, 754}, {}, {4, 4}};
  sequences[5].bad_words = {{5, 155}, {155, 5}, {305, 305}};
  rows[5].presence_penalty = 0.5f;
  sequences[5].output = {305, 5, 155, 155};

  DeviceArray<uint8_t> state(sampler_state_bytes(kVocab, kSlots));
  SlotUpdates updates;
  for (int s = 0; s < kSlots; ++s) {
    const Sequence& q = sequences[static_cast<size_t>(s)];
    const SlotContents contents{q.prompt, q.output, q.allowed, q.biases, q.stop_ids, q.bad_words};
    ASSERT_STREQ(SlotUpdates::problem(contents), "");
    updates.add(rows[static_cast<size_t>(s)].slot, contents);
  }
  const DeviceArray<SlotUpdate> device_updates(
      std::vector<SlotUpdate>(updates.updates().begin(), updates.updates().end()));
  const DeviceArray<int32_t> payload(
      std::vector<int32_t>(updates.payload().begin(), updates.payload().end()));
  update_slots(kVocab, state.get(), device_updates.get(), kSlots, payload.get(), kStream);

  std::vector<std::vector<float>> by_row(logits.rbegin(), logits.rend());
  const DeviceArray<float> device(padded(kVocab, by_row));
  for (int step = 0; step < 40; ++step) {
    for (int s = 0; s < kSlots; ++s) {
      rows[static_cast<size_t>(s)].position =
          static_cast<int32_t>(sequences[static_cast<size_t>(s)].output.size());
      rows[static_cast<size_t>(s)].logprobs = step % 4;
    }
    const Result got = run(kVocab, device, rows, state.get());
    for (int s = 0; s < kSlots; ++s) {
      const auto at = static_cast<size_t>(s);
      SCOPED_TRACE("sequence " + std::to_string(s) + " step " + std::to_string(step));
      ASSERT_EQ(got.broken[at], 0);
      const std::vector<float> x = changed_logits(logits[at], rows[at], sequences[at]);
      const std::vector<int32_t> order = sorted_ids(x);
      const int32_t wanted =
          rows[at].temperature == 0 ? order[0] : choose(x, order, rows[at], 0, 0, 0);
      ASSERT_EQ(got.tokens[at], wanted);
      expect_chances(logits[at], rows[at], wanted, got.chances.data() + at * (1 + kMostLogprobs));
      sequences[at].output.push_back(wanted);
    }
  }
}

TEST_F(SampleTest, GivenTokensGetTheirLogprobsAndBrokenRowsAreFlagged) {
  Random random(4);
  constexpr int kVocab = 5000;
  std::vector<std::vector<float>> logits(8);
  for (auto& row : logits) row = random.normals(kVocab, 3.0f);
  logits[1][4999] = NAN;
  logits[2][0] = INFINITY;
  std::fill(logits[3].begin(), logits[3].end(), -INFINITY);
  logits[4][17] = -INFINITY;
  std::vector<SampleRow> rows(8);
  for (int i = 0; i < 8; ++i) {
    rows[static_cast<size_t>(i)].row = i;
    rows[static_cast<size_t>(i)].logprobs = 5;
    rows[static_cast<size_t>(i)].temperature = static_cast<float>(i % 2);
  }
  rows[5].given = 1234;
  rows[6].given = 0;
  rows[6].logprobs = 0;
  // Everything but one id is forbidden, and that one has -inf: nothing can be chosen.
  rows[4].slot = 0;
  rows[4].uses = kUsesAllowed;
  DeviceArray<uint8_t> state(sampler_state_bytes(kVocab, 1));
  SlotUpdates updates;
  const std::vector<int32_t> only{17};
  updates.add(
      0,
      {.prompt = {}, .output = {}, .allowed = only, .biases = {}, .stop_ids = {}, .bad_words = {}});
  const DeviceArray<SlotUpdate> device_updates(
      std::vector<SlotUpdate>(updates.updates().begin(), updates.updates().end()));
  const DeviceArray<int32_t> payload(
      std::vector<int32_t>(updates.payload().begin(), updates.payload().end()));
  update_slots(kVocab, state.get(), device_updates.get(), 1, payload.get(), kStream);
  const DeviceArray<float> device(padded(kVocab, logits));
  const Result got = run(kVocab, device, rows, state.get());
  EXPECT_EQ(got.broken, (std::vector<int32_t>{0, 1, 1, 1, 1, 0, 0, 0}));
  for (int i : {0, 5, 6, 7}) {
    const auto at = static_cast<size_t>(i);
    if (rows[at].given >= 0) EXPECT_EQ(got.tokens[at], rows[at].given);
    expect_chances(logits[at], rows[at], got.tokens[at],
                   got.chances.data() + at * (1 + kMostLogprobs));
  }
  for (int i : {1, 2, 3, 4}) EXPECT_EQ(got.tokens[static_cast<size_t>(i)], 0);
}

TEST(SlotUpdatesTest, SaysWhatDoesNotFit) {
  const std::vector<int32_t> many(kMostStopIds + 1);
  SlotContents contents;
  contents.stop_ids = many;
  EXPECT_STREQ(SlotUpdates::problem(contents), "stop token ids");
  const std::vector<std::vector<int32_t>> words{std::vector<int32_t>(kTail + 1)};
  contents = {};
  contents.bad_words = words;
  EXPECT_STREQ(SlotUpdates::problem(contents), "tokens in a bad word");
}

}  // namespace
}  // namespace moesaic::backend::cuda
