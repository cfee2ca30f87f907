#include "model/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <map>

#include "base/error.h"
#include "checkpoint/gguf.h"
#include "model/config_common.h"

namespace moesaic::model {
namespace {

namespace json = boost::json;
using checkpoint::Checkpoint;
using checkpoint::GgufMetadata;
using checkpoint::TensorEntry;

/// An architecture of GGUF files.
struct Architecture {
  std::string_view name;
  std::string_view dense,
      sparse;  ///< model_type without experts and with them; empty: there is none
  bool rope_pairs;
  bool renormalize;   ///< chosen experts' weights sum to 1, where the file does not say
  bool expert_width;  ///< of experts apart from that of dense layers
};
constexpr std::array kArchitectures = {
    Architecture{"llama", "llama", "mixtral", true, true, false},
    Architecture{"qwen2", "qwen2", "", false, false, false},
    Architecture{"qwen2moe", "", "qwen2_moe", false, false, true},
    Architecture{"qwen3", "qwen3", "", false, false, false},
    Architecture{"qwen3moe", "", "qwen3_moe", false, true, true},
    Architecture{"olmoe", "", "olmoe", false, false, false},
};

constexpr std::string_view kArchitectureKey = "general.architecture";
constexpr std::string_view kEmbedding = "token_embd.weight";

const Architecture& architecture_of(const GgufMetadata& metadata) {
  const std::string_view name = metadata.string(kArchitectureKey);
  std::string known;
  for (const Architecture& each : kArchitectures) {
    if (each.name == name) return each;
    known += (known.empty() ? "" : ", ") + std::string(each.name);
  }
  metadata.fail(kArchitectureKey, fmt::format("is \"{}\"; supported are {}", name, known));
}

/// Writes the config, key by key.
class Translator {
 public:
  explicit Translator(const Checkpoint& checkpoint)
      : checkpoint_(checkpoint),
        metadata_(*checkpoint.metadata()),
        architecture_(architecture_of(metadata_)) {}

  json::object run() {
    experts_ = integer("expert_count", 0, kMaxExperts, 0);
    const std::string_view type = experts_ > 0 ? architecture_.sparse : architecture_.dense;
    if (type.empty()) {
      metadata_.fail(kArchitectureKey,
                     fmt::format("is \"{}\", but the model has {}", architecture_.name,
                                 experts_ > 0 ? "experts" : "no experts"));
    }
    // Models of Mistral are those of Llama but for their window.
    const bool window = type == "llama" && has("attention.sliding_window");
    config_["model_type"] = window ? "mistral" : type;
    sizes();
    attention();
    rope();
    if (experts_ > 0) experts();
    config_["torch_dtype"] = dtype();
    token_ids();
    return std::move(config_);
  }

 private:
  std::string key(std::string_view name) const {
    return fmt::format("{}.{}", architecture_.name, name);
  }
  bool has(std::string_view name) const { return metadata_.has(key(name)); }
  int64_t integer(std::string_view name, int64_t lowest, int64_t highest,
                  std::optional<int64_t> fallback = std::nullopt) const {
    return metadata_.integer(key(name), lowest, highest, fallback);
  }
  /// A number that files write once, or once for each layer; here all layers must have the same.
  int64_t same_in_all_layers(std::string_view name, int64_t highest,
                             std::optional<int64_t> fallback = std::nullopt) const {
    if (!has(name) && fallback) return *fallback;
    const std::vector<int64_t> all = metadata_.integers(key(name), 1, highest, kMaxLayers);
    if (all.empty()) metadata_.fail(key(name), "is missing from the file's metadata");
    if (std::adjacent_find(all.begin(), all.end(), std::not_equal_to()) != all.end()) {
      metadata_.fail(key(name), "differs between layers, which is not supported");
    }
    return all.front();
  }
  /// The rows of a tensor, which older files let stand for a key; 0 without such a tensor.
  int64_t rows_of(std::string_view tensor) const {
    const TensorEntry* entry = checkpoint_.find(tensor);
    if (entry == nullptr || entry->view.shape.size() < 2) return 0;
    return entry->view.shape[entry->view.shape.size() - 2];
  }
  int64_t width(std::string_view name, std::initializer_list<std::string_view> tensors) const {
    for (const std::string_view tensor : tensors) {
      if (!has(name) && rows_of(tensor) > 0) return rows_of(tensor);
    }
    return integer(name, 1, kMaxWidth);
  }

