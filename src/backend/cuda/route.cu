#include "backend/cuda/route.h"

#include <algorithm>
#include <type_traits>

#include "backend/cuda/device.cuh"
#include "backend/cuda/launch.h"

namespace moesaic::backend::cuda {
namespace {

constexpr int kWarps = 8;  // of a block, each routes a row at a time
constexpr int kThreads = 32 * kWarps;
constexpr int kMostExperts = 512;
constexpr int kMostTopK = 16;
constexpr int kMostGroups = 32;
constexpr int kNoExpert = INT32_MAX;
constexpr int kBlocksPerMultiprocessor = 4;

struct RouteParams {
  RouteShape shape;
  const float* logits;
  const float* bias;
  const int32_t* count;
  Routed routed;
};

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// Softmax's constants of a row, or what sigmoid needs of them: nothing.
struct Scorer {
  bool softmax;
  float best, inverse;

  __device__ float score(float logit) const {
    return softmax ? expf(logit - best) * inverse : sigmoid(logit);
  }
};

/// Leaves only the experts of the best groups in `keys`. `values` [experts] is shared memory of the
/// warp with what experts are chosen by.
template <int kPerLane>
__device__ void keep_best_groups(const RouteShape& shape, const float* values,
                                 uint32_t (&keys)[kPerLane]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int size = shape.experts / shape.groups;
  uint32_t own = 0;  // lane g has group g's key
  for (int g = 0; g < shape.groups; ++g) {
    uint32_t first = 0;
    uint32_t second = 0;
    for (int i = lane; i < size; i += 32) {
      const uint32_t key = order_key(values[g * size + i]);
      second = max(second, min(first, key));
      first = max(first, key);
    }
    const uint32_t best = __reduce_max_sync(kAllLanes, first);
    uint32_t key = best;
    if (shape.group_score == GroupScore::kTopTwo && size > 1) {
      const unsigned holders = __ballot_sync(kAllLanes, first == best);
      const bool gives = lane == __ffs(static_cast<int>(holders)) - 1;
      const uint32_t next = __reduce_max_sync(kAllLanes, gives ? second : first);
      key = order_key(key_value(best) + key_value(next));
    }
    if (lane == g) own = key;
  }
  unsigned kept = 0;  // bit g: group g may be chosen from
  for (int i = 0; i < shape.top_groups; ++i) {
    const uint32_t best = __reduce_max_sync(kAllLanes, own);
    const unsigned holders = __ballot_sync(kAllLanes, own == best && lane < shape.groups);
    const int group = __ffs(static_cast<int>(holders)) - 1;
    kept |= 1u << group;
    if (lane == group) own = 0;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = i * 32 + lane;
    if (expert < shape.experts && (kept >> (expert / size) & 1) == 0) keys[i] = 0;
  }
}

/// One row by one warp; lane i has experts i, i + 32, ... `counts` [experts] is the block's.
template <int kPerLane>
__device__ void route_row(const RouteParams& p, int row, float* values, int32_t* counts) {
  const RouteShape& shape = p.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* logits = p.logits + static_cast<int64_t>(row) * shape.parts * shape.experts;
  const auto logit = [&](int expert) {
    float sum = logits[(shape.parts - 1) * shape.experts + expert];
    for (int part = shape.parts - 2; part >= 0; --part)
      sum += logits[part * shape.experts + expert];
    return sum;
  };
  uint32_t keys[kPerLane];  // 0: not there, or chosen already
  uint32_t best = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = i * 32 + lane;
    keys[i] = expert < shape.experts ? order_key(logit(expert)) : 0;
    best = max(best, keys[i]);
  }
  Scorer scorer{shape.scoring == RouteScoring::kSoftmax, 0, 0};
  if (scorer.softmax) {
    scorer.best = key_value(__reduce_max_sync(kAllLanes, best));
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (keys[i] != 0) sum += expf(key_value(keys[i]) - scorer.best);
    }
    scorer.inverse = 1.0f / warp_sum(sum);
  }
  // Without a bias the order is that of the logits, free of the ties that rounded scores make.
  const bool top_two = shape.groups > 1 && shape.group_score == GroupScore::kTopTwo;
  if (p.bias != nullptr || shape.groups > 1) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int expert = i * 32 + lane;
      if (expert >= shape.experts) continue;
      float value = key_value(keys[i]);
      if (p.bias != nullptr || top_two) value = scorer.score(value);
      if (p.bias != nullptr) {
        value += p.bias[expert];
        keys[i] = order_key(value);
      }
      if (shape.groups > 1) values[expert] = value;
    }
  }
  if (shape.groups > 1) {
    __syncwarp();
    keep_best_groups(shape, values, keys);
    __syncwarp();
  }

  int chosen = 0;  // lane i gets the i-th best
  for (int k = 0; k < shape.top_k; ++k) {
    uint32_t own = 0;
    int expert = kNoExpert;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (keys[i] > own) own = keys[i], expert = i * 32 + lane;
    }
    const uint32_t winner = __reduce_max_sync(kAllLanes, own);
    expert = static_cast<int>(
        __reduce_min_sync(kAllLanes, static_cast<unsigned>(own == winner ? expert : kNoExpert)));
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (i * 32 + lane == expert) keys[i] = 0;
    }
    if (lane == k) chosen = expert;
  }
  const bool has = lane < shape.top_k;
  float weight = has ? scorer.score(logit(chosen)) : 0.0f;
  if (shape.renormalize) weight /= warp_sum(weight);
  if (!has) return;
  const int64_t slot = static_cast<int64_t>(row) * shape.top_k + lane;
  p.routed.experts[slot] = chosen;
  p.routed.weights[slot] = weight * shape.scale;
  if (p.routed.totals != nullptr) atomicAdd(&counts[chosen], 1);
}

