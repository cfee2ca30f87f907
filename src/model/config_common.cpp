#include "model/config_common.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/quantization.h"

namespace moesaic::model {

namespace {

constexpr size_t kMaxEosIds = 1024;
constexpr double kMaxParameters = 1e14;
constexpr int64_t kMaxExpertsOverLayers = int64_t{1} << 18;

/// Per-layer-type rope settings ({"full_attention": {...}, "sliding_attention": {...}}) are
/// accepted when all types say the same, since a spec has one rope.
ConfigReader flatten_rope(const ConfigReader& config, const ConfigReader& rope) {
  if (rope.has("rope_type") || rope.has("type") || rope.has("rope_theta")) return rope;
  std::optional<ConfigReader> first;
  for (const std::string& key : rope.keys()) {
    if (!rope.has(key)) continue;
    const std::optional<ConfigReader> nested = rope.object(key);
    if (first && first->json() != nested->json()) {
      config.fail("rope_parameters", "differs between layer types, which is not supported");
    }
    first = nested;
  }
  return first.value_or(rope);
}

void check_full_rotation(const ConfigReader& config) {
  if (config.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0) {
    config.fail("partial_rotary_factor", "is not 1, which this model family does not support");
  }
}

void read_rope_scaling(const ConfigReader& config, const ConfigReader& rope, RopeSpec& spec,
                       int64_t max_position) {
  const std::string type = rope.string("rope_type", rope.string("type", "default"));
  if (type == "default") return;
  if (type == "linear") {
    spec.scaling = RopeScaling::kLinear;
  } else if (type == "dynamic") {
    spec.scaling = RopeScaling::kDynamic;
    if (spec.rotary_dim <= 2) rope.fail("rope_type", "is \"dynamic\", which needs head_dim over 2");
  } else if (type == "llama3") {
    spec.scaling = RopeScaling::kLlama3;
  } else if (type == "yarn") {
    spec.scaling = RopeScaling::kYarn;
  } else {
    rope.fail("rope_type", fmt::format("is \"{}\"; supported are default, linear, dynamic, llama3 "
                                       "and yarn",
                                       type));
  }
  spec.original_max_position = max_position;
  if (spec.scaling == RopeScaling::kLlama3 || spec.scaling == RopeScaling::kYarn) {
    const ConfigReader& holder = config.has("original_max_position_embeddings") ? config : rope;
    spec.original_max_position =
        holder.integer("original_max_position_embeddings", 1, kMaxPosition, max_position);
  }
  std::optional<double> implied;
  if (spec.scaling == RopeScaling::kYarn && rope.is_null("factor")) {
    implied = static_cast<double>(max_position) / static_cast<double>(spec.original_max_position);
  }
  spec.factor = rope.number("factor", 0.01, 1e6, implied);
  if (spec.scaling == RopeScaling::kLlama3) {
    spec.low_freq_factor = rope.number("low_freq_factor", 1e-6, 1e6);
    spec.high_freq_factor = rope.number("high_freq_factor", 1e-6, 1e6);
    if (spec.high_freq_factor < spec.low_freq_factor) {
      rope.fail("high_freq_factor", "is below low_freq_factor");
    }
  }
  if (spec.scaling == RopeScaling::kYarn) {
    const double beta_fast = rope.number("beta_fast", 0, 1e6, 0.0);
    const double beta_slow = rope.number("beta_slow", 0, 1e6, 0.0);
    if (beta_fast > 0) spec.beta_fast = beta_fast;
    if (beta_slow > 0) spec.beta_slow = beta_slow;
    spec.truncate = rope.boolean("truncate", true);
    spec.attention_factor = rope.number("attention_factor", 1e-6, 1e6, 0.0);
    spec.mscale = rope.number("mscale", 0, 1e6, 0.0);
    spec.mscale_all_dim = rope.number("mscale_all_dim", 0, 1e6, 0.0);
  }
}

RopeSpec read_rope(const ConfigReader& config, double default_theta, int64_t head_dim,
                   int64_t max_position) {
  constexpr double kLowestTheta = 2.0;  // yarn divides by its logarithm
  constexpr double kHighestTheta = 1e15;
  RopeSpec spec;
  spec.rotary_dim = head_dim;
  spec.theta = config.number("rope_theta", kLowestTheta, kHighestTheta, default_theta);
  check_full_rotation(config);
  // transformers 5 lets the older key win where both are given.
  std::optional<ConfigReader> given = config.object("rope_scaling");
  if (!given || given->json().empty()) given = config.object("rope_parameters");
  if (!given) return spec;
  const ConfigReader rope = flatten_rope(config, *given);
  spec.theta = rope.number("rope_theta", kLowestTheta, kHighestTheta, spec.theta);
  check_full_rotation(rope);
  read_rope_scaling(config, rope, spec, max_position);
  return spec;
}

AttentionSpec read_attention(const ConfigReader& config, const FamilyDefaults& defaults,
                             int64_t hidden) {
  AttentionSpec attention;
  attention.heads = config.integer("num_attention_heads", 1, kMaxHeads);
  const bool as_heads = config.is_null("num_key_value_heads") || !defaults.kv_heads;
  attention.kv_heads = config.integer("num_key_value_heads", 1, kMaxHeads,
                                      as_heads ? attention.heads : *defaults.kv_heads);
  if (attention.heads % attention.kv_heads != 0) {
    config.fail("num_attention_heads",
                fmt::format("is {}, not a multiple of the {} key-value heads", attention.heads,
                            attention.kv_heads));
  }
  std::optional<int64_t> head_dim = defaults.head_dim;
  if (!head_dim && !config.has("head_dim")) {
    if (hidden % attention.heads != 0) {
      config.fail("hidden_size", fmt::format("is {}, not a multiple of the {} attention heads, and "
                                             "there is no head_dim",
                                             hidden, attention.heads));
    }
    head_dim = hidden / attention.heads;
  }
  attention.head_dim = config.integer("head_dim", 2, kMaxHeadDim, head_dim);
  if (attention.head_dim % 2 != 0 || attention.head_dim < 2 || attention.head_dim > kMaxHeadDim) {
    config.fail("head_dim", fmt::format("is {}; it must be even, from 2 to {}", attention.head_dim,
                                        kMaxHeadDim));
  }
  attention.scale = 1.0 / std::sqrt(static_cast<double>(attention.head_dim));
  return attention;
}

void refuse_unsupported(const ConfigReader& config) {
  const std::string activation = config.string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    config.fail("hidden_act", fmt::format("is \"{}\"; only silu is supported", activation));
  }
}

tensor::DType read_dtype(const ConfigReader& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!config.has(key)) continue;
    const std::string name = config.string(key);
    const std::optional<tensor::DType> dtype = tensor::dtype_from_torch(name);
    if (!dtype)
      config.fail(key, fmt::format("is \"{}\", an unknown type; it must be bfloat16, "
                                   "float16 or float32",
                                   name));
    return *dtype;
  }
  return tensor::DType::kBF16;
}

