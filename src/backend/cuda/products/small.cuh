#pragma once

// Products in float32 with few outputs: router logits. K is summed in segments of 64 inputs, each
// from its first input on, and the segments are added in order; both kernels do so.

#include "backend/cuda/products/args.cuh"

namespace moesaic::backend::cuda {

struct SmallArgs {
  const float* w = nullptr;  ///< [n, k]
  int n = 0;
  int k = 0;
  const uint8_t* x = nullptr;
  int64_t x_stride = 0;  ///< bytes
  int rows = 0;
  const int32_t* count = nullptr;
  const int32_t* index = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  Store store = Store::kF32;
};

inline constexpr int kSegment = 64;
inline constexpr int kFewOutputs = 8;  ///< of a block of small_few_kernel
inline constexpr int kManyTile = 32;   ///< outputs and rows of a block of small_many_kernel
inline constexpr int kManySharedBytes = 8 * (2 * 32 * 36 + 32 * 32) * 4;

/// A thread per output and segment.
template <class X, int kRows>
__global__ void __launch_bounds__(256) small_few_kernel(const __grid_constant__ SmallArgs a);
/// A warp per segment, eight at a time.
template <class X>
__global__ void __launch_bounds__(256, 2) small_many_kernel(const __grid_constant__ SmallArgs a);

}  // namespace moesaic::backend::cuda
