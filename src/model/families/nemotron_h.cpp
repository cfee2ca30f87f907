// Nemotron-H (https://arxiv.org/abs/2504.03624) and Nemotron 3 Nano, Super and Ultra
// (https://arxiv.org/abs/2512.20848, https://arxiv.org/abs/2512.20856): a layer is one part alone,
// named by a letter of "hybrid_override_pattern". Planned and inspected, not run yet; layers that
// predict further tokens are not loaded.

#include <fmt/format.h>

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

FfnSpec read_experts(const ConfigReader& config) {
  FfnSpec moe = read_moe_ffn(config, {"n_routed_experts"}, "moe_intermediate_size");
  moe.router.renormalize = config.boolean("norm_topk_prob", true);
  moe.router.selection_bias = true;
  moe.shared_count = config.integer("n_shared_experts", 1, kMaxExperts, 1);
  moe.shared_width = moe.shared_count *
                     config.integer("moe_shared_expert_intermediate_size", 0, kMaxWidth, moe.width);
  moe.latent = config.integer("moe_latent_size", 1, kMaxHidden, 0);
  moe.gated = false;
  return moe;
}

AttentionSpec read_mamba(const ConfigReader& config) {
  return mamba2(config.integer("mamba_num_heads", 1, kMaxHeads),
                config.integer("mamba_head_dim", 1, kMaxHeadDim),
                config.integer("n_groups", 1, kMaxHeads, 8),
                config.integer("ssm_state_size", 1, kMaxHidden >> 4),
                config.integer("conv_kernel", 1, 64, 4));
}

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const boost::json::object usual = with_usual_keys(object, {{"attention_head_dim", "head_dim"}});
  const ConfigReader config(usual, file);
  ModelSpec spec = read_model(config, sizes_of("NemotronHForCausalLM", 262144));
  const std::string pattern = config.string("hybrid_override_pattern");
  if (pattern.size() != spec.layers.size()) {
    config.fail("hybrid_override_pattern",
                fmt::format("has {} letters for {} layers", pattern.size(), spec.layers.size()));
  }
  read_attention_bias(config, spec);
  for (size_t i = 0; i < pattern.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    if (pattern[i] == '*') continue;
    layer.attention = {};
    layer.attention.kind = AttentionKind::kNone;
    if (pattern[i] == 'M') {
      layer.attention = read_mamba(config);
    } else if (pattern[i] == 'E') {
      layer.ffn = read_experts(config);
    } else if (pattern[i] == '-') {
      layer.ffn = read_dense_ffn(config);
      layer.ffn.gated = false;
    } else {
      config.fail("hybrid_override_pattern",
                  fmt::format("has '{}'; known are M, E, - and *", pattern[i]));
    }
  }
  return spec;
}

}  // namespace

Family nemotron_h_family() { return {"nemotron_h", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
