#include <cmath>

#include "backend/cpu/rows.h"

namespace moesaic::backend::cpu {
namespace {

/// Softmax or sigmoid of one row of router logits, in place of double work: float is what the
/// models are trained with.
void score_row(const RouterDesc& desc, const float* logits, float* scores) {
  if (desc.scoring == Scoring::kSigmoid) {
    for (int64_t e = 0; e < desc.experts; ++e) scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    return;
  }
  const float best = *std::max_element(logits, logits + desc.experts);
  float sum = 0;
  for (int64_t e = 0; e < desc.experts; ++e) sum += scores[e] = std::exp(logits[e] - best);
  for (int64_t e = 0; e < desc.experts; ++e) scores[e] /= sum;
}

/// The top_k experts of one row, best logit first, ties to the lowest index.
void choose(const RouterDesc& desc, const float* logits, std::vector<uint8_t>& taken,
            int32_t* chosen) {
  std::fill(taken.begin(), taken.end(), uint8_t{0});
  for (int64_t i = 0; i < desc.top_k; ++i) {
    int32_t best = -1;
    for (int32_t e = 0; e < desc.experts; ++e) {
      if (taken[static_cast<size_t>(e)] != 0) continue;
      // A NaN never compares greater, so rows of NaN still choose top_k different experts.
      if (best < 0 || logits[e] > logits[best]) best = e;
    }
    taken[static_cast<size_t>(best)] = 1;
    chosen[i] = best;
  }
}

}  // namespace

void route(base::ThreadPool& pool, const RouterDesc& desc, const float* logits, int64_t rows,
           Routing& routing) {
  routing.rows = rows;
  routing.top_k = desc.top_k;
  routing.experts.resize(static_cast<size_t>(rows * desc.top_k));
  routing.weights.resize(static_cast<size_t>(rows * desc.top_k));
  over_rows(pool, rows, desc.experts * (desc.top_k + 8), [&](int64_t first, int64_t end) {
    std::vector<float> scores(static_cast<size_t>(desc.experts));
    std::vector<uint8_t> taken(static_cast<size_t>(desc.experts));
    for (int64_t r = first; r < end; ++r) {
      const float* row = logits + r * desc.experts;
      int32_t* chosen = routing.experts.data() + r * desc.top_k;
      float* weights = routing.weights.data() + r * desc.top_k;
      score_row(desc, row, scores.data());
      choose(desc, row, taken, chosen);
      float sum = 0;
      for (int64_t i = 0; i < desc.top_k; ++i) sum += scores[static_cast<size_t>(chosen[i])];
      const float factor = desc.scale / (desc.renormalize ? sum : 1.0f);
      for (int64_t i = 0; i < desc.top_k; ++i) {
        weights[i] = scores[static_cast<size_t>(chosen[i])] * factor;
      }
    }
  });
}

}  // namespace moesaic::backend::cpu
