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
constexpr int kMostRowsOfOneList = 64;  // for more rows many blocks make the lists
constexpr int kTicketInts = 64;

int blocks_for(int rows) { return rows > kWarps ? (rows + kWarps - 1) / kWarps : 1; }

struct RouteParams {
  RouteShape shape;
  const float* logits;
  const float* bias;
  const int32_t* count;
  Routed routed;
  int32_t* ticket;
  int32_t* block_counts;  // [blocks, experts]
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

/// Walks a warp's slots [begin, end) in ascending batches of 32, all lanes together. `own` counts
/// by expert: f(slot, place) gets the count before the slot, and the count grows by one a slot.
template <typename F>
__device__ void count_slots(const int32_t* experts, int begin, int end, int32_t* own, F&& f) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int base = begin; base < end; base += 32) {
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

/// A stable counting sort of slots [begin, end) by one block, whose warps take equal shares of
/// them. `others(expert)` gives the number of an expert's slots before `begin` and that of all of
/// them; the block with `writes_counts` writes counts and offsets.
template <typename Others>
__device__ void sort_slots(const RouteParams& p, int begin, int end, int32_t* counts,
                           bool writes_counts, Others&& others) {
  const int experts = p.shape.experts;
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int share = (end - begin + kThreads - 1) / kThreads * 32;
  const int warps = share > 0 ? (end - begin + share - 1) / share : 0;  // that have a share
  const int own_begin = min(end, begin + warp * share);
  const int own_end = min(end, own_begin + share);
  int32_t* own = counts + warp * experts;
  for (int i = thread; i < warps * experts; i += kThreads) counts[i] = 0;
  __syncthreads();
  count_slots(p.routed.experts, own_begin, own_end, own, [](int, int) {});
  __syncthreads();
  __shared__ int32_t sums[kWarps];
  int mine = 0;  // the expert's slots in this block
  for (int w = 0; thread < experts && w < warps; ++w) mine += counts[w * experts + thread];
  const int2 other = thread < experts ? others(thread, mine) : make_int2(0, 0);
  int sum = other.y;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const int below = __shfl_up_sync(kAllLanes, sum, step);
    if (thread % 32 >= step) sum += below;
  }
  if (thread % 32 == 31) sums[warp] = sum;
  __syncthreads();
  if (thread < experts) {
    int offset = sum - other.y;
    for (int w = 0; w < warp; ++w) offset += sums[w];
    if (writes_counts) {
      p.routed.counts[thread] = other.y;
      p.routed.offsets[thread] = offset;
      if (thread == experts - 1) p.routed.offsets[experts] = offset + other.y;
      if (p.routed.totals != nullptr) p.routed.totals[thread] += static_cast<uint64_t>(other.y);
    }
    int place = offset + other.x;
    for (int w = 0; w < warps; ++w) {
      const int32_t count = counts[w * experts + thread];
      counts[w * experts + thread] = place;
      place += count;
    }
  }
  __syncthreads();
  count_slots(p.routed.experts, own_begin, own_end, own,
              [&](int slot, int place) { p.routed.slots[place] = slot; });
}

/// Routes a row a warp. The last block to finish makes the lists, or, with kManyBlocks, every block
/// leaves its counts for list_kernel.
template <int kPerLane, bool kManyBlocks>
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
  __syncthreads();
  if constexpr (kManyBlocks) {
    const int begin = static_cast<int>(blockIdx.x) * kWarps * p.shape.top_k;
    const int end = min(rows * p.shape.top_k, begin + kWarps * p.shape.top_k);
    for (int e = static_cast<int>(threadIdx.x); e < p.shape.experts; e += kThreads) shared[e] = 0;
    __syncthreads();
    for (int slot = begin + static_cast<int>(threadIdx.x); slot < end; slot += kThreads) {
      atomicAdd(&shared[p.routed.experts[slot]], 1);
    }
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < p.shape.experts; e += kThreads) {
      p.block_counts[static_cast<int64_t>(blockIdx.x) * p.shape.experts + e] = shared[e];
    }
  } else {
    __shared__ bool last;
    if (threadIdx.x == 0) {
      last = blocks == 1;
      if (blocks > 1) {
        __threadfence();
        last = atomicAdd(p.ticket, 1) == blocks - 1;
        if (last) *p.ticket = 0;
        __threadfence();
      }
    }
    __syncthreads();
    if (!last) return;
    sort_slots(p, 0, rows * p.shape.top_k, shared, true,
               [](int, int mine) { return make_int2(0, mine); });
  }
}

