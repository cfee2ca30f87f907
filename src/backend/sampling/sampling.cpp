#include "backend/sampling/sampling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "backend/sampling/row_math.h"
#include "base/error.h"
#include "base/hash.h"

namespace moesaic::backend {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-5f;
/// The most tokens kept by top_p that are walked best first; the CUDA sampler has the same.
constexpr size_t kWalkedBestFirst = 4096;

/// Uniform in [0, 1), a pure function of seed and position.
double uniform(uint64_t seed, uint64_t position) {
  return static_cast<double>(base::split_mix(base::split_mix(seed) ^ position) >> 11) * 0x1p-53;
}

/// A token that may be chosen.
struct Candidate {
  float logit;
  int32_t id;
};
bool better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/// All entries, best first: by the digits of the logits' bits, lowest first, each pass keeping the
/// order of the one before, so that equal ones stay in the order of their ids.
std::vector<Candidate> sorted(std::span<const float> logits) {
  constexpr int kDigitBits = 11;
  constexpr uint32_t kDigits = 1U << kDigitBits;
  // Smaller for a larger logit. Adding zero makes one of the two zeros.
  const auto key = [](float logit) {
    const auto bits = std::bit_cast<uint32_t>(logit + 0.0f);
    return (bits >> 31) != 0 ? bits : ~bits ^ (1U << 31);
  };
  std::vector<Candidate> from(logits.size()), to(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) from[i] = {logits[i], static_cast<int32_t>(i)};
  for (int shift = 0; shift < 32; shift += kDigitBits) {
    const auto digit = [&](const Candidate& c) { return (key(c.logit) >> shift) % kDigits; };
    std::array<size_t, kDigits + 1> places{};
    for (const Candidate& c : from) ++places[digit(c) + 1];
    std::partial_sum(places.begin(), places.end(), places.begin());
    for (const Candidate& c : from) to[places[digit(c)]++] = c;
    from.swap(to);
  }
  return from;
}

/// The `k` best entries, best first: a heap of k whose worst is on top, or for many a sorted row,
/// whose cost does not grow with k.
std::vector<Candidate> best_of(std::span<const float> logits, size_t k) {
  constexpr size_t kHeapSize = 1024;
  if (k > kHeapSize) {
    std::vector<Candidate> all = sorted(logits);
    all.resize(std::min(k, all.size()));
    return all;
  }
  std::vector<Candidate> heap;
  k = std::min(k, logits.size());
  for (size_t i = 0; i < k; ++i) heap.push_back({logits[i], static_cast<int32_t>(i)});
  std::make_heap(heap.begin(), heap.end(), better);
  // A later entry has a higher id, so only a greater one is better.
  for (size_t i = k; k > 0 && (i = find_above(logits, i, heap.front().logit)) < logits.size();
       ++i) {
    std::pop_heap(heap.begin(), heap.end(), better);
    heap.back() = {logits[i], static_cast<int32_t>(i)};
    std::push_heap(heap.begin(), heap.end(), better);
  }
  std::sort_heap(heap.begin(), heap.end(), better);
  return heap;
}

template <typename T>
void sort_and_make_unique(std::vector<T>& list) {
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
}

bool in_row(std::span<const float> logits, int32_t id) {
  return id >= 0 && static_cast<size_t>(id) < logits.size();
}

/// Forbids an id; ids that the row does not have are none to forbid.
void forbid(std::span<float> logits, int32_t id) {
  if (in_row(logits, id)) logits[static_cast<size_t>(id)] = kNever;
}

/// `allowed` is ascending.
void keep_only(std::span<float> logits, std::span<const int32_t> allowed) {
  auto from = logits.begin();
  for (const int32_t id : allowed) {
    if (!in_row(logits, id)) continue;
    const auto kept = logits.begin() + id;
    MOESAIC_ASSERT(from <= kept);
    std::fill(from, kept, kNever);
    from = kept + 1;
  }
  std::fill(from, logits.end(), kNever);
}

/// Forbids the last token of each bad word whose beginning the output ends with.
void forbid_bad_words(std::span<float> logits, const SamplingState& state) {
  const std::span<const int32_t> output = state.output;
  for (const std::vector<int32_t>& word : state.rules->bad_words) {
    if (word.empty() || word.size() - 1 > output.size()) continue;
    const auto tail = output.last(word.size() - 1);
    if (std::equal(tail.begin(), tail.end(), word.begin())) forbid(logits, word.back());
  }
}

bool young(const SampleRow& row) { return row.position < row.min_tokens; }

/// Whether anything is to change the logits before the choice.
bool changes_logits(const SampleRow& row, const SamplingState* state) {
  return (state != nullptr && state->rules->change_logits()) || young(row) || row.constrained ||
         row.repetition_penalty != 1.0f || row.presence_penalty != 0 || row.frequency_penalty != 0;
}

/// What a constraint allows.
enum class Allowed : uint8_t { kNothing, kOnlyEnds, kMore };

/// Forbids what the row's constraint does.
Allowed apply_constraint(std::span<float> logits, const SamplingState& state) {
  constexpr size_t kBits = 32;
  thread_local std::vector<uint32_t> words;
  words.resize((logits.size() + kBits - 1) / kBits);
  if (state.path == nullptr || !state.path->allow(words)) return Allowed::kNothing;
  for (size_t w = 0; w < words.size(); ++w) {
    if (words[w] == ~0U) continue;
    const size_t end = std::min((w + 1) * kBits, logits.size());
    for (size_t i = w * kBits; i < end; ++i) {
      if ((words[w] >> (i % kBits) & 1U) == 0) logits[i] = kNever;
    }
  }
  for (const int32_t id : state.eos_ids) {
    if (in_row(logits, id)) words[static_cast<size_t>(id) / kBits] &= ~(1U << (id % kBits));
  }
  const bool more =
      std::any_of(words.begin(), words.end(), [](uint32_t word) { return word != 0; });
  return more ? Allowed::kMore : Allowed::kOnlyEnds;
}

void apply_masks(std::span<float> logits, const SampleRow& row, const SamplingState& state) {
  const TokenRules& rules = *state.rules;
  Allowed allowed = Allowed::kMore;
  if (row.constrained) allowed = apply_constraint(logits, state);
  if (allowed == Allowed::kNothing) std::fill(logits.begin(), logits.end(), kNever);
  if (!rules.allowed_token_ids.empty()) keep_only(logits, rules.allowed_token_ids);
  forbid_bad_words(logits, state);
  if (young(row) && allowed != Allowed::kOnlyEnds) {
    for (int32_t id : state.eos_ids) forbid(logits, id);
    for (int32_t id : rules.stop_token_ids) forbid(logits, id);
  }
  for (const auto& [id, bias] : rules.logit_bias) {
    if (in_row(logits, id)) logits[static_cast<size_t>(id)] += bias;
  }
}

/// Each token that the prompt or the output holds is weakened once.
void apply_repetition_penalty(std::span<float> logits, float penalty, const SamplingState& state) {
  const auto weaken = [&](int32_t id) {
    if (!in_row(logits, id)) return;
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  };
  std::span<const int32_t> prompt;
  if (state.prompt_ids != nullptr) prompt = *state.prompt_ids;
  for (const int32_t id : prompt) weaken(id);
  for (const auto& [id, count] : state.counts) {
    if (!std::binary_search(prompt.begin(), prompt.end(), id)) weaken(id);
  }
}

void apply_penalties(std::span<float> logits, const SampleRow& row, const SamplingState& state) {
  if (row.repetition_penalty != 1.0f) {
    apply_repetition_penalty(logits, row.repetition_penalty, state);
  }
  if (row.presence_penalty == 0 && row.frequency_penalty == 0) return;
  for (const auto& [id, count] : state.counts) {
    if (!in_row(logits, id)) continue;
    logits[static_cast<size_t>(id)] -=
        row.frequency_penalty * static_cast<float>(count) + row.presence_penalty;
  }
}

double sum_of(std::span<const Candidate> candidates, const RowWeights& weights) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += static_cast<double>(weights.weight(c.logit));
  return sum;
}

