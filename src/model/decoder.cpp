#include "model/decoder.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "model/rope.h"

namespace moesaic::model {

namespace {

constexpr size_t kAlignment = 64;
/// Logits leave in chunks of about this size: enough rows to read lm_head once for many of them.
constexpr size_t kLogitsBytes = size_t{64} << 20;

int64_t logits_rows(const ModelSpec& spec, int64_t max_rows) {
  const size_t row_bytes = static_cast<size_t>(spec.vocab_size) * sizeof(float);
  const auto rows = static_cast<int64_t>(kLogitsBytes / row_bytes);
  return std::clamp<int64_t>(rows, 1, max_rows);
}

/// Where each activation lies in the one region; all are float32, row-major.
struct Layout {
  size_t bytes = 0;
  size_t residual, normed, delta, qkv, attention, router, gate, cos, sin, logits;

  Layout(const ModelSpec& spec, int64_t max_rows) {
    int64_t qkv_width = 0;
    int64_t attention_width = 0;
    for (const LayerSpec& layer : spec.layers) {
      const AttentionSpec& a = layer.attention;
      qkv_width = std::max(qkv_width, (a.heads + 2 * a.kv_heads) * a.head_dim);
      attention_width = std::max(attention_width, a.heads * a.head_dim);
    }
    residual = take(max_rows, spec.hidden);
    normed = take(max_rows, spec.hidden);
    delta = take(max_rows, spec.hidden);
    qkv = take(max_rows, qkv_width);
    attention = take(max_rows, attention_width);
    router = take(max_rows, spec.max_experts());
    gate = take(max_rows, 1);
    cos = take(max_rows, spec.rope.rotary_dim / 2);
    sin = take(max_rows, spec.rope.rotary_dim / 2);
    logits = take(logits_rows(spec, max_rows), spec.vocab_size);
  }

