#include "backend/cuda/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backend/communicator.h"
#include "backend/cuda/products/split.h"
#include "backend/raw_address.h"
#include "base/error.h"

namespace moesaic::backend::cuda {
namespace {

/// Logits leave in chunks of about this size: enough rows to read the head once for many of them.
constexpr int64_t kLogitsBytes = int64_t{256} << 20;
/// Arrays begin at multiples of it.
constexpr size_t kArrayAlignment = 256;
/// Rows of a sequence times query heads of a KV head, up to which a step is a decode step.
constexpr int64_t kDecodeRows = 16;
/// Rows up to which a decode step is a graph.
constexpr int64_t kMostGraphRows = 512;
/// Steps whose arrays may be on their way to the device.
constexpr size_t kUploads = 4;
constexpr size_t kMostFences = 64;
constexpr int64_t kLeastPositions = 4096;

size_t aligned(size_t bytes, size_t alignment = kArrayAlignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

int select(int device) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    cudaGetLastError();
    throw base::UnavailableError("there is no CUDA device that this process can use");
  }
  if (device >= count) {
    throw base::UnavailableError(
        fmt::format("there is no CUDA device {}; this process sees {}", device, count));
  }
  check(cudaSetDevice(device), "cudaSetDevice");
  return device;
}

std::string describe(int device) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  if (properties.major < 8) {
    throw base::UnavailableError(
        fmt::format("{} has compute capability {}.{}, and 8.0 is the least that is supported",
                    properties.name, properties.major, properties.minor));
  }
  return fmt::format("cuda, {}, {:.0f} GiB", properties.name,
                     static_cast<double>(properties.totalGlobalMem) / (1 << 30));
}

const float* floats(Address address) { return RawAddress::pointer<const float>(address); }

Linear linear_of(const Matrix& matrix) {
  return {shape_of(matrix.desc), RawAddress::pointer<const std::byte>(matrix.packed)};
}

Experts experts_of(const backend::Experts& experts) {
  return {shape_of(experts.desc), RawAddress::pointer<const std::byte>(experts.packed)};
}

AttentionShape shape_of(const AttentionDesc& desc, const KvDesc& cache) {
  AttentionShape shape;
  shape.heads = static_cast<int>(desc.heads);
  shape.kv_heads = static_cast<int>(desc.kv_heads);
  shape.head_dim = static_cast<int>(desc.head_dim);
  shape.block_size = static_cast<int>(cache.block_size);
  shape.scale = desc.scale;
  shape.window = static_cast<int>(std::min<int64_t>(desc.sliding_window, INT32_MAX));
  return shape;
}

AttentionLimits limits_of(int64_t max_rows) {
  return {.max_sequences = static_cast<int>(max_rows), .max_rows = static_cast<int>(max_rows)};
}

RouteShape shape_of(const RouterDesc& desc) {
  RouteShape shape;
  shape.experts = static_cast<int>(desc.experts);
  shape.top_k = static_cast<int>(desc.top_k);
  shape.scoring =
      desc.scoring == Scoring::kSoftmax ? RouteScoring::kSoftmax : RouteScoring::kSigmoid;
  shape.renormalize = desc.renormalize;
  shape.scale = desc.scale;
  shape.parts = kSplitParts;
  return shape;
}

class DeviceOwner final : public Buffer::Owner {
 public:
  DeviceOwner(base::MemoryTag tag, size_t bytes) : memory(bytes), counted(tag, bytes) {}
  DeviceMemory memory;
  base::CountedBytes counted;
};

}  // namespace

/// Where each activation lies in the one buffer, in bytes.
struct CudaBackend::Layout {
  size_t bytes = 0;
  int64_t logit_rows = 4;
  int64_t logit_stride = 0;
  size_t residual, input, qkv, attention, totals, scratch, logits;
  size_t route_logits, route_experts, route_weights, shared_weights;

