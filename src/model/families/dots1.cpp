// dots.llm1: https://arxiv.org/abs/2506.05767. Planned and inspected, not run yet.

#include "model/config_planned.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const ConfigReader config(object, file);
  ModelSpec spec = read_model(config, sizes_of("Dots1ForCausalLM", 32768));
  RouterSpec router;
  router.selection_bias = true;
  fill_deepseek_ffn(config, spec, router);
  read_attention_bias(config, spec);
  for (LayerSpec& layer : spec.layers) layer.attention.qk_norm = backend::QkNorm::kPerHead;
  return spec;
}

}  // namespace

Family dots1_family() { return {"dots1", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
