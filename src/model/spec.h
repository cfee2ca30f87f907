#pragma once

// ModelSpec: a whole architecture as data. Families (model/families/) only fill it from a
// config.json and name the tensors; the decoder, the memory needs, `inspect` and the planner only
// read it.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "model/quantization_facts.h"
#include "tensor/dtype.h"

namespace moesaic::model {

enum class RopeScaling : uint8_t { kNone, kLinear, kDynamic, kLlama3, kYarn };

/// Rotary embedding: frequencies theta^(-2i/D) over the first rotary_dim dims, then scaled.
/// Formulas and their sources stand at rope.h.
struct RopeSpec {
  double theta = 10000.0;
  int64_t rotary_dim = 0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  int64_t original_max_position = 0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn
  bool truncate = true;                                  // yarn
  double attention_factor = 0.0;                         // yarn; 0 = derive it
  double mscale = 0.0, mscale_all_dim = 0.0;             // yarn, DeepSeek
};

enum class AttentionKind : uint8_t {
  kGqa,        ///< keys and values per key-value head; MHA and MQA are its ends
  kMla,        ///< DeepSeek's latent attention: one latent and one rotated key for all heads
  kRecurrent,  ///< no cache but a state of fixed size: gated DeltaNet, Mamba
  kNone,       ///< the layer is a feed-forward part alone
};

/// Sizes of latent attention (https://arxiv.org/abs/2405.04434, section 2.1).
struct LatentSpec {
  int64_t q_rank = 0;    ///< q_lora_rank; 0 = queries are projected directly
  int64_t kv_rank = 0;   ///< kv_lora_rank, the latent's width
  int64_t nope_dim = 0;  ///< qk_nope_head_dim
  int64_t rope_dim = 0;  ///< qk_rope_head_dim, the rotated key's width
  int64_t v_dim = 0;     ///< v_head_dim
};

/// What chooses the cached tokens that a latent attends to (DeepSeek-V3.2,
/// https://arxiv.org/abs/2512.02556): its own small queries against one small key a token.
struct IndexerSpec {
  int64_t heads = 0;  ///< 0 = there is none in this layer
  int64_t dim = 0;    ///< of a query, and of the cached key
  int64_t top_k = 0;  ///< tokens that are attended to; 0 = all
  /// A token's key in bytes: 8-bit values and a 4-byte scale for each 128, whatever the cache's
  /// type.
  double cached_bytes() const {
    if (heads == 0) return 0;
    const int64_t scales = (dim + 127) / 128;
    return static_cast<double>(dim + 4 * scales);
  }
};

/// Sizes of a recurrent mixer: gated DeltaNet (https://arxiv.org/abs/2412.06464), Mamba
/// (https://arxiv.org/abs/2312.00752) and Mamba-2 (https://arxiv.org/abs/2405.21060).
struct RecurrentSpec {
  int64_t heads = 0;        ///< or channels: what is divided over devices
  int64_t in_width = 0;     ///< rows of all projections of the hidden state
  int64_t out_width = 0;    ///< columns of the output projection
  int64_t conv_width = 0;   ///< channels of the causal convolution
  int64_t conv_kernel = 0;  ///< tokens it sees
  int64_t step_rank = 0;    ///< Mamba-1's dt_rank; 0 in the others
  int64_t step_width = 0;   ///< Mamba-1: rows of x_proj, dt_rank + 2 d_state
  int64_t vectors = 0;      ///< values of decays, biases and norms
  int64_t state = 0;        ///< values of a sequence's state, beside the convolution's
  /// What a sequence keeps, in bytes: the state in 32 bits, as published files ask for, and the
  /// convolution's last inputs in 16.
  double state_bytes() const {
    return static_cast<double>(4 * state +
                               2 * conv_width * (conv_kernel > 0 ? conv_kernel - 1 : 0));
  }
};

struct AttentionSpec {
  AttentionKind kind = AttentionKind::kGqa;
  LatentSpec latent;        ///< of kMla; q_rank also where kGqa has low-rank queries (Step-3)
  IndexerSpec indexer;      ///< of kMla
  RecurrentSpec recurrent;  ///< of kRecurrent, which leaves all below at 0
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;  ///< of queries and keys
  bool qkv_bias = false;
  bool o_bias = false;
  backend::QkNorm qk_norm = backend::QkNorm::kNone;
  double clip_qkv = 0;
  double scale = 0;
  int64_t sliding_window = 0;  ///< 0 = full attention
  bool sinks = false;          ///< one learned logit a head (gpt-oss)
  bool output_gate =
      false;  ///< a gate of the heads' outputs, projected like the queries (Qwen3-Next)
  bool keys_are_values = false;  ///< one projection gives both (Gemma 4); both are cached

