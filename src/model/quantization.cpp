#include "model/quantization.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "model/quantization_rules.h"

namespace moesaic::model {

namespace {

/// The name under which add_quantization_file says where its object comes from.
constexpr const char* kFoundIn = "moesaic_found_in";
constexpr size_t kMaxFileBytes = size_t{4} << 20;
constexpr int64_t kMaxBits = 64;
constexpr int64_t kMaxGroup = int64_t{1} << 20;
constexpr size_t kMaxModules = size_t{1} << 16;

struct NamedFormat {
  const char* name;
  const char* format;
};

/// Methods and algorithms whose name alone says what a weight is.
constexpr std::array kNamed = {
    NamedFormat{"fp8", "fp8"},
    NamedFormat{"fbgemm_fp8", "fp8"},
    NamedFormat{"finegrained_fp8", "fp8"},
    NamedFormat{"FP8", "fp8"},
    NamedFormat{"FP8_PB_WO", "fp8"},
    NamedFormat{"FP8_PER_CHANNEL_PER_TOKEN", "fp8"},
    NamedFormat{"MXFP8", "fp8"},
    NamedFormat{"mxfp8", "fp8"},
    NamedFormat{"int8", "int8"},
    NamedFormat{"eetq", "int8"},
    NamedFormat{"experts_int8", "int8"},
    NamedFormat{"W8A8_SQ_PER_CHANNEL", "int8"},
    NamedFormat{"int4", "int4"},
    NamedFormat{"W4A16_AWQ", "awq"},
    NamedFormat{"W4A8_AWQ", "awq"},
    NamedFormat{"mxfp4", "mxfp4"},
    NamedFormat{"nvfp4", "nvfp4"},
    NamedFormat{"NVFP4", "nvfp4"},
    NamedFormat{"NVFP4_AWQ", "nvfp4"},
    NamedFormat{"W4A16_NVFP4", "nvfp4"},
};

std::string named_format(const std::string& name) {
  const auto at = std::find_if(kNamed.begin(), kNamed.end(),
                               [&](const NamedFormat& each) { return name == each.name; });
  return at == kNamed.end() ? "" : at->format;
}

/// Integers of `bits`, or small floats: what compressed-tensors and quark write.
std::string typed_format(const std::string& type, int64_t bits, int64_t group) {
  constexpr int64_t kMxGroup = 32;
  if (type == "float" && bits == 8) return "fp8";
  if (type == "float" && bits == 4) return group == kMxGroup ? "mxfp4" : "nvfp4";
  if (type == "int" && bits == 8 && group <= 0) return "int8";
  if (type == "int" && bits >= 2 && bits <= 8) return "int4";
  return "";
}

/// Adds `key` and its value to what was found.
template <typename Value>
Value note(QuantizationFacts& facts, const char* key, Value value) {
  facts.found += fmt::format(", {} {}", key, value);
  return value;
}

int64_t read_bits(const ConfigReader& config, QuantizationFacts& facts,
                  std::initializer_list<const char*> keys, int64_t fallback) {
  for (const char* key : keys) {
    if (config.has(key)) return note(facts, key, config.integer(key, 1, kMaxBits));
  }
  return fallback;
}

int64_t read_group(const ConfigReader& config, QuantizationFacts& facts,
                   std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (config.has(key)) return note(facts, key, config.integer(key, -1, kMaxGroup));
  }
  return 0;
}

/// AWQ, GPTQ and their kin: integers of any width in groups.
void read_grouped(const ConfigReader& config, const char* format, QuantizationFacts& facts) {
  facts.bits = read_bits(config, facts, {"bits", "w_bit", "wbits"}, 4);
  facts.group = read_group(config, facts, {"group_size", "q_group_size"});
  if (facts.bits >= 2 && facts.bits <= 8) facts.format = format;
}

void read_bitsandbytes(const ConfigReader& config, QuantizationFacts& facts) {
  const auto on = [&](const char* key) {
    if (!config.has(key)) return false;
    return note(facts, key, config.boolean(key));
  };
  // Where neither is said, 4 bits by the name alone, as quantised copies are called.
  if (on("load_in_8bit") || on("_load_in_8bit")) {
    facts.format = "int8";
  } else if (on("load_in_4bit") || on("_load_in_4bit") ||
             (!config.has("load_in_8bit") && !config.has("load_in_4bit"))) {
    facts.format = "bitsandbytes";
  }
}

/// The group with the widest weights, so that a plan never takes too little.
void read_config_groups(const ConfigReader& config, QuantizationFacts& facts) {
  const std::optional<ConfigReader> groups = config.object("config_groups");
  if (!groups) return;
  for (const std::string& name : groups->keys()) {
    const std::optional<ConfigReader> group = groups->object(name);
    const std::optional<ConfigReader> weights = group ? group->object("weights") : std::nullopt;
    if (!weights) continue;
    const int64_t bits = weights->integer("num_bits", 1, kMaxBits);
    if (bits <= facts.bits) continue;
    facts.bits = bits;
    facts.group = weights->integer("group_size", -1, kMaxGroup, 0);
    const std::string type = weights->string("type", "int");
    facts.format = typed_format(type, facts.bits, facts.group);
    facts.found += fmt::format(", {} weights of type {} with num_bits {}", name, type, bits);
  }
}

void read_algorithm(const ConfigReader& config, QuantizationFacts& facts) {
  const std::string algorithm = note(facts, "quant_algo", config.string("quant_algo", ""));
  facts.format = named_format(algorithm);
  if (facts.format.empty()) read_config_groups(config, facts);
}

/// "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "group_size": ...}} or a list of such.
void read_quark(const ConfigReader& config, QuantizationFacts& facts) {
  const std::optional<ConfigReader> all = config.object("global_quant_config");
  if (!all) return;
  std::optional<ConfigReader> weight;
  const boost::json::value* given = all->json().if_contains("weight");
  if (given != nullptr && given->is_array() && !given->get_array().empty() &&
      given->get_array().front().is_object()) {
    weight.emplace(given->get_array().front().get_object(), all->file(), "weight");
  } else {
    weight = all->object("weight");
  }
  if (!weight) return;
  const std::string type = note(facts, "dtype", weight->string("dtype", ""));
  facts.group = weight->integer("group_size", -1, kMaxGroup, 0);
  if (type.starts_with("fp8")) facts.format = "fp8";
  if (type == "fp4") facts.format = typed_format("float", 4, facts.group);
  if (type == "int8" || type == "uint8") facts.format = typed_format("int", 8, facts.group);
  if (type == "int4" || type == "uint4") facts.format = typed_format("int", 4, facts.group);
}

/// The list of modules left alone covers attention in general, not a layer here and there.
bool leaves_attention(const ConfigReader& config) {
  constexpr size_t kHere = 8;
  size_t named = 0;
  for (const char* key :
       {"ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers", "exclude"}) {
    const boost::json::value* list = config.json().if_contains(key);
    if (list == nullptr || !list->is_array()) continue;
    for (const std::string& module : config.strings(key, kMaxModules)) {
      if (module.find("self_attn") == std::string::npos) continue;
      const bool every = module.starts_with("re:") || module.find("layers.*") != module.npos ||
                         module.starts_with("*") || module == "self_attn" ||
                         module == "model.layers.self_attn";
      if (every) return true;
      ++named;
    }
  }
  return named > kHere;
}

}  // namespace

