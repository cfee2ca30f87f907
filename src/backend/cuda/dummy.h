#pragma once

// Dummy weights made on the device: the values of ops.h's dummy_value, which every backend has.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace moesaic::backend::cuda {

/// Rows [first_row, first_row + rows) and columns [first_col, first_col + cols) of the dummy matrix
/// with `seed`, rounded, into `to` [rows, cols].
void fill_dummy(uint64_t seed, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols,
                __nv_bfloat16* to, cudaStream_t stream);

}  // namespace moesaic::backend::cuda
