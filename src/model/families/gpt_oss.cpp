// gpt-oss 20b and 120b: https://arxiv.org/abs/2508.10925. Planned and inspected, not run yet.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "GptOssForCausalLM",
                                       .kv_heads = 8,
                                       .head_dim = 64,
                                       .max_position = 131072,
                                       .norm_eps = 1e-5,
                                       .rope_theta = 150000.0,
                                       .bos = -1,
                                       .eos = {},
                                       .sizes_only = true});
  FfnSpec moe = read_moe_ffn(config, {"num_local_experts", "num_experts"}, "intermediate_size");
  moe.router.renormalize = true;
  moe.router.bias = true;
  moe.expert_bias = true;
  fill_ffn(spec, moe);
  const bool bias = config.boolean("attention_bias", true);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.qkv_bias = bias;
    layer.attention.o_bias = bias;
    layer.attention.sinks = true;
  }
  read_alternating_window(config, spec);
  return spec;
}

}  // namespace

Family gpt_oss_family() { return {"gpt_oss", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
