#include "backend/cuda/route.h"

#include <type_traits>

#include "backend/cuda/device.cuh"
#include "backend/cuda/launch.h"

namespace moesaic::backend::cuda {
namespace {

constexpr int kWarps = 32;  // of a block, each routes a row
constexpr int kThreads = 32 * kWarps;
constexpr int kMostExperts = 512;
constexpr int kMostTopK = 16;
constexpr int kMostGroups = 32;
constexpr int kNoExpert = INT32_MAX;

struct RouteParams {
  RouteShape shape;
  const float* logits;
  const float* bias;
  const int32_t* count;
  Routed routed;
  int32_t* ticket;
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

/// One row by one warp; lane i has experts i, i + 32, ...
template <int kPerLane>
__device__ void route_row(const RouteParams& p, int row, float* values) {
  const RouteShape& shape = p.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* logits = p.logits + static_cast<int64_t>(row) * shape.experts;
  uint32_t keys[kPerLane];  // 0: not there, or chosen already
  uint32_t best = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = i * 32 + lane;
    keys[i] = expert < shape.experts ? order_key(logits[expert]) : 0;
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
  float weight = has ? scorer.score(logits[chosen]) : 0.0f;
  if (shape.renormalize) weight /= warp_sum(weight);
  if (!has) return;
  const int64_t slot = static_cast<int64_t>(row) * shape.top_k + lane;
  p.routed.experts[slot] = chosen;
  p.routed.weights[slot] = weight * shape.scale;
}

/// Walks the warp's share of the slots in ascending batches of 32, all lanes together. `own` counts
/// by expert: f(slot, place) gets the count before the slot, and the count grows by one a slot.
template <typename F>
__device__ void count_slots(const int32_t* experts, int slots, int32_t* own, F&& f) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int share = (slots + kThreads - 1) / kThreads * 32;
  const int end = min(slots, (warp + 1) * share);
  for (int base = warp * share; base < end; base += 32) {
    const int slot = base + lane;
    const bool present = slot < end;
    const int expert = present ? __ldcg(experts + slot) : kNoExpert;
    const unsigned same = __match_any_sync(kAllLanes, expert);
    const int before = __popc(same & ((1u << lane) - 1));
    const int count = present ? own[expert] : 0;
    if (present) f(slot, count + before);
    __syncwarp();
    if (present && before == 0) own[expert] = count + __popc(same);
    __syncwarp();
  }
}

/// A stable counting sort of all slots by one block. Every warp counts its share; sums over the
/// warps before it and the experts before an expert say where its slots go.
__device__ void build_lists(const RouteParams& p, int rows, int32_t* counts) {
  const int experts = p.shape.experts;
  const int slots = rows * p.shape.top_k;
  const auto thread = static_cast<int>(threadIdx.x);
  int32_t* own = counts + thread / 32 * experts;
  for (int i = thread; i < kWarps * experts; i += kThreads) counts[i] = 0;
  __syncthreads();
  count_slots(p.routed.experts, slots, own, [](int, int) {});
  __syncthreads();
  __shared__ int32_t sums[kWarps];
  int total = 0;
  if (thread < experts) {
    for (int w = 0; w < kWarps; ++w) {
      const int32_t count = counts[w * experts + thread];
      counts[w * experts + thread] = total;
      total += count;
    }
  }
  int sum = total;
  for (int step = 1; step < 32; step <<= 1) {
    const int below = __shfl_up_sync(kAllLanes, sum, step);
    if (thread % 32 >= step) sum += below;
  }
  if (thread % 32 == 31) sums[thread / 32] = sum;
  __syncthreads();
  int offset = sum - total;
  for (int w = 0; w < thread / 32; ++w) offset += sums[w];
  if (thread < experts) {
    p.routed.counts[thread] = total;
    p.routed.offsets[thread] = offset;
    if (thread == experts - 1) p.routed.offsets[experts] = offset + total;
    if (p.routed.totals != nullptr) p.routed.totals[thread] += static_cast<uint64_t>(total);
    for (int w = 0; w < kWarps; ++w) counts[w * experts + thread] += offset;
  }
  __syncthreads();
  count_slots(p.routed.experts, slots, own,
              [&](int slot, int place) { p.routed.slots[place] = slot; });
}

template <int kPerLane>
__global__ __launch_bounds__(kThreads) void route_kernel(const RouteParams p) {
  extern __shared__ int32_t shared[];  // [kWarps, experts]
  begin_dependent();
  const int rows = *p.count;
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int row = static_cast<int>(blockIdx.x) * kWarps + warp;
  const int blocks = max(1, (rows + kWarps - 1) / kWarps);
  if (static_cast<int>(blockIdx.x) >= blocks) return;
  if (row < rows) {
    route_row<kPerLane>(p, row, reinterpret_cast<float*>(shared) + warp * p.shape.experts);
  }
  // The last block to finish makes the lists.
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = blocks == 1 || atomicAdd(p.ticket, 1) == blocks - 1;
    if (last && blocks > 1) *p.ticket = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  build_lists(p, rows, shared);
}

}  // namespace

void route(const RouteShape& shape, const float* logits, const float* bias, RowCount rows,
           const Routed& routed, int32_t* ticket, cudaStream_t stream) {
  MOESAIC_ASSERT(shape.experts > 0 && shape.experts <= kMostExperts);
  MOESAIC_ASSERT(shape.top_k > 0 && shape.top_k <= kMostTopK && shape.top_k <= shape.experts);
  MOESAIC_ASSERT(shape.groups > 0 && shape.groups <= kMostGroups);
  MOESAIC_ASSERT(shape.experts % shape.groups == 0 && shape.top_groups <= shape.groups);
  MOESAIC_ASSERT(shape.top_k <= shape.experts / shape.groups * shape.top_groups ||
                 shape.groups == 1);
  const RouteParams p{shape, logits, bias, rows.count, routed, ticket};
  const auto grid = static_cast<unsigned>((rows.most + kWarps - 1) / kWarps);
  const size_t shared = sizeof(int32_t) * kWarps * static_cast<size_t>(shape.experts);
  const auto start = [&](auto per_lane) {
    launch<route_kernel<per_lane()>>(dim3(grid > 0 ? grid : 1), dim3(kThreads), shared, stream, p);
  };
  if (shape.experts <= 32) return start(std::integral_constant<int, 1>());
  if (shape.experts <= 64) return start(std::integral_constant<int, 2>());
  if (shape.experts <= 128) return start(std::integral_constant<int, 4>());
  if (shape.experts <= 256) return start(std::integral_constant<int, 8>());
  start(std::integral_constant<int, 16>());
}

}  // namespace moesaic::backend::cuda
