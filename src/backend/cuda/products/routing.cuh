#pragma once

// What surrounds the experts' products at many rows: the plan that sorts pairs by expert, and the
// weighted sum over a row's experts.

#include "backend/cuda/products/args.cuh"
#include "backend/cuda/products/schedule.cuh"

namespace moesaic::backend::cuda {

inline constexpr int kPlanThreads = 1024;
inline constexpr int kMaxTopK = 16;
inline constexpr int kCombineOutputs = 2048;  ///< of a block

struct PlanArgs {
  const int32_t* ids = nullptr;
  int rows = 0;
  const int32_t* count = nullptr;
  int top_k = 1;
  int experts = 1;
  int tokens = 64;  ///< rows of a tile
  int32_t* first = nullptr;
  int32_t* tiles = nullptr;
  int32_t* pairs = nullptr;
};

/// One block per expert: each counts all pairs, so that none waits for another, and then places its
/// own in ascending order.
__global__ void __launch_bounds__(kPlanThreads, 1) plan_kernel(const __grid_constant__ PlanArgs a);

struct GatherArgs {
  const uint8_t* from = nullptr;
  int64_t from_stride = 0;  ///< bytes
  uint8_t* to = nullptr;
  int64_t to_stride = 0;  ///< bytes
  int bytes = 0;          ///< of a row, a multiple of 16
  ProductArgs product;    ///< plan, experts, x_reciprocal
};

/// Copies rows into the plan's order, so that tiles of them are neighbours. A warp has a row.
__global__ void __launch_bounds__(256) gather_kernel(const __grid_constant__ GatherArgs a);

struct RoundArgs {
  const uint8_t* from = nullptr;  ///< bf16 rows
  int64_t from_stride = 0;        ///< bytes
  uint8_t* to = nullptr;          ///< e4m3 [rows][tiles_k * 128]
  float* scales = nullptr;        ///< [tiles_k][scale_stride]
  int64_t scale_stride = 0;
  int rows = 0;
  ProductArgs
      product;  ///< k, tiles_k, count, top_k; plan, index and x_in_order where rows are gathered
};

/// Rounds rows to e4m3, in the plan's order where there is one. A warp has a row's tile of 128
/// inputs.
__global__ void __launch_bounds__(256) round_kernel(const __grid_constant__ RoundArgs a);

struct CombineArgs {
  const __nv_bfloat16* values = nullptr;  ///< [pairs, stride] each expert's output
  int64_t stride = 0;                     ///< elements, a multiple of 8
  const int32_t* ids = nullptr;
  const float* weights = nullptr;
  int top_k = 1;
  int experts = 1;
  ProductArgs out;  ///< y, y_stride, n, store, rows, count
};

/// y (+)= the weighted sum over the row's experts, ascending. A block has a row and 2048 outputs.
__global__ void __launch_bounds__(256) combine_kernel(const __grid_constant__ CombineArgs a);

}  // namespace moesaic::backend::cuda
