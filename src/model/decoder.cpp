#include "model/decoder.h"

#include <algorithm>

#include "base/error.h"
#include "model/rope.h"

namespace moesaic::model {

namespace {

using backend::ActivationKind;

backend::AttentionDesc describe(const ModelSpec& spec, const AttentionSpec& attention,
                                const LayerShare& share) {
  return {.heads = share.heads.count,
          .kv_heads = share.kv_heads.count,
          .head_dim = attention.head_dim,
          .rotary_dim = spec.rope.rotary_dim,
          .qk_norm = attention.qk_norm,
          .all_heads = attention.heads,
          .all_kv_heads = attention.kv_heads,
          .kv_copies = share.kv_copies,
          .norm_eps = static_cast<float>(spec.norm_eps),
          .clip_qkv = static_cast<float>(attention.clip_qkv),
          .scale = static_cast<float>(attention.scale),
          .sliding_window = attention.sliding_window};
}

/// Handles and descriptors of one layer, resolved once.
struct Layer {
  backend::AttentionWeights attention;
  backend::FfnWeights ffn;

  Layer(const ModelSpec& model, const LayerSpec& spec, const LoadedWeights& weights,
        const LayerLayout& layout) {
    const LayerShare share(spec, weights.layout.shard);
    attention.desc = describe(model, spec.attention, share);
    attention.norm = weights.vector(layout.input_norm);
    attention.qkv = weights.matrix(layout.qkv);
    attention.v = weights.matrix(layout.v);
    attention.qkv_bias = weights.vector(layout.qkv_bias);
    attention.q_norm = weights.vector(layout.q_norm);
    attention.k_norm = weights.vector(layout.k_norm);
    attention.o = weights.matrix(layout.o);
    attention.o_bias = weights.vector(layout.o_bias);
    ffn.norm = weights.vector(layout.post_attention_norm);
    ffn.norm_eps = static_cast<float>(model.norm_eps);
    ffn.moe = spec.ffn.moe;
    ffn.experts = weights.experts(layout.experts);
    ffn.first_expert = share.experts.first;
    if (!ffn.moe) return;
    ffn.router = weights.matrix(layout.router);
    ffn.routing = {.experts = spec.ffn.experts,
                   .top_k = spec.ffn.router.top_k,
                   .scoring = spec.ffn.router.scoring,
                   .renormalize = spec.ffn.router.renormalize,
                   .scale = static_cast<float>(spec.ffn.router.scale)};
    ffn.shared = weights.experts(layout.shared);
    ffn.shared_gate = weights.matrix(layout.shared_gate);
  }
};

void check_sequence(const StepBatch& batch, size_t s, const KvCache& cache) {
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

void check(const StepBatch& batch, const ModelSpec& spec, const KvCache& cache, int64_t max_rows) {
  const auto rows = static_cast<size_t>(batch.rows());
  const auto sequences = static_cast<size_t>(batch.sequences());
  MOESAIC_ASSERT(batch.rows() > 0 && batch.rows() <= max_rows);
  MOESAIC_ASSERT(batch.positions.size() == rows && batch.slots.size() == rows);
  MOESAIC_ASSERT(batch.seq_starts.size() == sequences + 1);
  MOESAIC_ASSERT(batch.seq_starts.front() == 0 && batch.seq_starts.back() == batch.rows());
  MOESAIC_ASSERT(batch.block_tables.size() == sequences * static_cast<size_t>(batch.max_blocks));
  const int64_t slots = cache.num_blocks() * cache.block_size();
  for (size_t i = 0; i < rows; ++i) {
    MOESAIC_ASSERT(batch.token_ids[i] < spec.vocab_size);
    MOESAIC_ASSERT(batch.positions[i] >= 0);
    MOESAIC_ASSERT(batch.slots[i] >= 0 && batch.slots[i] < slots);
  }
  for (size_t s = 0; s < sequences; ++s) check_sequence(batch, s, cache);
  for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
    MOESAIC_ASSERT(batch.logit_rows[i] >= 0 && batch.logit_rows[i] < batch.rows());
    MOESAIC_ASSERT(i == 0 || batch.logit_rows[i] > batch.logit_rows[i - 1]);
  }
}

}  // namespace

struct Decoder::Impl {
  const ModelSpec& spec;
  backend::Backend& backend;
  backend::Communicator& ranks;
  int64_t max_rows;
  backend::RopeTable rope;
  backend::Matrix embed;
  int64_t first_token;  ///< of the vocabulary's rows that this rank holds
  backend::HeadWeights head;
  std::vector<Layer> layers;

