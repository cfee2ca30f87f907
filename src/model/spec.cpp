#include "model/spec.h"

#include <algorithm>

namespace moesaic::model {

int64_t ModelSpec::moe_layers() const {
  return std::count_if(layers.begin(), layers.end(),
                       [](const LayerSpec& layer) { return layer.ffn.moe; });
}

int64_t ModelSpec::max_experts() const {
  int64_t most = 0;
  for (const LayerSpec& layer : layers) most = std::max(most, layer.ffn.experts);
  return most;
}

int64_t ModelSpec::max_top_k() const {
  int64_t most = 0;
  for (const LayerSpec& layer : layers) most = std::max(most, layer.ffn.router.top_k);
  return most;
}

namespace {

void count_attention(const AttentionSpec& attention, int64_t hidden, ParameterCount& count) {
  const int64_t q_width = attention.heads * attention.head_dim;
  const int64_t kv_width = attention.kv_heads * attention.head_dim;
  const int64_t qkv_width = q_width + 2 * kv_width;
  count.attention += qkv_width * hidden + hidden * q_width;
  if (attention.qkv_bias) count.attention += qkv_width;
  if (attention.o_bias) count.attention += hidden;
  if (attention.qk_norm == backend::QkNorm::kPerHead) count.norms += 2 * attention.head_dim;
  if (attention.qk_norm == backend::QkNorm::kFull) count.norms += q_width + kv_width;
}

}  // namespace

ParameterCount count_parameters(const ModelSpec& spec) {
  ParameterCount count;
  const int64_t hidden = spec.hidden;
  int64_t idle_experts = 0;  // parameters of experts that one token does not visit
  count.embeddings = spec.vocab_size * hidden * (spec.tied_embeddings ? 1 : 2);
  count.norms = hidden;
  for (const LayerSpec& layer : spec.layers) {
    count_attention(layer.attention, hidden, count);
    count.norms += 2 * hidden;
    const FfnSpec& ffn = layer.ffn;
    const int64_t one_ffn = 3 * hidden * ffn.width;
    if (!ffn.moe) {
      count.dense_ffn += one_ffn;
      continue;
    }
    count.experts += ffn.experts * one_ffn;
    idle_experts += (ffn.experts - ffn.router.top_k) * one_ffn;
    count.routers += ffn.experts * hidden;
    count.shared_experts += 3 * hidden * ffn.shared_width;
    if (ffn.shared_gate) count.shared_experts += hidden;
  }
  count.total = count.embeddings + count.attention + count.norms + count.routers + count.dense_ffn +
                count.shared_experts + count.experts;
  count.active = count.total - idle_experts;
  return count;
}

}  // namespace moesaic::model
