// Qwen3-30B-A3B and Qwen3-235B-A22B: https://arxiv.org/abs/2505.09388.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "Qwen3MoeForCausalLM",
                                       .kv_heads = 4,
                                       .head_dim = std::nullopt,
                                       .max_position = 32768,
                                       .norm_eps = 1e-6,
                                       .rope_theta = 10000.0,
                                       .bos = -1,
                                       .eos = {}});
  FfnSpec moe = read_moe_ffn(config, {"num_experts", "num_local_experts"}, "moe_intermediate_size");
  moe.router.renormalize = config.boolean("norm_topk_prob", false);
  fill_sparse_ffn(config, spec, moe);
  read_attention_bias(config, spec);
  for (LayerSpec& layer : spec.layers) layer.attention.qk_norm = backend::QkNorm::kPerHead;
  read_qwen_sliding(config, spec, QwenSliding::kAll);
  return spec;
}

}  // namespace

Family qwen3_moe_family() { return {"qwen3_moe", parse, TensorNames{}}; }

}  // namespace moesaic::model
