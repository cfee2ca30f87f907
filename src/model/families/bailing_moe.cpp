// Ling and Ring: the first generation (https://arxiv.org/abs/2503.05139) and 2.0
// (https://arxiv.org/abs/2510.22115), whose files have the same model_type and more keys. Planned
// and inspected, not run yet; layers that predict further tokens are not loaded.

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const boost::json::object usual =
      with_usual_keys(object, {{"num_shared_experts", "n_shared_experts"}});
  const ConfigReader config(usual, file);
  ModelSpec spec = read_model(config, sizes_of("BailingMoeForCausalLM", 32768));
  RouterSpec router;
  router.renormalize = true;
  router.selection_bias = config.boolean("moe_router_enable_expert_bias", false);
  fill_deepseek_ffn(config, spec, router);
  const bool qkv_bias = config.boolean("use_qkv_bias", false);
  const bool o_bias = config.boolean("use_bias", false);
  const bool qk_norm = config.boolean("use_qk_norm", false);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.qkv_bias = qkv_bias;
    layer.attention.o_bias = o_bias;
    if (qk_norm) layer.attention.qk_norm = backend::QkNorm::kPerHead;
  }
  return spec;
}

}  // namespace

Family bailing_moe_family() {
  return {"bailing_moe", parse, TensorNames{}, false, {"bailing_moe_v2"}};
}

}  // namespace moesaic::model
