#include "backend/host/host_backend.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "backend/communicator.h"
#include "backend/raw_address.h"
#include "base/error.h"
#include "base/machine.h"

namespace moesaic::backend {
namespace {

constexpr size_t kAlignment = 64;
/// Logits leave in chunks of about this size: enough rows to read lm_head once for many of them.
constexpr size_t kLogitsBytes = size_t{64} << 20;

class RegionOwner final : public Buffer::Owner {
 public:
  RegionOwner(base::MemoryTag tag, size_t bytes) : region(tag, bytes) {}
  base::Region region;
};

const float* floats(Address address) { return RawAddress::pointer<const float>(address); }

/// The shared expert's gate as a router over one expert: its weight is sigmoid(x . gate).
constexpr RouterDesc kSharedGate{
    .experts = 1, .top_k = 1, .scoring = Scoring::kSigmoid, .renormalize = false, .scale = 1.0f};

}  // namespace

/// Where each activation lies in the one buffer; all are float32, row-major.
struct HostBackend::Layout {
  size_t bytes = 0;
  int64_t logit_rows = 1;
  size_t residual, delta, input, qkv, attention, router, gate, squares, cos, sin, logits;

  explicit Layout(const ModelShape& shape) {
    const size_t row_bytes = static_cast<size_t>(shape.vocab) * sizeof(float);
    logit_rows = std::clamp<int64_t>(static_cast<int64_t>(kLogitsBytes / row_bytes), 1,
                                     std::max<int64_t>(1, shape.max_rows));
    residual = take(shape.max_rows, shape.hidden);
    delta = take(shape.max_rows, shape.hidden);
    input = take(shape.max_rows, shape.hidden);
    qkv = take(shape.max_rows, shape.qkv_width);
    attention = take(shape.max_rows, shape.attention_width);
    router = take(shape.max_rows, shape.router_experts);
    gate = take(shape.max_rows, 1);
    squares = take(shape.max_rows, 2);
    cos = take(shape.max_rows, shape.rotary_pairs);
    sin = take(shape.max_rows, shape.rotary_pairs);
    logits = take(logit_rows, shape.vocab);
  }

