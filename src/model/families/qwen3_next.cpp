// Qwen3-Next (https://qwenlm.github.io/blog/qwen3_next/) and the MoE models of Qwen3.5
// (https://github.com/QwenLM/Qwen3.5): three of four layers are gated DeltaNets, the fourth has
// attention with a gate at its output. Qwen3-VL's MoE models are Qwen3-MoE with an image encoder
// (https://arxiv.org/abs/2511.21631). Planned and inspected, not run yet; layers that predict
// further tokens are not loaded.

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse_text(const ConfigReader& config, const std::string& architecture) {
  FamilyDefaults defaults = sizes_of(architecture, 32768);
  defaults.kv_heads = 2;
  defaults.head_dim = 256;
  ModelSpec spec = read_model(config, defaults);
  FfnSpec moe = read_moe_ffn(config, {"num_experts", "num_local_experts"}, "moe_intermediate_size");
  moe.router.renormalize = config.boolean("norm_topk_prob", true);
  moe.shared_width = config.integer("shared_expert_intermediate_size", 0, kMaxWidth, 0);
  moe.shared_gate = moe.shared_width > 0;
  fill_sparse_ffn(config, spec, moe);
  read_attention_bias(config, spec);
  const std::vector<std::string> types =
      read_layer_types(config, spec.layers.size(), {"linear_attention", "full_attention"});
  const int64_t interval = config.integer("full_attention_interval", 1, kMaxLayers, 4);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    AttentionSpec& attention = spec.layers[i].attention;
    attention.qk_norm = backend::QkNorm::kPerHead;
    attention.output_gate = config.boolean("attn_output_gate", true);
    const bool linear = types.empty() ? (static_cast<int64_t>(i) + 1) % interval != 0
                                      : types[i] == "linear_attention";
    if (linear) attention = read_gated_delta_net(config);
  }
  return spec;
}

/// Parameters of the image encoder with its mergers, one of them for each layer that is tapped.
int64_t encoder_params(const ConfigReader& config) {
  const EncoderShape encoder = read_encoder(config);
  if (encoder.hidden == 0) return 0;
  const ConfigReader vision = *config.object("vision_config");
  const auto taps = static_cast<int64_t>(
      vision.integers("deepstack_visual_indexes", 0, kMaxLayers, size_t{64}).size());
  const int64_t merge = vision.integer("spatial_merge_size", 1, 16, 2);
  const int64_t out = vision.integer("out_hidden_size", 1, kMaxHidden);
  return encoder.params + (1 + taps) * patch_merger_params(encoder, merge, out);
}

ModelSpec parse_next(const boost::json::object& object, const std::string& file) {
  return parse_text(ConfigReader(object, file), "Qwen3NextForCausalLM");
}

ModelSpec parse_35(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  const boost::json::object text = text_config(config);
  ModelSpec spec = parse_text(ConfigReader(text, file), "Qwen3_5MoeForConditionalGeneration");
  spec.encoder_params = encoder_params(config);
  return spec;
}

ModelSpec parse_vl(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  const boost::json::object text = text_config(config);
  const ConfigReader inner(text, file);
  ModelSpec spec = read_model(inner, sizes_of("Qwen3VLMoeForConditionalGeneration", 262144));
  FfnSpec moe = read_moe_ffn(inner, {"num_experts", "num_local_experts"}, "moe_intermediate_size");
  moe.router.renormalize = true;
  fill_sparse_ffn(inner, spec, moe);
  read_attention_bias(inner, spec);
  for (LayerSpec& layer : spec.layers) layer.attention.qk_norm = backend::QkNorm::kPerHead;
  spec.encoder_params = encoder_params(config);
  return spec;
}

}  // namespace

Family qwen3_next_family() { return {"qwen3_next", parse_next, TensorNames{}, false}; }
Family qwen3_5_moe_family() {
  return {"qwen3_5_moe", parse_35, TensorNames{}, false, {"qwen3_5_moe_text"}};
}
Family qwen3_vl_moe_family() {
  return {"qwen3_vl_moe", parse_vl, TensorNames{}, false, {"qwen3_vl_moe_text"}};
}

}  // namespace moesaic::model
