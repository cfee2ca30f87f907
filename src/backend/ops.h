#pragma once

// The operator interface: what a backend must do for the one decoder (model/decoder.h), coarse
// enough to fuse and few enough to read. Activations and the residual stream are float32; weights
// and KV cache have the dtype their descriptor names. `reference/` is the oracle, `cpu/` the fast
// one.
//
// Promise (docs/engine.md, 7): each output row of every operator depends only on its own input row,
// its own sequence and the weights, bit for bit, whatever else is in the call. A backend therefore
// picks a kernel by weight and instruction set, never by the number of rows.
//
// Pointers may be device memory of the backend; host code touches only what it is told it may.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/view.h"

namespace moesaic::backend {

using tensor::DType;

// ---------------------------------------------------------------------------------------------
// Weights in the backend's own layout

/// A weight matrix W [n outputs, k inputs]; y = x W^T.
struct MatrixDesc {
  int64_t n = 0;
  int64_t k = 0;
  DType dtype = DType::kBF16;
};

/// The gated feed-forward weights of `experts` experts: gate, up [width, hidden], down [hidden,
/// width]. A dense FFN and a shared expert are the case experts = 1.
struct ExpertsDesc {
  int64_t experts = 0;
  int64_t hidden = 0;
  int64_t width = 0;
  DType dtype = DType::kBF16;
};

/// Handles to packed weights. They own nothing: the bytes live in the loader's region.
struct Matrix {
  MatrixDesc desc;
  const std::byte* packed = nullptr;
};
struct Experts {
  ExpertsDesc desc;
  const std::byte* packed = nullptr;
};

/// Where packed values come from. Either row-major float views (their dtype may differ from the
/// descriptor's; packing converts), or, with `dummy`, pseudo-random values: dummy_value(seed, row,
/// col).
struct MatrixSource {
  std::vector<tensor::View> parts;  ///< stacked over n, each [n_i, k]
  bool dummy = false;
  uint64_t seed = 0;
};
struct ExpertsSource {
  /// One entry per expert; each view row-major: gate, up [width, hidden], down [hidden, width].
  std::vector<tensor::View> gate, up, down;
  bool dummy = false;
  uint64_t seed = 0;  ///< expert e uses seeds seed + 3e (gate), + 3e + 1 (up), + 3e + 2 (down)
};

/// The value of a dummy weight, before rounding to the weight's dtype: uniform in
/// (-0.0346, 0.0346), standard deviation 0.02, a pure function of its arguments, so that every
/// backend and layout gets the same model from the same seed.
float dummy_value(uint64_t seed, int64_t row, int64_t col);

// ---------------------------------------------------------------------------------------------
// Attention

/// The KV cache of one layer. Layout inside a block belongs to the backend.
struct KvDesc {
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t block_size = 16;  ///< positions per block
  DType dtype = DType::kBF16;
};
struct KvLayer {
  KvDesc desc;
  std::byte* data = nullptr;  ///< num_blocks * Backend::kv_block_bytes(desc)
  int64_t num_blocks = 0;
};

/// How the rows of a step belong to sequences. Sequence s owns rows [seq_starts[s],
/// seq_starts[s+1]); its last row sits at position context_lens[s] - 1, the others just before it.
/// A sequence's positions p live in block block_tables[s * max_blocks + p / block_size].
struct AttentionBatch {
  std::span<const int32_t> seq_starts;    ///< [S + 1]
  std::span<const int32_t> context_lens;  ///< [S]
  std::span<const int32_t> block_tables;  ///< [S, max_blocks]
  int64_t max_blocks = 0;
};

enum class QkNorm : uint8_t {
  kNone,
  kPerHead,  ///< RMSNorm over head_dim of each head (Qwen3); weight [head_dim]
  kFull,     ///< one RMSNorm over all heads (OLMoE); weight [heads * head_dim]
};

struct AttentionDesc {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;  ///< first dims of each head that rotate (half-split, "neox")
  QkNorm qk_norm = QkNorm::kNone;
  float norm_eps = 1e-6f;
  float clip_qkv = 0;          ///< clamp q, k, v to +-clip after QK-norm; 0 = off
  float scale = 0;             ///< softmax scale, usually head_dim^-1/2
  int64_t sliding_window = 0;  ///< key p visible to query q iff 0 <= q - p < window; 0 = all
};

/// Inputs of qkv_rope_append beside the projections.
struct QkvInputs {
  const float* q_norm = nullptr;   ///< [head_dim] or [heads * head_dim]
  const float* k_norm = nullptr;   ///< [head_dim] or [kv_heads * head_dim]
  const float* cos = nullptr;      ///< [rows, rotary_dim / 2]
  const float* sin = nullptr;      ///< [rows, rotary_dim / 2]
  std::span<const int64_t> slots;  ///< [rows] block * block_size + offset, where K and V go
};

// ---------------------------------------------------------------------------------------------
// Mixture of experts

enum class Scoring : uint8_t { kSoftmax, kSigmoid };

struct RouterDesc {
  int64_t experts = 0;
  int64_t top_k = 0;
  Scoring scoring = Scoring::kSoftmax;
  bool renormalize = false;  ///< divide the chosen weights by their sum
  float scale = 1.0f;        ///< multiplies the weights last
};

/// For each row the chosen experts and their weights, best first; ties go to the lowest index.
/// Counting is always on.
struct Routing {
  int64_t rows = 0;
  int64_t top_k = 0;
  std::vector<int32_t> experts;  ///< [rows, top_k]
  std::vector<float> weights;    ///< [rows, top_k]
  std::vector<int32_t> counts;   ///< [experts] rows routed to each

