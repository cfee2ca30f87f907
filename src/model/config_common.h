#pragma once

// What the families' config files have in common. A family calls read_model() for everything but
// the feed-forward part, then fills that with the helpers below.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config_reader.h"
#include "model/spec.h"

namespace moesaic::model {

// Bounds of what a config may say: far above every published model, far below what overflows a
// product of them.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHidden = int64_t{1} << 20;
constexpr int64_t kMaxWidth = int64_t{1} << 22;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 512;
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxVocab = int64_t{1} << 22;
constexpr int64_t kMaxPosition = int64_t{1} << 30;

/// Values that transformers' config class of a family gives to absent keys (read from 5.23). Keys
/// that size tensors (hidden_size, num_hidden_layers, ...) have none here: a file without them is
/// refused rather than guessed at.
struct FamilyDefaults {
  std::string architecture;         ///< e.g. "LlamaForCausalLM"
  std::optional<int64_t> kv_heads;  ///< none: as many as heads
  std::optional<int64_t> head_dim;  ///< none: hidden / heads
  int64_t max_position = 32768;
  double norm_eps = 1e-6;
  double rope_theta = 10000.0;
  int32_t bos = -1;
  std::vector<int32_t> eos;
  /// Only what sizes tensors is read: rope scaling, partial rotation and the activation, which a
  /// family that is only planned may have in forms that nothing here computes, are passed over.
  bool sizes_only = false;
};

/// Sizes, attention of all layers, rope, ids and dtype; the layers' ffn is left empty. Throws
/// ModelFileError also for what no family here supports: another activation than silu, partial
/// rotation.
ModelSpec read_model(const ConfigReader& config, const FamilyDefaults& defaults);

/// The dense FFN of "intermediate_size".
FfnSpec read_dense_ffn(const ConfigReader& config);

/// Routed experts: their count from the first of `count_keys` that is there, "num_experts_per_tok",
/// and the width from `width_key`. Scoring is softmax.
FfnSpec read_moe_ffn(const ConfigReader& config, const std::vector<std::string>& count_keys,
                     std::string_view width_key);

/// Gives every layer `ffn`.
void fill_ffn(ModelSpec& spec, const FfnSpec& ffn);

/// Qwen's mix: layer i has experts iff it is not in "mlp_only_layers" and (i + 1) is a multiple of
/// "decoder_sparse_step"; the others get the dense FFN of "intermediate_size".
void fill_sparse_ffn(const ConfigReader& config, ModelSpec& spec, const FfnSpec& moe);

/// Mistral's rule: "sliding_window" holds for all layers unless null; `fallback` if absent (0 =
/// none).
void read_sliding_window(const ConfigReader& config, ModelSpec& spec, int64_t fallback);

/// Which layers slide in a Qwen model without "layer_types".
enum class QwenSliding {
  kFromMaxWindowLayers,  ///< those from "max_window_layers" on (qwen2, qwen3)
  kEvenBeforeMaxWindow,  ///< those of even index below it (qwen2_moe)
  kAll,                  ///< all; "layer_types" is not read (qwen3_moe)
};
/// Qwen's rule: nothing slides unless "use_sliding_window"; then "layer_types" if it is there, else
/// `rule`, says where.
void read_qwen_sliding(const ConfigReader& config, ModelSpec& spec, QwenSliding rule);

/// "layer_types": "sliding_window" holds for the layers called sliding_attention; without the list,
/// for every other layer from the first (gpt-oss's default).
void read_alternating_window(const ConfigReader& config, ModelSpec& spec);

/// DeepSeek's mix: layer i has experts iff i >= "first_k_dense_replace" and i is a multiple of
/// "moe_layer_freq"; the others get the dense FFN of "intermediate_size". The experts are
/// "n_routed_experts" of "moe_intermediate_size", with "n_shared_experts" of that width beside.
void fill_deepseek_ffn(const ConfigReader& config, ModelSpec& spec, const RouterSpec& router);

/// Gives every layer latent attention of the config's ranks and dims.
void read_latent_attention(const ConfigReader& config, ModelSpec& spec);

/// "attention_bias": biases on q, k, v and o of every layer; false if absent.
void read_attention_bias(const ConfigReader& config, ModelSpec& spec);

/// Refuses a spec whose sizes together are absurd, before anything is sized by it.
void check_sizes(const ModelSpec& spec, const std::string& file);

}  // namespace moesaic::model