/// The candidate at which the running sum of weights first exceeds `share` of their sum.
int32_t choose(std::span<const Candidate> candidates, const RowWeights& weights, double share) {
  double left = share * sum_of(candidates, weights);
  int32_t last = candidates.front().id;
  for (const Candidate& c : candidates) {
    const float weight = weights.weight(c.logit);
    if (weight > 0) last = c.id;
    left -= static_cast<double>(weight);
    if (left < 0) break;
  }
  return last;
}

/// How many candidates, which are best first, it takes to weigh `needed`; at least one.
size_t fewest_reaching(std::span<const Candidate> candidates, const RowWeights& weights,
                       double needed) {
  size_t count = 0;
  while (count < candidates.size()) {
    needed -= static_cast<double>(weights.weight(candidates[count++].logit));
    if (needed <= 0) break;
  }
  return count;
}

/// What top_p keeps of a row, the fewest best entries that reach its share, and the choice among
/// them. One pass weighs the entries in bins by their distance from the best; only the bin in which
/// the share is reached is sorted.
class TopP {
 public:
  TopP(std::span<const float> logits, const SampleRow& row, float best, float floor) {
    const RowWeights weights(logits, best, row.temperature, floor);
    // An entry so light that all that are no better weigh less than what top_p may leave out.
    const double light =
        (1.0 - static_cast<double>(row.top_p)) / static_cast<double>(logits.size());
    const float least = std::max({best + row.temperature * static_cast<float>(std::log(light) - 1),
                                  floor, std::numeric_limits<float>::lowest()});
    const float below = std::nextafter(least, kNever);
    for (size_t i = 0; (i = find_above(logits, i, below)) < logits.size(); ++i) {
      entries_.push_back({{logits[i], static_cast<int32_t>(i)}, weights.weight(logits[i])});
    }
    keep(static_cast<double>(row.top_p) * weights.total(), best);
  }

