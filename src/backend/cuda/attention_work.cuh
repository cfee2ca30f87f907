#pragma once

// What the attention kernels and their plan share.

#include "backend/cuda/attention.h"
#include "backend/cuda/device.cuh"

namespace moesaic::backend::cuda {

constexpr int kKeyBlock = 64;    // keys between two updates of a row's maximum
constexpr int kSplitKeys = 256;  // keys between two folds
constexpr int kBlocksPerSplit = kSplitKeys / kKeyBlock;
constexpr int kNarrowRows = 16;  // query rows of a decode tile
constexpr int kNoWindow = 1 << 30;

/// A part of a tile's keys. A tile is some of a sequence's query rows with one KV head, where row i
/// of a sequence is query head i % group of the KV head at the sequence's token i / group. Every
/// item stands for kv_heads pieces of work.
struct AttentionItem {
  int32_t sequence;
  int32_t first_row;       // of the sequence in the step
  int32_t first_position;  // its position
  int32_t row;             // the tile's first row
  int32_t rows;            // of the tile
  int32_t chunks;          // items that this tile is cut into
  int32_t split_begin, split_end;
  int32_t first_end;    // where the tile's first item ends; it leaves one folded result,
  int32_t last_end;     // and each later split up to here one of its own
  int32_t partial_row;  // where those lie: row of (slot, head, row)
  int32_t tile;         // among the cut tiles
};
static_assert(sizeof(AttentionItem) == 48);

struct AttentionHeader {
  int32_t items[2];            // of the narrow and of the wide list
  int32_t tickets[2];          // work taken from each
  int32_t cut_begin, cut_end;  // the cut tiles of the wide list
};

/// Where the parts of the work memory lie, in bytes.
struct AttentionLayout {
  size_t items[2], counters, cuts, maxima, partials, bytes;
  int64_t item_capacity[2];
  int64_t partial_rows;

  AttentionLayout(const AttentionShape& shape, const AttentionLimits& limits, int work_slots);
};

struct AttentionParams {
  const __nv_bfloat16* q;
  int64_t q_stride;
  __nv_bfloat16* out;
  const uint8_t* cache;
  AttentionSequences sequences;
  int32_t kv_heads, group, head_dim, block_shift, window;
  float score_scale;  // of a raw product, for exp2
  float value_scale;
  const AttentionItem* items;
  const int32_t* item_count;
  int32_t* ticket;
  int32_t* counters;
  const int32_t* cuts;  // [cut tiles] an item of each
  const AttentionHeader* header;
  float2* maxima;  // (maximum, sum) of a partial row, the maximum in exp2's scale
  float* partials;
};

/// The kernels; `type` and `dim` (padded) choose among their instances.
void attention_narrow(const AttentionParams& params, KvType type, int dim, cudaStream_t stream);
void attention_wide(const AttentionParams& params, KvType type, int dim, cudaStream_t stream);
/// The kernel for prompts on Hopper, where has_prompt_kernel.
bool has_prompt_kernel(const AttentionShape& shape);
void attention_prompt(const AttentionParams& params, int dim, cudaStream_t stream);

/// A row's softmax so far: the maximum of scaled scores (-inf: nothing seen), the sum of weights.
struct SoftmaxRow {
  float maximum = kNegativeInfinity;
  float sum = 0;
};

/// The factors with which a fold takes what there was and what comes; the one place that defines
/// them.
struct FoldFactors {
  float maximum, before, now;

