#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "model/config_common.h"
#include "model/families/families.h"
#include "model/gguf_model.h"
#include "model/quantization.h"
#include "model/stored_formats.h"

namespace moesaic::model {

namespace {

constexpr size_t kMaxConfigBytes = size_t{4} << 20;

std::string supported_types(Purpose purpose) {
  std::string list;
  for (const Family& family : families()) {
    if (purpose == Purpose::kServe && !family.can_serve) continue;
    if (!list.empty()) list += ", ";
    list += family.model_type;
  }
  return list;
}

/// The config.json of a folder, or of the file that the operator names.
boost::json::object read_config(const std::filesystem::path& folder_or_config,
                                std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::is_directory(folder_or_config, error)) {
    file = folder_or_config / "config.json";
    auto config = checkpoint::read_json_file(folder_or_config, "config.json", kMaxConfigBytes);
    if (!config) throw base::MissingFileError(fmt::format("{} does not exist", file.string()));
    return std::move(*config);
  }
  file = folder_or_config;
  const auto text = base::read_file(file, kMaxConfigBytes);
  if (!text) {
    throw base::ModelFileError(file.string(),
                               fmt::format("has more than {} bytes", kMaxConfigBytes));
  }
  return checkpoint::parse_json_file(*text, file.string());
}

void add_generation_eos(const std::filesystem::path& folder, ModelSpec& spec) {
  const std::string name = "generation_config.json";
  const auto object = checkpoint::read_json_file(folder, name, kMaxConfigBytes);
  if (!object) return;
  const ConfigReader config(*object, (folder / name).string());
  for (int64_t id : config.integers("eos_token_id", -1, INT32_MAX, 1024)) {
    const auto token = static_cast<int32_t>(id);
    const bool known =
        std::find(spec.eos_ids.begin(), spec.eos_ids.end(), token) != spec.eos_ids.end();
    if (token >= 0 && !known) spec.eos_ids.push_back(token);
  }
}

/// An id that the model cannot produce would never end an answer.
void drop_unknown_eos(const std::string& file, ModelSpec& spec) {
  std::erase_if(spec.eos_ids, [&](int32_t id) {
    const bool unknown = id >= spec.vocab_size;
    if (unknown) {
      spdlog::warn("{}: eos_token_id {} is outside the vocabulary of {} ids and is not used", file,
                   id, spec.vocab_size);
    }
    return unknown;
  });
}

}  // namespace

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      mixtral_family(),
      qwen2_moe_family(),
      qwen3_moe_family(),
      olmoe_family(),
      mistral_family(),
      llama_family(),
      qwen2_family(),
      qwen3_family(),
      // Planned and inspected, not run yet.
      deepseek_family(),
      deepseek_v2_family(),
      deepseek_v3_family(),
      kimi_k2_family(),
      dbrx_family(),
      gpt_oss_family(),
      phimoe_family(),
      glm4_moe_family(),
      granitemoe_family(),
      deepseek_v32_family(),
      kimi_k25_family(),
      glm4_moe_lite_family(),
      glm_moe_dsa_family(),
      granitemoehybrid_family(),
      qwen3_next_family(),
      qwen3_5_moe_family(),
      qwen3_vl_moe_family(),
      minimax_m2_family(),
      llama4_family(),
      gemma4_family(),
      ernie4_5_moe_family(),
      hunyuan_v1_moe_family(),
      dots1_family(),
      bailing_moe_family(),
      nemotron_h_family(),
      step3_family(),
      longcat_flash_family(),
      jamba_family(),
  };
  return all;
}

const Family* find_family(const std::string& model_type) {
  for (const Family& family : families()) {
    const auto& also = family.also;
    if (family.model_type == model_type ||
        std::find(also.begin(), also.end(), model_type) != also.end()) {
      return &family;
    }
  }
  return nullptr;
}

ModelSpec parse_spec(const boost::json::object& object, const std::string& file, Purpose purpose) {
  const ConfigReader config(object, file);
  const std::string type = config.string("model_type");
  const Family* family = find_family(type);
  if (family == nullptr) {
    config.fail("model_type",
                fmt::format("is \"{}\"; supported are {}", type, supported_types(purpose)));
  }
  if (purpose == Purpose::kServe && !family->can_serve) {
    config.fail(
        "model_type",
        fmt::format("is \"{}\", a family that can be planned and inspected but not run yet; "
                    "those that run are {}",
                    type, supported_types(purpose)));
  }
  if (config.has("auto_map")) {
    spdlog::warn("{}: auto_map is ignored; checkpoints never execute code", file);
  }
  ModelSpec spec = family->parse(object, file);
  spec.family = family->model_type;
  check_sizes(spec, file);
  spec.not_served = spec.quantization.unreadable;
  if (purpose == Purpose::kServe && !spec.not_served.empty()) {
    throw base::ModelFileError(
        file, fmt::format("the weights are quantised ({}) in a way that is not read yet: {}; use "
                          "the model's bfloat16 or float16 checkpoint",
                          spec.quantization.found, spec.not_served));
  }
  if (!family->can_serve) spec.not_served = fmt::format("the family {} cannot be run yet", type);
  return spec;
}

void merge_config(const boost::json::object& from, boost::json::object& into) {
  for (const auto& [key, value] : from) {
    boost::json::value& place = into[key];
    if (value.is_object() && place.is_object()) {
      merge_config(value.get_object(), place.get_object());
    } else {
      place = value;
    }
  }
}

namespace {

ModelSpec load_gguf_spec(const std::filesystem::path& file, const boost::json::object& overrides,
                         Purpose purpose) {
  const auto checkpoint = checkpoint::Checkpoint::open(file);
  boost::json::object config = gguf_config(checkpoint);
  merge_config(overrides, config);
  ModelSpec spec = parse_spec(config, file.string(), purpose);
  spec.gguf = true;
  spec.rope_pairs = gguf_rope_pairs(checkpoint);
  spec.stored = std::make_shared<StoredFormats>(file, nullptr);
  drop_unknown_eos(file.string(), spec);
  return spec;
}

}  // namespace

ModelSpec load_spec(const std::filesystem::path& folder_or_config,
                    const boost::json::object& overrides, Purpose purpose) {
  if (const auto gguf = checkpoint::find_gguf(folder_or_config)) {
    return load_gguf_spec(*gguf, overrides, purpose);
  }
  std::filesystem::path file;
  boost::json::object config = read_config(folder_or_config, file);
  add_quantization_file(file.parent_path(), config);
  merge_config(overrides, config);
  ModelSpec spec = parse_spec(config, file.string(), purpose);
  add_generation_eos(file.parent_path(), spec);
  drop_unknown_eos(folder_or_config.string(), spec);
  if (spec.quantization.rules != nullptr) {
    spec.stored = std::make_shared<StoredFormats>(folder_or_config, spec.quantization.rules);
  }
  return spec;
}

}  // namespace moesaic::model