  Layout(const ModelShape& shape, const Products& products) {
    if (shape.router_experts == 1) {
      throw base::ConfigError("the CUDA backend takes no router over a single expert");
    }
    const int64_t rows = shape.max_rows;
    logit_stride = (shape.vocab + 3) / 4 * 4;
    // Chunks begin at multiples of 16 bytes in every array.
    logit_rows = std::clamp<int64_t>(kLogitsBytes / (logit_stride * 4), 4, (rows + 3) / 4 * 4);
    logit_rows = logit_rows / 4 * 4;
    residual = take(rows * shape.hidden * 4);
    input = take(std::max(rows, logit_rows) * shape.hidden * 2);
    qkv = take(rows * shape.qkv_width * 2);
    attention = take(rows * shape.attention_width * 2);
    int64_t top_k = 1;
    size_t most = 0;
    for (const ModelShape::Ffn& ffn : shape.ffns) {
      top_k = std::max(top_k, ffn.top_k);
      most =
          std::max(most, products.experts_scratch_bytes(cuda::shape_of(ffn.desc), ffn.top_k, rows));
    }
    const Format format = format_of(shape.ffns.front().desc.format);  // the layers have one
    for (const LinearShape& linear :
         {LinearShape{.n = shape.qkv_width, .k = shape.hidden, .format = format},
          LinearShape{.n = shape.hidden, .k = shape.attention_width, .format = format}}) {
      most = std::max(most, products.linear_scratch_bytes(linear, rows));
    }
    route_logits = take(rows * kSplitParts * shape.router_experts * 4);
    route_experts = take(rows * top_k * 4);
    route_weights = take(rows * top_k * 4);
    shared_weights = take(rows * 4);
    totals = take(std::max<int64_t>(shape.moe_layers * shape.router_experts, 1) * 8);
    scratch = take(static_cast<int64_t>(most));
    logits = take(logit_rows * logit_stride * 4);
  }

  size_t take(int64_t size) {
    const size_t place = bytes;
    bytes += aligned(static_cast<size_t>(size), kWeightAlignment);
    return place;
  }
};

/// A step's arrays on the host, and where each lies there and on the device.
struct CudaBackend::Upload {
  PinnedMemory memory;
  Event sent;
  size_t bytes = 0;
  size_t counts, tokens, positions, slots, seq_starts, context_lens, block_tables, logit_rows;
  StepBounds bounds;
  int64_t wanted = 0;
  int64_t longest_chunk = 0;  ///< most rows of a sequence
  bool as_graph = false;
};

/// A step that has been asked for and not been taken.
struct CudaBackend::Flight {
  explicit Flight(int64_t rows, int64_t vocab) : sampled(rows, vocab) {}
  uint64_t ticket = 0;
  SampledRows sampled;
  Event ended;
};

/// The work list of the layers whose attention differs in nothing but their cache.
struct CudaBackend::AttentionWork {
  AttentionDesc desc;
  DeviceMemory memory;
  const Upload* planned_for = nullptr;
  StepKind kind = StepKind::kMixed;
};

CudaBackend::CudaBackend(int device, bool graphs)
    : device_(select(device)),
      description_(describe(device)),
      packing_(device),
      with_graphs_(graphs) {}

CudaBackend::~CudaBackend() {
  cudaSetDevice(device_);
  cudaDeviceSynchronize();
}

void CudaBackend::use_device() const { check(cudaSetDevice(device_), "cudaSetDevice"); }

Unsupported CudaBackend::supports(const WeightFormat& format) const {
  const bool fp8 = format.base == DType::kF8E4M3 && format.group_n == 1 && format.group_k == 0;
  if (fp8 || format == WeightFormat(DType::kBF16)) return {};
  return fmt::format(
      "the CUDA backend holds weights in bfloat16 or fp8, not {}; give --dtype bfloat16",
      format.name);
}

// ------------------------------------------------------------------------------------------------
// Memory

Buffer CudaBackend::allocate(base::MemoryTag tag, size_t bytes) {
  use_device();
  auto owner = std::make_unique<DeviceOwner>(tag, bytes);
  owner->memory.clear();
  const Address address = RawAddress::of(owner->memory.data());
  return {address, bytes, std::move(owner)};
}

MemoryInfo CudaBackend::memory() const {
  use_device();
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {total, free};
}

void CudaBackend::write(Address to, std::span<const std::byte> from) {
  if (from.empty()) return;
  use_device();
  flush();
  // From pageable memory: it is copied away before the call returns.
  check(cudaMemcpyAsync(RawAddress::pointer(to), from.data(), from.size(), cudaMemcpyHostToDevice,
                        stream_.get()),
        "copying to the device");
}