void read_token_ids(const ConfigReader& config, const FamilyDefaults& defaults, ModelSpec& spec) {
  const auto highest = static_cast<int64_t>(INT32_MAX);
  // Some published files write -1 or a list where there is no bos; only a single id is of use here.
  spec.bos_id = config.is_null("bos_token_id") ? -1 : defaults.bos;
  const std::vector<int64_t> bos = config.integers("bos_token_id", -1, highest, kMaxEosIds);
  if (!bos.empty()) spec.bos_id = static_cast<int32_t>(bos.front());
  if (!config.has("eos_token_id")) {
    if (!config.is_null("eos_token_id")) spec.eos_ids = defaults.eos;
    return;
  }
  for (int64_t id : config.integers("eos_token_id", -1, highest, kMaxEosIds)) {
    if (id >= 0) spec.eos_ids.push_back(static_cast<int32_t>(id));
  }
}

}  // namespace

ModelSpec read_model(const ConfigReader& config, const FamilyDefaults& defaults) {
  if (!defaults.sizes_only) refuse_unsupported(config);
  ModelSpec spec;
  spec.quantization = read_quantization(config);
  spec.family = config.string("model_type");
  const std::vector<std::string> architectures = config.strings("architectures", 16);
  spec.architecture = architectures.empty() ? defaults.architecture : architectures.front();
  spec.vocab_size = config.integer("vocab_size", 1, kMaxVocab);
  spec.hidden = config.integer("hidden_size", 1, kMaxHidden);
  const int64_t layers = config.integer("num_hidden_layers", 1, kMaxLayers);
  spec.max_position =
      config.integer("max_position_embeddings", 1, kMaxPosition, defaults.max_position);
  spec.norm_eps = config.number("rms_norm_eps", 0.0, 1.0, defaults.norm_eps);
  spec.tied_embeddings = config.boolean("tie_word_embeddings", false);
  spec.dtype = read_dtype(config);
  LayerSpec layer;
  layer.attention = read_attention(config, defaults, spec.hidden);
  if (!defaults.sizes_only) {
    spec.rope = read_rope(config, defaults.rope_theta, layer.attention.head_dim, spec.max_position);
  }
  spec.layers.assign(static_cast<size_t>(layers), layer);
  read_token_ids(config, defaults, spec);
  return spec;
}

