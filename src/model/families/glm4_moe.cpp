// GLM-4.5, 4.5-Air, 4.6 and 4.7: https://arxiv.org/abs/2508.06471. GLM-4.7-Flash (glm4_moe_lite)
// and GLM-5 (glm_moe_dsa, https://arxiv.org/abs/2602.15763) have DeepSeek's latent attention, the
// latter with V3.2's indexer. Planned and inspected, not run yet. The multi-token-prediction layer
// stands beyond num_hidden_layers and is not loaded.

#include "model/config_planned.h"
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

ModelSpec parse_latent(const boost::json::object& object, const std::string& file) {
  // head_dim is the rotated part's width in some of these files; read_latent_attention replaces it.
  boost::json::object without = object;
  without["head_dim"] = 2;
  const ConfigReader config(without, file);
  ModelSpec spec = read_model(config, sizes_of("Glm4MoeLiteForCausalLM", 202752));
  RouterSpec router;
  router.renormalize = true;
  router.selection_bias = true;
  fill_deepseek_ffn(config, spec, router);
  const std::vector<std::string> types =
      read_layer_types(config, spec.layers.size(), {"dense", "sparse"}, "mlp_layer_types");
  if (!config.has("first_k_dense_replace")) {
    // transformers' default: the first layer alone is dense.
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      const bool dense = types.empty() ? i == 0 : types[i] == "dense";
      if (dense) spec.layers[i].ffn = read_dense_ffn(config);
    }
  }
  read_latent_attention(config, spec);
  return spec;
}

ModelSpec parse_dsa(const boost::json::object& object, const std::string& file) {
  ModelSpec spec = parse_latent(object, file);
  read_indexer(ConfigReader(object, file), spec);
  return spec;
}

}  // namespace

Family glm4_moe_family() { return {"glm4_moe", parse, TensorNames{}, false}; }
Family glm4_moe_lite_family() { return {"glm4_moe_lite", parse_latent, TensorNames{}, false}; }
Family glm_moe_dsa_family() { return {"glm_moe_dsa", parse_dsa, TensorNames{}, false}; }

}  // namespace moesaic::model