  /// The one at which the running sum of weights first exceeds `share` of their sum: best first
  /// where they are few, else in the order of their ids.
  int32_t choose(double share) const {
    double left = 0;
    for (const Entry& e : entries_) left += static_cast<double>(e.weight);
    left *= share;
    for (const Entry& e : entries_) {
      left -= static_cast<double>(e.weight);
      if (left < 0) return e.token.id;
    }
    return entries_.back().token.id;
  }

 private:
  static constexpr size_t kBins = 4096;
  struct Entry {
    Candidate token;
    float weight;
  };

  /// Drops what is not needed to weigh `needed`.
  void keep(double needed, float best) {
    float worst = best;
    for (const Entry& e : entries_) worst = std::min(worst, e.token.logit);
    const float scale = worst < best ? static_cast<float>(kBins) / (best - worst) : 0.0f;
    const auto bin_of = [&](const Entry& e) {
      return std::min(static_cast<size_t>((best - e.token.logit) * scale), kBins - 1);
    };
    std::vector<double> bins(kBins);
    for (const Entry& e : entries_) bins[bin_of(e)] += static_cast<double>(e.weight);
    size_t last_weighty = 0;  // rounding may want a little more than there is
    for (size_t b = 0; b < kBins; ++b) {
      if (bins[b] > 0) last_weighty = b;
    }
    size_t bin = 0;
    while (bin < last_weighty && needed > bins[bin]) needed -= bins[bin++];

    const auto better_entry = [](const Entry& a, const Entry& b) {
      return better(a.token, b.token);
    };
    std::vector<Entry> fringe;
    for (const Entry& e : entries_) {
      if (bin_of(e) == bin) fringe.push_back(e);
    }
    std::sort(fringe.begin(), fringe.end(), better_entry);
    Entry last = fringe.front();
    for (const Entry& e : fringe) {
      last = e;
      needed -= static_cast<double>(e.weight);
      if (needed <= 0) break;
    }
    std::erase_if(entries_, [&](const Entry& e) { return better(last.token, e.token); });
    if (entries_.size() <= kWalkedBestFirst) {
      std::sort(entries_.begin(), entries_.end(), better_entry);
    }
  }

  std::vector<Entry> entries_;
};

int32_t choose_at_random(std::span<const float> logits, const SampleRow& row, float best,
                         double share) {
  const float floor = row.min_p > 0 ? best + row.temperature * std::log(row.min_p) : kNever;
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < logits.size()) {
    std::vector<Candidate> top = best_of(logits, static_cast<size_t>(row.top_k));
    const RowWeights weights({}, best, row.temperature, floor);
    if (row.top_p < 1.0f) {
      top.resize(fewest_reaching(top, weights, row.top_p * sum_of(top, weights)));
    }
    return choose(top, weights, share);
  }
  if (row.top_p < 1.0f) return TopP(logits, row, best, floor).choose(share);
  return static_cast<int32_t>(RowWeights(logits, best, row.temperature, floor).find(share));
}