Fence CudaBackend::read(Address from, std::span<std::byte> into) {
  use_device();
  flush();
  if (!into.empty()) {
    check(cudaMemcpyAsync(into.data(), RawAddress::pointer(from), into.size(),
                          cudaMemcpyDeviceToHost, stream_.get()),
          "copying from the device");
  }
  return fence();
}

Fence CudaBackend::fence() {
  use_device();
  flush();
  auto event = std::make_unique<Event>();
  event->record(stream_);
  // Nobody need wait for a fence; one that is gone has passed when a later one has.
  if (fences_.size() == kMostFences) fences_.pop_front();
  fences_.emplace_back(++tickets_, std::move(event));
  return {tickets_};
}

void CudaBackend::wait(Fence fence) {
  if (fence.ticket == 0) return;
  use_device();
  for (const auto& [ticket, event] : fences_) {
    if (ticket < fence.ticket) continue;
    event->wait();
    std::erase_if(fences_, [&](const auto& entry) { return entry.first <= fence.ticket; });
    return;
  }
  stream_.synchronize();
}

void CudaBackend::pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
                       Address destination) {
  packing_.pack(desc, source, unit, RawAddress::pointer(destination));
}

void CudaBackend::pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
                       Address destination) {
  packing_.pack(desc, source, unit, RawAddress::pointer(destination));
}

size_t CudaBackend::kv_block_bytes(const KvDesc& desc) const {
  if (desc.kv_heads == 0) return 0;
  if (desc.dtype != DType::kBF16) {
    throw base::ConfigError("the CUDA backend's KV cache is bfloat16; give --kv-cache-dtype auto");
  }
  const int64_t size = desc.block_size;
  if (size != 16 && size != 32 && size != 64 && size != 128) {
    throw base::ConfigError(
        fmt::format("--block-size {}: the CUDA backend takes 16, 32, 64 and 128", size));
  }
  if (desc.head_dim % 8 != 0 || padded_head_dim(static_cast<int>(desc.head_dim)) == 0) {
    throw base::ConfigError(
        fmt::format("the CUDA backend takes head dims that are multiples of 8 up to 256, not {}",
                    desc.head_dim));
  }
  AttentionDesc one;
  one.heads = one.kv_heads = desc.kv_heads;
  one.head_dim = desc.head_dim;
  return cuda::kv_block_bytes(shape_of(one, desc));
}

// ------------------------------------------------------------------------------------------------
// Activations

size_t CudaBackend::activation_bytes(const ModelShape& shape) const {
  use_device();
  const Layout layout(shape, products_);
  size_t bytes = layout.bytes + Sampler::bytes(shape.vocab, shape.max_rows, layout.logit_rows);
  for (const AttentionDesc& desc : shape.attentions) {
    bytes += attention_work_bytes(shape_of(desc, {}), limits_of(shape.max_rows));
  }
  return bytes;
}

void CudaBackend::reserve(const ModelShape& shape) {
  use_device();
  const std::lock_guard lock(counts_mutex_);
  flights_.clear();
  idle_flights_.clear();
  flight_.reset();
  attention_.clear();
  deferred_.clear();
  stream_.synchronize();
  graphs_.clear();
  sampler_.reset();
  activations_.reset();
  shape_ = shape;
  layout_ = std::make_unique<Layout>(shape, products_);
  counted_ =
      std::make_unique<base::CountedBytes>(base::MemoryTag::kActivations, activation_bytes(shape));
  activations_ = std::make_unique<DeviceMemory>(layout_->bytes);
  activations_->clear();
  sampler_ = std::make_unique<Sampler>(shape.vocab, shape.max_rows, layout_->logit_rows);
  for (const AttentionDesc& desc : shape.attentions) {
    auto work = std::make_unique<AttentionWork>();
    work->desc = desc;
    work->memory =
        DeviceMemory(attention_work_bytes(shape_of(desc, {}), limits_of(shape.max_rows)));
    attention_.push_back(std::move(work));
  }
}