std::string QuantizationFacts::stored_as() const { return rules ? rules->description() : ""; }

QuantizationFacts read_quantization(const ConfigReader& config) {
  const std::optional<ConfigReader> given = config.object("quantization_config");
  QuantizationFacts facts;
  if (!given) return facts;
  const bool modelopt = given->has("quant_algo");
  facts.method = given->string("quant_method", modelopt ? "modelopt" : "unknown");
  facts.found =
      fmt::format("{}: quant_method {}",
                  given->string(kFoundIn, "\"quantization_config\" of config.json"), facts.method);
  std::string method = facts.method;
  std::replace(method.begin(), method.end(), '-', '_');
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), method) != names.end();
  };
  if (is({"awq", "awq_marlin", "auto_awq"})) {
    read_grouped(*given, "awq", facts);
  } else if (is({"gptq", "gptq_marlin", "auto_gptq", "gptqmodel", "marlin", "auto_round",
                 "intel/auto_round", "inc"})) {
    read_grouped(*given, "gptq", facts);
  } else if (is({"bitsandbytes"})) {
    read_bitsandbytes(*given, facts);
  } else if (is({"compressed_tensors"})) {
    read_config_groups(*given, facts);
  } else if (modelopt || method.starts_with("modelopt")) {
    read_algorithm(*given, facts);
  } else if (is({"quark"})) {
    read_quark(*given, facts);
  } else {
    facts.format = named_format(method);
  }
  facts.experts_only = method == "experts_int8" || leaves_attention(*given);
  try {
    facts.rules = std::make_shared<const QuantizationRules>(*given);
  } catch (const base::ModelFileError& error) {
    facts.unreadable = error.what();
  }
  return facts;
}

void add_quantization_file(const std::filesystem::path& folder, boost::json::object& config) {
  const boost::json::value* given = config.if_contains("quantization_config");
  if (given != nullptr && !given->is_null()) return;
  struct Known {
    const char* file;
    const char* method;
  };
  for (const Known& known :
       {Known{"hf_quant_config.json", "modelopt"}, Known{"quant_config.json", "awq"},
        Known{"quantize_config.json", "gptq"}}) {
    const auto object = checkpoint::read_json_file(folder, known.file, kMaxFileBytes);
    if (!object) continue;
    const boost::json::value* inner = object->if_contains("quantization");
    boost::json::object facts =
        inner != nullptr && inner->is_object() ? inner->get_object() : *object;
    if (!facts.contains("quant_method")) facts["quant_method"] = known.method;
    facts[kFoundIn] = known.file;
    config["quantization_config"] = std::move(facts);
    return;
  }
}

}  // namespace moesaic::model
