// OLMoE-1B-7B: https://arxiv.org/abs/2409.02060.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "OlmoeForCausalLM",
                                       .kv_heads = std::nullopt,
                                       .head_dim = std::nullopt,
                                       .max_position = 4096,
                                       .norm_eps = 1e-5,
                                       .rope_theta = 10000.0,
                                       .bos = -1,
                                       .eos = {50279}});
  FfnSpec moe = read_moe_ffn(config, {"num_experts", "num_local_experts"}, "intermediate_size");
  moe.router.renormalize = config.boolean("norm_topk_prob", false);
  fill_ffn(spec, moe);
  read_attention_bias(config, spec);
  const double clip = config.has("clip_qkv") ? config.number("clip_qkv", 1e-6, 1e9) : 0.0;
  for (LayerSpec& layer : spec.layers) {
    layer.attention.qk_norm = backend::QkNorm::kFull;
    layer.attention.clip_qkv = clip;
  }
  return spec;
}

}  // namespace

Family olmoe_family() { return {"olmoe", parse, TensorNames{}}; }

}  // namespace moesaic::model