Activation CudaBackend::activation(ActivationKind kind) const {
  const auto of = [&](size_t offset, int64_t width, int64_t stride, DType dtype) {
    return Activation{RawAddress::of(at<std::byte>(offset)), width, stride, dtype};
  };
  const int64_t hidden = shape_.hidden;
  switch (kind) {
    case ActivationKind::kResidual:
      return of(layout_->residual, hidden, hidden, DType::kF32);
    case ActivationKind::kInput:
      return of(layout_->input, hidden, hidden, DType::kBF16);
    case ActivationKind::kLogits:
      return of(layout_->logits, shape_.vocab, layout_->logit_stride, DType::kF32);
    default:
      return {};  // nothing is ever pending, and what lies between the operators is nobody's
  }
}

int64_t CudaBackend::logits_at_once() const { return layout_->logit_rows; }

void CudaBackend::expert_counts(std::span<uint64_t> counts) const {
  const std::lock_guard lock(counts_mutex_);
  const auto held = static_cast<size_t>(shape_.moe_layers * shape_.router_experts);
  const size_t count = std::min(counts.size(), held);
  if (count == 0 || !activations_) return;
  use_device();
  check(cudaMemcpyAsync(counts.data(), at<uint64_t>(layout_->totals), count * sizeof(uint64_t),
                        cudaMemcpyDeviceToHost, counts_stream_.get()),
        "reading expert counts");
  counts_stream_.synchronize();
}

// ------------------------------------------------------------------------------------------------
// A step

void CudaBackend::upload(const StepBatch& batch) {
  if (uploads_.size() < kUploads) uploads_.push_back(std::make_unique<Upload>());
  next_upload_ = (next_upload_ + 1) % uploads_.size();
  Upload& to = *uploads_[next_upload_];
  to.sent.wait();
  to.wanted = static_cast<int64_t>(batch.logit_rows.size());
  to.longest_chunk = 0;
  for (size_t s = 0; s + 1 < batch.seq_starts.size(); ++s) {
    to.longest_chunk =
        std::max<int64_t>(to.longest_chunk, batch.seq_starts[s + 1] - batch.seq_starts[s]);
  }
  to.as_graph =
      with_graphs_ && batch.rows() <= kMostGraphRows &&
      std::all_of(shape_.attentions.begin(), shape_.attentions.end(), [&](const auto& desc) {
        return to.longest_chunk * (desc.heads / desc.kv_heads) <= kDecodeRows;
      });
  to.bounds = to.as_graph ? StepBounds{std::min(graph_rows(batch.rows()), shape_.max_rows),
                                       graph_blocks(batch.max_blocks), 0}
                          : StepBounds{batch.rows(), batch.max_blocks, 0};
  to.bounds.logit_rows =
      std::min(layout_->logit_rows, to.as_graph ? graph_rows(to.wanted) : to.wanted);
  // The counts: rows, sequences, then the rows of each chunk of logits, each at 16 bytes.
  const auto chunk = logits_at_once();
  std::vector<int32_t> counts = {static_cast<int32_t>(batch.rows()),      0, 0, 0,
                                 static_cast<int32_t>(batch.sequences()), 0, 0, 0};
  for (int64_t first = 0; first < to.wanted; first += chunk) {
    counts.insert(counts.end(),
                  {static_cast<int32_t>(std::min(chunk, to.wanted - first)), 0, 0, 0});
  }
  // Places depend on the bounds alone.
  const auto rows = static_cast<size_t>(to.bounds.rows);
  const size_t sequences = to.as_graph ? rows : batch.context_lens.size();
  const auto columns = static_cast<size_t>(to.bounds.max_blocks);
  to.bytes = 0;
  const auto place = [&](const auto& values, size_t capacity) {
    const size_t offset = to.bytes;
    to.bytes += aligned(capacity * sizeof(values[0]));
    return offset;
  };
  to.tokens = place(batch.token_ids, rows);
  to.positions = place(batch.positions, rows);
  to.slots = place(batch.slots, rows);
  to.seq_starts = place(batch.seq_starts, sequences + 1);
  to.context_lens = place(batch.context_lens, sequences);
  to.logit_rows = place(batch.logit_rows, rows);
  const size_t chunks = (rows + static_cast<size_t>(chunk) - 1) / static_cast<size_t>(chunk);
  to.counts = place(counts, 8 + 4 * chunks);
  to.block_tables = place(batch.block_tables, sequences * columns);
  if (to.memory.size() < to.bytes) to.memory = PinnedMemory(2 * to.bytes);
  if (step_memory_.size() < to.bytes) {
    stream_.synchronize();
    graphs_.clear();
    step_memory_ = DeviceMemory(2 * to.bytes);
  }
  const auto copy = [&](size_t offset, const auto& values) {
    if (!values.empty()) {
      std::memcpy(to.memory.as(offset), values.data(), values.size() * sizeof(values[0]));
    }
  };
  copy(to.counts, counts);
  copy(to.tokens, batch.token_ids);
  copy(to.positions, batch.positions);
  copy(to.slots, batch.slots);
  copy(to.seq_starts, batch.seq_starts);
  copy(to.context_lens, batch.context_lens);
  copy(to.logit_rows, batch.logit_rows);
  const auto own_columns = static_cast<size_t>(batch.max_blocks);
  for (size_t i = 0; i < batch.context_lens.size(); ++i) {
    std::memcpy(to.memory.as<int32_t>(to.block_tables) + i * columns,
                batch.block_tables.data() + i * own_columns, own_columns * sizeof(int32_t));
  }
  check(cudaMemcpyAsync(step_memory_.data(), to.memory.as(), to.bytes, cudaMemcpyHostToDevice,
                        stream_.get()),
        "sending a step");
  to.sent.record(stream_);
  step_ = &to;
}

