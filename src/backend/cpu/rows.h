#pragma once

// Operators that work row by row, over the kernels of kernels_rows.h: each cuts its rows into tasks
// for the pool. Results never depend on how.

#include <algorithm>

#include "backend/cpu/isa.h"
#include "backend/cpu/kernels_rows.h"
#include "backend/host/host_ops.h"
#include "base/thread_pool.h"

namespace moesaic::backend::cpu {

/// Below this many floats a job costs less than waking the pool.
inline constexpr int64_t kSmallJob = 1 << 14;

/// Runs body(first, end) over `rows` cut for the pool, or at once when the work is small.
template <typename Body>
void over_rows(base::ThreadPool& pool, int64_t rows, int64_t floats_per_row, const Body& body) {
  if (rows <= 0) return;
  if (rows == 1 || rows * floats_per_row < kSmallJob) {
    body(0, rows);
    return;
  }
  const int64_t chunk = std::max<int64_t>(1, rows / (4 * pool.size()));
  pool.parallel_for((rows + chunk - 1) / chunk, [&](int64_t task, int) {
    body(task * chunk, std::min(rows, (task + 1) * chunk));
  });
}

/// The row kernels of an instruction set.
const RowTable& row_kernels(Isa isa);

/// A layer's cache as the kernels see it.
KvView view_of(const KvLayer& layer);
/// Bytes of one KV block.
size_t kv_block_bytes(const KvDesc& desc);

void rms_norm(base::ThreadPool& pool, const RowTable& kernels, const float* x, const float* weight,
              float eps, int64_t rows, int64_t width, float* out);
void add_rms_norm(base::ThreadPool& pool, const RowTable& kernels, float* residual,
                  const float* delta, const float* weight, float eps, int64_t rows, int64_t width,
                  float* out);
void qkv_rope_append(base::ThreadPool& pool, const RowTable& kernels, const AttentionDesc& desc,
                     const QkvInputs& inputs, int64_t rows, float* qkv, const KvLayer& cache);
void route(base::ThreadPool& pool, const RouterDesc& desc, const float* logits, int64_t rows,
           Routing& routing);

}  // namespace moesaic::backend::cpu
