// Qwen3, dense: https://arxiv.org/abs/2505.09388.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "Qwen3ForCausalLM",
                                       .kv_heads = 32,
                                       .head_dim = 128,
                                       .max_position = 32768,
                                       .norm_eps = 1e-6,
                                       .rope_theta = 10000.0,
                                       .bos = -1,
                                       .eos = {}});
  fill_ffn(spec, read_dense_ffn(config));
  read_attention_bias(config, spec);
  for (LayerSpec& layer : spec.layers) layer.attention.qk_norm = backend::QkNorm::kPerHead;
  read_qwen_sliding(config, spec, QwenSliding::kFromMaxWindowLayers);
  return spec;
}

}  // namespace

Family qwen3_family() { return {"qwen3", parse, TensorNames{}}; }

}  // namespace moesaic::model