/// Cosines and then sines of the positions up to `most_position`, [positions, pairs] each.
void CudaBackend::make_angles(const RopeTable& rope, int32_t most_position) {
  if (most_position < angle_positions_ || rope.pairs() == 0) return;
  int64_t positions = kLeastPositions;
  while (positions <= most_position) positions *= 2;
  const auto count = static_cast<size_t>(positions * rope.pairs());
  std::vector<float> values(2 * count);
  for (int64_t p = 0; p < positions; ++p) {
    float* row = values.data() + p * rope.pairs();
    rope.row(static_cast<int32_t>(p), row, row + count);
  }
  stream_.synchronize();
  graphs_.clear();
  angles_ = {};
  angles_ = DeviceMemory(values.size() * sizeof(float));
  check(cudaMemcpy(angles_.data(), values.data(), angles_.size(), cudaMemcpyHostToDevice),
        "sending angles");
  angle_positions_ = positions;
}

StepView CudaBackend::begin_step(const StepBatch& batch, const RopeTable& rope) {
  MOESAIC_ASSERT(batch.rows() <= shape_.max_rows);
  use_device();
  deferred_.clear();  // of a step that failed
  make_angles(rope, *std::max_element(batch.positions.begin(), batch.positions.end()));
  upload(batch);
  for (const auto& work : attention_) work->planned_for = nullptr;
  if (!flight_ && !idle_flights_.empty()) {
    flight_ = std::move(idle_flights_.back());
    idle_flights_.pop_back();
  }
  if (!flight_) flight_ = std::make_unique<Flight>(shape_.max_rows, shape_.vocab);
  flight_->sampled.begin();
  return {batch.rows(), batch.sequences()};
}

// ------------------------------------------------------------------------------------------------
// Its operators

void CudaBackend::defer(Operator::Kind kind, const void* weights, const KvLayer& cache) {
  deferred_.push_back({kind, weights, cache});
}

void CudaBackend::embed(const StepView&, const Matrix& table, int64_t first_row) {
  MOESAIC_ASSERT(first_row == 0 && table.desc.n == shape_.vocab);
  defer(Operator::Kind::kEmbed, &table);
}

void CudaBackend::attention_in(const StepView&, const AttentionWeights& weights,
                               const KvLayer& cache, Communicator& ranks) {
  MOESAIC_ASSERT(ranks.ranks() == 1);
  defer(Operator::Kind::kAttentionIn, &weights, cache);
}

void CudaBackend::attention(const StepView&, const AttentionDesc& desc, const KvLayer& cache) {
  defer(Operator::Kind::kAttention, &desc, cache);
}

void CudaBackend::attention_out(const StepView&, const AttentionWeights& weights) {
  defer(Operator::Kind::kAttentionOut, &weights);
}

