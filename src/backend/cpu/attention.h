#pragma once

// Attention over the kernels of kernels_attention.h: a step's rows and heads are cut into tiles
// once, and each layer's call hands them to the pool. Results never depend on how.

#include "backend/cpu/isa.h"
#include "backend/cpu/kernels_attention.h"
#include "backend/host/host_ops.h"
#include "base/thread_pool.h"

namespace moesaic::backend::cpu {

/// The attention kernels of an instruction set.
const AttentionTable& attention_kernels(Isa isa);

/// Bytes of scratch that attention() needs for `threads` threads.
size_t attention_scratch_bytes(int threads);

std::unique_ptr<AttentionPlan> plan_attention(const base::ThreadPool& pool,
                                              const AttentionDesc& desc,
                                              const AttentionBatch& batch);
/// `scratch`: attention_scratch_bytes(pool.size()) bytes, 64-byte aligned. `plan` is of
/// plan_attention with this pool, description and batch.
void attention(base::ThreadPool& pool, const AttentionTable& kernels, const AttentionDesc& desc,
               const KvLayer& cache, const AttentionBatch& batch, const AttentionPlan& plan,
               const float* qkv, float* out, float* scratch);

}  // namespace moesaic::backend::cpu
