// Qwen1.5-MoE-A2.7B and Qwen2-57B-A14B: https://qwenlm.github.io/blog/qwen-moe/.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "Qwen2MoeForCausalLM",
                                       .kv_heads = 16,
                                       .head_dim = std::nullopt,
                                       .max_position = 32768,
                                       .norm_eps = 1e-6,
                                       .rope_theta = 10000.0,
                                       .bos = -1,
                                       .eos = {}});
  FfnSpec moe = read_moe_ffn(config, {"num_experts", "num_local_experts"}, "moe_intermediate_size");
  moe.router.renormalize = config.boolean("norm_topk_prob", false);
  moe.shared_width = config.integer("shared_expert_intermediate_size", 1, int64_t{1} << 22);
  moe.shared_gate = true;
  fill_sparse_ffn(config, spec, moe);
  const bool qkv_bias = config.boolean("qkv_bias", true);
  for (LayerSpec& layer : spec.layers) layer.attention.qkv_bias = qkv_bias;
  read_qwen_sliding(config, spec, QwenSliding::kEvenBeforeMaxWindow);
  return spec;
}

}  // namespace

Family qwen2_moe_family() { return {"qwen2_moe", parse, TensorNames{}}; }

}  // namespace moesaic::model
