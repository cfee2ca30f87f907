// Granite 3.x MoE (https://github.com/ibm-granite/granite-3.0-language-models) and Granite 4.0 H
// (https://github.com/ibm-granite/granite-4.0-language-models), most of whose layers are Mamba-2.
// Planned and inspected, not run yet.

#include "model/config_planned.h"
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

AttentionSpec read_mamba(const ConfigReader& config, int64_t hidden) {
  const int64_t heads = config.integer("mamba_n_heads", 1, kMaxHeads);
  const int64_t inner = hidden * config.integer("mamba_expand", 1, 16, 2);
  return mamba2(heads, inner / heads, config.integer("mamba_n_groups", 1, kMaxHeads, 1),
                config.integer("mamba_d_state", 1, kMaxHidden >> 4),
                config.integer("mamba_d_conv", 1, 64, 4));
}

ModelSpec parse_hybrid(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, sizes_of("GraniteMoeHybridForCausalLM", 131072));
  read_attention_bias(config, spec);
  const int64_t shared = config.integer("shared_intermediate_size", 0, kMaxWidth, 1024);
  FfnSpec ffn;
  if (config.integer("num_local_experts", 0, kMaxExperts, 0) > 0) {
    ffn = read_moe_ffn(config, {"num_local_experts"}, "intermediate_size");
    ffn.router.renormalize = true;
    ffn.shared_width = shared;
  } else {
    ffn.width = shared;  // the dense ones call their only feed-forward part shared
  }
  fill_ffn(spec, ffn);
  const std::vector<std::string> types =
      read_layer_types(config, spec.layers.size(), {"mamba", "attention"},
                       config.has("layer_types") ? "layer_types" : "layers_block_type");
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    if (types.empty() || types[i] == "mamba") {
      spec.layers[i].attention = read_mamba(config, spec.hidden);
    }
  }
  return spec;
}

}  // namespace

Family granitemoe_family() { return {"granitemoe", parse, TensorNames{}, false}; }
Family granitemoehybrid_family() {
  return {"granitemoehybrid", parse_hybrid, TensorNames{}, false};
}

}  // namespace moesaic::model
