#pragma once

// The softmax of attention rows, in the layout that mma.sync and wgmma share: a thread has, of a
// 16-row tile, rows g and g + 8 (g = lane / 4) and columns 8 n + 2 q, 8 n + 2 q + 1 (q = lane % 4).
// Both kinds of kernels call these functions, so that they give the same bits.

#include "backend/cuda/attention_work.cuh"

namespace moesaic::backend::cuda {

/// Takes a block's greatest raw score into a row's maximum. Afterwards weights are exp2(score *
/// scale - base), and what there was before shrinks by the result.
__device__ __forceinline__ float take_maximum(float top, float scale, float& maximum, float& base) {
  // Rounded before the subtraction: a maximum that stays must give exactly 2^0.
  const float greatest = fmaxf(maximum, __fmul_rn(top, scale));
  base = greatest == kNegativeInfinity ? 0.0f : greatest;
  const float shrink = exp2_fast(maximum - base);
  maximum = greatest;
  return shrink;
}
__device__ __forceinline__ float weight_of_score(float score, float scale, float base) {
  return exp2_fast(__fmaf_rn(score, scale, -base));
}

/// Maximum over the four lanes of a row.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

/// A row's part of a block whose scores one thread quad has: leaves the weights in their place, and
/// returns what earlier results shrink by. `half` 0 is the thread's upper row.
__device__ __forceinline__ float take_scores(float (&s)[8][4], int half, float scale,
                                             float& maximum) {
  float top = kNegativeInfinity;
#pragma unroll
  for (int n = 0; n < 8; ++n) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
  float base;
  const float shrink = take_maximum(quad_max(top), scale, maximum, base);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 2 * half; i < 2 * half + 2; ++i) s[n][i] = weight_of_score(s[n][i], scale, base);
  }
  return shrink;
}

/// Hides the keys, from `first_key` on, that the thread's rows, at positions `position`, do not
/// see.
template <int kTiles>
__device__ __forceinline__ void mask_scores(float (&s)[kTiles][4], int first_key, int window,
                                            const int (&position)[2]) {
  const int q = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int distance = position[i / 2] - (first_key + n * 8 + 2 * q + i % 2);
      if (distance < 0 || distance >= window) s[n][i] = kNegativeInfinity;
    }
  }
}

/// The keys that rows of a tile see are [low, high]; `first` is the tile's first position.
struct TileKeys {
  int first, low, high;

  __device__ TileKeys(const AttentionItem& item, int group, int window) {
    first = item.first_position + item.row / group;
    high = item.first_position + (item.row + item.rows - 1) / group;
    low = max(0, first - window + 1);
  }
  __device__ int begin(const AttentionItem& item) const {
    return max(low / kKeyBlock, first_block(item.split_begin));
  }
  __device__ int end(const AttentionItem& item) const {
    return min(high / kKeyBlock + 1, first_block(item.split_end));
  }
  /// Whether some row of the tile does not see some key of a block.
  __device__ bool hides(int first_key, int window) const {
    return first_key + kKeyBlock - 1 > first || first_key <= high - window;
  }
};

}  // namespace moesaic::backend::cuda
