// Hunyuan-A13B: https://github.com/Tencent-Hunyuan/Hunyuan-A13B. Planned and inspected, not run
// yet.

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const boost::json::object usual = with_usual_keys(object, {{"attention_head_dim", "head_dim"}});
  const ConfigReader config(usual, file);
  if (config.boolean("use_cla", false)) {
    config.fail("use_cla", "is true: layers that share a cache are not known here");
  }
  ModelSpec spec = read_model(config, sizes_of("HunYuanMoEV1ForCausalLM", 32768));
  const size_t layers = spec.layers.size();
  const FfnSpec dense = read_dense_ffn(config);
  const std::vector<int64_t> experts = per_layer(config, "num_experts", 1, kMaxExperts, 1, layers);
  const std::vector<int64_t> top_k = per_layer(config, "moe_topk", 1, kMaxExperts, 1, layers);
  const std::vector<int64_t> width =
      per_layer(config, "moe_intermediate_size", 1, kMaxWidth, dense.width, layers);
  const std::vector<int64_t> shared =
      per_layer(config, "num_shared_expert", 0, kMaxExperts, 1, layers);
  for (size_t i = 0; i < layers; ++i) {
    FfnSpec& ffn = spec.layers[i].ffn;
    ffn = dense;
    if (experts[i] == 1) continue;
    if (top_k[i] > experts[i]) config.fail("moe_topk", "is more than num_experts");
    ffn.moe = true;
    ffn.experts = experts[i];
    ffn.width = width[i];
    ffn.router.top_k = top_k[i];
    ffn.router.renormalize = true;
    ffn.shared_count = std::max<int64_t>(1, shared[i]);
    ffn.shared_width = shared[i] * dense.width;
  }
  read_attention_bias(config, spec);
  if (config.boolean("use_qk_norm", true)) {
    for (LayerSpec& layer : spec.layers) layer.attention.qk_norm = backend::QkNorm::kPerHead;
  }
  return spec;
}

}  // namespace

Family hunyuan_v1_moe_family() {
  return {"hunyuan_v1_moe", parse, TensorNames{}, false, {"hunyuan"}};
}

}  // namespace moesaic::model
