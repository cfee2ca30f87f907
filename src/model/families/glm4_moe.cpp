// GLM-4.5, 4.5-Air and 4.6: https://arxiv.org/abs/2508.06471. Planned and inspected, not run yet.
// The multi-token-prediction layer stands beyond num_hidden_layers and is not loaded.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "Glm4MoeForCausalLM",
                                       .kv_heads = 8,
                                       .head_dim = 128,
                                       .max_position = 131072,
                                       .norm_eps = 1e-5,
                                       .rope_theta = 10000.0,
                                       .bos = -1,
                                       .eos = {},
                                       .sizes_only = true});
  RouterSpec router;
  router.renormalize = true;
  router.selection_bias = true;
  fill_deepseek_ffn(config, spec, router);
  const bool bias = config.boolean("attention_bias", false);
  const bool qk_norm = config.boolean("use_qk_norm", false);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.qkv_bias = bias;
    if (qk_norm) layer.attention.qk_norm = backend::QkNorm::kPerHead;
  }
  return spec;
}

}  // namespace

Family glm4_moe_family() { return {"glm4_moe", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