void CudaBackend::ffn_in(const StepView&, const FfnWeights& weights) {
  defer(Operator::Kind::kFfnIn, &weights);
}

void CudaBackend::ffn(const StepView&, const FfnWeights& weights) {
  defer(Operator::Kind::kFfn, &weights);
}

void CudaBackend::head(const StepView&, const HeadWeights& weights, int64_t first, int64_t count) {
  MOESAIC_ASSERT(count <= layout_->logit_rows && first % layout_->logit_rows == 0);
  if (first > 0) return start_head(weights, first, count);
  defer(Operator::Kind::kHead, &weights);
  flush();
}

void CudaBackend::flush() {
  if (deferred_.empty()) return;
  const auto start_all = [&] {
    for (const Operator& deferred : deferred_) {
      if (deferred.kind != Operator::Kind::kAttention) continue;
      planned(deferred.as<AttentionDesc>(), deferred.cache.desc);
    }
    for (const Operator& deferred : deferred_) start(deferred);
  };
  if (step_->as_graph) {
    graphs_.launch(step_->bounds, deferred_, stream_, start_all);
  } else {
    start_all();
  }
  deferred_.clear();
}

void CudaBackend::start(const Operator& deferred) {
  switch (deferred.kind) {
    case Operator::Kind::kEmbed:
      return start_embed(deferred.as<Matrix>());
    case Operator::Kind::kAttentionIn:
      return start_attention_in(deferred.as<AttentionWeights>(), deferred.cache);
    case Operator::Kind::kAttention:
      return start_attention(deferred.as<AttentionDesc>(), deferred.cache);
    case Operator::Kind::kAttentionOut:
      return start_attention_out(deferred.as<AttentionWeights>());
    case Operator::Kind::kFfnIn:
      return start_ffn_in(deferred.as<FfnWeights>());
    case Operator::Kind::kFfn:
      return start_ffn(deferred.as<FfnWeights>());
    case Operator::Kind::kHead:
      return start_head(deferred.as<HeadWeights>(), 0, step_->bounds.logit_rows);
  }
}

RowCount CudaBackend::rows() const {
  return {step_memory_.as<const int32_t>(step_->counts), static_cast<int>(step_->bounds.rows)};
}

void CudaBackend::start_embed(const Matrix& table) {
  cuda::embed(linear_of(table), step_memory_.as<const int32_t>(step_->tokens), sampler_->chosen(),
              rows(), at<float>(layout_->residual), stream_.get());
}

CudaBackend::AttentionWork& CudaBackend::planned(const AttentionDesc& desc, const KvDesc& cache) {
  const auto found = std::find_if(attention_.begin(), attention_.end(), [&](const auto& work) {
    const AttentionDesc& other = work->desc;
    return other.heads == desc.heads && other.kv_heads == desc.kv_heads &&
           other.head_dim == desc.head_dim && other.sliding_window == desc.sliding_window &&
           other.scale == desc.scale;
  });
  MOESAIC_ASSERT(found != attention_.end());
  AttentionWork& work = **found;
  if (work.planned_for == step_) return work;
  const int64_t tile = step_->longest_chunk * (desc.heads / desc.kv_heads);
  work.kind = tile <= kDecodeRows ? StepKind::kDecode : StepKind::kMixed;
  plan_attention(shape_of(desc, cache), limits_of(shape_.max_rows), sequences(), work.kind,
                 work.memory.data(), stream_.get());
  work.planned_for = step_;
  return work;
}

AttentionSequences CudaBackend::sequences() const {
  return {.count = step_memory_.as<const int32_t>(step_->counts) + 4,
          .seq_starts = step_memory_.as<const int32_t>(step_->seq_starts),
          .context_lens = step_memory_.as<const int32_t>(step_->context_lens),
          .block_tables = step_memory_.as<const int32_t>(step_->block_tables),
          .max_blocks = static_cast<int>(step_->bounds.max_blocks)};
}

