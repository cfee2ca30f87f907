#include "model/quantization_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <cctype>
#include <stdexcept>

#include "base/hash.h"

namespace moesaic::model {
namespace {

using tensor::Packing;
using tensor::Scheme;
using tensor::WeightFormat;

constexpr int64_t kMaxGroup = int64_t{1} << 20;
constexpr size_t kMaxModules = size_t{1} << 16;
constexpr size_t kMaxRules = 256;

constexpr StoredNames kAutoNames = {.values = ".qweight",
                                    .scales = ".scales",
                                    .other_scales = {},
                                    .zeros = ".qzeros",
                                    .order = ".g_idx",
                                    .outer_scales = {},
                                    .codes = {},
                                    .scale_codes = {},
                                    .shape = {},
                                    .state = {},
                                    .unused = {}};
/// Values that take whole bytes keep the module's own name.
constexpr StoredNames element_names(std::string_view scales, std::string_view other_scales) {
  return {.values = ".weight",
          .scales = scales,
          .other_scales = other_scales,
          .zeros = ".weight_zero_point",
          .order = ".weight_g_idx",
          .outer_scales = {},
          .codes = {},
          .scale_codes = {},
          .shape = {},
          .state = {},
          .unused = {".input_scale", ".input_zero_point"}};
}
constexpr StoredNames kElementNames = element_names(".weight_scale", ".weight_scale_inv");
constexpr StoredNames kBlockNames = element_names(".weight_scale_inv", ".weight_scale");
constexpr StoredNames kPackedNames = {.values = ".weight_packed",
                                      .scales = ".weight_scale",
                                      .other_scales = {},
                                      .zeros = ".weight_zero_point",
                                      .order = ".weight_g_idx",
                                      .outer_scales = ".weight_global_scale",
                                      .codes = {},
                                      .scale_codes = {},
                                      .shape = ".weight_shape",
                                      .state = {},
                                      .unused = {".input_global_scale", ".input_scale"}};
constexpr StoredNames kModeloptNames = {.values = ".weight",
                                        .scales = ".weight_scale",
                                        .other_scales = {},
                                        .zeros = {},
                                        .order = {},
                                        .outer_scales = ".weight_scale_2",
                                        .codes = {},
                                        .scale_codes = {},
                                        .shape = {},
                                        .state = {},
                                        .unused = {".input_scale"}};
constexpr StoredNames kFourBitNames = {.values = ".weight",
                                       .scales = ".weight.absmax",
                                       .other_scales = {},
                                       .zeros = {},
                                       .order = {},
                                       .outer_scales = ".weight.nested_absmax",
                                       .codes = ".weight.quant_map",
                                       .scale_codes = ".weight.nested_quant_map",
                                       .shape = {},
                                       .state = ".weight.quant_state.bitsandbytes__",
                                       .unused = {}};
constexpr StoredNames kEightBitNames = {.values = ".weight",
                                        .scales = ".SCB",
                                        .other_scales = {},
                                        .zeros = {},
                                        .order = {},
                                        .outer_scales = {},
                                        .codes = {},
                                        .scale_codes = {},
                                        .shape = {},
                                        .state = {},
                                        .unused = {".weight_format"}};

/// A row of the formats' table, to be made what a file has of it.
WeightFormat row(const char* name) { return *tensor::find_weight_format(name); }

/// Integers of `bits`, packed in words or, with 8 bits in elements, bytes.
WeightFormat integers(const char* name, Packing packing, int64_t bits, int64_t group) {
  WeightFormat format = row(name);
  format.packing = packing;
  format.value_bits = bits;
  format.group_n = 1;
  format.group_k = std::max<int64_t>(0, group);
  return format;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

template <typename Value>
bool any_of(const Value& value, std::initializer_list<Value> allowed) {
  return std::find(allowed.begin(), allowed.end(), value) != allowed.end();
}

/// The first of `keys` that is there, or the last one.
const char* present(const ConfigReader& config, std::initializer_list<const char*> keys) {
  const auto at =
      std::find_if(keys.begin(), keys.end(), [&](const char* key) { return config.has(key); });
  return at != keys.end() ? *at : *(keys.end() - 1);
}

/// "actorder" true or "group", which is "dynamic" too; by "weight" alone nothing moves.
bool reorders(const ConfigReader& weights) {
  const boost::json::value* given = weights.json().if_contains("actorder");
  if (given != nullptr && given->is_bool()) return given->get_bool();
  return any_of<std::string>(weights.string("actorder", ""), {"group", "dynamic"});
}

/// Weights that a group's "weights" of compressed-tensors describes.
struct GroupWeights {
  int64_t bits, group_n, group_k;
  std::string type, strategy;
  bool symmetric;
  bool ordered;  ///< inputs were reordered before grouping

  explicit GroupWeights(const ConfigReader& weights)
      : bits(weights.integer("num_bits", 1, 64)),
        group_n(1),
        group_k(0),
        type(weights.string("type", "int")),
        strategy(weights.string("strategy", "")),
        symmetric(weights.boolean("symmetric", true)),
        ordered(reorders(weights)) {
    const int64_t size = weights.integer("group_size", -1, kMaxGroup, 0);
    if (strategy.empty()) strategy = size > 0 ? "group" : size < 0 ? "channel" : "tensor";
    if (strategy == "tensor") {
      group_n = 0;
    } else if (any_of<std::string>(strategy, {"group", "tensor_group"})) {
      if (size < 1) weights.fail("group_size", "is missing, though the strategy is by groups");
      group_k = size;
    } else if (strategy == "block") {
      const auto block = weights.integers("block_structure", 1, kMaxGroup, 2);
      if (block.size() != 2) weights.fail("block_structure", "must be two integers");
      group_n = block[0];
      group_k = block[1];
    } else if (strategy != "channel") {
      weights.fail("strategy", fmt::format("is {}, which is not read yet", strategy));
    }
  }
};

/// Runs what may refuse a pattern of `config`; refuses it with its place in the file.
template <typename Add>
void with_pattern(const ConfigReader& config, std::string_view key, const Add& add) {
  try {
    add();
  } catch (const std::invalid_argument& error) {
    config.fail(key.substr(0, 200), fmt::format("has a pattern that {}", error.what()));
  }
}

void add_list(const ConfigReader& config, const char* key, ModuleSet& modules) {
  for (const std::string& entry : config.strings(key, kMaxModules)) {
    with_pattern(config, key, [&] { modules.add(entry); });
  }
}

void add_suffixes(const StoredNames& names, std::vector<std::string_view>& all) {
  for (const std::string_view name :
       {names.values, names.scales, names.other_scales, names.zeros, names.order,
        names.outer_scales, names.codes, names.scale_codes, names.shape, names.state,
        names.unused[0], names.unused[1]}) {
    if (!name.empty() && std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
  }
}

/// Bits, groups and order: of all modules, or what differs in some.
void read_gptq_sizes(const ConfigReader& config, StoredFormat& stored) {
  WeightFormat& format = stored.format;
  format.value_bits = config.integer("bits", 1, 64, format.value_bits);
  if (!any_of<int64_t>(format.value_bits, {2, 4, 8})) {
    config.fail("bits", fmt::format("is {}; of GPTQ, 2, 4 and 8 bits are read", format.value_bits));
  }
  format.group_k =
      std::max<int64_t>(0, config.integer("group_size", -1, kMaxGroup, format.group_k));
  stored.order_needed = config.boolean("desc_act", stored.order_needed);
}

}  // namespace

std::string StoredFormat::description() const {
  const std::string_view label = format.label;
  const bool odd_width = format.scheme == Scheme::kAffine && format.packing != Packing::kElements;
  // A row's label begins with the usual width: "4-bit AWQ".
  std::string text = odd_width
                         ? fmt::format("{}{}", format.value_bits, label.substr(label.find('-')))
                         : std::string(label);
  if (format.group_n > 1) {
    text += fmt::format(" in blocks of {} x {}", format.group_n, format.group_k);
  } else if (format.group_k > 0) {
    text += fmt::format(" in groups of {}", format.group_k);
  } else {
    text += format.group_n == 1 ? " by channel" : " by tensor";
  }
  return text;
}

QuantizationRules::QuantizationRules(const ConfigReader& config) {
  const bool modelopt = config.has("quant_algo");
  std::string method = lower(config.string("quant_method", modelopt ? "modelopt" : ""));
  std::replace(method.begin(), method.end(), '-', '_');
  if (any_of<std::string>(method, {"awq", "awq_marlin"})) {
    read_awq(config);
  } else if (any_of<std::string>(method, {"gptq", "gptq_marlin"})) {
    read_gptq(config);
  } else if (any_of<std::string>(method, {"fp8", "fbgemm_fp8"})) {
    read_fp8(config, method);
  } else if (method == "bitsandbytes") {
    read_bitsandbytes(config);
  } else if (method == "compressed_tensors") {
    read_compressed_tensors(config);
  } else if (modelopt || method == "modelopt" || method == "modelopt_fp4") {
    read_modelopt(config);
  } else {
    config.fail("quant_method", fmt::format("is {}, which is not read yet", method));
  }
  for (const char* key : {"ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers",
                          "llm_int8_skip_modules"}) {
    add_list(config, key, ignored_);
  }
  digest_ = base::hash_text(boost::json::serialize(config.json()), 0);
  for (const Rule& rule : rules_) add_suffixes(*rule.stored.names, suffixes_);
}

void QuantizationRules::add(const StoredFormat& stored) {
  rules_.push_back({.modules = {}, .every = true, .stored = stored});
}

void QuantizationRules::read_awq(const ConfigReader& config) {
  const char* bits = present(config, {"w_bit", "bits"});
  if (const int64_t width = config.integer(bits, 1, 64, 4); width != 4) {
    config.fail(bits, fmt::format("is {}; of AWQ, 4 bits are read", width));
  }
  const std::string version = lower(config.string("version", "gemm"));
  if (!any_of<std::string>(version, {"gemm", "gemv"})) {
    config.fail("version", fmt::format("is {}; of AWQ, gemm and gemv are read", version));
  }
  const int64_t group =
      config.integer(present(config, {"q_group_size", "group_size"}), -1, kMaxGroup, 128);
  const Packing packing = version == "gemm" ? Packing::kAwqGemm : Packing::kAwqGemv;
  StoredFormat stored{.format = integers("awq", packing, 4, group), .names = &kAutoNames};
  stored.format.zeros_stored = true;
  add(stored);
}

/// What GPTQModel's "dynamic" says of each pattern: "-:" not quantised, else with what differs.
void QuantizationRules::read_gptq_overrides(const ConfigReader& overrides,
                                            const StoredFormat& usual) {
  for (const std::string& name : overrides.keys()) {
    std::string_view pattern = name;
    const bool left_alone = pattern.starts_with("-:");
    if (left_alone || pattern.starts_with("+:")) pattern.remove_prefix(2);
    Rule rule;
    with_pattern(overrides, name,
                 [&] { (left_alone ? ignored_ : rule.modules).add_regex(pattern); });
    if (left_alone) continue;
    rule.stored = usual;
    if (const auto given = overrides.object(name)) read_gptq_sizes(*given, rule.stored);
    rules_.push_back(std::move(rule));
  }
}

void QuantizationRules::read_gptq(const ConfigReader& config) {
  const char* key = present(config, {"format", "checkpoint_format"});
  const std::string packed = lower(config.string(key, "gptq"));
  if (!any_of<std::string>(packed, {"gptq", "gptq_v2"})) {
    config.fail(key, fmt::format("is {}; of GPTQ, gptq and gptq_v2 are read", packed));
  }
  if (config.boolean("is_marlin_format", false)) {
    config.fail("is_marlin_format",
                "is true; weights in the order of Marlin's kernel are not read");
  }
  StoredFormat usual{.format = integers("gptq", Packing::kGptq, 4, 0), .names = &kAutoNames};
  usual.format.zeros_stored = true;
  usual.format.zero_offset = packed == "gptq" ? 1 : 0;
  usual.format.group_k = 128;
  read_gptq_sizes(config, usual);
  if (const std::optional<ConfigReader> overrides = config.object("dynamic")) {
    if (overrides->json().size() > kMaxRules) config.fail("dynamic", "has too many entries");
    read_gptq_overrides(*overrides, usual);
  }
  add(usual);
}

void QuantizationRules::read_fp8(const ConfigReader& config, const std::string& method) {
  const std::string kind = lower(config.string("fmt", "e4m3"));
  if (!any_of<std::string>(kind, {"e4m3", "float8_e4m3fn", "e4m3fn"})) {
    config.fail("fmt", fmt::format("is {}; of FP8, e4m3 is read", kind));
  }
  const auto block = config.integers("weight_block_size", 1, kMaxGroup, 2);
  StoredFormat stored{.format = row("fp8"), .names = block.empty() ? &kElementNames : &kBlockNames};
  stored.format.packing = Packing::kElements;
  if (!block.empty() && block.size() != 2) {
    config.fail("weight_block_size", "must be two integers");
  }
  stored.format.group_n = block.empty() ? (method == "fp8" ? 0 : 1) : block[0];
  stored.format.group_k = block.empty() ? 0 : block[1];
  add(stored);
}

void QuantizationRules::read_bitsandbytes(const ConfigReader& config) {
  const auto on = [&](const char* key, const char* other) {
    return config.boolean(key, false) || config.boolean(other, false);
  };
  if (on("load_in_8bit", "_load_in_8bit")) {
    StoredFormat stored{.format = integers("int8", Packing::kElements, 8, 0),
                        .names = &kEightBitNames};
    stored.format.scale_unit = 1.0f / 127.0f;
    add(stored);
  } else {
    StoredFormat stored{.format = row("bitsandbytes"), .names = &kFourBitNames};
    stored.format.packing = Packing::kFlat;
    add(stored);
  }
}

void QuantizationRules::read_group(const ConfigReader& group, const std::string& usual_packing) {
  const std::optional<ConfigReader> weights = group.object("weights");
  if (!weights) return;  // activations alone are quantised
  const GroupWeights given(*weights);
  const std::string packing = group.string("format", usual_packing);
  StoredFormat stored{.format = {}, .names = &kElementNames};
  if (packing == "pack-quantized" && given.type == "int" &&
      any_of<int64_t>(given.bits, {2, 4, 8}) && given.group_n == 1) {
    stored.format = integers("int4", Packing::kWords, given.bits, given.group_k);
    stored.names = &kPackedNames;
  } else if (packing == "nvfp4-pack-quantized" && given.type == "float" && given.bits == 4) {
    stored.format = row("nvfp4");
    stored.format.packing = Packing::kNibbles;
    stored.format.outer_divides = true;
    stored.names = &kPackedNames;
  } else if (packing == "mxfp4-pack-quantized" && given.type == "float" && given.bits == 4) {
    stored.format = row("mxfp4");
    stored.format.packing = Packing::kNibbles;
    stored.names = &kPackedNames;
  } else if (any_of<std::string>(packing,
                                 {"int-quantized", "naive-quantized", "float-quantized"}) &&
             any_of<std::string>(given.type, {"int", "float"}) && given.bits == 8) {
    stored.format = given.type == "int" ? integers("int8", Packing::kElements, 8, 0) : row("fp8");
    stored.format.packing = Packing::kElements;
    stored.format.group_n = given.group_n;
    stored.format.group_k = given.group_k;
  } else {
    weights->fail("num_bits", fmt::format("is {} of type {}, stored as {}, which is not read yet",
                                          given.bits, given.type, packing));
  }
  stored.format.zeros_stored = !given.symmetric && given.type == "int";
  stored.order_needed = given.ordered;
  Rule rule;
  for (const std::string& target : group.strings("targets", kMaxModules)) {
    rule.every |= target == "Linear";
  }
  add_list(group, "targets", rule.modules);
  rule.stored = stored;
  rules_.push_back(std::move(rule));
}

void QuantizationRules::read_compressed_tensors(const ConfigReader& config) {
  for (const char* key : {"sparsity_config", "transform_config"}) {
    const std::optional<ConfigReader> given = config.object(key);
    if (!given || given->json().empty() || given->string("format", "") == "dense") continue;
    config.fail(key, "is given; sparse and transformed weights are not read yet");
  }
  const std::string packing = config.string("format", "");
  const std::optional<ConfigReader> groups = config.object("config_groups");
  if (!groups || groups->json().empty()) config.fail("config_groups", "is missing");
  if (groups->json().size() > kMaxRules) config.fail("config_groups", "has too many entries");
  for (const std::string& name : groups->keys()) {
    if (const std::optional<ConfigReader> group = groups->object(name)) read_group(*group, packing);
  }
}

void QuantizationRules::read_modelopt(const ConfigReader& config) {
  const std::string algorithm = config.string("quant_algo", "");
  StoredFormat stored{.format = row("fp8"), .names = &kElementNames};
  stored.format.packing = Packing::kElements;
  stored.format.group_k = 0;
  if (algorithm == "FP8") {
    stored.format.group_n = 0;
  } else if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") {
    stored.format.group_n = 1;
  } else if (algorithm == "NVFP4") {
    stored = {.format = row("nvfp4"), .names = &kModeloptNames};
    stored.format.packing = Packing::kNibbles;
  } else {
    config.fail("quant_algo", fmt::format("is {}, which is not read yet", algorithm));
  }
  add(stored);
}

const StoredFormat* QuantizationRules::find(std::string_view module) const {
  if (ignored_.contains(module)) return nullptr;
  const auto named = std::find_if(rules_.begin(), rules_.end(),
                                  [&](const Rule& rule) { return rule.modules.contains(module); });
  if (named != rules_.end()) return &named->stored;
  const auto rest =
      std::find_if(rules_.begin(), rules_.end(), [](const Rule& rule) { return rule.every; });
  return rest == rules_.end() ? nullptr : &rest->stored;
}

std::string QuantizationRules::description() const {
  std::vector<std::string> all;
  for (const Rule& rule : rules_) {
    std::string one = rule.stored.description();
    if (std::find(all.begin(), all.end(), one) == all.end()) all.push_back(std::move(one));
  }
  return fmt::format("{}", fmt::join(all, ", "));
}

}  // namespace moesaic::model
