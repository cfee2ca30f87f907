// LongCat-Flash: https://arxiv.org/abs/2509.01322. A block of the published file has two attentions
// and two dense parts, and its experts beside the first dense part; here it is two layers. A third
// of the router's choices are experts that do nothing. Planned and inspected, not run yet.

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  boost::json::object usual =
      with_usual_keys(object, {{"num_layers", "num_hidden_layers"},
                               {"ffn_hidden_size", "intermediate_size"},
                               {"expert_ffn_hidden_size", "moe_intermediate_size"},
                               {"moe_topk", "num_experts_per_tok"}});
  usual["head_dim"] = 2;  // of the rotated part, where it is there; the latent's dims replace it
  const ConfigReader config(usual, file);
  ModelSpec spec = read_model(config, sizes_of("LongcatFlashForCausalLM", 131072));
  // transformers writes the count of attentions beside that of blocks.
  const int64_t blocks = config.integer("num_hidden_layers", 1, kMaxLayers);
  spec.layers.resize(static_cast<size_t>(2 * blocks), spec.layers.front());
  read_latent_attention(config, spec);
  FfnSpec moe = read_moe_ffn(config, {"n_routed_experts"}, "moe_intermediate_size");
  const FfnSpec dense = read_dense_ffn(config);
  moe.router.selection_bias = true;
  moe.zero_experts = config.integer("zero_expert_num", 0, kMaxExperts, 0);
  moe.shared_width = dense.width;
  for (size_t i = 0; i < spec.layers.size(); ++i) spec.layers[i].ffn = i % 2 == 0 ? moe : dense;
  return spec;
}

}  // namespace

Family longcat_flash_family() { return {"longcat_flash", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
