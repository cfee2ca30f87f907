// Llama 4 Scout and Maverick: https://ai.meta.com/blog/llama-4-multimodal-intelligence/. Planned
// and inspected, not run yet.

#include <algorithm>

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

/// Layers with rotation see only their own chunk of the sequence; every fourth, without, sees all.
void read_chunks(const ConfigReader& config, ModelSpec& spec) {
  const int64_t chunk = config.integer("attention_chunk_size", 1, kMaxPosition, 8192);
  const size_t layers = spec.layers.size();
  const std::vector<int64_t> rotated =
      config.integers("no_rope_layers", 0, 1, static_cast<size_t>(kMaxLayers));
  const int64_t interval = config.integer("no_rope_layer_interval", 1, kMaxLayers, 4);
  for (size_t i = 0; i < layers; ++i) {
    const bool rotates =
        i < rotated.size() ? rotated[i] == 1 : (static_cast<int64_t>(i) + 1) % interval != 0;
    if (rotates) spec.layers[i].attention.sliding_window = chunk;
  }
}

/// Patches are shuffled together four to one, then pass a two-layer adapter and a projection.
int64_t encoder_params(const ConfigReader& config, int64_t hidden) {
  const EncoderShape encoder = read_encoder(config);
  if (encoder.hidden == 0) return 0;
  const ConfigReader vision = *config.object("vision_config");
  const int64_t inside = vision.integer("projector_input_dim", 1, kMaxHidden, 4096);
  const int64_t out = vision.integer("vision_output_dim", 1, kMaxHidden, 4096);
  return encoder.params + 4 * encoder.hidden * inside + inside * out + out * hidden;
}

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  const boost::json::object text = text_config(config);
  const ConfigReader inner(text, file);
  ModelSpec spec = read_model(inner, sizes_of("Llama4ForConditionalGeneration", 131072));
  FfnSpec moe = read_moe_ffn(inner, {"num_local_experts"}, "intermediate_size");
  moe.shared_width = moe.width;
  const int64_t step = inner.integer("interleave_moe_layer_step", 1, kMaxLayers, 1);
  const std::vector<int64_t> named =
      inner.integers("moe_layers", 0, kMaxLayers, static_cast<size_t>(kMaxLayers));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    const bool sparse = named.empty() ? (index + 1) % step == 0
                                      : std::find(named.begin(), named.end(), index) != named.end();
    FfnSpec& ffn = spec.layers[i].ffn;
    if (sparse) {
      ffn = moe;
    } else {
      ffn.width = inner.integer("intermediate_size_mlp", 1, kMaxWidth);
    }
  }
  read_attention_bias(inner, spec);
  read_chunks(inner, spec);
  spec.encoder_params = encoder_params(config, spec.hidden);
  return spec;
}

}  // namespace

Family llama4_family() { return {"llama4", parse, TensorNames{}, false, {"llama4_text"}}; }

}  // namespace moesaic::model