  void sizes() {
    config_["hidden_size"] = integer("embedding_length", 1, kMaxHidden);
    config_["num_hidden_layers"] = integer("block_count", 1, kMaxLayers);
    config_["max_position_embeddings"] = integer("context_length", 1, kMaxPosition);
    config_["rms_norm_eps"] = metadata_.number(key("attention.layer_norm_rms_epsilon"));
    const int64_t rows = rows_of(kEmbedding);
    if (rows == 0) {
      throw base::ModelFileError(metadata_.file(), "is missing, or is no matrix",
                                 std::string(kEmbedding));
    }
    config_["vocab_size"] = rows;
    config_["tie_word_embeddings"] = checkpoint_.find(gguf_names().lm_head) == nullptr;
    if (has("feed_forward_length")) {
      config_["intermediate_size"] = same_in_all_layers("feed_forward_length", kMaxWidth);
    }
  }

  void attention() {
    const int64_t heads = same_in_all_layers("attention.head_count", kMaxHeads);
    const int64_t hidden = config_["hidden_size"].as_int64();
    config_["num_attention_heads"] = heads;
    config_["num_key_value_heads"] =
        same_in_all_layers("attention.head_count_kv", kMaxHeads, heads);
    const int64_t head_dim =
        integer("attention.key_length", 1, kMaxHeadDim, std::max<int64_t>(1, hidden / heads));
    if (integer("attention.value_length", 1, kMaxHeadDim, head_dim) != head_dim) {
      metadata_.fail(key("attention.value_length"),
                     "is not the length of a key, which is not supported");
    }
    config_["head_dim"] = head_dim;
    if (integer("rope.dimension_count", 1, kMaxHeadDim, head_dim) != head_dim) {
      metadata_.fail(key("rope.dimension_count"),
                     "is not the length of a key: partial rotation is not supported");
    }
    const bool bias = checkpoint_.find("blk.0.attn_q.bias") != nullptr;
    config_["attention_bias"] = bias;
    config_["qkv_bias"] = bias;
    if (has("attention.clamp_kqv")) {
      config_["clip_qkv"] = metadata_.number(key("attention.clamp_kqv"));
    }
    if (has("attention.sliding_window")) {
      if (architecture_.name != "llama") {
        metadata_.fail(key("attention.sliding_window"), "is not supported in this architecture");
      }
      config_["sliding_window"] = integer("attention.sliding_window", 1, kMaxPosition);
    }
  }

  void rope() {
    config_["rope_theta"] = metadata_.number(key("rope.freq_base"), 10000.0);
    if (const TensorEntry* factors = checkpoint_.find("rope_freqs.weight"); factors != nullptr) {
      throw base::ModelFileError(factors->file,
                                 "holds factors of rope's frequencies, which are not read yet",
                                 factors->name, factors->offset);
    }
    // Files from before there were several kinds of scaling have one number.
    const double linear = metadata_.number(key("rope.scale_linear"), 1.0);
    const std::string type(
        metadata_.string(key("rope.scaling.type"), linear == 1.0 ? "none" : "linear"));
    if (type == "none") return;
    const std::string_view factor_key =
        has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
    json::object scaling{{"rope_type", type}, {"factor", metadata_.number(key(factor_key))}};
    if (type == "yarn") {
      scaling["original_max_position_embeddings"] =
          integer("rope.scaling.original_context_length", 1, kMaxPosition);
      if (metadata_.number(key("rope.scaling.attn_factor"), 1.0) != 1.0) {
        metadata_.fail(key("rope.scaling.attn_factor"), "is not 1, which is not supported");
      }
    } else if (type != "linear") {
      metadata_.fail(key("rope.scaling.type"),
                     fmt::format("is \"{}\"; supported are none, linear and yarn", type));
    }
    config_["rope_scaling"] = std::move(scaling);
  }