template <int kPerLane>
__global__ __launch_bounds__(kThreads) void route_kernel(const RouteParams p) {
  extern __shared__ int32_t
      counts[];  // [experts], then [kWarps, experts] floats where groups count
  const int experts = p.shape.experts;
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  for (int e = thread; e < experts; e += kThreads) counts[e] = 0;
  begin_dependent();
  __syncthreads();
  const int rows = *p.count;
  float* const values = reinterpret_cast<float*>(counts) + (1 + warp) * experts;
  for (int row = static_cast<int>(blockIdx.x) * kWarps + warp; row < rows;
       row += static_cast<int>(gridDim.x) * kWarps) {
    route_row<kPerLane>(p, row, values, counts);
  }
  if (p.routed.totals == nullptr) return;
  __syncthreads();
  for (int e = thread; e < experts; e += kThreads) {
    if (counts[e] == 0) continue;
    atomicAdd(reinterpret_cast<unsigned long long*>(p.routed.totals) + e,
              static_cast<unsigned long long>(counts[e]));
  }
}

}  // namespace

void route(const RouteShape& shape, const float* logits, const float* bias, RowCount rows,
           const Routed& routed, cudaStream_t stream) {
  MOESAIC_ASSERT(shape.experts > 0 && shape.experts <= kMostExperts && shape.parts > 0);
  MOESAIC_ASSERT(shape.top_k > 0 && shape.top_k <= kMostTopK && shape.top_k <= shape.experts);
  MOESAIC_ASSERT(shape.groups > 0 && shape.groups <= kMostGroups);
  MOESAIC_ASSERT(shape.experts % shape.groups == 0 && shape.top_groups <= shape.groups);
  MOESAIC_ASSERT(shape.top_k <= shape.experts / shape.groups * shape.top_groups ||
                 shape.groups == 1);
  if (rows.most == 0) return;
  const RouteParams p{shape, logits, bias, rows.count, routed};
  const int blocks =
      std::min((rows.most + kWarps - 1) / kWarps, kBlocksPerMultiprocessor * multiprocessors());
  const size_t lists = shape.groups > 1 ? 1 + kWarps : 1;
  const size_t shared = sizeof(int32_t) * lists * static_cast<size_t>(shape.experts);
  const auto start = [&](auto per_lane) {
    launch<route_kernel<per_lane()>>(dim3(static_cast<unsigned>(blocks)), dim3(kThreads), shared,
                                     stream, p);
  };
  if (shape.experts <= 32) {
    start(std::integral_constant<int, 1>());
  } else if (shape.experts <= 64) {
    start(std::integral_constant<int, 2>());
  } else if (shape.experts <= 128) {
    start(std::integral_constant<int, 4>());
  } else if (shape.experts <= 256) {
    start(std::integral_constant<int, 8>());
  } else {
    start(std::integral_constant<int, 16>());
  }
}

}  // namespace moesaic::backend::cuda