  Impl(const ModelSpec& model, const LoadedWeights& weights, backend::Backend& ops,
       backend::Communicator& peers, int64_t rows)
      : spec(model),
        backend(ops),
        ranks(peers),
        max_rows(rows),
        rope(rope_table(model.rope)),
        embed(weights.matrix(weights.layout.embed)),
        first_token(share_of(model.vocab_size, weights.layout.shard).first) {
    const WeightLayout& layout = weights.layout;
    MOESAIC_ASSERT(layout.layers.size() == spec.layers.size());
    MOESAIC_ASSERT(layout.shard.ranks == ranks.ranks() && layout.shard.rank == ranks.rank());
    head = {.norm = weights.vector(layout.final_norm),
            .norm_eps = static_cast<float>(spec.norm_eps),
            .head = weights.matrix(spec.tied_embeddings ? layout.embed : layout.lm_head),
            .first_column = first_token};
    int64_t moe_layer = 0;
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      layers.emplace_back(spec, spec.layers[i], weights, layout.layers[i]);
      if (layers.back().ffn.moe) layers.back().ffn.moe_layer = moe_layer++;
    }
    backend.reserve(shape(spec, layout, max_rows));
  }

  /// Adds up what the ranks have computed each.
  void reduce(ActivationKind kind, int64_t rows) {
    const backend::Activation values = backend.activation(kind);
    ranks.all_reduce(values.address, rows * values.stride, values.dtype);
  }

  void emit_logits(const backend::StepView& step, int64_t count, const LogitsSink& sink) {
    const int64_t chunk = backend.logits_at_once();
    for (int64_t first = 0; first < count; first += chunk) {
      const int64_t rows = std::min(chunk, count - first);
      backend.head(step, head, first, rows);
      reduce(ActivationKind::kLogits, rows);
      sink(step, first, rows);
    }
  }

  backend::Fence forward(const StepBatch& batch, const KvCache& cache, const LogitsSink& sink) {
    check(batch, spec, cache, max_rows);
    const backend::StepView step = backend.begin_step(batch, rope);
    backend.embed(step, embed, first_token);
    reduce(ActivationKind::kResidual, step.rows);
    for (size_t i = 0; i < layers.size(); ++i) {
      const Layer& layer = layers[i];
      const backend::KvLayer& kv = cache.layer(static_cast<int64_t>(i));
      backend.attention_in(step, layer.attention, kv, ranks);
      backend.attention(step, layer.attention.desc, kv);
      backend.attention_out(step, layer.attention);
      reduce(ActivationKind::kDelta, step.rows);
      backend.ffn_in(step, layer.ffn);
      backend.ffn(step, layer.ffn);
      reduce(ActivationKind::kDelta, step.rows);
    }
    emit_logits(step, static_cast<int64_t>(batch.logit_rows.size()), sink);
    return backend.end_step(step);
  }
};

Decoder::Decoder(const ModelSpec& spec, const LoadedWeights& weights, backend::Backend& backend,
                 backend::Communicator& ranks, int64_t max_rows)
    : impl_(std::make_unique<Impl>(spec, weights, backend, ranks, max_rows)) {}

Decoder::~Decoder() = default;

backend::Fence Decoder::forward(const StepBatch& batch, const KvCache& cache,
                                const LogitsSink& sink) {
  return impl_->forward(batch, cache, sink);
}

backend::ModelShape Decoder::shape(const ModelSpec& spec, const WeightLayout& layout,
                                   int64_t max_rows) {
  backend::ModelShape shape;
  shape.hidden = spec.hidden;
  shape.vocab = spec.vocab_size;
  shape.rotary_pairs = spec.rope.rotary_dim / 2;
  shape.router_experts = spec.max_experts();
  shape.moe_layers = spec.moe_layers();
  shape.max_rows = max_rows;
  const auto consider = [&](const Placed<ExpertsItem>& placed, int64_t top_k) {
    const backend::ModelShape::Ffn ffn{placed.item.desc, top_k};
    const bool known = std::find(shape.ffns.begin(), shape.ffns.end(), ffn) != shape.ffns.end();
    if (placed.present() && !known) shape.ffns.push_back(ffn);
  };
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    const LayerShare share(layer, layout.shard);
    const int64_t heads = share.heads.count * layer.attention.head_dim;
    const int64_t kv = share.kv_heads.count * layer.attention.head_dim;
    shape.qkv_width = std::max(shape.qkv_width, heads + 2 * kv);
    shape.attention_width = std::max(shape.attention_width, heads);
    const backend::AttentionDesc attention = describe(spec, layer.attention, share);
    const bool known = std::find(shape.attentions.begin(), shape.attentions.end(), attention) !=
                       shape.attentions.end();
    if (!known && attention.heads > 0) shape.attentions.push_back(attention);
    consider(layout.layers[i].experts, layer.ffn.moe ? layer.ffn.router.top_k : 1);
    consider(layout.layers[i].shared, 1);
  }
  return shape;
}

}  // namespace moesaic::model