void CudaBackend::start_attention_in(const AttentionWeights& weights, const KvLayer& cache) {
  const AttentionDesc& desc = weights.desc;
  const RowCount rows = this->rows();
  auto* input = at<__nv_bfloat16>(layout_->input);
  auto* qkv = at<__nv_bfloat16>(layout_->qkv);
  add_rms_norm(at<float>(layout_->residual), nullptr, floats(weights.norm), desc.norm_eps,
               static_cast<int>(shape_.hidden), rows, input, stream_.get());
  const int64_t width = weights.qkv.desc.n;
  products_.linear(linear_of(weights.qkv),
                   {.data = input, .rows = rows.most, .stride = shape_.hidden, .count = rows.count},
                   floats(weights.qkv_bias), {qkv, width, Store::kBF16},
                   at<std::byte>(layout_->scratch), stream_.get());
  QkvShape shape;
  shape.attention = shape_of(desc, cache.desc);
  shape.rotary_dim = static_cast<int>(desc.rotary_dim);
  shape.norm = desc.qk_norm == QkNorm::kNone      ? QkNormKind::kNone
               : desc.qk_norm == QkNorm::kPerHead ? QkNormKind::kPerHead
                                                  : QkNormKind::kFull;
  shape.eps = desc.norm_eps;
  shape.clip = desc.clip_qkv;
  const auto half = static_cast<size_t>(angle_positions_ * (desc.rotary_dim / 2)) * sizeof(float);
  qkv_rope_append(shape,
                  {.q_norm = floats(weights.q_norm),
                   .k_norm = floats(weights.k_norm),
                   .cos = angles_.as<const float>(),
                   .sin = angles_.as<const float>(half),
                   .angle_rows = step_memory_.as<const int32_t>(step_->positions),
                   .slots = step_memory_.as<const int64_t>(step_->slots)},
                  rows, qkv, RawAddress::pointer<void>(cache.data), stream_.get());
}

/// The step's plans and arrays are settled: the projection and the rotation come between.
void CudaBackend::start_attention(const AttentionDesc& desc, const KvLayer& cache) {
  AttentionWork& work = planned(desc, cache.desc);
  const int64_t width = (desc.heads + 2 * desc.kv_heads) * desc.head_dim;
  cuda::attention(shape_of(desc, cache.desc), limits_of(shape_.max_rows), sequences(), work.kind,
                  work.memory.data(), at<const __nv_bfloat16>(layout_->qkv), width,
                  RawAddress::pointer<const void>(cache.data),
                  at<__nv_bfloat16>(layout_->attention), stream_.get(), Settled::kPast);
}

void CudaBackend::start_attention_out(const AttentionWeights& weights) {
  const RowCount rows = this->rows();
  products_.linear(linear_of(weights.o),
                   {.data = at<const void>(layout_->attention),
                    .rows = rows.most,
                    .stride = weights.o.desc.k,
                    .count = rows.count},
                   floats(weights.o_bias),
                   {at<float>(layout_->residual), shape_.hidden, Store::kAddF32},
                   at<std::byte>(layout_->scratch), stream_.get());
}

void CudaBackend::start_ffn_in(const FfnWeights& weights) {
  const RowCount rows = this->rows();
  auto* input = at<__nv_bfloat16>(layout_->input);
  add_rms_norm(at<float>(layout_->residual), nullptr, floats(weights.norm), weights.norm_eps,
               static_cast<int>(shape_.hidden), rows, input, stream_.get());
  if (!weights.moe) return;
  if (weights.shared_gate.desc.n > 0) {
    sigmoid_gate(input, floats(weights.shared_gate.packed), static_cast<int>(shape_.hidden), rows,
                 at<float>(layout_->shared_weights), stream_.get());
  }
  uint64_t* totals = at<uint64_t>(layout_->totals) + weights.moe_layer * shape_.router_experts;
  score_and_route(weights.router, weights.routing, rows, totals);
}

/// The experts of each row by the router's scores of the normed input.
void CudaBackend::score_and_route(const Matrix& matrix, const RouterDesc& desc, RowCount rows,
                                  uint64_t* totals) {
  const Layout& places = *layout_;
  auto* logits = at<float>(places.route_logits);
  const Linear router = linear_of(matrix);
  products_.linear(router,
                   {.data = at<const void>(layout_->input),
                    .rows = rows.most,
                    .stride = shape_.hidden,
                    .count = rows.count},
                   nullptr, {logits, router.shape.n, Store::kF32}, nullptr, stream_.get());
  route(shape_of(desc), logits, nullptr, rows,
        {.experts = at<int32_t>(places.route_experts),
         .weights = at<float>(places.route_weights),
         .totals = totals},
        stream_.get());
}