 private:
  size_t take(int64_t rows, int64_t width) {
    const size_t at = bytes;
    const size_t size = static_cast<size_t>(rows) * static_cast<size_t>(width) * sizeof(float);
    bytes += (size + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
};

/// One feed-forward shape of the model, as the backend's scratch is asked for.
struct FfnShape {
  backend::ExpertsDesc desc;
  int64_t top_k = 1;
  size_t scratch = 0;
};

/// The shape that needs the most scratch. Not a shape with the largest of each size: a model of
/// many narrow experts and one wide shared expert would be charged for many wide ones.
FfnShape hungriest_ffn(const ModelSpec& spec, const backend::Backend& backend, tensor::DType dtype,
                       int64_t max_rows) {
  FfnShape most;
  const auto consider = [&](int64_t experts, int64_t width, int64_t top_k) {
    FfnShape shape{
        .desc = {.experts = experts, .hidden = spec.hidden, .width = width, .dtype = dtype},
        .top_k = top_k};
    shape.scratch = backend.scratch_bytes(shape.desc, top_k, max_rows);
    if (most.desc.experts == 0 || shape.scratch > most.scratch) most = shape;
  };
  for (const LayerSpec& layer : spec.layers) {
    const FfnSpec& ffn = layer.ffn;
    consider(std::max<int64_t>(1, ffn.experts), ffn.width, ffn.moe ? ffn.router.top_k : 1);
    if (ffn.shared_width > 0) consider(1, ffn.shared_width, 1);
  }
  return most;
}

backend::AttentionDesc describe(const ModelSpec& spec, const AttentionSpec& attention) {
  return {.heads = attention.heads,
          .kv_heads = attention.kv_heads,
          .head_dim = attention.head_dim,
          .rotary_dim = spec.rope.rotary_dim,
          .qk_norm = attention.qk_norm,
          .norm_eps = static_cast<float>(spec.norm_eps),
          .clip_qkv = static_cast<float>(attention.clip_qkv),
          .scale = static_cast<float>(attention.scale),
          .sliding_window = attention.sliding_window};
}

/// Handles and descriptors of one layer, resolved once.
struct Layer {
  backend::AttentionDesc attention;
  const float *input_norm, *post_attention_norm, *q_norm, *k_norm, *qkv_bias, *o_bias;
  backend::Matrix qkv, o;
  backend::Experts experts;
  bool moe = false;
  backend::RouterDesc routing;
  backend::Matrix router;
  bool has_shared = false, has_shared_gate = false;
  backend::Matrix shared_gate;
  backend::Experts shared;

  Layer(const ModelSpec& model, const LayerSpec& spec, const LoadedWeights& weights,
        const LayerPlan& plan)
      : attention(describe(model, spec.attention)),
        input_norm(weights.vector(plan.input_norm)),
        post_attention_norm(weights.vector(plan.post_attention_norm)),
        q_norm(weights.vector(plan.q_norm)),
        k_norm(weights.vector(plan.k_norm)),
        qkv_bias(weights.vector(plan.qkv_bias)),
        o_bias(weights.vector(plan.o_bias)),
        qkv(weights.matrix(plan.qkv)),
        o(weights.matrix(plan.o)),
        experts(weights.experts(plan.experts)),
        moe(spec.ffn.moe),
        has_shared(plan.shared.present()),
        has_shared_gate(plan.shared_gate.present()) {
    if (!moe) return;
    router = weights.matrix(plan.router);
    routing = {.experts = spec.ffn.experts,
               .top_k = spec.ffn.router.top_k,
               .scoring = spec.ffn.router.scoring,
               .renormalize = spec.ffn.router.renormalize,
               .scale = static_cast<float>(spec.ffn.router.scale)};
    if (has_shared) shared = weights.experts(plan.shared);
    if (has_shared_gate) shared_gate = weights.matrix(plan.shared_gate);
  }
};

/// The shared expert's gate as a router over one expert: its weight is sigmoid(x . gate).
constexpr backend::RouterDesc kSharedGate{.experts = 1,
                                          .top_k = 1,
                                          .scoring = backend::Scoring::kSigmoid,
                                          .renormalize = false,
                                          .scale = 1.0f};

/// Moves the rows named by ascending `rows` to the front of x, in order.
void keep_rows(std::span<const int32_t> rows, int64_t width, float* x) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto from = static_cast<size_t>(rows[i]);
    if (from == i) continue;
    std::memcpy(x + i * static_cast<size_t>(width), x + from * static_cast<size_t>(width),
                static_cast<size_t>(width) * sizeof(float));
  }
}

}  // namespace

struct Decoder::Impl {
  const ModelSpec& spec;
  backend::Backend& backend;
  int64_t max_rows;
  Rope rope;
  Layout layout;
  base::Region region;
  backend::Matrix embed, lm_head;
  const float* final_norm;
  std::vector<Layer> layers;
  backend::Routing routing, shared_routing, dense_routing;

  Impl(const ModelSpec& model, const LoadedWeights& weights, backend::Backend& ops, int64_t rows)
      : spec(model),
        backend(ops),
        max_rows(rows),
        rope(model.rope),
        layout(model, rows),
        region(base::MemoryTag::kActivations, layout.bytes),
        embed(weights.matrix(weights.plan.embed)),
        final_norm(weights.vector(weights.plan.final_norm)) {
    const WeightPlan& plan = weights.plan;
    MOESAIC_ASSERT(plan.layers.size() == spec.layers.size());
    lm_head = plan.lm_head.present() ? weights.matrix(plan.lm_head) : embed;
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      layers.emplace_back(spec, spec.layers[i], weights, plan.layers[i]);
    }
    const FfnShape shape = hungriest_ffn(spec, backend, embed.desc.dtype, max_rows);
    backend.reserve(shape.desc, shape.top_k, max_rows);
  }

  float* at(size_t offset) const { return reinterpret_cast<float*>(region.data() + offset); }

