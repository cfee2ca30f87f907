// Phi-3.5-MoE: https://arxiv.org/abs/2404.14219. Planned and inspected, not run yet.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "PhimoeForCausalLM",
                                       .kv_heads = 8,
                                       .head_dim = std::nullopt,
                                       .max_position = 131072,
                                       .norm_eps = 1e-5,
                                       .rope_theta = 10000.0,
                                       .bos = 1,
                                       .eos = {2},
                                       .sizes_only = true});
  fill_ffn(spec, read_moe_ffn(config, {"num_local_experts", "num_experts"}, "intermediate_size"));
  read_attention_bias(config, spec);
  read_sliding_window(config, spec, 0);
  spec.norm_bias = true;
  spec.head_bias = config.boolean("lm_head_bias", false);
  return spec;
}

}  // namespace

Family phimoe_family() { return {"phimoe", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
