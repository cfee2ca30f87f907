#include "model/config_planned.h"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::model {

boost::json::object text_config(const ConfigReader& config) {
  const std::optional<ConfigReader> inner = config.object("text_config");
  if (!inner) return config.json();
  boost::json::object text = inner->json();
  for (const char* key : {"quantization_config", "tie_word_embeddings", "dtype", "torch_dtype",
                          "bos_token_id", "eos_token_id"}) {
    if (config.has(key) && !inner->has(key)) text[key] = config.json().at(key);
  }
  if (config.has("architectures")) text["architectures"] = config.json().at("architectures");
  return text;
}

boost::json::object with_usual_keys(
    boost::json::object object,
    std::initializer_list<std::pair<const char*, const char*>> from_to) {
  for (const auto& [from, to] : from_to) {
    const boost::json::value* value = object.if_contains(from);
    if (value == nullptr || value->is_null()) continue;
    const boost::json::value copy = *value;
    object[to] = copy;
  }
  return object;
}

FamilyDefaults sizes_of(const std::string& architecture, int64_t max_position) {
  return {.architecture = architecture,
          .kv_heads = std::nullopt,
          .head_dim = std::nullopt,
          .max_position = max_position,
          .norm_eps = 1e-6,
          .rope_theta = 10000.0,
          .bos = -1,
          .eos = {},
          .sizes_only = true};
}

std::vector<int64_t> per_layer(const ConfigReader& config, const char* key, int64_t lowest,
                               int64_t highest, int64_t fallback, size_t layers) {
  std::vector<int64_t> given =
      config.integers(key, lowest, highest, static_cast<size_t>(kMaxLayers));
  if (given.empty()) given = {fallback};
  if (given.size() == 1) given.assign(layers, given.front());
  if (given.size() < layers) {
    config.fail(key, fmt::format("has {} entries for {} layers", given.size(), layers));
  }
  return given;
}

std::vector<std::string> read_layer_types(const ConfigReader& config, size_t layers,
                                          std::initializer_list<const char*> known,
                                          const char* key) {
  const std::vector<std::string> types = config.strings(key, static_cast<size_t>(kMaxLayers));
  if (types.empty()) return types;
  if (types.size() < layers) {
    config.fail(key, fmt::format("has {} entries for {} layers", types.size(), layers));
  }
  for (const std::string& type : types) {
    if (std::find(known.begin(), known.end(), type) == known.end()) {
      config.fail(key, fmt::format("has \"{}\"; known are {}", type, fmt::join(known, ", ")));
    }
  }
  return types;
}

EncoderShape read_encoder(const ConfigReader& config, bool gated) {
  const std::optional<ConfigReader> given = config.object("vision_config");
  if (!given) return {};
  const boost::json::object usual =
      with_usual_keys(given->json(), {{"vt_hidden_size", "hidden_size"},
                                      {"width", "hidden_size"},
                                      {"vt_num_hidden_layers", "depth"},
                                      {"num_hidden_layers", "depth"},
                                      {"vt_intermediate_size", "intermediate_size"},
                                      {"num_position_embeddings", "positions"}});
  const ConfigReader vision(usual, given->file(), "vision_config");
  EncoderShape shape;
  shape.hidden = vision.integer("hidden_size", 1, kMaxHidden);
  const int64_t layers = vision.integer("depth", 1, kMaxLayers);
  const int64_t width = vision.integer("intermediate_size", 1, kMaxWidth);
  const int64_t patch = vision.integer("patch_size", 1, 256, 14);
  const int64_t frames = vision.integer("temporal_patch_size", 1, 64, 1);
  const int64_t positions = vision.integer("positions", 0, kMaxPosition >> 10, 0);
  const int64_t attention = 4 * shape.hidden * shape.hidden + 4 * shape.hidden;
  const int64_t feed = (gated ? 3 : 2) * shape.hidden * width + width + shape.hidden;
  const int64_t norms = 4 * shape.hidden;
  shape.params =
      layers * (attention + feed + norms) + shape.hidden * (3 * patch * patch * frames + positions);
  return shape;
}

int64_t patch_merger_params(const EncoderShape& encoder, int64_t merge, int64_t out) {
  const int64_t joined = encoder.hidden * merge * merge;
  return joined * joined + joined * out + 2 * joined + out;
}

AttentionSpec mamba2(int64_t heads, int64_t head_dim, int64_t groups, int64_t state,
                     int64_t kernel) {
  const int64_t inner = heads * head_dim;
  RecurrentSpec mixer;
  mixer.heads = heads;
  mixer.conv_width = inner + 2 * groups * state;
  mixer.conv_kernel = kernel;
  mixer.in_width = inner + mixer.conv_width + heads;  // a gate, the convolution's input, time steps
  mixer.out_width = inner;
  // The convolution's bias, the norm, and of each head its decay, time step and skip.
  mixer.vectors = mixer.conv_width + inner + 3 * heads;
  mixer.state = inner * state;
  AttentionSpec attention;
  attention.kind = AttentionKind::kRecurrent;
  attention.recurrent = mixer;
  return attention;
}

AttentionSpec read_gated_delta_net(const ConfigReader& config) {
  const int64_t key_heads = config.integer("linear_num_key_heads", 1, kMaxHeads);
  const int64_t value_heads = config.integer("linear_num_value_heads", 1, kMaxHeads);
  const int64_t key_dim = config.integer("linear_key_head_dim", 1, kMaxHeadDim);
  const int64_t value_dim = config.integer("linear_value_head_dim", 1, kMaxHeadDim);
  RecurrentSpec mixer;
  mixer.heads = value_heads;
  mixer.conv_kernel = config.integer("linear_conv_kernel_dim", 1, 64, 4);
  mixer.out_width = value_heads * value_dim;
  mixer.conv_width = 2 * key_heads * key_dim + mixer.out_width;
  // Queries, keys and values; a gate of the output; and of each value head two rates.
  mixer.in_width = mixer.conv_width + mixer.out_width + 2 * value_heads;
  mixer.vectors = 2 * value_heads + value_dim;
  mixer.state = value_heads * key_dim * value_dim;
  AttentionSpec attention;
  attention.kind = AttentionKind::kRecurrent;
  attention.recurrent = mixer;
  return attention;
}

void read_indexer(const ConfigReader& config, ModelSpec& spec) {
  IndexerSpec indexer;
  indexer.heads = config.integer("index_n_heads", 1, kMaxHeads);
  indexer.dim = config.integer("index_head_dim", 1, kMaxHeadDim);
  indexer.top_k = config.integer("index_topk", 1, kMaxPosition);
  const std::vector<std::string> types =
      read_layer_types(config, spec.layers.size(), {"full", "shared"}, "indexer_types");
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    AttentionSpec& attention = spec.layers[i].attention;
    attention.indexer = indexer;
    if (!types.empty() && types[i] == "shared") attention.indexer.heads = 0;
  }
}

}  // namespace moesaic::model