  __device__ __forceinline__ FoldFactors(float maximum_before, float maximum_now) {
    maximum = fmaxf(maximum_before, maximum_now);
    const float base = maximum == kNegativeInfinity ? 0.0f : maximum;
    before = exp2_fast(maximum_before - base);
    now = exp2_fast(maximum_now - base);
  }
};
__device__ __forceinline__ float fold(float before, float factor_before, float now,
                                      float factor_now) {
  return __fmaf_rn(now, factor_now, __fmul_rn(before, factor_before));
}

/// What a row's folded values are multiplied by in the end.
__device__ __forceinline__ float final_scale(float sum, float value_scale) {
  return __fmul_rn(__frcp_rn(sum), value_scale);
}

/// Where the output of row `packed` of a sequence's rows with KV head `head` begins.
__device__ __forceinline__ __nv_bfloat16* output_row(const AttentionParams& p, int first_row,
                                                     int packed, int head) {
  const int64_t row = first_row + packed / p.group;
  const int64_t query_head = head * p.group + packed % p.group;
  return p.out + (row * p.kv_heads * p.group + query_head) * p.head_dim;
}

/// Whether this block is the last of a tile's items to finish; then what all of them wrote can be
/// read. Called by all threads.
__device__ __forceinline__ bool last_of_tile(int32_t* counter, int chunks) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // for all of the block, since it comes after the barrier
    last = atomicAdd(counter, 1) == chunks - 1;
    if (last) *counter = 0;  // for the next layer
    __threadfence();
  }
  __syncthreads();
  return last;
}

/// Folds the partial results of row `r` of a cut tile with one KV head and writes its output; by
/// one warp, which has kAtOnce * kDim floats of shared memory for itself, at `staging`.
template <int kDim, int kAtOnce>
__device__ __forceinline__ void fold_row(const AttentionParams& p, const AttentionItem& item,
                                         int head, int r, float* staging) {
  constexpr int kParts = (kDim + 127) / 128;  // of four dims a lane
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int slots = 1 + item.last_end - item.first_end;
  const int64_t first =
      static_cast<int64_t>(item.partial_row) + static_cast<int64_t>(head) * item.rows + r;
  const int64_t step = static_cast<int64_t>(p.kv_heads) * item.rows;
  float maximum = kNegativeInfinity;
  float sum = 0;
  float4 values[kParts] = {};
  for (int base = 0; base < slots; base += kAtOnce) {
    const int count = min(kAtOnce, slots - base);
    // A lane reads what it copied itself.
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
      const float* from = p.partials + (first + (base + i) * step) * kDim;
#pragma unroll
      for (int d = lane * 4; d < kDim; d += 128) {
        copy_async(shared_address(staging + i * kDim + d), from + d, true);
      }
    }
    commit_copies();
    const float2 own = lane < count ? __ldcg(p.maxima + first + (base + lane) * step)
                                    : make_float2(kNegativeInfinity, 0.0f);
    float running = own.x;
#pragma unroll
    for (int shift = 1; shift < 32; shift <<= 1) {
      const float below = __shfl_up_sync(kAllLanes, running, shift);
      if (lane >= shift) running = fmaxf(running, below);
    }
    running = fmaxf(running, maximum);
    float before = __shfl_up_sync(kAllLanes, running, 1);
    if (lane == 0) before = maximum;
    const FoldFactors factors(before, own.x);
    wait_copies<0>();
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
      const float factor_before = __shfl_sync(kAllLanes, factors.before, i);
      const float factor_now = __shfl_sync(kAllLanes, factors.now, i);
      sum = fold(sum, factor_before, __shfl_sync(kAllLanes, own.y, i), factor_now);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int d = part * 128 + lane * 4;
        if (d >= kDim) continue;
        const float4 now = *reinterpret_cast<const float4*>(staging + i * kDim + d);
        float4& v = values[part];
        v.x = fold(v.x, factor_before, now.x, factor_now);
        v.y = fold(v.y, factor_before, now.y, factor_now);
        v.z = fold(v.z, factor_before, now.z, factor_now);
        v.w = fold(v.w, factor_before, now.w, factor_now);
      }
    }
    maximum = __shfl_sync(kAllLanes, running, 31);
  }
  const float scale = final_scale(sum, p.value_scale);
  __nv_bfloat16* out = output_row(p, item.first_row, item.row + r, head);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int d = part * 128 + lane * 4;
    if (d >= p.head_dim) continue;
    const float4 v = values[part];
    *reinterpret_cast<uint2*>(out + d) =
        make_uint2(pack_bf16(__fmul_rn(v.x, scale), __fmul_rn(v.y, scale)),
                   pack_bf16(__fmul_rn(v.z, scale), __fmul_rn(v.w, scale)));
  }
}

}  // namespace moesaic::backend::cuda
