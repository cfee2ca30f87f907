#include "model/tensor_list.h"

namespace moesaic::model {

namespace {

class Layer {
 public:
  Layer(const ModelSpec& spec, std::vector<SpecTensor>& out) : spec_(spec), out_(out) {}

  void attention(const AttentionSpec& attention) {
    if (attention.kind == AttentionKind::kNone) return;
    if (attention.kind == AttentionKind::kRecurrent) {
      recurrent(attention.recurrent);
      return;
    }
    if (attention.kind == AttentionKind::kMla) {
      latent(attention);
    } else {
      grouped(attention);
    }
    const int64_t width = attention.output_width();
    linear(Part::kAttention, Cut::kHeads, attention.heads, spec_.hidden, width);
    if (attention.o_bias) vector(Part::kAttention, Cut::kNone, 1, spec_.hidden);
    if (attention.sinks) {
      vector(Part::kAttention, Cut::kHeads, attention.heads, attention.heads);
    }
  }

  void norms(const LayerSpec& layer) {
    int64_t norms = layer.extra_norms;
    if (layer.attention.kind != AttentionKind::kNone) ++norms;
    if (!layer.ffn.empty()) ++norms;
    for (int64_t i = 0; i < norms * (spec_.norm_bias ? 2 : 1); ++i) {
      vector(Part::kNorm, Cut::kNone, 1, spec_.hidden);
    }
  }

  void ffn(const FfnSpec& ffn) {
    if (ffn.empty()) return;
    if (!ffn.moe) {
      projections(Part::kDenseFfn, ffn.width, ffn.gated, spec_.hidden);
      return;
    }
    const int64_t inside = ffn.latent > 0 ? ffn.latent : spec_.hidden;
    projections(Part::kExpert, ffn.width, ffn.gated, inside, ffn.experts, ffn.expert_bias);
    if (ffn.latent > 0) {
      linear(Part::kSharedExpert, Cut::kNone, 1, ffn.latent, spec_.hidden);
      linear(Part::kSharedExpert, Cut::kNone, 1, spec_.hidden, ffn.latent);
    }
    const int64_t choices = ffn.experts + ffn.zero_experts;
    matrix(Part::kRouter, choices);
    if (ffn.router.bias) vector(Part::kRouter, Cut::kNone, 1, choices);
    if (ffn.router.selection_bias) vector(Part::kRouter, Cut::kNone, 1, choices);
    if (ffn.shared_width == 0) return;
    projections(Part::kSharedExpert, ffn.shared_width, ffn.gated, spec_.hidden);
    if (ffn.shared_gate) matrix(Part::kSharedExpert, 1);
  }

 private:
  void linear(Part part, Cut cut, int64_t units, int64_t rows, int64_t columns,
              int64_t copies = 1) {
    out_.push_back({part, cut, rows, columns, copies, units, true});
  }
  void vector(Part part, Cut cut, int64_t units, int64_t size, int64_t copies = 1) {
    out_.push_back({part, cut, size, 1, copies, units, false});
  }
  /// A small matrix over the hidden state that stays in full precision everywhere.
  void matrix(Part part, int64_t rows) {
    out_.push_back({part, Cut::kNone, rows, spec_.hidden, 1, 1, false});
  }

  /// gate (where `gated`), up and down, between `width` and a state of `outside` values.
  void projections(Part part, int64_t width, bool gated, int64_t outside, int64_t copies = 1,
                   bool bias = false) {
    if (gated) linear(part, Cut::kWidth, width, width, outside, copies);
    linear(part, Cut::kWidth, width, width, outside, copies);
    linear(part, Cut::kWidth, width, outside, width, copies);
    if (!bias) return;
    vector(part, Cut::kWidth, width, (gated ? 2 : 1) * width, copies);
    vector(part, Cut::kNone, 1, outside, copies);
  }

  void recurrent(const RecurrentSpec& mixer) {
    const auto cut = [&](int64_t rows, int64_t columns) {
      linear(Part::kAttention, Cut::kHeads, mixer.heads, rows, columns);
    };
    cut(mixer.in_width, spec_.hidden);
    if (mixer.step_rank > 0) {
      cut(mixer.step_width, mixer.out_width);
      cut(mixer.out_width, mixer.step_rank);
    }
    cut(spec_.hidden, mixer.out_width);
    vector(Part::kAttention, Cut::kHeads, mixer.heads, mixer.conv_width * mixer.conv_kernel);
    vector(Part::kAttention, Cut::kHeads, mixer.heads, mixer.vectors);
  }

