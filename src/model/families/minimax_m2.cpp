// MiniMax-M2, M2.1, M2.5 and M2.7: https://github.com/MiniMax-AI/MiniMax-M2. Planned and inspected,
// not run yet; layers that predict further tokens are not loaded.

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, sizes_of("MiniMaxM2ForCausalLM", 196608));
  FfnSpec moe = read_moe_ffn(config, {"num_local_experts", "num_experts"}, "intermediate_size");
  moe.router.renormalize = true;
  moe.router.selection_bias = config.boolean("use_routing_bias", true);
  moe.shared_width = config.integer("shared_intermediate_size", 0, kMaxWidth, 0);
  fill_ffn(spec, moe);
  if (config.boolean("use_qk_norm", true)) {
    for (LayerSpec& layer : spec.layers) layer.attention.qk_norm = backend::QkNorm::kFull;
  }
  return spec;
}

}  // namespace

Family minimax_m2_family() { return {"minimax_m2", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
