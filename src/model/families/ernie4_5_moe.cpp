// ERNIE 4.5 21B-A3B and 300B-A47B:
// https://ernie.baidu.com/blog/publication/ERNIE_Technical_Report.pdf. Planned and inspected, not
// run yet; layers that predict further tokens are not loaded.

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const boost::json::object usual = with_usual_keys(
      object, {{"moe_num_experts", "num_experts"}, {"moe_k", "num_experts_per_tok"}});
  const ConfigReader config(usual, file);
  ModelSpec spec = read_model(config, sizes_of("Ernie4_5_MoeForCausalLM", 131072));
  spec.tied_embeddings = config.boolean("tie_word_embeddings", true);
  FfnSpec moe = read_moe_ffn(config, {"num_experts"}, "moe_intermediate_size");
  moe.router.renormalize = true;
  moe.router.selection_bias = config.boolean("moe_use_aux_free", true);
  const int64_t shared = config.integer("moe_num_shared_experts", 0, kMaxExperts, 0);
  moe.shared_count = std::max<int64_t>(1, shared);
  moe.shared_width = shared * moe.width;
  const auto layers = static_cast<int64_t>(spec.layers.size());
  const int64_t first = config.integer("moe_layer_start_index", 0, kMaxLayers, 1);
  const int64_t last = config.integer("moe_layer_end_index", -1, kMaxLayers, -1);
  const int64_t every = config.integer("moe_layer_interval", 1, kMaxLayers, 1);
  for (int64_t i = 0; i < layers; ++i) {
    const bool sparse = (i + 1) % every == 0 && i >= first && i <= (last < 0 ? layers - 1 : last);
    spec.layers[static_cast<size_t>(i)].ffn = sparse ? moe : read_dense_ffn(config);
  }
  return spec;
}

}  // namespace

Family ernie4_5_moe_family() { return {"ernie4_5_moe", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
