// Mistral 7B and its dense successors: https://arxiv.org/abs/2310.06825.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "MistralForCausalLM",
                                       .kv_heads = 8,
                                       .head_dim = std::nullopt,
                                       .max_position = 4096 * 32,
                                       .norm_eps = 1e-6,
                                       .rope_theta = 10000.0,
                                       .bos = 1,
                                       .eos = {2}});
  fill_ffn(spec, read_dense_ffn(config));
  read_sliding_window(config, spec, 4096);
  return spec;
}

}  // namespace

Family mistral_family() { return {"mistral", parse, TensorNames{}}; }

}  // namespace moesaic::model