  void check(const StepBatch& batch, const KvCache& cache) const {
    const auto rows = static_cast<size_t>(batch.rows());
    const auto sequences = static_cast<size_t>(batch.sequences());
    MOESAIC_ASSERT(batch.rows() <= max_rows);
    MOESAIC_ASSERT(batch.positions.size() == rows && batch.slots.size() == rows);
    MOESAIC_ASSERT(batch.seq_starts.size() == sequences + 1);
    MOESAIC_ASSERT(batch.seq_starts.front() == 0 && batch.seq_starts.back() == batch.rows());
    MOESAIC_ASSERT(batch.block_tables.size() == sequences * static_cast<size_t>(batch.max_blocks));
    const int64_t slots = cache.num_blocks() * cache.block_size();
    for (size_t i = 0; i < rows; ++i) {
      MOESAIC_ASSERT(batch.token_ids[i] >= 0 && batch.token_ids[i] < spec.vocab_size);
      MOESAIC_ASSERT(batch.positions[i] >= 0);
      MOESAIC_ASSERT(batch.slots[i] >= 0 && batch.slots[i] < slots);
    }
    for (size_t s = 0; s < sequences; ++s) check_sequence(batch, s, cache);
    for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
      MOESAIC_ASSERT(batch.logit_rows[i] >= 0 && batch.logit_rows[i] < batch.rows());
      MOESAIC_ASSERT(i == 0 || batch.logit_rows[i] > batch.logit_rows[i - 1]);
    }
  }

  static void check_sequence(const StepBatch& batch, size_t s, const KvCache& cache) {
    const int64_t length = batch.context_lens[s];
    MOESAIC_ASSERT(batch.seq_starts[s + 1] - batch.seq_starts[s] <= length);
    const int64_t blocks = (length + cache.block_size() - 1) / cache.block_size();
    MOESAIC_ASSERT(blocks <= batch.max_blocks);
    const auto first = static_cast<int64_t>(s) * batch.max_blocks;
    for (int64_t b = first; b < first + blocks; ++b) {
      const int32_t block = batch.block_tables[static_cast<size_t>(b)];
      MOESAIC_ASSERT(block >= 0 && block < cache.num_blocks() && "block_tables");
    }
  }

  void rotate(const StepBatch& batch) {
    const int64_t width = rope.width();
    float* cos = at(layout.cos);
    float* sin = at(layout.sin);
    for (int64_t i = 0; i < batch.rows(); ++i) {
      rope.row(batch.positions[static_cast<size_t>(i)], cos + i * width, sin + i * width);
    }
  }

  /// Reads normed, leaves the block's output in delta.
  void attend(const Layer& layer, const StepBatch& batch, const backend::KvLayer& cache) {
    const int64_t rows = batch.rows();
    float* qkv = at(layout.qkv);
    backend.linear(layer.qkv, layer.qkv_bias, at(layout.normed), rows, qkv);
    const backend::QkvInputs inputs{.q_norm = layer.q_norm,
                                    .k_norm = layer.k_norm,
                                    .cos = at(layout.cos),
                                    .sin = at(layout.sin),
                                    .slots = batch.slots};
    backend.qkv_rope_append(layer.attention, inputs, rows, qkv, cache);
    const backend::AttentionBatch sequences{.seq_starts = batch.seq_starts,
                                            .context_lens = batch.context_lens,
                                            .block_tables = batch.block_tables,
                                            .max_blocks = batch.max_blocks};
    backend.attention(layer.attention, cache, sequences, qkv, at(layout.attention));
    backend.linear(layer.o, layer.o_bias, at(layout.attention), rows, at(layout.delta));
  }

  /// Reads normed, leaves the block's output in delta; `counts` is the layer's row of ExpertCounts.
  void feed_forward(const Layer& layer, int64_t rows, int32_t* counts) {
    const float* x = at(layout.normed);
    float* y = at(layout.delta);
    if (!layer.moe) {
      backend.experts(layer.experts, dense_routing, x, rows, /*accumulate=*/false, y);
      return;
    }
    float* logits = at(layout.router);
    backend.linear(layer.router, nullptr, x, rows, logits);
    backend.route(layer.routing, logits, rows, routing);
    std::copy(routing.counts.begin(), routing.counts.end(), counts);
    backend.experts(layer.experts, routing, x, rows, /*accumulate=*/false, y);
    if (!layer.has_shared) return;
    const backend::Routing* shared = &dense_routing;
    if (layer.has_shared_gate) {
      backend.linear(layer.shared_gate, nullptr, x, rows, at(layout.gate));
      backend.route(kSharedGate, at(layout.gate), rows, shared_routing);
      shared = &shared_routing;
    }
    backend.experts(layer.shared, *shared, x, rows, /*accumulate=*/true, y);
  }

  /// Residual and delta hold the last layer's result.
  void emit_logits(std::span<const int32_t> wanted, const LogitsSink& sink) {
    const int64_t hidden = spec.hidden;
    const auto count = static_cast<int64_t>(wanted.size());
    keep_rows(wanted, hidden, at(layout.residual));
    keep_rows(wanted, hidden, at(layout.delta));
    backend.add_rms_norm(at(layout.residual), at(layout.delta), final_norm,
                         static_cast<float>(spec.norm_eps), count, hidden, at(layout.normed));
    const int64_t chunk = logits_rows(spec, max_rows);
    for (int64_t first = 0; first < count; first += chunk) {
      const int64_t rows = std::min(chunk, count - first);
      backend.linear(lm_head, nullptr, at(layout.normed) + first * hidden, rows, at(layout.logits));
      sink(first, rows, at(layout.logits));
    }
  }

  void forward(const StepBatch& batch, KvCache& cache, const LogitsSink& sink,
               ExpertCounts& counts) {
    const int64_t rows = batch.rows();
    counts.layers = spec.moe_layers();
    counts.experts = spec.max_experts();
    counts.counts.assign(static_cast<size_t>(counts.layers * counts.experts), 0);
    if (rows == 0) return;
    check(batch, cache);
    if (dense_routing.rows != rows) dense_routing = backend::Routing::dense(rows);
    rotate(batch);

    const int64_t hidden = spec.hidden;
    const auto eps = static_cast<float>(spec.norm_eps);
    float* residual = at(layout.residual);
    float* normed = at(layout.normed);
    float* delta = at(layout.delta);
    backend.embed(embed, batch.token_ids, residual);
    backend.rms_norm(residual, layers.front().input_norm, eps, rows, hidden, normed);
    int32_t* layer_counts = counts.counts.data();
    for (size_t i = 0; i < layers.size(); ++i) {
      const Layer& layer = layers[i];
      attend(layer, batch, cache.layer(static_cast<int64_t>(i)));
      backend.add_rms_norm(residual, delta, layer.post_attention_norm, eps, rows, hidden, normed);
      feed_forward(layer, rows, layer_counts);
      if (layer.moe) layer_counts += counts.experts;
      if (i + 1 == layers.size()) break;
      backend.add_rms_norm(residual, delta, layers[i + 1].input_norm, eps, rows, hidden, normed);
    }
    if (!batch.logit_rows.empty()) emit_logits(batch.logit_rows, sink);
  }
};

Decoder::Decoder(const ModelSpec& spec, const LoadedWeights& weights, backend::Backend& backend,
                 int64_t max_rows)
    : impl_(std::make_unique<Impl>(spec, weights, backend, max_rows)) {}

Decoder::~Decoder() = default;

void Decoder::forward(const StepBatch& batch, KvCache& cache, const LogitsSink& sink,
                      ExpertCounts& counts) {
  impl_->forward(batch, cache, sink, counts);
}

size_t Decoder::activation_bytes(const ModelSpec& spec, const backend::Backend& backend,
                                 tensor::DType dtype, int64_t max_rows) {
  return Layout(spec, max_rows).bytes + hungriest_ffn(spec, backend, dtype, max_rows).scratch;
}

}  // namespace moesaic::model
