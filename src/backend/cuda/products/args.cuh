#pragma once

// What every product kernel is told, and what becomes of the sums: the same code after every
// kernel, with its roundings spelled out, so that all kernels give the same bits.

#include <cuda.h>

#include <cstdint>

#include "backend/cuda/products/layout.h"
#include "backend/cuda/products/ptx.cuh"

namespace moesaic::backend::cuda {

/// Pairs are (row, place in its top-k) in row-major order: pair p belongs to row p / top_k. The
/// plan sorts them by expert. Without experts a pair is a row.
struct Plan {
  const int32_t* first = nullptr;  ///< [experts + 1] where an expert's pairs begin in `pairs`
  const int32_t* tiles = nullptr;  ///< [experts + 1] token tiles of the experts before
  const int32_t* pairs = nullptr;  ///< [rows * top_k]
};

/// What tensor copies read.
struct TensorMaps {
  CUtensorMap rows;  ///< [row][input], boxes of rows by 128 bytes, swizzled
};

struct ProductArgs {
  const uint8_t* weights = nullptr;  ///< first tile of the first expert
  int64_t expert_bytes = 0;
  int64_t scales = 0;  ///< bytes from an expert's first tile to its scales
  bool block_scales = false;
  int slabs = 0;  ///< of 16 outputs, those of the last tile that are padding left out
  int tiles_n = 0;
  int tiles_k = 0;
  int chunk_tiles = 0;  ///< tiles per partial sum; tiles_k where there is one chunk
  int chunks = 1;
  int scaled_tiles = 1;  ///< tiles per block scale: 1, where the compiler must not know it

  const uint8_t* x = nullptr;
  int64_t x_stride = 0;             ///< bytes
  int64_t x_rows = 0;               ///< that there can be
  bool x_in_order = false;          ///< rows of x lie in the order of the plan's pairs
  bool h_by_pair = false;           ///< h is written by pair, not in the plan's order
  const float* x_scales = nullptr;  ///< of rounded activations, [tiles_k][x_scale_stride rows]
  int64_t x_scale_stride = 0;       ///< a multiple of 4
  int k = 0;
  int rows = 0;
  const int32_t* count = nullptr;
  const int32_t* index = nullptr;
  /// ceil(2^32 / d) where pair p reads x row p / d, exact for p < 2^28 and d <= 16; 0: row p.
  uint32_t x_reciprocal = 0;

  const int32_t* ids = nullptr;  ///< [rows, top_k]
  const float* route_weights = nullptr;
  int top_k = 1;
  int experts = 1;
  Plan plan;

  void* y = nullptr;
  int64_t y_stride = 0;  ///< elements
  int n = 0;
  Store store = Store::kF32;
  const float* bias = nullptr;
  bool weigh = false;        ///< multiply by the pair's routing weight while storing
  bool stream_once = false;  ///< weights are read once in the call: keep them out of the L2's way

  __device__ __forceinline__ int row_count() const {
    return count == nullptr ? rows : min(rows, *count);
  }
  /// The row of x that pair p reads, before `index`.
  __device__ __forceinline__ int x_row(int p) const {
    return x_reciprocal == 0 ? p : static_cast<int>(__umulhi(p, x_reciprocal));
  }
};

// --- Roundings.

__device__ __forceinline__ float silu_times(float gate, float up) {
  return __fmul_rn(__fdividef(gate, __fadd_rn(1.0f, __expf(-gate))), up);
}

/// A routed expert's output before it is weighed: bf16, since at many rows it goes through memory.
__device__ __forceinline__ float expert_output(float sum) {
  return __bfloat162float(__float2bfloat16_rn(sum));
}

/// One term of the weighted sum over a row's experts; the first term has no sum before it.
__device__ __forceinline__ float add_weighted(float sum, float weight, float value, bool first) {
  return first ? __fmul_rn(weight, value) : __fmaf_rn(weight, value, sum);
}

/// *y += value without waiting for *y. Every output has one adder in a call, so the order is fixed.
__device__ __forceinline__ void add_to(float* y, float value) {
  asm volatile("red.global.add.f32 [%0], %1;" ::"l"(y), "f"(value) : "memory");
}

/// Writes one finished sum.
__device__ __forceinline__ void store_sum(const ProductArgs& a, int64_t row, int channel,
                                          float value) {
  const int64_t at = row * a.y_stride + channel;
  if (a.store == Store::kBF16) {
    static_cast<__nv_bfloat16*>(a.y)[at] = __float2bfloat16_rn(value);
  } else if (a.store == Store::kF32) {
    static_cast<float*>(a.y)[at] = value;
  } else {
    add_to(static_cast<float*>(a.y) + at, value);
  }
}

/// Writes four neighbouring sums of one row, weighed if the call asks for it; outputs past n are
/// padding.
__device__ __forceinline__ void store_sums(const ProductArgs& a, int64_t row, int channel,
                                           float4 sums) {
  if (a.weigh) {
    const float weight = a.route_weights[row];
    sums = make_float4(__fmul_rn(weight, sums.x), __fmul_rn(weight, sums.y),
                       __fmul_rn(weight, sums.z), __fmul_rn(weight, sums.w));
  }
  float* y = static_cast<float*>(a.y) + row * a.y_stride + channel;
  if (channel + 3 < a.n && (reinterpret_cast<uintptr_t>(y) & 15) == 0) {
    if (a.store == Store::kF32) {
      *reinterpret_cast<float4*>(y) = sums;
    } else {
#ifdef MOESAIC_BULK
      asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(y), "f"(sums.x),
                   "f"(sums.y), "f"(sums.z), "f"(sums.w)
                   : "memory");
#endif
    }
    return;
  }
  const float v[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (channel + i < a.n) store_sum(a, row, channel + i, v[i]);
  }
}

