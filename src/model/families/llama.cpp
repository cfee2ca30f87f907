// Llama 1 to 3.x, and the many models that use its layout: https://arxiv.org/abs/2407.21783.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "LlamaForCausalLM",
                                       .kv_heads = std::nullopt,
                                       .head_dim = std::nullopt,
                                       .max_position = 2048,
                                       .norm_eps = 1e-6,
                                       .rope_theta = 10000.0,
                                       .bos = 1,
                                       .eos = {2}});
  if (config.boolean("mlp_bias", false)) {
    config.fail("mlp_bias", "is true: biases in the feed-forward layers are not supported");
  }
  fill_ffn(spec, read_dense_ffn(config));
  read_attention_bias(config, spec);
  return spec;
}

}  // namespace

Family llama_family() { return {"llama", parse, TensorNames{}}; }

}  // namespace moesaic::model