  void grouped(const AttentionSpec& attention) {
    const int64_t q_width = attention.heads * attention.head_dim;
    const int64_t kv_width = attention.kv_heads * attention.head_dim;
    queries(attention, q_width);
    if (attention.output_gate) {
      linear(Part::kAttention, Cut::kHeads, attention.heads, q_width, spec_.hidden);
    }
    for (int i = 0; i < (attention.keys_are_values ? 1 : 2); ++i) {
      linear(Part::kAttention, Cut::kKvHeads, attention.kv_heads, kv_width, spec_.hidden);
    }
    if (attention.qkv_bias) {
      vector(Part::kAttention, Cut::kHeads, attention.heads, q_width);
      vector(Part::kAttention, Cut::kKvHeads, attention.kv_heads, 2 * kv_width);
    }
    if (attention.qk_norm == backend::QkNorm::kPerHead) {
      vector(Part::kNorm, Cut::kNone, 1, 2 * attention.head_dim);
    } else if (attention.qk_norm == backend::QkNorm::kFull) {
      vector(Part::kNorm, Cut::kHeads, attention.heads, q_width);
      vector(Part::kNorm, Cut::kKvHeads, attention.kv_heads, kv_width);
    }
  }

  /// The queries' projection, through a latent of their own where there is one.
  void queries(const AttentionSpec& attention, int64_t width) {
    const int64_t rank = attention.latent.q_rank;
    if (rank > 0) {
      linear(Part::kAttention, Cut::kNone, 1, rank, spec_.hidden);
      vector(Part::kNorm, Cut::kNone, 1, rank);
    }
    linear(Part::kAttention, Cut::kHeads, attention.heads, width, rank > 0 ? rank : spec_.hidden);
  }

  void latent(const AttentionSpec& attention) {
    const LatentSpec& latent = attention.latent;
    queries(attention, attention.heads * (latent.nope_dim + latent.rope_dim));
    linear(Part::kAttention, Cut::kNone, 1, latent.kv_rank + latent.rope_dim, spec_.hidden);
    vector(Part::kNorm, Cut::kNone, 1, latent.kv_rank);
    const int64_t kv_width = attention.heads * (latent.nope_dim + latent.v_dim);
    linear(Part::kAttention, Cut::kHeads, attention.heads, kv_width, latent.kv_rank);
    const IndexerSpec& indexer = attention.indexer;
    if (indexer.heads == 0) return;
    const int64_t from = latent.q_rank > 0 ? latent.q_rank : spec_.hidden;
    linear(Part::kAttention, Cut::kNone, 1, indexer.heads * indexer.dim, from);
    linear(Part::kAttention, Cut::kNone, 1, indexer.dim, spec_.hidden);
    matrix(Part::kAttention, indexer.heads);
    vector(Part::kNorm, Cut::kNone, 1, 2 * indexer.dim);
  }

  const ModelSpec& spec_;
  std::vector<SpecTensor>& out_;
};

}  // namespace

std::vector<SpecTensor> layer_tensors(const ModelSpec& spec, const LayerSpec& layer) {
  std::vector<SpecTensor> tensors;
  Layer list(spec, tensors);
  list.norms(layer);
  list.attention(layer.attention);
  list.ffn(layer.ffn);
  return tensors;
}

SpecTensor embedding_tensor(const ModelSpec& spec) {
  return {Part::kEmbedding, Cut::kVocab, spec.vocab_size, spec.hidden, 1, spec.vocab_size, false};
}

std::vector<SpecTensor> input_tensors(const ModelSpec& spec) {
  std::vector<SpecTensor> tensors = {embedding_tensor(spec)};
  if (spec.encoder_params > 0) {
    tensors.push_back({Part::kEncoder, Cut::kNone, spec.encoder_params, 1, 1, 1, false});
  }
  return tensors;
}

std::vector<SpecTensor> output_tensors(const ModelSpec& spec) {
  const SpecTensor norm{Part::kNorm, Cut::kNone, spec.hidden, 1, 1, 1, false};
  std::vector<SpecTensor> tensors(spec.norm_bias ? 2 : 1, norm);
  if (!spec.tied_embeddings) tensors.push_back(embedding_tensor(spec));
  if (spec.head_bias) {
    tensors.push_back(
        {Part::kEmbedding, Cut::kVocab, spec.vocab_size, 1, 1, spec.vocab_size, false});
  }
  return tensors;
}

}  // namespace moesaic::model
