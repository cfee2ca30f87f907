// Qwen1.5, Qwen2 and Qwen2.5, dense: https://arxiv.org/abs/2407.10671.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "Qwen2ForCausalLM",
                                       .kv_heads = 32,
                                       .head_dim = std::nullopt,
                                       .max_position = 32768,
                                       .norm_eps = 1e-6,
                                       .rope_theta = 10000.0,
                                       .bos = -1,
                                       .eos = {}});
  fill_ffn(spec, read_dense_ffn(config));
  for (LayerSpec& layer : spec.layers) layer.attention.qkv_bias = true;
  read_qwen_sliding(config, spec, QwenSliding::kFromMaxWindowLayers);
  return spec;
}

}  // namespace

Family qwen2_family() { return {"qwen2", parse, TensorNames{}}; }

}  // namespace moesaic::model