/// The lists of a step of many rows, from the counts of route_kernel's blocks; block by block.
__global__ __launch_bounds__(kThreads) void list_kernel(const RouteParams p) {
  extern __shared__ int32_t shared[];
  __shared__ int2 others[kMostExperts];
  begin_dependent();
  const int rows = *p.count;
  const int experts = p.shape.experts;
  const int blocks = max(1, (rows + kWarps - 1) / kWarps);
  const auto block = static_cast<int>(blockIdx.x);
  if (block >= blocks) return;
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) others[e] = {0, 0};
  __syncthreads();
  // Sums over blocks, by as many threads an expert as there are.
  const int parts = max(1, kThreads / experts);
  const int expert = static_cast<int>(threadIdx.x) % experts;
  const int part = static_cast<int>(threadIdx.x) / experts;
  if (part < parts) {
    int before = 0;
    int all = 0;
#pragma unroll 8
    for (int b = part; b < blocks; b += parts) {
      const int count = p.block_counts[static_cast<int64_t>(b) * experts + expert];
      all += count;
      if (b < block) before += count;
    }
    atomicAdd(&others[expert].x, before);
    atomicAdd(&others[expert].y, all);
  }
  __syncthreads();
  const int begin = block * kWarps * p.shape.top_k;
  const int end = min(rows * p.shape.top_k, begin + kWarps * p.shape.top_k);
  sort_slots(p, begin, end, shared, block == 0, [&](int e, int) { return others[e]; });
}

}  // namespace

size_t route_work_bytes(const RouteShape& shape, int rows) {
  return sizeof(int32_t) *
         (kTicketInts + static_cast<size_t>(shape.experts) * static_cast<size_t>(blocks_for(rows)));
}

void route(const RouteShape& shape, const float* logits, const float* bias, RowCount rows,
           const Routed& routed, void* work, cudaStream_t stream) {
  MOESAIC_ASSERT(shape.experts > 0 && shape.experts <= kMostExperts);
  MOESAIC_ASSERT(shape.top_k > 0 && shape.top_k <= kMostTopK && shape.top_k <= shape.experts);
  MOESAIC_ASSERT(shape.groups > 0 && shape.groups <= kMostGroups);
  MOESAIC_ASSERT(shape.experts % shape.groups == 0 && shape.top_groups <= shape.groups);
  MOESAIC_ASSERT(shape.top_k <= shape.experts / shape.groups * shape.top_groups ||
                 shape.groups == 1);
  auto* ints = static_cast<int32_t*>(work);
  const RouteParams p{shape, logits, bias, rows.count, routed, ints, ints + kTicketInts};
  const dim3 grid(static_cast<unsigned>(blocks_for(rows.most)));
  const size_t shared = sizeof(int32_t) * kWarps * static_cast<size_t>(shape.experts);
  const bool many_blocks = rows.most > kMostRowsOfOneList;
  const auto start = [&](auto per_lane) {
    if (many_blocks) {
      launch<route_kernel<per_lane(), true>>(grid, dim3(kThreads), shared, stream, p);
    } else {
      launch<route_kernel<per_lane(), false>>(grid, dim3(kThreads), shared, stream, p);
    }
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
  if (many_blocks) launch<list_kernel>(grid, dim3(kThreads), shared, stream, p);
}

}  // namespace moesaic::backend::cuda
