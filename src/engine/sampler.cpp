#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moesaic::engine {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-5f;

uint64_t split_mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// Uniform in [0, 1), a pure function of seed and position.
double uniform(uint64_t seed, uint64_t position) {
  return static_cast<double>(split_mix(split_mix(seed) ^ position) >> 11) * 0x1p-53;
}

/// The largest logit; none when one is NaN or +inf or all are -inf.
std::optional<float> largest(std::span<const float> logits) {
  float best = kNever;
  bool bad = false;
  for (float x : logits) {
    bad |= !(x <= std::numeric_limits<float>::max());
    best = std::max(best, x);
  }
  if (bad || best == kNever) return std::nullopt;
  return best;
}

double log_sum(std::span<const float> logits, float best) {
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x) - best);
  return best + std::log(sum);
}

/// A token that may be chosen.
struct Candidate {
  float logit;
  int32_t id;
};
bool better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/// The `k` best entries, best first: a heap of k whose worst is on top.
std::vector<Candidate> best_of(std::span<const float> logits, size_t k) {
  std::vector<Candidate> heap;
  for (size_t i = 0; i < logits.size() && k > 0; ++i) {
    const Candidate candidate{logits[i], static_cast<int32_t>(i)};
    if (heap.size() < k) {
      heap.push_back(candidate);
      std::push_heap(heap.begin(), heap.end(), better);
    } else if (better(candidate, heap.front())) {
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.back() = candidate;
      std::push_heap(heap.begin(), heap.end(), better);
    }
  }
  std::sort_heap(heap.begin(), heap.end(), better);
  return heap;
}

void keep_only(std::span<float> logits, std::vector<int32_t> allowed) {
  std::sort(allowed.begin(), allowed.end());
  size_t next = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    while (next < allowed.size() && static_cast<size_t>(allowed[next]) < i) ++next;
    if (next == allowed.size() || static_cast<size_t>(allowed[next]) != i) logits[i] = kNever;
  }
}

/// Forbids the last token of each bad word whose beginning the output ends with.
void forbid_bad_words(std::span<float> logits, const SamplingContext& context) {
  for (const std::vector<int32_t>& word : context.params->bad_words) {
    if (word.empty() || word.size() - 1 > context.output.size()) continue;
    const auto tail = context.output.last(word.size() - 1);
    if (std::equal(tail.begin(), tail.end(), word.begin())) {
      logits[static_cast<size_t>(word.back())] = kNever;
    }
  }
}

void apply_masks(std::span<float> logits, const SamplingContext& context) {
  const SamplingParams& params = *context.params;
  if (!params.allowed_token_ids.empty()) keep_only(logits, params.allowed_token_ids);
  forbid_bad_words(logits, context);
  if (static_cast<int64_t>(context.output.size()) < params.min_tokens) {
    for (int32_t id : context.eos_ids) {
      if (id >= 0 && static_cast<size_t>(id) < logits.size()) {
        logits[static_cast<size_t>(id)] = kNever;
      }
    }
    for (int32_t id : params.stop_token_ids) {
      if (id >= 0 && static_cast<size_t>(id) < logits.size()) {
        logits[static_cast<size_t>(id)] = kNever;
      }
    }
  }
  for (const auto& [id, bias] : params.logit_bias) logits[static_cast<size_t>(id)] += bias;
}

void apply_penalties(std::span<float> logits, const SamplingContext& context) {
  const SamplingParams& params = *context.params;
  if (params.repetition_penalty != 1.0f) {
    std::vector<int32_t> seen(context.prompt.begin(), context.prompt.end());
    seen.insert(seen.end(), context.output.begin(), context.output.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (int32_t id : seen) {
      float& x = logits[static_cast<size_t>(id)];
      x = x > 0 ? x / params.repetition_penalty : x * params.repetition_penalty;
    }
  }
  if (params.presence_penalty == 0 && params.frequency_penalty == 0) return;
  for (const auto& [id, count] : *context.output_counts) {
    logits[static_cast<size_t>(id)] -=
        params.frequency_penalty * static_cast<float>(count) + params.presence_penalty;
  }
}

int32_t walk(std::span<const Candidate> candidates, float best, double temperature, double u) {
  double total = 0;
  for (const Candidate& c : candidates) total += std::exp((c.logit - best) / temperature);
  double left = u * total;
  for (const Candidate& c : candidates) {
    left -= std::exp((c.logit - best) / temperature);
    if (left < 0) return c.id;
  }
  return candidates.back().id;
}

/// Samples from the whole vocabulary in two passes.
int32_t sample_all(std::span<const float> logits, float best, double temperature, double u) {
  double total = 0;
  for (float x : logits) total += std::exp((x - best) / temperature);
  double left = u * total;
  int32_t last = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == kNever) continue;
    last = static_cast<int32_t>(i);
    left -= std::exp((logits[i] - best) / temperature);
    if (left < 0) return last;
  }
  return last;
}

