#pragma once

// The interface of a backend: memory, weights in its own layout, and the operators of the one
// decoder (model/decoder.h), five a layer, coarse enough that a device can fuse each. `reference/`
// is the oracle, `cpu/` the fast one on host memory.
//
// Order: operators, writes and reads take effect in the order in which they are called, whatever
// runs beside them; wait() is the only call that waits. On the CPU each has happened on return.
//
// Activations between the operators belong to the backend, in types of its choice; router logits
// and logits are float32. What a step's operators read of it (positions, block tables, lists) goes
// to the backend once, in begin_step. Routing stays with the backend; rows per expert are counted
// there always, and read when somebody asks.
//
// Promise (docs/engine.md, 7) of a backend whose rows_are_independent(): each output row of every
// operator depends only on its own input row, its own sequence and the weights, bit for bit,
// whatever else is in the step. It therefore picks a kernel by weight and instruction set, never by
// the number of rows unless both give the same bits.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/address.h"
#include "backend/sampling/sampling.h"
#include "backend/step.h"
#include "backend/weights.h"
#include "base/memory.h"
#include "base/thread_pool.h"

namespace moesaic::backend {

class Communicator;

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
  Address data;  ///< num_blocks * Backend::kv_block_bytes(desc)
  int64_t num_blocks = 0;
};

enum class QkNorm : uint8_t {
  kNone,
  kPerHead,  ///< RMSNorm over head_dim of each head (Qwen3); weight [head_dim]
  kFull,     ///< one RMSNorm over all heads of all ranks (OLMoE); weight [heads * head_dim]
};

/// Attention of this rank's heads. A rank may have none.
struct AttentionDesc {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;  ///< first dims of each head that rotate (half-split, "neox")
  QkNorm qk_norm = QkNorm::kNone;
  int64_t all_heads = 0;     ///< of all ranks, for kFull; 0 = heads
  int64_t all_kv_heads = 0;  ///< likewise; 0 = kv_heads
  bool kv_copies = false;    ///< the KV heads are copies of those of an earlier rank
  float norm_eps = 1e-6f;
  float clip_qkv = 0;          ///< clamp q, k, v to +-clip after QK-norm; 0 = off
  float scale = 0;             ///< softmax scale, usually head_dim^-1/2
  int64_t sliding_window = 0;  ///< key p visible to query q iff 0 <= q - p < window; 0 = all
  bool operator==(const AttentionDesc&) const = default;
};

/// One layer's attention. Addresses of vectors are of float32; none where the model has none.
struct AttentionWeights {
  AttentionDesc desc;
  Address norm;            ///< [hidden]
  Matrix qkv;              ///< [(heads + 2 kv_heads) * head_dim, hidden]
  Matrix v;                ///< v's rows, where they are a matrix of their own; n = 0: part of qkv
  Address qkv_bias;        ///< [(heads + 2 kv_heads) * head_dim]
  Address q_norm, k_norm;  ///< [head_dim], or of kFull [heads * head_dim], [kv_heads * head_dim]
  Matrix o;                ///< [hidden, heads * head_dim]
  Address o_bias;          ///< [hidden]; on one rank only
};

// ---------------------------------------------------------------------------------------------
// Feed-forward

enum class Scoring : uint8_t { kSoftmax, kSigmoid };

struct RouterDesc {
  int64_t experts = 0;
  int64_t top_k = 0;
  Scoring scoring = Scoring::kSoftmax;
  bool renormalize = false;  ///< divide the chosen weights by their sum
  float scale = 1.0f;        ///< multiplies the weights last
};

/// One layer's feed-forward part: dense (one expert that every row takes), or routed experts and
/// with them perhaps a shared one.
struct FfnWeights {
  Address norm;  ///< [hidden] float32
  float norm_eps = 1e-6f;
  bool moe = false;          ///< else `experts` has one, with weight 1
  int64_t moe_layer = 0;     ///< among those whose rows per expert are counted
  RouterDesc routing;        ///< over all experts of the layer, whoever holds them
  Matrix router;             ///< [routing.experts, hidden] float32
  Experts experts;           ///< those that this rank holds; perhaps none
  int64_t first_expert = 0;  ///< the router's index of the first of them
  Experts shared;            ///< experts = 0: none
  Matrix shared_gate;        ///< [1, hidden] float32; n = 0: the shared expert's weight is 1
};

/// What comes after the last layer.
struct HeadWeights {
  Address norm;  ///< [hidden] float32
  float norm_eps = 1e-6f;
  Matrix head;               ///< [rows of the vocabulary that this rank holds, hidden]
  int64_t first_column = 0;  ///< the token of the first of them
};

// ---------------------------------------------------------------------------------------------
// Activations