  /// Every row to expert 0 with weight 1: a dense FFN.
  static Routing dense(int64_t rows);
};

// ---------------------------------------------------------------------------------------------

/// Why an operator cannot run on a backend; empty means it can.
using Unsupported = std::string;

/// Packs weights and runs operators. One instance belongs to one rank; its operators are called
/// from one thread at a time.
class Backend {
 public:
  virtual ~Backend() = default;

  /// "reference", "cpu".
  virtual std::string_view name() const = 0;
  /// The layout of packed weights, e.g. "cpu-vnni16-1"; equal ids mean interchangeable bytes.
  virtual std::string layout_id() const = 0;
  /// One line for the log, e.g. "cpu, AVX-512 BF16, 2 threads".
  virtual std::string description() const = 0;
  /// Whether weights of `dtype` can be packed and computed with.
  virtual Unsupported supports(DType dtype) const = 0;

  // --- packing. A destination is 64-byte aligned. The work is cut into units, each written by one
  // call, so that the loader can run them in parallel and show progress.
  virtual size_t packed_bytes(const MatrixDesc& desc) const = 0;
  virtual size_t packed_bytes(const ExpertsDesc& desc) const = 0;
  virtual int64_t pack_units(const MatrixDesc& desc) const = 0;
  virtual int64_t pack_units(const ExpertsDesc& desc) const = 0;
  virtual void pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
                    std::byte* destination) const = 0;
  virtual void pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
                    std::byte* destination) const = 0;

  /// Bytes of one block of one layer's KV cache.
  virtual size_t kv_block_bytes(const KvDesc& desc) const = 0;

  /// Scratch the operators need for at most `max_rows` rows of the given layer shapes; counted as
  /// activations in the memory plan and allocated once by reserve(). A model's scratch is that of
  /// the shape that needs the most.
  virtual size_t scratch_bytes(const ExpertsDesc& largest, int64_t top_k,
                               int64_t max_rows) const = 0;
  virtual void reserve(const ExpertsDesc& largest, int64_t top_k, int64_t max_rows) = 0;

  /// Threads that packing and operators run on; the caller counts as one.
  virtual void parallel_for(int64_t tasks, const std::function<void(int64_t, int)>& body) = 0;

  // --- operators. Row-major, contiguous; `rows` may be 0.

  /// out [rows, k] = row ids[i] of the table; ids are in range.
  virtual void embed(const Matrix& table, std::span<const int32_t> ids, float* out) = 0;

  /// out = x * rsqrt(mean(x^2) + eps) * weight, per row of `width`.
  virtual void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
                        float* out) = 0;

  /// residual += delta, then out = rms_norm(residual).
  virtual void add_rms_norm(float* residual, const float* delta, const float* weight, float eps,
                            int64_t rows, int64_t width, float* out) = 0;

  /// y [rows, n] = x [rows, k] W^T + bias (bias may be null).
  virtual void linear(const Matrix& w, const float* bias, const float* x, int64_t rows,
                      float* y) = 0;

  /// In place on qkv [rows, (heads + 2 kv_heads) * head_dim]: QK-norm, clip, rope on q and k; then
  /// writes k and v into the cache at `slots`.
  virtual void qkv_rope_append(const AttentionDesc& desc, const QkvInputs& inputs, int64_t rows,
                               float* qkv, const KvLayer& cache) = 0;

  /// Causal attention of every row's q over its sequence's cached positions, the rows of this step
  /// included (they have been appended). q is read from qkv as above; out [rows, heads * head_dim].
  virtual void attention(const AttentionDesc& desc, const KvLayer& cache,
                         const AttentionBatch& batch, const float* qkv, float* out) = 0;

  /// Scores, selects and weighs experts from router logits [rows, experts]; fills `routing`.
  virtual void route(const RouterDesc& desc, const float* logits, int64_t rows,
                     Routing& routing) = 0;

  /// y [rows, hidden] (+)= sum over the row's experts e, in ascending e, of
  /// weight_e * down_e(silu(gate_e x) * up_e x). With `accumulate` adds to y, else overwrites.
  virtual void experts(const Experts& w, const Routing& routing, const float* x, int64_t rows,
                       bool accumulate, float* y) = 0;
};

/// Options of the CPU backend.
struct CpuOptions {
  int threads = 0;  ///< 0 = one per physical core
  bool pin = true;
  std::string isa;  ///< "", "baseline", "avx2", "avx512", "amx"; "" = the best there is
};

/// The oracle: plain loops, one thread, double accumulators.
std::unique_ptr<Backend> make_reference_backend();
/// Throws UsageError when the machine lacks the instruction set asked for, naming those it has.
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);
/// The instruction sets of `make_cpu_backend` that this machine can run, best last.
std::vector<std::string> available_cpu_isas();

}  // namespace moesaic::backend