/// Writes eight neighbouring values; those of h may be written past the width.
template <bool kPadded>
__device__ __forceinline__ void store_bf16(const ProductArgs& a, int64_t row, int channel,
                                           uint4 values) {
  auto* y = static_cast<__nv_bfloat16*>(a.y) + row * a.y_stride + channel;
  if (kPadded) {
    if (channel < a.y_stride) *reinterpret_cast<uint4*>(y) = values;
    return;
  }
  if (channel + 7 < a.n && (reinterpret_cast<uintptr_t>(y) & 15) == 0) {
    *reinterpret_cast<uint4*>(y) = values;
    return;
  }
  const uint32_t words[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (channel + i < a.n) {
      y[i] = __ushort_as_bfloat16(static_cast<unsigned short>(words[i / 2] >> (i % 2 * 16)));
    }
  }
}

// --- Fragments: lane 4 g + t of a warp holds outputs g and g + 8 of a slab for rows 2t and 2t + 1
// of 8: c[0], c[1] are output g, c[2], c[3] output g + 8.

/// What a lane needs of its slab.
struct SlabValues {
  int slab = 0;
  float scale[2] = {1.0f, 1.0f};
  float bias[2] = {0.0f, 0.0f};
};

template <class F>
__device__ __forceinline__ SlabValues slab_values(const ProductArgs& a, int expert, int slab) {
  SlabValues v;
  v.slab = slab;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int channel = slab * kSlabRows + lane / 4 + 8 * half;
    if (F::kOutputScales && !a.block_scales) {
      const auto* scales =
          reinterpret_cast<const float*>(a.weights + expert * a.expert_bytes + a.scales);
      v.scale[half] = __ldg(scales + channel);
    }
    if (a.bias != nullptr && channel < a.n) v.bias[half] = __ldg(a.bias + channel);
  }
  return v;
}

template <class F>
__device__ __forceinline__ float scaled(const ProductArgs& a, const SlabValues& v, int half,
                                        float sum) {
  if (F::kOutputScales && !a.block_scales) sum = __fmul_rn(sum, v.scale[half]);
  return a.bias == nullptr ? sum : __fadd_rn(sum, v.bias[half]);
}

/// The scales of a slab's outputs g and g + 8 for tile k of K, in a format with block scales.
struct BlockScales {
  float half[2];
};
__device__ __forceinline__ BlockScales block_scales(const ProductArgs& a, int expert, int slab,
                                                    int k) {
  const auto* scales =
      reinterpret_cast<const float2*>(a.weights + expert * a.expert_bytes + a.scales);
  const float2 v = __ldg(scales + static_cast<int64_t>(slab) * a.tiles_k + k);
  return {{v.x, v.y}};
}
/// Element i of a fragment, `chunk` of which was summed by itself.
__device__ __forceinline__ float add_scaled(float sum, float chunk, const BlockScales& s, int i) {
  return __fmaf_rn(chunk, s.half[i / 2 % 2], sum);
}

/// Stores a fragment of 8 rows. `pair_of(i)` names the pair of row i of the 8; `valid` rows exist.
/// All lanes of the warp take part.
template <class F, bool kSilu, class PairOf>
__device__ __forceinline__ void store_fragment(const ProductArgs& a, const SlabValues& v,
                                               const float (&c)[4], int valid,
                                               const PairOf& pair_of) {
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const float sums[4] = {scaled<F>(a, v, 0, c[0]), scaled<F>(a, v, 0, c[1]),
                         scaled<F>(a, v, 1, c[2]), scaled<F>(a, v, 1, c[3])};
  if constexpr (kSilu) {
    const uint32_t h =
        transpose_matrix(pack_bf16(silu_times(sums[0], sums[2]), silu_times(sums[1], sums[3])));
    const int64_t channel = v.slab * 8 + 2 * t;
    if (g < valid && channel < a.y_stride) {
      auto* y = static_cast<__nv_bfloat16*>(a.y) + pair_of(g) * a.y_stride + channel;
      *reinterpret_cast<uint32_t*>(y) = h;
    }
  } else if (a.store == Store::kBF16) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t y2 = transpose_matrix(pack_bf16(sums[2 * half], sums[2 * half + 1]));
      const int channel = v.slab * kSlabRows + 8 * half + 2 * t;
      if (g >= valid || channel >= a.n) continue;
      auto* y = static_cast<__nv_bfloat16*>(a.y) + pair_of(g) * a.y_stride + channel;
      if (channel + 1 < a.n && a.y_stride % 2 == 0) {
        *reinterpret_cast<uint32_t*>(y) = y2;
      } else {
        y[0] = __ushort_as_bfloat16(static_cast<unsigned short>(y2));
        if (channel + 1 < a.n) y[1] = __ushort_as_bfloat16(static_cast<unsigned short>(y2 >> 16));
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = 2 * t + i;
      if (row >= valid) continue;
      const int64_t pair = pair_of(row);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int channel = v.slab * kSlabRows + g + 8 * half;
        float sum = sums[2 * half + i];
        if (a.weigh) sum = __fmul_rn(a.route_weights[pair], sum);
        if (channel < a.n) store_sum(a, pair, channel, sum);
      }
    }
  }
}

}  // namespace moesaic::backend::cuda