/// The shapes of a model on one rank, from which a backend sizes its activations.
struct ModelShape {
  struct Ffn {
    ExpertsDesc desc;
    int64_t top_k = 1;
    bool operator==(const Ffn&) const = default;
  };
  int64_t hidden = 0;
  int64_t vocab = 0;            ///< of all ranks
  int64_t qkv_width = 0;        ///< the widest layer's
  int64_t attention_width = 0;  ///< heads * head_dim, the widest layer's
  int64_t rotary_pairs = 0;
  int64_t router_experts = 0;  ///< the largest router's
  int64_t moe_layers = 0;
  std::vector<AttentionDesc> attentions;  ///< each that occurs
  std::vector<Ffn> ffns;                  ///< each shape that occurs
  int64_t max_rows = 0;                   ///< of a step
};

/// A step's values of one kind: rows x width of a type, row-major, a row every `stride` elements.
struct Activation {
  Address address;
  int64_t width = 0;
  int64_t stride = 0;
  DType dtype = DType::kF32;
};
enum class ActivationKind : uint8_t {
  kResidual,   ///< [rows, hidden] the stream that layers add to, less what is pending in kDelta
  kDelta,      ///< [rows, hidden] what the last block computed, on this rank; the next adds it
  kInput,      ///< [rows, hidden] normed input of the block under way
  kQkv,        ///< [rows, (heads + 2 kv_heads) * head_dim] of the layer under way
  kAttention,  ///< [rows, heads * head_dim] of the layer under way
  kLogits,     ///< [count, vocab] float32, of the last head()
};

/// A step under way: what begin_step was given.
struct StepView {
  int64_t rows = 0;
  int64_t sequences = 0;
};

/// A point in the order of what a backend was asked for.
struct Fence {
  uint64_t ticket = 0;
};

// ---------------------------------------------------------------------------------------------

/// Why something cannot run on a backend; empty means it can.
using Unsupported = std::string;

/// Memory, weights and operators of one rank. Called from one thread at a time but for pack() and
/// expert_counts().
class Backend {
 public:
  virtual ~Backend() = default;

  /// "reference", "cpu".
  virtual std::string_view name() const = 0;
  /// The layout of packed weights, "reference-rowmajor-1"; equal ids mean interchangeable bytes.
  virtual std::string layout_id() const = 0;
  /// One line for the log, e.g. "cpu, AVX-512 BF16, 2 threads".
  virtual std::string description() const = 0;
  /// Whether weights of `format` can be packed and computed with.
  virtual Unsupported supports(const WeightFormat& format) const = 0;
  /// Whether the promise above holds; the operator suite checks it of those that say so.
  virtual bool rows_are_independent() const = 0;

  // --- memory

  /// Zeroed memory, counted under its tag, aligned to packed_alignment(). Throws UnavailableError
  /// when it cannot be had.
  virtual Buffer allocate(base::MemoryTag tag, size_t bytes) = 0;
  virtual MemoryInfo memory() const = 0;
  /// Copies from host memory, which may be used again on return.
  virtual void write(Address to, std::span<const std::byte> from) = 0;
  /// Copies to host memory, which holds it once the fence is waited for.
  virtual Fence read(Address from, std::span<std::byte> into) = 0;
  /// The point after all that was asked for so far.
  virtual Fence fence() = 0;
  virtual void wait(Fence fence) = 0;
  /// A buffer's bytes for host threads to fill and read in place; empty where the host cannot. Not
  /// while operators use them.
  virtual std::span<std::byte> host_view(const Buffer& buffer) = 0;

  // --- packing. A destination is aligned as the backend asks and was zero. The work is cut into
  // units; units of one item may be packed by several threads at once.

