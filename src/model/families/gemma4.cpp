// Gemma 4 26B-A4B and 31B: https://ai.google.dev/gemma/docs/core/model_card_4. Five of six layers
// slide; the sixth has wider heads, fewer of them for keys, and one projection for keys and values.
// A MoE layer has a dense part beside the experts. The small ones (E2B, E4B) are refused: they look
// up further embeddings in every layer. Planned and inspected, not run yet.

#include <fmt/format.h>

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

void refuse_shared_parts(const ConfigReader& config) {
  for (const char* key : {"num_kv_shared_layers", "hidden_size_per_layer_input"}) {
    if (config.integer(key, 0, kMaxHidden, 0) > 0) {
      config.fail(key, "is not 0: the small Gemma 4 models, which have it, are not known here");
    }
  }
}

FfnSpec read_ffn(const ConfigReader& config) {
  if (!config.boolean("enable_moe_block", false)) return read_dense_ffn(config);
  FfnSpec moe = read_moe_ffn(config, {"num_experts"}, "moe_intermediate_size");
  moe.router.renormalize = true;
  moe.router.selection_bias = true;  // a scale of each expert
  moe.shared_width = read_dense_ffn(config).width;
  return moe;
}

void read_attention_kinds(const ConfigReader& config, ModelSpec& spec) {
  const std::vector<std::string> types =
      read_layer_types(config, spec.layers.size(), {"sliding_attention", "full_attention"});
  const int64_t window = config.integer("sliding_window", 1, kMaxPosition, 512);
  const bool shared = config.boolean("attention_k_eq_v", false);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    AttentionSpec& attention = spec.layers[i].attention;
    attention.qk_norm = backend::QkNorm::kPerHead;
    const bool slides = types.empty() ? (i + 1) % 6 != 0 : types[i] == "sliding_attention";
    if (slides) {
      attention.sliding_window = window;
      continue;
    }
    attention.head_dim = config.integer("global_head_dim", 2, kMaxHeadDim, attention.head_dim);
    attention.keys_are_values = shared;
    if (shared) {
      attention.kv_heads =
          config.integer("num_global_key_value_heads", 1, kMaxHeads, attention.kv_heads);
    }
  }
}

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  const boost::json::object text =
      with_usual_keys(text_config(config), {{"top_k_experts", "num_experts_per_tok"}});
  const ConfigReader inner(text, file);
  refuse_shared_parts(inner);
  ModelSpec spec = read_model(inner, sizes_of("Gemma4ForConditionalGeneration", 131072));
  spec.tied_embeddings = inner.boolean("tie_word_embeddings", true);
  fill_ffn(spec, read_ffn(inner));
  read_attention_kinds(inner, spec);
  for (LayerSpec& layer : spec.layers) layer.extra_norms = layer.ffn.moe ? 6 : 2;
  const EncoderShape encoder = read_encoder(config, true);
  spec.encoder_params = encoder.params + encoder.hidden * spec.hidden;
  return spec;
}

}  // namespace

Family gemma4_family() { return {"gemma4", parse, TensorNames{}, false, {"gemma4_text"}}; }

}  // namespace moesaic::model