FfnSpec read_dense_ffn(const ConfigReader& config) {
  FfnSpec ffn;
  ffn.width = config.integer("intermediate_size", 1, kMaxWidth);
  return ffn;
}

FfnSpec read_moe_ffn(const ConfigReader& config, const std::vector<std::string>& count_keys,
                     std::string_view width_key) {
  FfnSpec ffn;
  ffn.moe = true;
  const auto given = std::find_if(count_keys.begin(), count_keys.end(),
                                  [&](const std::string& key) { return config.has(key); });
  const std::string& count_key = given == count_keys.end() ? count_keys.front() : *given;
  ffn.experts = config.integer(count_key, 1, kMaxExperts);
  ffn.router.top_k = config.integer("num_experts_per_tok", 1, kMaxExperts);
  if (ffn.router.top_k > ffn.experts) {
    config.fail("num_experts_per_tok", fmt::format("is {}, more than the {} experts of \"{}\"",
                                                   ffn.router.top_k, ffn.experts, count_key));
  }
  ffn.width = config.integer(width_key, 1, kMaxWidth);
  return ffn;
}

void fill_ffn(ModelSpec& spec, const FfnSpec& ffn) {
  for (LayerSpec& layer : spec.layers) layer.ffn = ffn;
}

void fill_sparse_ffn(const ConfigReader& config, ModelSpec& spec, const FfnSpec& moe) {
  const int64_t step = config.integer("decoder_sparse_step", 1, kMaxLayers, 1);
  const std::vector<int64_t> dense_layers =
      config.integers("mlp_only_layers", 0, kMaxLayers, static_cast<size_t>(kMaxLayers));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    const bool named_dense =
        std::find(dense_layers.begin(), dense_layers.end(), index) != dense_layers.end();
    // The dense width is read only where it is used: all-MoE files may leave it out.
    const bool sparse = !named_dense && (index + 1) % step == 0;
    spec.layers[i].ffn = sparse ? moe : read_dense_ffn(config);
  }
}

void read_sliding_window(const ConfigReader& config, ModelSpec& spec, int64_t fallback) {
  if (config.is_null("sliding_window")) fallback = 0;
  const int64_t window = config.integer("sliding_window", 1, kMaxPosition, fallback);
  for (LayerSpec& layer : spec.layers) layer.attention.sliding_window = window;
}

void read_qwen_sliding(const ConfigReader& config, ModelSpec& spec, QwenSliding rule) {
  if (!config.boolean("use_sliding_window", false) || config.is_null("sliding_window")) return;
  const int64_t window = config.integer("sliding_window", 1, kMaxPosition, 4096);
  const int64_t max_window_layers = config.integer("max_window_layers", 0, kMaxPosition, 28);
  std::vector<std::string> types;
  if (rule != QwenSliding::kAll) {
    types = config.strings("layer_types", static_cast<size_t>(kMaxLayers));
  }
  const bool typed = rule != QwenSliding::kAll && config.has("layer_types");
  if (typed && types.size() < spec.layers.size()) {
    config.fail("layer_types",
                fmt::format("has {} entries for {} layers", types.size(), spec.layers.size()));
  }
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    bool slides = rule == QwenSliding::kAll;
    if (typed) {
      if (types[i] != "sliding_attention" && types[i] != "full_attention") {
        config.fail("layer_types", fmt::format("has \"{}\"; known are full_attention and "
                                               "sliding_attention",
                                               types[i]));
      }
      slides = types[i] == "sliding_attention";
    } else if (rule == QwenSliding::kFromMaxWindowLayers) {
      slides = index >= max_window_layers;
    } else if (rule == QwenSliding::kEvenBeforeMaxWindow) {
      slides = index % 2 == 0 && index < max_window_layers;
    }
    if (slides) spec.layers[i].attention.sliding_window = window;
  }
}