  void experts() {
    constexpr int64_t kSoftmax = 1;
    config_["num_experts"] = experts_;
    config_["num_local_experts"] = experts_;
    config_["num_experts_per_tok"] = integer("expert_used_count", 1, kMaxExperts);
    if (architecture_.expert_width) {
      config_["moe_intermediate_size"] = width(
          "expert_feed_forward_length", {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate.0.weight"});
    }
    json::array dense;
    for (int64_t layer = 0; layer < config_["num_hidden_layers"].as_int64(); ++layer) {
      const std::string router = fmt::format("blk.{}.{}", layer, gguf_names().router);
      if (checkpoint_.find(router) == nullptr) dense.emplace_back(layer);
    }
    config_["mlp_only_layers"] = std::move(dense);
    config_["norm_topk_prob"] =
        metadata_.boolean(key("expert_weights_norm"), architecture_.renormalize);
    if (integer("expert_gating_func", 0, INT32_MAX, kSoftmax) > kSoftmax) {
      metadata_.fail(key("expert_gating_func"), "is not softmax, which is not supported");
    }
    if (metadata_.number(key("expert_weights_scale"), 1.0) != 1.0) {
      metadata_.fail(key("expert_weights_scale"), "is not 1, which is not supported");
    }
    if (architecture_.name == "qwen2moe") {
      config_["shared_expert_intermediate_size"] =
          width("expert_shared_feed_forward_length", {"blk.0.ffn_gate_shexp.weight"});
    }
  }

  /// What most of the bytes are; blocks become bfloat16.
  std::string dtype() const {
    std::map<tensor::DType, uint64_t> bytes;
    for (const TensorEntry& entry : checkpoint_.tensors()) {
      bytes[entry.format == nullptr ? entry.view.dtype : tensor::DType::kBF16] +=
          entry.view.bytes();
    }
    const auto most = std::max_element(bytes.begin(), bytes.end(),
                                       [](auto& a, auto& b) { return a.second < b.second; });
    if (most->first == tensor::DType::kF32) return "float32";
    return most->first == tensor::DType::kF16 ? "float16" : "bfloat16";
  }

  void token_ids() {
    const auto id = [&](const char* name) {
      return metadata_.integer(fmt::format("tokenizer.ggml.{}_token_id", name), -1, INT32_MAX, -1);
    };
    const auto given = [&](int64_t found) { return found >= 0 && found < INT32_MAX; };
    const int64_t bos = id("bos");
    config_["bos_token_id"] = given(bos) ? bos : -1;
    json::array ends;
    for (const char* name : {"eos", "eot", "eom"}) {
      const int64_t end = id(name);
      if (given(end) && std::find(ends.begin(), ends.end(), end) == ends.end()) {
        ends.emplace_back(end);
      }
    }
    config_["eos_token_id"] = std::move(ends);
  }

  const Checkpoint& checkpoint_;
  const GgufMetadata& metadata_;
  const Architecture& architecture_;
  int64_t experts_ = 0;
  json::object config_;
};

}  // namespace

boost::json::object gguf_config(const Checkpoint& checkpoint) {
  return Translator(checkpoint).run();
}

bool gguf_rope_pairs(const Checkpoint& checkpoint) {
  return architecture_of(*checkpoint.metadata()).rope_pairs;
}

const TensorNames& gguf_names() {
  static const TensorNames names = [] {
    TensorNames n;
    n.embed = kEmbedding;
    n.lm_head = "output.weight";
    n.final_norm = "output_norm.weight";
    n.layer = "blk.{L}.";
    n.input_norm = "attn_norm.weight";
    n.post_attention_norm = "ffn_norm.weight";
    n.q = "attn_q.";
    n.k = "attn_k.";
    n.v = "attn_v.";
    n.o = "attn_output.";
    n.q_norm = "attn_q_norm.weight";
    n.k_norm = "attn_k_norm.weight";
    n.dense = {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"};
    n.router = "ffn_gate_inp.weight";
    n.expert = {"ffn_gate.{E}.weight", "ffn_up.{E}.weight", "ffn_down.{E}.weight"};
    n.stacked = {"ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"};
    n.fused_gate_up = "ffn_gate_up_exps.weight";
    n.fused_down = n.stacked.down;
    n.shared = {"ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"};
    n.shared_gate = "ffn_gate_inp_shexp.weight";
    n.ignored_suffixes = {};
    return n;
  }();
  return names;
}

}  // namespace moesaic::model
