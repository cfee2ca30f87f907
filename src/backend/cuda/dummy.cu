#include <algorithm>

#include "backend/cuda/device.cuh"
#include "backend/cuda/dummy.h"
#include "backend/cuda/launch.h"
#include "backend/dummy_inl.h"

namespace moesaic::backend::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 8;

__global__ void __launch_bounds__(kThreads)
    dummy_kernel(uint64_t seed, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols,
                 __nv_bfloat16* to) {
  begin_dependent();
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const uint32_t key = dummy_row_key(seed, first_row + row);
    for (int64_t col = threadIdx.x; col < cols; col += kThreads) {
      to[row * cols + col] =
          __float2bfloat16_rn(dummy_from_key(key, static_cast<uint32_t>(first_col + col)));
    }
  }
}

}  // namespace

void fill_dummy(uint64_t seed, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols,
                __nv_bfloat16* to, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(
      std::min<int64_t>(rows, int64_t{kBlocksPerMultiprocessor} * multiprocessors())));
  launch<dummy_kernel>(grid, dim3(kThreads), 0, stream, seed, first_row, rows, first_col, cols, to);
}

}  // namespace moesaic::backend::cuda