/// Log-probabilities of one row's best entries, and what any entry's take.
PositionLogprobs best_logprobs(std::span<const float> logits, double norm, int32_t k) {
  PositionLogprobs result;
  int32_t rank = 0;
  for (const Candidate& c : best_of(logits, static_cast<size_t>(std::max(k, 0)))) {
    result.top.push_back({c.id, static_cast<float>(c.logit - norm), ++rank});
  }
  return result;
}

TokenLogprob logprob_of(std::span<const float> logits, double norm, int32_t token) {
  const float own = logits[static_cast<size_t>(token)];
  return {token, static_cast<float>(own - norm),
          1 + static_cast<int32_t>(count_above(logits, own))};
}

}  // namespace

namespace {

bool has_long_lists(const TokenRules& rules) {
  size_t tokens = 0;
  size_t longest = 0;
  for (const std::vector<int32_t>& word : rules.bad_words) {
    tokens += word.size();
    longest = std::max(longest, word.size());
  }
  return rules.logit_bias.size() > ListLimits::kBiases ||
         rules.stop_token_ids.size() > ListLimits::kStopIds ||
         rules.bad_words.size() > ListLimits::kBadWords || longest > ListLimits::kBadWord ||
         tokens > ListLimits::kBadWordTokens;
}

}  // namespace

std::shared_ptr<const TokenRules> token_rules(TokenRules lists) {
  sort_and_make_unique(lists.allowed_token_ids);
  sort_and_make_unique(lists.bad_words);
  sort_and_make_unique(lists.stop_token_ids);
  lists.long_lists = has_long_lists(lists);
  return std::make_shared<const TokenRules>(std::move(lists));
}

uint64_t sequence_seed(uint64_t seed, int32_t index) {
  return index == 0 ? seed : base::split_mix(seed ^ (static_cast<uint64_t>(index) << 32));
}

std::optional<PositionLogprobs> logprobs_of(std::span<const float> logits, int32_t token,
                                            int32_t k) {
  const std::optional<float> best = largest(logits);
  if (!best) return std::nullopt;
  const double norm = log_sum_exp(logits, *best);
  PositionLogprobs result = best_logprobs(logits, norm, k);
  result.token = logprob_of(logits, norm, token);
  return result;
}

Sampled sample(std::span<float> logits, const SampleRow& row, const SamplingState* state) {
  Sampled sampled;
  if (row.target >= 0) {
    sampled.token = row.target;
    auto logprobs = logprobs_of(logits, row.target, row.logprobs);
    sampled.broken = !logprobs;
    if (logprobs) sampled.logprobs = std::move(*logprobs);
    return sampled;
  }
  const std::optional<float> raw_best = largest(logits);
  std::optional<float> best = raw_best;
  const bool wants_logprobs = row.logprobs >= 0;
  std::vector<float> raw;  // kept where the choice does not see the logits as they came
  if (best && changes_logits(row, state)) {
    MOESAIC_ASSERT(state != nullptr);
    if (wants_logprobs) raw.assign(logits.begin(), logits.end());
    apply_masks(logits, row, *state);
    apply_penalties(logits, row, *state);
    best = largest(logits);
  }
  sampled.broken = !best;
  if (!best) return sampled;

  if (row.temperature < kGreedyBelow) {
    const auto at = std::find(logits.begin(), logits.end(), *best);
    sampled.token = static_cast<int32_t>(at - logits.begin());
  } else {
    const double share = uniform(row.seed, static_cast<uint64_t>(row.position));
    sampled.token = choose_at_random(logits, row, *best, share);
  }
  if (wants_logprobs) {
    const std::span<const float> seen = raw.empty() ? std::span<const float>(logits) : raw;
    const double norm = log_sum_exp(seen, *raw_best);
    sampled.logprobs = best_logprobs(seen, norm, row.logprobs);
    sampled.logprobs.token = logprob_of(seen, norm, sampled.token);
  }
  return sampled;
}

}  // namespace moesaic::backend