  /// Bytes to which packed items are aligned within a buffer: a power of two, at least 64.
  virtual size_t packed_alignment() const = 0;
  virtual size_t packed_bytes(const MatrixDesc& desc) const = 0;
  virtual size_t packed_bytes(const ExpertsDesc& desc) const = 0;
  virtual int64_t pack_units(const MatrixDesc& desc) const = 0;
  virtual int64_t pack_units(const ExpertsDesc& desc) const = 0;
  virtual PackUnit pack_unit(const MatrixDesc& desc, int64_t unit) const = 0;
  virtual PackUnit pack_unit(const ExpertsDesc& desc, int64_t unit) const = 0;
  virtual void pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
                    Address destination) = 0;
  virtual void pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
                    Address destination) = 0;

  /// Bytes of one block of one layer's KV cache; 0 without KV heads.
  virtual size_t kv_block_bytes(const KvDesc& desc) const = 0;

  // --- activations

  /// Bytes that reserve() takes for a model of that shape.
  virtual size_t activation_bytes(const ModelShape& shape) const = 0;
  /// Makes room for the steps of a model; one that was there before may no longer be run.
  virtual void reserve(const ModelShape& shape) = 0;
  virtual Activation activation(ActivationKind kind) const = 0;
  /// Rows of logits that one head() can make.
  virtual int64_t logits_at_once() const = 0;

  /// Rows routed to each expert since reserve(), [moe_layers, router_experts] of the shape: every
  /// choice of the router counts, whichever rank holds the expert. From any thread; of a step under
  /// way some layers may be counted and others not.
  virtual void expert_counts(std::span<uint64_t> counts) const = 0;

  // --- a step. A batch is as model::Decoder checks it; it and all weights outlive the step's
  // operators, which a backend may start later, in their order.

  /// Takes the step's arrays over and works out what its layers share.
  virtual StepView begin_step(const StepBatch& batch, const RopeTable& rope) = 0;

  /// residual = each row's token's row of the table, of which this rank holds rows [first_row,
  /// first_row + n): other tokens give zeros. Nothing is pending then.
  virtual void embed(const StepView& step, const Matrix& table, int64_t first_row) = 0;

  /// residual += delta; input = norm(residual); q, k, v = W input + bias, QK-norm, clip, rope on q
  /// and k; writes k and v into the cache at the rows' slots. With kFull over several ranks the
  /// sums of squares go through `ranks`.
  virtual void attention_in(const StepView& step, const AttentionWeights& weights,
                            const KvLayer& cache, Communicator& ranks) = 0;

  /// Causal attention of every row's q over its sequence's cached positions, the rows of this step
  /// included.
  virtual void attention(const StepView& step, const AttentionDesc& desc, const KvLayer& cache) = 0;

  /// delta = W attention + bias: this rank's share.
  virtual void attention_out(const StepView& step, const AttentionWeights& weights) = 0;

  /// residual += delta; input = norm(residual); then scores, selects and weighs each row's experts,
  /// best first, ties to the lowest index, and the shared expert: sigmoid(gate . input).
  virtual void ffn_in(const StepView& step, const FfnWeights& weights) = 0;

  /// delta = sum over the row's experts e that this rank holds, in ascending e, of
  /// weight_e * down_e(silu(gate_e input) * up_e input), and the shared expert's, as ffn_in routed.
  virtual void ffn(const StepView& step, const FfnWeights& weights) = 0;

  /// Logits of the wanted rows [first, first + count) of StepBatch::logit_rows, W norm(residual +
  /// delta); those of tokens that other ranks hold are zero. count is at most logits_at_once(). A
  /// step's first call begins with row 0, and then the residual is used up.
  virtual void head(const StepView& step, const HeadWeights& weights, int64_t first,
                    int64_t count) = 0;

  // --- choosing tokens (sampling/sampling.h is the definition)

  /// Why sample() cannot take such a row, which is then chosen by the host from its logits; empty
  /// when it can. Depends on parameters alone, not on seed, position or state.
  virtual Unsupported samples(const SampleRow& row) const = 0;
  /// Gives slot `state` to a sequence; what it held before is gone. Slots are small numbers from 0
  /// on.
  virtual void set_sampling_state(int32_t slot, SamplingState state) = 0;
  /// Chooses a token for each of the rows that the last head() made, which begin with wanted row
  /// `first`, and appends it to the row's state. A row that is not samples() is passed over. Logits
  /// are written over.
  virtual void sample(const StepView& step, int64_t first, std::span<const SampleRow> rows) = 0;
  /// Ends the step.
  virtual Fence end_step(const StepView& step) = 0;
  /// Waits for a step's end and gives what sample() chose in it, by wanted row; once.
  virtual std::vector<Sampled> take_samples(Fence end) = 0;
};

/// The oracle: plain loops, one thread, double accumulators.
std::unique_ptr<Backend> make_reference_backend();
/// `pool` runs the operators and outlives the backend. `isa` is a name of available_cpu_isas, or
/// empty for the best there is. Throws UsageError when the machine lacks it, naming those it has.
std::unique_ptr<Backend> make_cpu_backend(base::ThreadPool& pool, const std::string& isa = {});
/// CUDA device `index` of those this process sees, with decode steps as graphs or not. Throws
/// UnavailableError when there is none, or when this program was built without the CUDA backend.
std::unique_ptr<Backend> make_cuda_backend(int index, bool graphs = true);
/// Devices for make_cuda_backend; 0 without any.
int cuda_devices();
/// The instruction sets of `make_cpu_backend` that this machine can run, best last.
std::vector<std::string> available_cpu_isas();

}  // namespace moesaic::backend