 private:
  size_t take(int64_t rows, int64_t width) {
    const size_t at = bytes;
    const size_t size = static_cast<size_t>(rows) * static_cast<size_t>(width) * sizeof(float);
    bytes += (size + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
};

/// The step under way.
struct HostBackend::Step {
  const StepBatch* batch = nullptr;
  std::vector<int32_t> tokens;                 ///< none left to be known
  std::vector<Sampled> sampled;                ///< by wanted row
  bool pending = false;                        ///< delta is still to be added to the residual
  bool gathered = false;                       ///< the residual holds the wanted rows alone
  int64_t qkv_width = 0, attention_width = 0;  ///< of the layer under way
  /// Attention's plans by what of a description they depend on.
  struct Planned {
    AttentionDesc desc;
    std::unique_ptr<AttentionPlan> plan;
  };
  std::vector<Planned> plans;
};

HostBackend::HostBackend(std::unique_ptr<HostOps> ops, base::ThreadPool* pool)
    : ops_(std::move(ops)), pool_(pool), step_(std::make_unique<Step>()) {}

HostBackend::~HostBackend() = default;

Buffer HostBackend::allocate(base::MemoryTag tag, size_t bytes) {
  auto owner = std::make_unique<RegionOwner>(tag, bytes);
  const Address address = RawAddress::of(owner->region.data());
  return {address, bytes, std::move(owner)};
}

MemoryInfo HostBackend::memory() const {
  const uint64_t limit = base::memory_limit();
  return {limit, limit};
}

void HostBackend::write(Address to, std::span<const std::byte> from) {
  if (!from.empty()) std::memcpy(RawAddress::pointer(to), from.data(), from.size());
}

Fence HostBackend::read(Address from, std::span<std::byte> into) {
  if (!into.empty()) std::memcpy(into.data(), RawAddress::pointer(from), into.size());
  return {};
}

std::span<std::byte> HostBackend::host_view(const Buffer& buffer) {
  return {RawAddress::pointer(buffer.address()), buffer.size()};
}

void HostBackend::pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
                       Address destination) {
  ops_->pack(desc, source, unit, RawAddress::pointer(destination));
}

void HostBackend::pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
                       Address destination) {
  ops_->pack(desc, source, unit, RawAddress::pointer(destination));
}

namespace {

/// The shape that needs the most scratch. Not a shape with the largest of each size: a model of
/// many narrow experts and one wide shared expert would be charged for many wide ones.
ModelShape::Ffn hungriest(const HostOps& ops, const ModelShape& shape) {
  ModelShape::Ffn most;
  size_t bytes = 0;
  for (const ModelShape::Ffn& ffn : shape.ffns) {
    const size_t wanted = ops.scratch_bytes(ffn, shape.max_rows);
    if (most.desc.experts > 0 && wanted <= bytes) continue;
    most = ffn;
    bytes = wanted;
  }
  return most;
}

}  // namespace

size_t HostBackend::activation_bytes(const ModelShape& shape) const {
  return Layout(shape).bytes + ops_->scratch_bytes(hungriest(*ops_, shape), shape.max_rows);
}

void HostBackend::reserve(const ModelShape& shape) {
  shape_ = shape;
  layout_ = std::make_unique<Layout>(shape);
  activations_ = {};
  activations_ = allocate(base::MemoryTag::kActivations, layout_->bytes);
  ops_->reserve(hungriest(*ops_, shape), shape.max_rows);
  counts_ = std::vector<std::atomic<uint64_t>>(
      static_cast<size_t>(shape.moe_layers * shape.router_experts));
}

float* HostBackend::at(size_t offset) const {
  return RawAddress::pointer<float>(activations_.address() + offset);
}

Activation HostBackend::activation(ActivationKind kind) const {
  const auto of = [&](size_t offset, int64_t width) {
    return Activation{activations_.address() + offset, width, width, DType::kF32};
  };
  switch (kind) {
    case ActivationKind::kResidual:
      return of(layout_->residual, shape_.hidden);
    case ActivationKind::kDelta:
      return of(layout_->delta, shape_.hidden);
    case ActivationKind::kInput:
      return of(layout_->input, shape_.hidden);
    case ActivationKind::kQkv:
      return of(layout_->qkv, step_->qkv_width);
    case ActivationKind::kAttention:
      return of(layout_->attention, step_->attention_width);
    case ActivationKind::kLogits:
      break;
  }
  return of(layout_->logits, shape_.vocab);
}

int64_t HostBackend::logits_at_once() const { return layout_->logit_rows; }

void HostBackend::expert_counts(std::span<uint64_t> counts) const {
  for (size_t i = 0; i < std::min(counts.size(), counts_.size()); ++i) {
    counts[i] = counts_[i].load(std::memory_order_relaxed);
  }
}

StepView HostBackend::begin_step(const StepBatch& batch, const RopeTable& rope) {
  MOESAIC_ASSERT(batch.rows() <= shape_.max_rows);
  *step_ = {};
  step_->batch = &batch;
  step_->tokens = batch.token_ids;
  for (int32_t& token : step_->tokens) {
    if (token < 0) token = chosen_[static_cast<size_t>(-1 - token)];
  }
  step_->sampled.resize(batch.logit_rows.size());
  const int64_t width = rope.pairs();
  for (int64_t i = 0; i < batch.rows(); ++i) {
    rope.row(batch.positions[static_cast<size_t>(i)], at(layout_->cos) + i * width,
             at(layout_->sin) + i * width);
  }
  if (dense_routing_.rows != batch.rows()) dense_routing_ = Routing::dense(batch.rows());
  return {batch.rows(), batch.sequences()};
}

void HostBackend::embed(const StepView&, const Matrix& table, int64_t first_row) {
  float* residual = at(layout_->residual);
  const std::vector<int32_t>& ids = step_->tokens;
  if (first_row == 0) {
    ops_->embed(table, ids, residual);
    return;
  }
  std::vector<int32_t> own(ids.size());
  std::transform(ids.begin(), ids.end(), own.begin(),
                 [&](int32_t id) { return static_cast<int32_t>(id - first_row); });
  ops_->embed(table, own, residual);
}

void HostBackend::add_and_norm(const StepView& step, Address weight, float eps) {
  float* residual = at(layout_->residual);
  float* input = at(layout_->input);
  if (step_->pending) {
    ops_->add_rms_norm(residual, at(layout_->delta), floats(weight), eps, step.rows, shape_.hidden,
                       input);
  } else {
    ops_->rms_norm(residual, floats(weight), eps, step.rows, shape_.hidden, input);
  }
  step_->pending = false;
}

/// Each row's sums of squares of q and of k over the heads of all ranks.
void HostBackend::sum_squares(const AttentionDesc& desc, int64_t rows, Communicator& ranks) {
  float* squares = at(layout_->squares);
  const float* row = at(layout_->qkv);
  const int64_t widths[] = {desc.heads * desc.head_dim, desc.kv_heads * desc.head_dim};
  for (int64_t r = 0; r < rows; ++r, row += widths[1]) {
    for (int part = 0; part < 2; ++part) {
      double sum = 0;
      for (int64_t i = 0; i < widths[part]; ++i, ++row) sum += static_cast<double>(*row) * *row;
      const bool counted = part == 1 && desc.kv_copies;
      squares[2 * r + part] = counted ? 0 : static_cast<float>(sum);
    }
  }
  ranks.all_reduce(RawAddress::of(squares), 2 * rows, DType::kF32);
}

void HostBackend::attention_in(const StepView& step, const AttentionWeights& weights,
                               const KvLayer& cache, Communicator& ranks) {
  const AttentionDesc& desc = weights.desc;
  add_and_norm(step, weights.norm, desc.norm_eps);
  step_->qkv_width = (desc.heads + 2 * desc.kv_heads) * desc.head_dim;
  step_->attention_width = desc.heads * desc.head_dim;
  float* qkv = at(layout_->qkv);
  if (desc.heads > 0) {
    const float* bias = floats(weights.qkv_bias);
    ops_->linear(weights.qkv, bias, at(layout_->input), step.rows, qkv, step_->qkv_width);
    if (weights.v.desc.n > 0) {
      const int64_t before = weights.qkv.desc.n;
      ops_->linear(weights.v, bias == nullptr ? nullptr : bias + before, at(layout_->input),
                   step.rows, qkv + before, step_->qkv_width);
    }
  }
  QkvInputs inputs;
  if (desc.qk_norm == QkNorm::kFull && ranks.ranks() > 1) {
    sum_squares(desc, step.rows, ranks);
    inputs.squares = at(layout_->squares);
  }
  if (desc.heads == 0) return;
  inputs.q_norm = floats(weights.q_norm);
  inputs.k_norm = floats(weights.k_norm);
  inputs.cos = at(layout_->cos);
  inputs.sin = at(layout_->sin);
  inputs.slots = step_->batch->slots;
  ops_->qkv_rope_append(desc, inputs, step.rows, qkv, cache);
}

const AttentionPlan& HostBackend::plan_for(const AttentionDesc& desc) {
  for (const Step::Planned& planned : step_->plans) {
    const AttentionDesc& known = planned.desc;
    if (known.heads == desc.heads && known.kv_heads == desc.kv_heads &&
        known.head_dim == desc.head_dim && known.sliding_window == desc.sliding_window) {
      return *planned.plan;
    }
  }
  const StepBatch& batch = *step_->batch;
  const AttentionBatch sequences{batch.seq_starts, batch.context_lens, batch.block_tables,
                                 batch.max_blocks};
  step_->plans.push_back({desc, ops_->plan_attention(desc, sequences)});
  return *step_->plans.back().plan;
}

void HostBackend::attention(const StepView&, const AttentionDesc& desc, const KvLayer& cache) {
  if (desc.heads == 0) return;
  const StepBatch& batch = *step_->batch;
  const AttentionBatch sequences{batch.seq_starts, batch.context_lens, batch.block_tables,
                                 batch.max_blocks};
  ops_->attention(desc, cache, sequences, plan_for(desc), at(layout_->qkv), at(layout_->attention));
}

void HostBackend::attention_out(const StepView& step, const AttentionWeights& weights) {
  float* delta = at(layout_->delta);
  if (weights.desc.heads > 0) {
    ops_->linear(weights.o, floats(weights.o_bias), at(layout_->attention), step.rows, delta,
                 shape_.hidden);
  } else {
    std::fill_n(delta, step.rows * shape_.hidden, 0.0f);
  }
  step_->pending = true;
}

void HostBackend::count_rows(const FfnWeights& weights) {
  const auto first = static_cast<size_t>(weights.moe_layer * shape_.router_experts);
  for (const int32_t expert : routing_.experts) {
    counts_[first + static_cast<size_t>(expert)].fetch_add(1, std::memory_order_relaxed);
  }
}

/// Turns the router's experts into this rank's, and those of others into none.
void HostBackend::keep_own_experts(const FfnWeights& weights) {
  const auto first = static_cast<int32_t>(weights.first_expert);
  const auto count = static_cast<int32_t>(weights.experts.desc.experts);
  if (first == 0 && count == weights.routing.experts) return;
  for (int32_t& expert : routing_.experts) {
    expert = expert >= first && expert < first + count ? expert - first : -1;
  }
}

void HostBackend::ffn_in(const StepView& step, const FfnWeights& weights) {
  add_and_norm(step, weights.norm, weights.norm_eps);
  if (!weights.moe) return;
  const float* input = at(layout_->input);
  float* logits = at(layout_->router);
  ops_->linear(weights.router, nullptr, input, step.rows, logits, weights.routing.experts);
  ops_->route(weights.routing, logits, step.rows, routing_);
  count_rows(weights);
  keep_own_experts(weights);
  if (weights.shared.desc.experts == 0 || weights.shared_gate.desc.n == 0) return;
  ops_->linear(weights.shared_gate, nullptr, input, step.rows, at(layout_->gate), 1);
  ops_->route(kSharedGate, at(layout_->gate), step.rows, shared_routing_);
}

void HostBackend::ffn(const StepView& step, const FfnWeights& weights) {
  const float* input = at(layout_->input);
  float* delta = at(layout_->delta);
  const bool own = weights.experts.desc.experts > 0 && weights.experts.desc.width > 0;
  if (own) {
    ops_->experts(weights.experts, weights.moe ? routing_ : dense_routing_, input, step.rows,
                  /*accumulate=*/false, delta);
  } else {
    std::fill_n(delta, step.rows * shape_.hidden, 0.0f);
  }
  if (weights.shared.desc.experts > 0 && weights.shared.desc.width > 0) {
    const bool gated = weights.shared_gate.desc.n > 0;
    ops_->experts(weights.shared, gated ? shared_routing_ : dense_routing_, input, step.rows,
                  /*accumulate=*/true, delta);
  }
  step_->pending = true;
}

/// Moves the wanted rows of residual and delta to the front, in order.
void HostBackend::gather_logit_rows() {
  const std::vector<int32_t>& wanted = step_->batch->logit_rows;
  const auto width = static_cast<size_t>(shape_.hidden);
  for (float* x : {at(layout_->residual), at(layout_->delta)}) {
    for (size_t i = 0; i < wanted.size(); ++i) {
      const auto from = static_cast<size_t>(wanted[i]);
      if (from != i) std::memcpy(x + i * width, x + from * width, width * sizeof(float));
    }
  }
  step_->gathered = true;
}

void HostBackend::head(const StepView&, const HeadWeights& weights, int64_t first, int64_t count) {
  MOESAIC_ASSERT(count <= layout_->logit_rows);
  if (!step_->gathered) {
    MOESAIC_ASSERT(first == 0);
    gather_logit_rows();
    const auto rows = static_cast<int64_t>(step_->batch->logit_rows.size());
    add_and_norm({rows, 0}, weights.norm, weights.norm_eps);
  }
  float* logits = at(layout_->logits);
  if (weights.head.desc.n < shape_.vocab) std::fill_n(logits, count * shape_.vocab, 0.0f);
  if (weights.head.desc.n == 0) return;
  ops_->linear(weights.head, nullptr, at(layout_->input) + first * shape_.hidden, count,
               logits + weights.first_column, shape_.vocab);
}

void HostBackend::set_sampling_state(int32_t slot, SamplingState state) {
  const auto index = static_cast<size_t>(slot);
  if (index >= states_.size()) states_.resize(index + 1);
  states_[index] = std::move(state);
}

void HostBackend::sample(const StepView&, int64_t first, std::span<const SampleRow> rows) {
  const auto vocab = static_cast<size_t>(shape_.vocab);
  float* logits = at(layout_->logits);
  std::atomic<bool> no_memory = false;  // compute threads must not throw
  const auto choose = [&](int64_t i) {
    const SampleRow& row = rows[static_cast<size_t>(i)];
    if (!samples(row).empty()) return;
    SamplingState* state = row.state < 0 ? nullptr : &states_.at(static_cast<size_t>(row.state));
    Sampled& result = step_->sampled[static_cast<size_t>(first + i)];
    try {
      result = backend::sample({logits + static_cast<size_t>(i) * vocab, vocab}, row, state);
      if (state != nullptr && row.target < 0 && !result.broken) state->append(result.token);
    } catch (const std::bad_alloc&) {
      no_memory = true;
    }
  };
  const auto count = static_cast<int64_t>(rows.size());
  if (pool_ == nullptr) {
    for (int64_t i = 0; i < count; ++i) choose(i);
  } else {
    pool_->parallel_for(count, [&](int64_t i, int) { choose(i); });
  }
  if (no_memory) throw std::bad_alloc();
}

Fence HostBackend::end_step(const StepView&) {
  chosen_.assign(step_->sampled.size(), 0);
  for (size_t i = 0; i < chosen_.size(); ++i) {
    chosen_[i] = std::max(step_->sampled[i].token, 0);  // a broken row's follower is dropped
  }
  results_.emplace_back(++steps_ended_, std::move(step_->sampled));
  return {steps_ended_};
}

std::vector<Sampled> HostBackend::take_samples(Fence end) {
  const auto found = std::find_if(results_.begin(), results_.end(),
                                  [&](const auto& entry) { return entry.first == end.ticket; });
  MOESAIC_ASSERT(found != results_.end());
  std::vector<Sampled> samples = std::move(found->second);
  results_.erase(found);
  return samples;
}

std::unique_ptr<Backend> make_reference_backend() {
  return std::make_unique<HostBackend>(make_reference_ops());
}

std::unique_ptr<Backend> make_cpu_backend(base::ThreadPool& pool, const std::string& isa) {
  return std::make_unique<HostBackend>(make_cpu_ops(pool, isa), &pool);
}

}  // namespace moesaic::backend