/// Shortens candidates, best first, to the fewest whose probability reaches top_p; `total` is the
/// sum over all that top_p counts.
bool cut_top_p(std::vector<Candidate>& candidates, float best, double temperature, double top_p,
               double total) {
  double sum = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    sum += std::exp((candidates[i].logit - best) / temperature);
    if (sum >= top_p * total) {
      candidates.resize(i + 1);
      return true;
    }
  }
  return false;
}

/// Candidates after min_p and top_k, unordered unless top_k cut them.
std::vector<Candidate> filtered(std::span<const float> logits, const SamplingParams& params,
                                float best, bool& sorted) {
  const float floor =
      params.min_p > 0 ? best + params.temperature * std::log(params.min_p) : kNever;
  sorted = false;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size()) {
    std::vector<Candidate> top = best_of(logits, static_cast<size_t>(params.top_k));
    while (top.size() > 1 && (top.back().logit < floor || top.back().logit == kNever)) {
      top.pop_back();
    }
    sorted = true;
    return top;
  }
  std::vector<Candidate> kept;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] != kNever && logits[i] >= floor) {
      kept.push_back({logits[i], static_cast<int32_t>(i)});
    }
  }
  return kept;
}

int32_t sample_filtered(std::span<const float> logits, const SamplingParams& params, float best,
                        double u) {
  bool sorted = false;
  std::vector<Candidate> candidates = filtered(logits, params, best, sorted);
  const double temperature = params.temperature;
  if (params.top_p < 1.0f) {
    double total = 0;
    for (const Candidate& c : candidates) total += std::exp((c.logit - best) / temperature);
    // Most of the vocabulary has next to no probability: sort the likely part, all only if it must
    // be.
    if (!sorted) {
      const auto likely = best - 12.0f * params.temperature;
      const auto middle = std::partition(candidates.begin(), candidates.end(),
                                         [&](const Candidate& c) { return c.logit >= likely; });
      std::vector<Candidate> head(candidates.begin(), middle);
      std::sort(head.begin(), head.end(), better);
      if (cut_top_p(head, best, temperature, params.top_p, total))
        return walk(head, best, temperature, u);
      std::sort(candidates.begin(), candidates.end(), better);
    }
    cut_top_p(candidates, best, temperature, params.top_p, total);
  }
  return walk(candidates, best, temperature, u);
}

}  // namespace

uint64_t sequence_seed(uint64_t seed, int32_t index) {
  return index == 0 ? seed : split_mix(seed ^ (static_cast<uint64_t>(index) << 32));
}

PositionLogprobs logprobs_of(std::span<const float> logits, int32_t token, int32_t k) {
  const float best = *std::max_element(logits.begin(), logits.end());
  const double norm = log_sum(logits, best);
  const float own = logits[static_cast<size_t>(token)];
  PositionLogprobs result;
  result.token.id = token;
  result.token.logprob = static_cast<float>(own - norm);
  result.token.rank = 1 + static_cast<int32_t>(std::count_if(logits.begin(), logits.end(),
                                                             [own](float x) { return x > own; }));
  int32_t rank = 0;
  for (const Candidate& c : best_of(logits, static_cast<size_t>(std::max(k, 0)))) {
    result.top.push_back({c.id, static_cast<float>(c.logit - norm), ++rank});
  }
  return result;
}

std::optional<Sampled> sample(std::span<float> logits, const SamplingContext& context) {
  const SamplingParams& params = *context.params;
  if (!largest(logits)) return std::nullopt;
  std::vector<float> raw;
  if (params.logprobs >= 0) raw.assign(logits.begin(), logits.end());
  apply_masks(logits, context);
  apply_penalties(logits, context);
  const std::optional<float> best = largest(logits);
  if (!best) return std::nullopt;

  Sampled sampled;
  if (params.temperature < kGreedyBelow) {
    sampled.token =
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  } else {
    const double u = uniform(context.seed, context.output.size());
    const bool whole = params.top_p >= 1.0f && params.min_p <= 0.0f && params.top_k <= 0;
    sampled.token = whole ? sample_all(logits, *best, params.temperature, u)
                          : sample_filtered(logits, params, *best, u);
  }
  if (params.logprobs >= 0) sampled.logprobs = logprobs_of(raw, sampled.token, params.logprobs);
  return sampled;
}

}  // namespace moesaic::engine
