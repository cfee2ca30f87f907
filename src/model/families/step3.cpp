// Step-3: https://arxiv.org/abs/2507.19427. All heads share one key and one value; queries pass a
// narrow projection. Planned and inspected, not run yet.

#include <algorithm>
#include <charconv>

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

/// "moe_layers_enum": a list, or "4,5,6" as published.
std::vector<int64_t> moe_layers(const ConfigReader& config) {
  constexpr const char* kKey = "moe_layers_enum";
  const boost::json::value* given = config.json().if_contains(kKey);
  if (given == nullptr || !given->is_string()) {
    return config.integers(kKey, 0, kMaxLayers, static_cast<size_t>(kMaxLayers));
  }
  std::vector<int64_t> layers;
  const boost::json::string& text = given->get_string();
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at < end; ++at) {
    int64_t layer = 0;
    const auto [next, error] = std::from_chars(at, end, layer);
    if (error != std::errc{} || (next != end && *next != ',')) {
      config.fail(kKey, "is not a list of layers such as \"4,5,6\"");
    }
    layers.push_back(layer);
    at = next;
  }
  return layers;
}

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  const boost::json::object text =
      with_usual_keys(text_config(config), {{"num_attention_groups", "num_key_value_heads"},
                                            {"moe_num_experts", "num_experts"},
                                            {"moe_top_k", "num_experts_per_tok"},
                                            {"max_position_embedding", "max_position_embeddings"}});
  const ConfigReader inner(text, file);
  ModelSpec spec = read_model(inner, sizes_of("Step3VLForConditionalGeneration", 65536));
  FfnSpec moe = read_moe_ffn(inner, {"num_experts"}, "moe_intermediate_size");
  moe.router.renormalize = inner.boolean("norm_expert_weight", false);
  moe.shared_width = inner.integer("share_expert_dim", 0, kMaxWidth, 0);
  const std::vector<int64_t> sparse = moe_layers(inner);
  const int64_t q_rank = inner.integer("share_q_dim", 1, kMaxHidden, 0);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const bool moe_layer = sparse.empty() ? i > 0
                                          : std::find(sparse.begin(), sparse.end(),
                                                      static_cast<int64_t>(i)) != sparse.end();
    spec.layers[i].ffn = moe_layer ? moe : read_dense_ffn(inner);
    spec.layers[i].attention.latent.q_rank = q_rank;
  }
  const EncoderShape encoder = read_encoder(config);
  // Two convolutions that halve each side, to twice the width, and a projection.
  const int64_t wide = 2 * encoder.hidden;
  spec.encoder_params =
      encoder.params + 9 * encoder.hidden * wide + 9 * wide * 2 * wide + 2 * wide * spec.hidden;
  return spec;
}

}  // namespace

Family step3_family() { return {"step3_vl", parse, TensorNames{}, false, {"step3", "step3_text"}}; }

}  // namespace moesaic::model