void CudaBackend::start_ffn(const FfnWeights& weights) {
  const RowCount rows = this->rows();
  const Rows input{.data = at<const void>(layout_->input),
                   .rows = rows.most,
                   .stride = shape_.hidden,
                   .count = rows.count};
  const Output sum{at<float>(layout_->residual), shape_.hidden, Store::kAddF32};
  Routing routing;
  if (weights.moe) {
    routing = {at<const int32_t>(layout_->route_experts), at<const float>(layout_->route_weights),
               weights.routing.top_k};
  }
  products_.experts(experts_of(weights.experts), input, routing, sum,
                    at<std::byte>(layout_->scratch), stream_.get());
  if (weights.shared.desc.experts == 0) return;
  // Everybody's expert is known before anybody is routed: its gate is a weight alone.
  Routing everybody;
  if (weights.shared_gate.desc.n > 0) everybody.weights = at<const float>(layout_->shared_weights);
  products_.experts(experts_of(weights.shared), input, everybody, sum,
                    at<std::byte>(layout_->scratch), stream_.get());
}

/// Logits of wanted rows [first, first + count), `count` of them at most.
void CudaBackend::start_head(const HeadWeights& weights, int64_t first, int64_t count) {
  const RowCount rows = chunk_of(first, count);
  auto* input = at<__nv_bfloat16>(layout_->input);
  gather_rms_norm(at<const float>(layout_->residual), nullptr, floats(weights.norm),
                  weights.norm_eps, static_cast<int>(shape_.hidden),
                  step_memory_.as<const int32_t>(step_->logit_rows) + first, rows, input,
                  stream_.get());
  products_.linear(linear_of(weights.head),
                   {.data = input, .rows = count, .stride = shape_.hidden, .count = rows.count},
                   nullptr, {at<float>(layout_->logits), layout_->logit_stride, Store::kF32},
                   nullptr, stream_.get());
}

/// The rows of the chunk of logits that begins with wanted row `first`.
RowCount CudaBackend::chunk_of(int64_t first, int64_t count) const {
  const auto chunk = static_cast<int64_t>(first / layout_->logit_rows);
  return {step_memory_.as<const int32_t>(step_->counts) + 8 + 4 * chunk, static_cast<int>(count)};
}

// ------------------------------------------------------------------------------------------------
// Choosing tokens

Unsupported CudaBackend::samples(const backend::SampleRow& row) const {
  return Sampler::samples(shape_.vocab, row);
}

void CudaBackend::set_sampling_state(int32_t slot, SamplingState state) {
  sampler_->set_state(slot, state);
}

void CudaBackend::sample(const StepView&, int64_t first, std::span<const backend::SampleRow> rows) {
  sampler_->sample(at<const float>(layout_->logits), layout_->logit_stride, first, rows,
                   chunk_of(first, static_cast<int64_t>(rows.size())).count, flight_->sampled,
                   stream_);
}

Fence CudaBackend::end_step(const StepView&) {
  flush();  // a step without logits
  sampler_->finish(step_->wanted, flight_->sampled, stream_);
  flight_->ended.record(stream_);
  flight_->ticket = ++tickets_;
  flights_.push_back(std::move(flight_));
  return {tickets_};
}

std::vector<backend::Sampled> CudaBackend::take_samples(Fence end) {
  use_device();
  const auto found = std::find_if(flights_.begin(), flights_.end(),
                                  [&](const auto& flight) { return flight->ticket == end.ticket; });
  MOESAIC_ASSERT(found != flights_.end());
  std::unique_ptr<Flight> flight = std::move(*found);
  flights_.erase(found);
  flight->ended.wait();
  std::vector<backend::Sampled> samples = flight->sampled.results();
  idle_flights_.push_back(std::move(flight));
  return samples;
}

}  // namespace moesaic::backend::cuda

namespace moesaic::backend {

std::unique_ptr<Backend> make_cuda_backend(int index, bool graphs) {
  return std::make_unique<cuda::CudaBackend>(index, graphs);
}

int cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

}  // namespace moesaic::backend
