#pragma once

// What a kernel must know of an element format: how many inputs a 128-byte tile row holds, and how
// 32 bytes of each of a slab's rows, as ldmatrix hands them out, become bf16 A fragments. A new
// weight type is one more struct here.

#include <cstdint>

#include "backend/cuda/products/ptx.cuh"

namespace moesaic::backend::cuda {

struct BF16 {
  static constexpr int kTileK = 64;
  static constexpr bool kRounded = false;  ///< activations are e4m3 too
  static constexpr bool kOutputScales = false;
  /// Fragments of 16 inputs that one ldmatrix.x4 gives.
  static constexpr int kSteps = 1;
  __device__ static __forceinline__ void unpack(const uint32_t (&raw)[4],
                                                uint32_t (&a)[kSteps][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[0][i] = raw[i];
  }
};

/// Two e4m3 in bytes 1 and 3 of `bytes` as bf16, exactly: the exponent moves from bias 7 to 127 by
/// a multiplication, which makes subnormals right too. The two NaN codes become +-480.
__device__ __forceinline__ uint32_t widen_e4m3(uint32_t bytes) {
  const uint32_t shifted = (bytes & 0x80008000u) | ((bytes >> 4) & 0x07f007f0u);
  uint32_t wide;
  // * 2^120 + (-0), since bf16x2 has a fused multiply-add before it has a multiplication.
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(wide)
      : "r"(shifted), "r"(0x7b807b80u), "r"(0x80008000u));
  return wide;
}

struct E4M3 {
  static constexpr int kTileK = 128;
  static constexpr bool kRounded = false;
  static constexpr bool kOutputScales = true;
  static constexpr int kSteps = 2;
  /// A lane's four bytes are inputs 2t, 2t+1, 2t+8, 2t+9 of one output and 16 inputs (layout.h).
  __device__ static __forceinline__ void unpack(const uint32_t (&raw)[4],
                                                uint32_t (&a)[kSteps][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i / 2][i % 2] = widen_e4m3(__byte_perm(raw[i], 0, 0x1404));
      a[i / 2][i % 2 + 2] = widen_e4m3(__byte_perm(raw[i], 0, 0x3424));
    }
  }
};

/// Activations rounded to e4m3: a scale per row and 128 inputs, a tile.
struct Rounding {
  float scale;
  float inverse;
  __device__ static __forceinline__ Rounding of(float most) {
    constexpr float kMost = 448.0f;
    return {__fmul_rn(most, 1.0f / kMost), most > 0.0f ? __fdiv_rn(kMost, most) : 0.0f};
  }
  /// Two of them, the first in the low byte.
  __device__ __forceinline__ uint32_t pair(float low, float high) const {
    uint16_t r = 0;
#ifdef MOESAIC_BULK
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
        : "=h"(r)
        : "f"(__fmul_rn(high, inverse)), "f"(__fmul_rn(low, inverse)));
#endif
    return r;
  }
};

/// Both sides e4m3; a tile's sum is scaled and added, since the tensor cores sum e4m3 with few
/// bits. Tiles serve every number of rows: mma.sync of e4m3 is made of f16 products on compute
/// capability 9.0, whose sums have other bits than those of wgmma.
struct E4M3Rounded {
  static constexpr int kTileK = 128;
  static constexpr bool kRounded = true;
  static constexpr bool kOutputScales = true;
  static constexpr int kSteps = 2;
};

}  // namespace moesaic::backend::cuda
