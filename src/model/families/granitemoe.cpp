// Granite 3.x MoE: https://github.com/ibm-granite/granite-3.0-language-models. Planned and
// inspected, not run yet.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "GraniteMoeForCausalLM",
                                       .kv_heads = std::nullopt,
                                       .head_dim = std::nullopt,
                                       .max_position = 4096,
                                       .norm_eps = 1e-6,
                                       .rope_theta = 10000.0,
                                       .bos = -1,
                                       .eos = {},
                                       .sizes_only = true});
  FfnSpec moe = read_moe_ffn(config, {"num_local_experts", "num_experts"}, "intermediate_size");
  moe.router.renormalize = true;
  fill_ffn(spec, moe);
  read_attention_bias(config, spec);
  return spec;
}

}  // namespace

Family granitemoe_family() { return {"granitemoe", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
