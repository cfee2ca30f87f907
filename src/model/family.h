#pragma once

// The registry of model families. To add one: one file in families/ that fills a ModelSpec and
// names the tensors, one row in families/registry.cpp, one golden (CONTRIBUTING.md).

#include <boost/json/object.hpp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/spec.h"

namespace moesaic::model {

/// Names of the three matrices of a feed-forward part.
struct FfnNames {
  std::string gate, up, down;
};

/// Names of a layer's checkpoint tensors, with "{L}" for the layer and "{E}" for the expert index.
/// Names lack the ".weight" only where the checkpoint does.
struct TensorNames {
  std::string embed = "model.embed_tokens.weight";
  std::string lm_head = "lm_head.weight";
  std::string final_norm = "model.norm.weight";
  std::string layer = "model.layers.{L}.";  ///< prefix of those below
  std::string input_norm = "input_layernorm.weight";
  std::string post_attention_norm = "post_attention_layernorm.weight";
  std::string q = "self_attn.q_proj.";  ///< + weight, bias
  std::string k = "self_attn.k_proj.";
  std::string v = "self_attn.v_proj.";
  std::string o = "self_attn.o_proj.";
  std::string q_norm = "self_attn.q_norm.weight";
  std::string k_norm = "self_attn.k_norm.weight";
  FfnNames dense = {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"};
  std::string router = "mlp.gate.weight";
  FfnNames expert = {"mlp.experts.{E}.gate_proj.weight", "mlp.experts.{E}.up_proj.weight",
                     "mlp.experts.{E}.down_proj.weight"};
  FfnNames stacked = {};  ///< of all experts' matrices in one tensor; empty: there is no such one
  std::string fused_gate_up = "mlp.experts.gate_up_proj";
  std::string fused_down = "mlp.experts.down_proj";
  FfnNames shared = {"mlp.shared_expert.gate_proj.weight", "mlp.shared_expert.up_proj.weight",
                     "mlp.shared_expert.down_proj.weight"};
  std::string shared_gate = "mlp.shared_expert_gate.weight";
  std::vector<std::string> ignored_suffixes = {".rotary_emb.inv_freq"};
};

/// One supported `model_type`.
struct Family {
  std::string model_type;
  /// Fills the spec from a validated config.json. `file` is for error messages. Throws
  /// ModelFileError for a missing key or an impossible value (zero heads, top-k over experts, ...).
  ModelSpec (*parse)(const boost::json::object& config, const std::string& file);
  TensorNames names;
  /// False for a family that can be planned and inspected but not run yet.
  bool can_serve = true;
  /// Other model_types of the same keys: the text part saved by itself, a later spelling.
  std::vector<std::string> also = {};
};

/// What a spec is wanted for.
enum class Purpose : uint8_t {
  kServe,  ///< to run it: a model that cannot be run is refused
  kPlan,   ///< to look at its sizes: spec.not_served says why it could not be run
};

const std::vector<Family>& families();
/// Null when the type is not supported.
const Family* find_family(const std::string& model_type);

/// The spec of a config.json's object; `file` is for error messages. Throws ModelFileError; an
/// unsupported model_type names the supported ones, and kServe refuses families and quantised
/// weights that can only be planned. `auto_map` is ignored, and logged.
ModelSpec parse_spec(const boost::json::object& config, const std::string& file,
                     Purpose purpose = Purpose::kServe);

/// Sets every value of `from` in `into`; objects on both sides are merged (--hf-overrides).
void merge_config(const boost::json::object& from, boost::json::object& into);

/// Reads `folder`/config.json (or the file itself) and generation_config.json if there is one, or
/// the metadata of the GGUF file that find_gguf() finds.
/// Throws MissingFileError, or ModelFileError as parse_spec does.
/// `overrides` is merged over config.json, object by object (--hf-overrides).
ModelSpec load_spec(const std::filesystem::path& folder_or_config,
                    const boost::json::object& overrides = {}, Purpose purpose = Purpose::kServe);

}  // namespace moesaic::model
