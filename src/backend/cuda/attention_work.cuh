#pragma once

// What the attention kernels and their plan share.

#include "backend/cuda/attention.h"
#include "backend/cuda/device.cuh"

namespace moesaic::backend::cuda {

constexpr int kKeyBlock = 64;    // keys between two updates of a row's maximum
constexpr int kNarrowRows = 16;  // query rows of a decode tile
constexpr int kNoWindow = 1 << 30;
constexpr int kZeroBytes = kKeyBlock * 128;  // a panel of a key block

// Splits: 4 key blocks each to position 4096, 8 each to 16384, 16 each from there on. Short ones
// spread a short context over the device; long ones keep the results to fold few.
constexpr int kMostSplitBlocks = 16;

/// The split that a key block belongs to.
MOESAIC_ANYWHERE constexpr int split_of(int block) {
  return block < 64 ? block / 4 : block < 256 ? 16 + (block - 64) / 8 : 40 + (block - 256) / 16;
}
/// The first key block of a split.
MOESAIC_ANYWHERE constexpr int first_block(int split) {
  return split < 16 ? split * 4 : split < 40 ? 64 + (split - 16) * 8 : 256 + (split - 40) * 16;
}
MOESAIC_ANYWHERE constexpr bool ends_split(int block) {
  return (block & (block < 64    ? 3
                   : block < 256 ? 7
                                 : 15)) == (block < 64    ? 3
                                            : block < 256 ? 7
                                                          : 15);
}
static_assert(first_block(split_of(63) + 1) == 64 && first_block(split_of(255) + 1) == 256);

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
  size_t items[2], counters, cuts, zeros, maxima, partials, bytes;
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
  bool settled;  // see Settled
  int32_t kv_heads, group, head_dim, block_shift, window;
  float score_scale;  // of a raw product, for exp2
  float value_scale;
  const AttentionItem* items;
  const int32_t* item_count;
  int32_t* ticket;
  int32_t* counters;
  const int32_t* cuts;  // [cut tiles] an item of each
  const AttentionHeader* header;
  const uint8_t* zeros;  // kZeroBytes
  float2* maxima;        // (maximum, sum) of a partial row, the maximum in exp2's scale
  float* partials;
};

/// The kernels; `type` and `dim` (padded) choose among their instances.
void attention_narrow(const AttentionParams& params, KvType type, int dim, cudaStream_t stream);
void attention_wide(const AttentionParams& params, KvType type, int dim, cudaStream_t stream);
/// The kernels for Hopper: for decode where has_hopper_kernels, for prompts where
/// has_prompt_kernel.
bool has_hopper_kernels();
bool has_prompt_kernel(const AttentionShape& shape);
void attention_decode(const AttentionParams& params, KvType type, int dim, cudaStream_t stream);
void attention_prompt(const AttentionParams& params, int dim, cudaStream_t stream);

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

/// A barrier of `threads` threads of a block.
__device__ __forceinline__ void meet(int threads) {
  asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory");
}

/// Whether this block is the last of a tile's items to finish; then what all of them wrote can be
/// read. Called by `threads` threads, of which `first` is one.
__device__ __forceinline__ bool last_of_tile(int32_t* counter, int chunks, int threads,
                                             bool first) {
  __shared__ bool last;
  meet(threads);
  if (first) {
    __threadfence();  // for all threads, since it comes after the barrier
    last = atomicAdd(counter, 1) == chunks - 1;
    if (last) {
      *counter = 0;  // for the next layer
      __threadfence();
    }
  }
  meet(threads);
  return last;
}

/// Folds the partial results of row `r` of a cut tile with one KV head and writes its output; by
/// one warp.
template <int kDim>
__device__ __forceinline__ void fold_row(const AttentionParams& p, const AttentionItem& item,
                                         int head, int r) {
  constexpr int kParts = (kDim + 127) / 128;  // of four dims a lane
  constexpr int kAtOnce = 8 / kParts;         // slots loaded before the first is used
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int slots = 1 + item.last_end - item.first_end;
  const int64_t first =
      static_cast<int64_t>(item.partial_row) + static_cast<int64_t>(head) * item.rows + r;
  const int64_t step = static_cast<int64_t>(p.kv_heads) * item.rows;
  float maximum = kNegativeInfinity;
  float sum = 0;
  float4 values[kParts] = {};
  for (int base = 0; base < slots; base += 32) {
    const int count = min(32, slots - base);
    const float2 own = lane < count ? __ldcg(p.maxima + first + (base + lane) * step)
                                    : make_float2(kNegativeInfinity, 0.0f);
    float4 now[kAtOnce][kParts];
    const auto load = [&](int begin) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float* from = p.partials + (first + (base + begin + i) * step) * kDim;
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          const int d = part * 128 + lane * 4;
          if (begin + i >= count || d >= kDim) continue;
          now[i][part] = __ldcg(reinterpret_cast<const float4*>(from + d));
        }
      }
    };
    load(0);
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
    for (int begin = 0; begin < count; begin += kAtOnce) {
      if (begin > 0) load(begin);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (begin + i >= count) continue;
        const float factor_before = __shfl_sync(kAllLanes, factors.before, begin + i);
        const float factor_now = __shfl_sync(kAllLanes, factors.now, begin + i);
        sum = fold(sum, factor_before, __shfl_sync(kAllLanes, own.y, begin + i), factor_now);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          float4& v = values[part];
          v.x = fold(v.x, factor_before, now[i][part].x, factor_now);
          v.y = fold(v.y, factor_before, now[i][part].y, factor_now);
          v.z = fold(v.z, factor_before, now[i][part].z, factor_now);
          v.w = fold(v.w, factor_before, now[i][part].w, factor_now);
        }
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