void read_alternating_window(const ConfigReader& config, ModelSpec& spec) {
  const int64_t window = config.integer("sliding_window", 1, kMaxPosition, 128);
  const std::vector<std::string> types =
      config.strings("layer_types", static_cast<size_t>(kMaxLayers));
  if (!types.empty() && types.size() < spec.layers.size()) {
    config.fail("layer_types",
                fmt::format("has {} entries for {} layers", types.size(), spec.layers.size()));
  }
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const bool slides = types.empty() ? i % 2 == 0 : types[i] == "sliding_attention";
    if (slides) spec.layers[i].attention.sliding_window = window;
  }
}

void fill_deepseek_ffn(const ConfigReader& config, ModelSpec& spec, const RouterSpec& router) {
  FfnSpec moe = read_moe_ffn(config, {"n_routed_experts", "num_experts", "num_local_experts"},
                             "moe_intermediate_size");
  const int64_t top_k = moe.router.top_k;
  moe.router = router;
  moe.router.top_k = top_k;
  moe.router.renormalize = config.boolean("norm_topk_prob", router.renormalize);
  moe.router.scale = config.number("routed_scaling_factor", 1e-6, 1e6, 1.0);
  const int64_t shared = config.integer("n_shared_experts", 0, kMaxExperts, 0);
  moe.shared_count = std::max<int64_t>(1, shared);
  moe.shared_width = shared * moe.width;
  const int64_t first = config.integer("first_k_dense_replace", 0, kMaxLayers, 0);
  const int64_t every = config.integer("moe_layer_freq", 1, kMaxLayers, 1);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    const bool sparse = index >= first && index % every == 0;
    spec.layers[i].ffn = sparse ? moe : read_dense_ffn(config);
  }
}

void read_latent_attention(const ConfigReader& config, ModelSpec& spec) {
  LatentSpec latent;
  if (config.has("q_lora_rank")) latent.q_rank = config.integer("q_lora_rank", 1, kMaxHidden);
  latent.kv_rank = config.integer("kv_lora_rank", 1, kMaxHidden);
  latent.nope_dim = config.integer("qk_nope_head_dim", 1, kMaxHeadDim);
  latent.rope_dim = config.integer("qk_rope_head_dim", 1, kMaxHeadDim);
  latent.v_dim = config.integer("v_head_dim", 1, kMaxHeadDim);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.kind = AttentionKind::kMla;
    layer.attention.latent = latent;
    layer.attention.head_dim = latent.nope_dim + latent.rope_dim;
    layer.attention.scale = 1.0 / std::sqrt(static_cast<double>(layer.attention.head_dim));
  }
}

void read_attention_bias(const ConfigReader& config, ModelSpec& spec) {
  const bool bias = config.boolean("attention_bias", false);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.qkv_bias = bias;
    layer.attention.o_bias = bias;
  }
}

void check_sizes(const ModelSpec& spec, const std::string& file) {
  // In floating point, since what is to be refused may overflow an integer.
  const auto hidden = static_cast<double>(spec.hidden);
  double parameters = 2.0 * static_cast<double>(spec.vocab_size) * hidden;
  int64_t experts = 0;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& attention = layer.attention;
    const FfnSpec& ffn = layer.ffn;
    parameters += 2.0 * hidden * static_cast<double>(attention.head_dim) *
                  static_cast<double>(attention.heads + attention.kv_heads);
    parameters += 3.0 * hidden * static_cast<double>(ffn.width) *
                  static_cast<double>(std::max<int64_t>(1, ffn.experts));
    parameters += 3.0 * hidden * static_cast<double>(ffn.shared_width);
    const RecurrentSpec& mixer = attention.recurrent;
    parameters += hidden * static_cast<double>(mixer.in_width + mixer.out_width) +
                  static_cast<double>(mixer.vectors) +
                  static_cast<double>(mixer.out_width) *
                      static_cast<double>(mixer.step_width + mixer.step_rank);
    experts += ffn.experts;
  }
  if (parameters > kMaxParameters || experts > kMaxExpertsOverLayers) {
    throw base::ModelFileError(
        file, fmt::format("the sizes describe a model of {:.3g} parameters and {} experts; at most "
                          "{:.0e} and {} are possible",
                          parameters, experts, kMaxParameters, kMaxExpertsOverLayers));
  }
}

}  // namespace moesaic::model
