#pragma once

// Operators that are not matrix products, over the kernels of kernels_misc.h: each cuts its work
// into tasks for the pool. Results never depend on how.

#include "backend/cpu/isa.h"
#include "backend/cpu/kernels_misc.h"
#include "backend/ops.h"
#include "base/thread_pool.h"

namespace moesaic::backend::cpu {

/// The kernels of an instruction set.
const MiscTable& misc_kernels(Isa isa);

/// Bytes of one KV block.
size_t kv_block_bytes(const KvDesc& desc);

/// Bytes of scratch that attention() needs for `threads` threads.
size_t attention_scratch_bytes(int threads);

void rms_norm(base::ThreadPool& pool, const MiscTable& kernels, const float* x, const float* weight,
              float eps, int64_t rows, int64_t width, float* out);
void add_rms_norm(base::ThreadPool& pool, const MiscTable& kernels, float* residual,
                  const float* delta, const float* weight, float eps, int64_t rows, int64_t width,
                  float* out);
void qkv_rope_append(base::ThreadPool& pool, const MiscTable& kernels, const AttentionDesc& desc,
                     const QkvInputs& inputs, int64_t rows, float* qkv, const KvLayer& cache);
/// `scratch`: attention_scratch_bytes(pool.size()) bytes, 64-byte aligned.
void attention(base::ThreadPool& pool, const MiscTable& kernels, const AttentionDesc& desc,
               const KvLayer& cache, const AttentionBatch& batch, const float* qkv, float* out,
               float* scratch);
void route(base::ThreadPool& pool, const RouterDesc& desc, const float* logits, int64_t rows,
           Routing& routing);

}  // namespace moesaic::backend::cpu
