// Mixtral 8x7B and 8x22B: https://arxiv.org/abs/2401.04088.

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, {.architecture = "MixtralForCausalLM",
                                       .kv_heads = 8,
                                       .head_dim = std::nullopt,
                                       .max_position = 4096 * 32,
                                       .norm_eps = 1e-5,
                                       .rope_theta = 1e6,
                                       .bos = 1,
                                       .eos = {2}});
  FfnSpec moe = read_moe_ffn(config, {"num_local_experts", "num_experts"}, "intermediate_size");
  moe.router.renormalize = true;
  fill_ffn(spec, moe);
  // Fine-tunes of early files carry a window of 4096.
  read_sliding_window(config, spec, 0);
  return spec;
}

TensorNames names() {
  TensorNames names;
  names.router = "block_sparse_moe.gate.weight";
  names.expert = {"block_sparse_moe.experts.{E}.w1.weight",
                  "block_sparse_moe.experts.{E}.w3.weight",
                  "block_sparse_moe.experts.{E}.w2.weight"};
  return names;
}

}  // namespace

Family mixtral_family() { return {"mixtral", parse, names()}; }

}  // namespace moesaic::model
