#include "model/tensor_list.h"

namespace moesaic::model {

namespace {

class Layer {
 public:
  Layer(const ModelSpec& spec, std::vector<SpecTensor>& out) : spec_(spec), out_(out) {}

  void attention(const AttentionSpec& attention) {
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

  void norms() {
    for (int i = 0; i < (spec_.norm_bias ? 4 : 2); ++i) {
      vector(Part::kNorm, Cut::kNone, 1, spec_.hidden);
    }
  }

  void ffn(const FfnSpec& ffn) {
    if (!ffn.moe) {
      gated(Part::kDenseFfn, ffn.width, 1, false);
      return;
    }
    gated(Part::kExpert, ffn.width, ffn.experts, ffn.expert_bias);
    matrix(Part::kRouter, ffn.experts);
    if (ffn.router.bias) vector(Part::kRouter, Cut::kNone, 1, ffn.experts);
    if (ffn.router.selection_bias) vector(Part::kRouter, Cut::kNone, 1, ffn.experts);
    if (ffn.shared_width == 0) return;
    gated(Part::kSharedExpert, ffn.shared_width, 1, false);
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

  /// gate, up and down.
  void gated(Part part, int64_t width, int64_t copies, bool bias) {
    linear(part, Cut::kWidth, width, width, spec_.hidden, copies);
    linear(part, Cut::kWidth, width, width, spec_.hidden, copies);
    linear(part, Cut::kWidth, width, spec_.hidden, width, copies);
    if (!bias) return;
    vector(part, Cut::kWidth, width, 2 * width, copies);
    vector(part, Cut::kNone, 1, spec_.hidden, copies);
  }

  void grouped(const AttentionSpec& attention) {
    const int64_t q_width = attention.heads * attention.head_dim;
    const int64_t kv_width = attention.kv_heads * attention.head_dim;
    linear(Part::kAttention, Cut::kHeads, attention.heads, q_width, spec_.hidden);
    linear(Part::kAttention, Cut::kKvHeads, attention.kv_heads, kv_width, spec_.hidden);
    linear(Part::kAttention, Cut::kKvHeads, attention.kv_heads, kv_width, spec_.hidden);
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

  void latent(const AttentionSpec& attention) {
    const LatentSpec& latent = attention.latent;
    const int64_t q_width = attention.heads * (latent.nope_dim + latent.rope_dim);
    if (latent.q_rank > 0) {
      linear(Part::kAttention, Cut::kNone, 1, latent.q_rank, spec_.hidden);
      vector(Part::kNorm, Cut::kNone, 1, latent.q_rank);
      linear(Part::kAttention, Cut::kHeads, attention.heads, q_width, latent.q_rank);
    } else {
      linear(Part::kAttention, Cut::kHeads, attention.heads, q_width, spec_.hidden);
    }
    linear(Part::kAttention, Cut::kNone, 1, latent.kv_rank + latent.rope_dim, spec_.hidden);
    vector(Part::kNorm, Cut::kNone, 1, latent.kv_rank);
    const int64_t kv_width = attention.heads * (latent.nope_dim + latent.v_dim);
    linear(Part::kAttention, Cut::kHeads, attention.heads, kv_width, latent.kv_rank);
  }

  const ModelSpec& spec_;
  std::vector<SpecTensor>& out_;
};

}  // namespace

std::vector<SpecTensor> layer_tensors(const ModelSpec& spec, const LayerSpec& layer) {
  std::vector<SpecTensor> tensors;
  Layer list(spec, tensors);
  list.norms();
  list.attention(layer.attention);
  list.ffn(layer.ffn);
  return tensors;
}

SpecTensor embedding_tensor(const ModelSpec& spec) {
  return {Part::kEmbedding, Cut::kVocab, spec.vocab_size, spec.hidden, 1, spec.vocab_size, false};
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