  /// Width of what the heads hand to the output projection.
  int64_t output_width() const {
    return heads * (kind == AttentionKind::kMla ? latent.v_dim : head_dim);
  }
  /// Cached values a token needs in this layer, on one device that holds all heads.
  int64_t cached_values() const {
    return kind == AttentionKind::kMla ? latent.kv_rank + latent.rope_dim : 2 * kv_heads * head_dim;
  }
  /// The same in bytes, with the indexer's key.
  double cached_bytes(double value_bytes) const {
    return static_cast<double>(cached_values()) * value_bytes + indexer.cached_bytes();
  }
};

/// The router of a MoE layer.
struct RouterSpec {
  int64_t top_k = 0;
  backend::Scoring scoring = backend::Scoring::kSoftmax;
  bool renormalize = false;
  double scale = 1.0;
  bool bias = false;            ///< added to the logits (gpt-oss)
  bool selection_bias = false;  ///< added for the choice alone (DeepSeek-V3)
};

struct FfnSpec {
  bool moe = false;
  int64_t width = 0;    ///< dense FFN width, or one expert's width
  int64_t experts = 0;  ///< routed experts; 0 when dense
  RouterSpec router;
  int64_t shared_width = 0;  ///< width of all shared experts together; 0 = none
  int64_t shared_count = 1;  ///< how many experts that is
  bool shared_gate = false;  ///< shared output times sigmoid(x . gate)
  bool expert_bias = false;  ///< biases in the experts' three projections (gpt-oss)
  bool gated = true;         ///< gate and up; false: up alone (Nemotron)
  int64_t latent = 0;  ///< width that the experts work at, to and from which the hidden state is
                       ///< projected (Nemotron 3 Super); 0 = the hidden state itself
  int64_t zero_experts = 0;  ///< choices of the router that do nothing (LongCat)

  bool empty() const { return !moe && width == 0; }
  /// Experts that a token is expected to visit.
  double chosen() const {
    return static_cast<double>(router.top_k) * static_cast<double>(experts) /
           static_cast<double>(experts + zero_experts);
  }
};

struct LayerSpec {
  AttentionSpec attention;
  FfnSpec ffn;
  int64_t extra_norms = 0;  ///< of the hidden state, beside the one before each part
};

class StoredFormats;

struct ModelSpec {
  std::string family;        ///< model_type of config.json, e.g. "mixtral"
  std::string architecture;  ///< architectures[0], e.g. "MixtralForCausalLM"
  int64_t vocab_size = 0;    ///< embedding rows
  int64_t hidden = 0;
  int64_t max_position = 0;
  double norm_eps = 1e-6;
  bool tied_embeddings = false;
  bool norm_bias = false;                      ///< norms are LayerNorms with a bias (Phi-3.5-MoE)
  bool head_bias = false;                      ///< lm_head has a bias
  tensor::DType dtype = tensor::DType::kBF16;  ///< as the config says
  RopeSpec rope;
  std::vector<LayerSpec> layers;
  int64_t encoder_params = 0;    ///< of encoders of images or sound, which text does not meet
  std::vector<int32_t> eos_ids;  ///< config.json and generation_config.json together
  int32_t bos_id = -1;
  QuantizationFacts quantization;  ///< of the published weights
  /// In which integers matrices are stored, where any are; null: they are unpacked at load.
  std::shared_ptr<const StoredFormats> stored;
  bool gguf = false;  ///< read from a GGUF file, whose tensors have other names
  /// Rows of queries' and keys' heads are stored as rope's pairs (GGUF files of llama).
  bool rope_pairs = false;
  /// Why `serve` cannot run this model, although it can be planned and inspected; empty = it can.
  std::string not_served;

  int64_t moe_layers() const;
  /// Largest routed expert count and top_k over the layers; 0 for a dense model.
  int64_t max_experts() const;
  int64_t max_top_k() const;
};

/// Parameters by part, counted tensor by tensor from the spec.
struct ParameterCount {
  int64_t embeddings = 0;  ///< embedding, lm_head if not tied
  int64_t attention = 0;
  int64_t norms = 0;
  int64_t routers = 0;
  int64_t dense_ffn = 0;
  int64_t shared_experts = 0;
  int64_t experts = 0;  ///< all routed experts
  int64_t encoder = 0;  ///< encoders of images or sound
  int64_t total = 0;
  int64_t active = 0;  ///< used for a token of text: no encoder, and the experts it visits
};
ParameterCount count_parameters(const ModelSpec& spec);

}  // namespace moesaic::model
