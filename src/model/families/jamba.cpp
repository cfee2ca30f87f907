// Jamba: https://arxiv.org/abs/2403.19887, 1.5: https://arxiv.org/abs/2408.12570. One of eight
// layers has attention, the others are Mamba; every second has experts. Planned and inspected, not
// run yet.

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

AttentionSpec read_mamba(const ConfigReader& config, int64_t hidden) {
  const int64_t inner = hidden * config.integer("mamba_expand", 1, 16, 2);
  const int64_t state = config.integer("mamba_d_state", 1, kMaxHidden >> 4, 16);
  const bool automatic =
      config.json().contains("mamba_dt_rank") && config.json().at("mamba_dt_rank").is_string();
  const int64_t usual = (hidden + 15) / 16;
  RecurrentSpec mixer;
  mixer.heads = inner;
  mixer.in_width = 2 * inner;
  mixer.out_width = inner;
  mixer.conv_width = inner;
  mixer.conv_kernel = config.integer("mamba_d_conv", 1, 64, 4);
  mixer.step_rank = automatic ? usual : config.integer("mamba_dt_rank", 1, kMaxHidden, usual);
  mixer.step_width = mixer.step_rank + 2 * state;
  // Decays of each state value; biases of convolution and time step, the skip; three small norms.
  mixer.vectors = inner * state + 3 * inner + mixer.step_width;
  mixer.state = inner * state;
  AttentionSpec attention;
  attention.kind = AttentionKind::kRecurrent;
  attention.recurrent = mixer;
  return attention;
}

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  FamilyDefaults defaults = sizes_of("JambaForCausalLM", 262144);
  defaults.kv_heads = 8;
  ModelSpec spec = read_model(config, defaults);
  const FfnSpec moe = read_moe_ffn(config, {"num_experts"}, "intermediate_size");
  const auto on = [&](const char* period, const char* offset, int64_t usual_period,
                      int64_t usual_offset, size_t layer) {
    const int64_t every = config.integer(period, 1, kMaxLayers, usual_period);
    return static_cast<int64_t>(layer) % every ==
           config.integer(offset, 0, kMaxLayers, usual_offset) % every;
  };
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    const bool sparse = on("expert_layer_period", "expert_layer_offset", 2, 1, i);
    layer.ffn = sparse && moe.experts > 1 ? moe : read_dense_ffn(config);
    if (!on("attn_layer_period", "attn_layer_offset", 8, 4, i)) {
      layer.attention = read_mamba(config, spec.hidden);
    }
  }
  return spec;
}

}  // namespace

Family jamba_family() { return {"jamba", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
