// DeepSeek-MoE 16B (https://arxiv.org/abs/2401.06066), V2 and V2-Lite
// (https://arxiv.org/abs/2405.04434), V3 and R1 (https://arxiv.org/abs/2412.19437), V3.2, which
// adds an indexer (https://arxiv.org/abs/2512.02556), and Kimi-K2, which has V3's shape
// (https://arxiv.org/abs/2507.20534), with an image encoder in K2.5. Planned and inspected, not run
// yet. The multi-token-prediction layer of V3 stands beyond num_hidden_layers and is not loaded.

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec read(const ConfigReader& config, const std::string& architecture,
               std::optional<int64_t> head_dim) {
  return read_model(config, {.architecture = architecture,
                             .kv_heads = std::nullopt,
                             .head_dim = head_dim,
                             .max_position = 4096,
                             .norm_eps = 1e-6,
                             .rope_theta = 10000.0,
                             .bos = -1,
                             .eos = {},
                             .sizes_only = true});
}

ModelSpec parse_v1(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read(config, "DeepseekForCausalLM", std::nullopt);
  fill_deepseek_ffn(config, spec, {});
  read_attention_bias(config, spec);
  return spec;
}

/// Latent attention makes the plain head_dim (hidden over heads) meaningless; 2 stands in until it
/// is replaced.
ModelSpec parse_v2(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read(config, "DeepseekV2ForCausalLM", 2);
  fill_deepseek_ffn(config, spec, {});
  read_latent_attention(config, spec);
  return spec;
}

ModelSpec parse_v3(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read(config, "DeepseekV3ForCausalLM", 2);
  RouterSpec router;
  router.renormalize = true;
  router.selection_bias = true;
  fill_deepseek_ffn(config, spec, router);
  read_latent_attention(config, spec);
  return spec;
}

ModelSpec parse_v32(const boost::json::object& object, const std::string& file) {
  ModelSpec spec = parse_v3(object, file);
  read_indexer(ConfigReader(object, file), spec);
  return spec;
}

ModelSpec parse_k25(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = parse_v3(text_config(config), file);
  const EncoderShape encoder = read_encoder(config);
  if (encoder.hidden > 0) {
    spec.encoder_params = encoder.params + patch_merger_params(encoder, 2, spec.hidden);
  }
  return spec;
}

}  // namespace

Family deepseek_family() { return {"deepseek", parse_v1, TensorNames{}, false}; }
Family deepseek_v2_family() { return {"deepseek_v2", parse_v2, TensorNames{}, false}; }
Family deepseek_v3_family() { return {"deepseek_v3", parse_v3, TensorNames{}, false}; }
Family kimi_k2_family() { return {"kimi_k2", parse_v3, TensorNames{}, false}; }
Family deepseek_v32_family() { return {"deepseek_v32", parse_v32, TensorNames{}, false}; }
Family kimi_k25_family() { return {"kimi_k25", parse_k25, TensorNames{}, false}; }

}  // namespace moesaic::model
