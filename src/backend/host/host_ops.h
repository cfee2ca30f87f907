#pragma once

// The small operators that the backends on host memory are composed of (host_backend.h): floats
// row-major in and out, one operator a call. `reference/` and `cpu/` implement them; the operator
// suite checks each alone.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/ops.h"

namespace moesaic::backend {

/// Inputs of qkv_rope_append beside the projections.
struct QkvInputs {
  const float* q_norm = nullptr;  ///< [head_dim] or [heads * head_dim]
  const float* k_norm = nullptr;  ///< [head_dim] or [kv_heads * head_dim]
  /// Of kFull over several ranks: each row's sum of squares of q and of k over all heads, [rows,
  /// 2]; null: the rows' own.
  const float* squares = nullptr;
  const float* cos = nullptr;      ///< [rows, rotary_dim / 2]
  const float* sin = nullptr;      ///< [rows, rotary_dim / 2]
  std::span<const int64_t> slots;  ///< [rows] block * block_size + offset, where K and V go
};

/// How the rows of a step belong to sequences: StepBatch's arrays.
struct AttentionBatch {
  std::span<const int32_t> seq_starts;    ///< [S + 1]
  std::span<const int32_t> context_lens;  ///< [S]
  std::span<const int32_t> block_tables;  ///< [S, max_blocks]
  int64_t max_blocks = 0;
};

/// What attention works out of a batch once for all layers of one shape.
class AttentionPlan {
 public:
  virtual ~AttentionPlan() = default;
};

/// For each row the chosen experts and their weights, best first. A negative expert is none of this
/// rank's: the choice is passed over.
struct Routing {
  int64_t rows = 0;
  int64_t top_k = 0;
  std::vector<int32_t> experts;  ///< [rows, top_k]
  std::vector<float> weights;    ///< [rows, top_k]

  /// Every row to expert 0 with weight 1: a dense FFN.
  static Routing dense(int64_t rows);
};

class HostOps {
 public:
  virtual ~HostOps() = default;

  virtual std::string_view name() const = 0;
  virtual std::string layout_id() const = 0;
  virtual std::string description() const = 0;
  virtual Unsupported supports(const WeightFormat& format) const = 0;

  virtual size_t packed_bytes(const MatrixDesc& desc) const = 0;
  virtual size_t packed_bytes(const ExpertsDesc& desc) const = 0;
  virtual int64_t pack_units(const MatrixDesc& desc) const = 0;
  virtual int64_t pack_units(const ExpertsDesc& desc) const = 0;
  virtual PackUnit pack_unit(const MatrixDesc& desc, int64_t unit) const = 0;
  virtual PackUnit pack_unit(const ExpertsDesc& desc, int64_t unit) const = 0;
  virtual void pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
                    std::byte* destination) const = 0;
  virtual void pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
                    std::byte* destination) const = 0;

  virtual size_t kv_block_bytes(const KvDesc& desc) const = 0;

  /// Scratch the operators need for at most `max_rows` rows of experts of that shape; allocated by
  /// reserve(), which keeps the larger of what it has and what is asked for.
  virtual size_t scratch_bytes(const ModelShape::Ffn& ffn, int64_t max_rows) const = 0;
  virtual void reserve(const ModelShape::Ffn& ffn, int64_t max_rows) = 0;

  // --- operators; `rows` may be 0.

  /// out [rows, k] = row ids[i] of the table; an id outside [0, n) gives zeros.
  virtual void embed(const Matrix& table, std::span<const int32_t> ids, float* out) = 0;

  /// out = x * rsqrt(mean(x^2) + eps) * weight, per row of `width`.
  virtual void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
                        float* out) = 0;

  /// residual += delta, then out = rms_norm(residual).
  virtual void add_rms_norm(float* residual, const float* delta, const float* weight, float eps,
                            int64_t rows, int64_t width, float* out) = 0;

  /// y [rows, stride], columns [0, n) = x [rows, k] W^T + bias (bias may be null).
  virtual void linear(const Matrix& w, const float* bias, const float* x, int64_t rows, float* y,
                      int64_t stride) = 0;

  /// In place on qkv [rows, (heads + 2 kv_heads) * head_dim]: QK-norm, clip, rope on q and k; then
  /// writes k and v into the cache at `slots`.
  virtual void qkv_rope_append(const AttentionDesc& desc, const QkvInputs& inputs, int64_t rows,
                               float* qkv, const KvLayer& cache) = 0;

  /// What attention() needs to know of a batch, for layers of `desc` whatever their cache.
  virtual std::unique_ptr<AttentionPlan> plan_attention(const AttentionDesc& desc,
                                                        const AttentionBatch& batch) const = 0;
  /// Causal attention of every row's q over its sequence's cached positions, the rows of this step
  /// included (they have been appended). q is read from qkv as above; out [rows, heads * head_dim].
  virtual void attention(const AttentionDesc& desc, const KvLayer& cache,
                         const AttentionBatch& batch, const AttentionPlan& plan, const float* qkv,
                         float* out) = 0;

  /// Scores, selects and weighs experts from router logits [rows, experts]; fills `routing`. Ties
  /// go to the lowest index.
  virtual void route(const RouterDesc& desc, const float* logits, int64_t rows,
                     Routing& routing) = 0;

  /// y [rows, hidden] (+)= sum over the row's experts e, in ascending e, of
  /// weight_e * down_e(silu(gate_e x) * up_e x). With `accumulate` adds to y, else overwrites.
  virtual void experts(const Experts& w, const Routing& routing, const float* x, int64_t rows,
                       bool accumulate, float* y) = 0;
};

std::unique_ptr<HostOps> make_reference_ops();
std::unique_ptr<HostOps> make_cpu_ops(base::ThreadPool& pool, const std::string& isa);

}  // namespace moesaic::backend
