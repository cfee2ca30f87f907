#pragma once

// What families have in common that are planned and not run: a text model inside a config of
// several parts, keys under other names, encoders, recurrent mixers, an indexer.

#include <boost/json/object.hpp>
#include <initializer_list>
#include <string>
#include <utility>

#include "model/config_common.h"

namespace moesaic::model {

/// The object of "text_config" with what only the outer one says of the whole model (its quantised
/// form, tied embeddings, type, token ids); the outer object where there is no such part.
boost::json::object text_config(const ConfigReader& config);

/// `object` with each key `from` also under the name `to`, which it replaces.
boost::json::object with_usual_keys(
    boost::json::object object, std::initializer_list<std::pair<const char*, const char*>> from_to);

/// Defaults of a family of which only sizes are read.
FamilyDefaults sizes_of(const std::string& architecture, int64_t max_position);

/// One value for each layer of the key, which is a list, or one value for all.
std::vector<int64_t> per_layer(const ConfigReader& config, const char* key, int64_t lowest,
                               int64_t highest, int64_t fallback, size_t layers);

/// "layer_types", one of `known` for each layer; empty when absent.
std::vector<std::string> read_layer_types(const ConfigReader& config, size_t layers,
                                          std::initializer_list<const char*> known,
                                          const char* key = "layer_types");

/// Parameters of the transformer of "vision_config": attention and feed-forward matrices with
/// biases, patch and position embeddings. 0 without one.
struct EncoderShape {
  int64_t hidden = 0;  ///< 0 = the config has no encoder
  int64_t params = 0;  ///< without what joins it to the text model
};
EncoderShape read_encoder(const ConfigReader& config, bool gated = false);

/// Joins patches that a square of `merge` x `merge` covers and projects them to `out` values.
int64_t patch_merger_params(const EncoderShape& encoder, int64_t merge, int64_t out);

/// Mamba-2 of `heads` heads of `head_dim` with `groups` groups of a state of `state`.
AttentionSpec mamba2(int64_t heads, int64_t head_dim, int64_t groups, int64_t state,
                     int64_t kernel);

/// Qwen's gated DeltaNet, from the keys "linear_...".
AttentionSpec read_gated_delta_net(const ConfigReader& config);

/// "index_n_heads", "index_head_dim" and "index_topk" in every latent layer; "indexer_types" says
/// which of them use another's choice.
void read_indexer(const ConfigReader& config, ModelSpec& spec);

}  // namespace moesaic::model
