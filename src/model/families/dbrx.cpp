// DBRX: https://github.com/databricks/dbrx. Planned and inspected, not run yet.

#include <fmt/format.h>

#include "model/config_common.h"
#include "model/families/families.h"

namespace moesaic::model {

namespace {

/// The file's own keys under the names that every other family uses.
boost::json::object usual_keys(const ConfigReader& config) {
  boost::json::object usual = config.json();
  const auto copy = [&](const ConfigReader& from, const char* key, const char* as) {
    if (from.has(key)) usual[as] = from.json().at(key);
  };
  copy(config, "d_model", "hidden_size");
  copy(config, "n_heads", "num_attention_heads");
  copy(config, "n_layers", "num_hidden_layers");
  copy(config, "max_seq_len", "max_position_embeddings");
  if (const std::optional<ConfigReader> attention = config.object("attn_config")) {
    copy(*attention, "kv_n_heads", "num_key_value_heads");
  }
  if (const std::optional<ConfigReader> ffn = config.object("ffn_config")) {
    copy(*ffn, "ffn_hidden_size", "intermediate_size");
    copy(*ffn, "moe_num_experts", "num_experts");
    copy(*ffn, "moe_top_k", "num_experts_per_tok");
  }
  return usual;
}

ModelSpec parse(const boost::json::object& object, const std::string& file) {
  const boost::json::object usual = usual_keys(ConfigReader(object, file));
  const ConfigReader config(usual, file);
  ModelSpec spec = read_model(config, {.architecture = "DbrxForCausalLM",
                                       .kv_heads = 1,
                                       .head_dim = std::nullopt,
                                       .max_position = 2048,
                                       .norm_eps = 1e-5,
                                       .rope_theta = 10000.0,
                                       .bos = -1,
                                       .eos = {},
                                       .sizes_only = true});
  FfnSpec moe = read_moe_ffn(config, {"num_experts"}, "intermediate_size");
  moe.router.renormalize = true;
  fill_ffn(spec, moe);
  return spec;
}

}  // namespace

Family dbrx_family() { return {"dbrx", parse, TensorNames{}, false}; }

}  // namespace moesaic::model
