// Which format each module is stored in, from the configs that quantising tools write.

#include "model/quantization_rules.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "base/error.h"

namespace moesaic::model {
namespace {

constexpr const char* kExpert = "model.layers.3.mlp.experts.7.gate_proj";
constexpr const char* kRouter = "model.layers.3.mlp.gate";

QuantizationRules rules_of(const std::string& text) {
  const boost::json::object object = boost::json::parse(text).as_object();
  return QuantizationRules(ConfigReader(object, "config.json", "quantization_config"));
}

std::string format_of(const QuantizationRules& rules, const char* module) {
  const StoredFormat* stored = rules.find(module);
  return stored == nullptr ? "plain" : stored->description();
}

struct Case {
  const char* what;
  const char* json;
  const char* expert;            ///< how kExpert is stored
  const char* router = "plain";  ///< how kRouter is
};

void PrintTo(const Case& given, std::ostream* out) { *out << given.what; }

class QuantizationRule : public testing::TestWithParam<Case> {};

TEST_P(QuantizationRule, IsWhatTheConfigSays) {
  const QuantizationRules rules = rules_of(GetParam().json);
  EXPECT_EQ(format_of(rules, kExpert), GetParam().expert);
  EXPECT_EQ(format_of(rules, kRouter), GetParam().router);
}

INSTANTIATE_TEST_SUITE_P(
    Table, QuantizationRule,
    testing::Values(
        Case{"awq", R"({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true,
                        "version": "gemm", "modules_to_not_convert": ["gate"]})",
             "4-bit AWQ in groups of 64"},
        Case{"awq_gemv", R"({"quant_method": "awq", "w_bit": 4, "q_group_size": -1,
                             "version": "GEMV", "modules_to_not_convert": null})",
             "4-bit AWQ by channel", "4-bit AWQ by channel"},
        Case{"gptq", R"({"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": true,
                         "sym": true, "true_sequential": true, "lm_head": false})",
             "8-bit GPTQ in groups of 32", "8-bit GPTQ in groups of 32"},
        Case{"gptq_dynamic",
             R"({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format":
                 "gptq_v2", "dynamic": {"-:.*mlp\\.gate$": {}, "+:.*experts.*":
                 {"bits": 8, "group_size": 64}}})",
             "8-bit GPTQ in groups of 64"},
        Case{"fp8_tensor", R"({"quant_method": "fp8", "activation_scheme": "static",
                               "ignored_layers": ["model.layers.3.mlp.gate", "lm_head"]})",
             "fp8 by tensor"},
        Case{"fp8_block", R"({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 64],
                              "modules_to_not_convert": ["model.layers.3.mlp.gate"]})",
             "fp8 in blocks of 128 x 64"},
        Case{"fbgemm", R"({"quant_method": "fbgemm_fp8", "modules_to_not_convert":
                           ["model.layers.3.mlp"]})",
             "plain"},
        Case{"packed", R"({"quant_method": "compressed-tensors", "format": "pack-quantized",
                           "config_groups": {"group_0": {"targets": ["Linear"], "weights":
                           {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
                           "symmetric": false}}}, "ignore": ["lm_head", "re:.*mlp.gate$"]})",
             "4-bit in groups of 32"},
        Case{"two_groups", R"({"quant_method": "compressed-tensors", "format": "mixed-precision",
                               "config_groups": {"a": {"targets": ["Linear"], "format":
                               "float-quantized", "weights": {"num_bits": 8, "type": "float",
                               "strategy": "channel"}}, "b": {"targets": ["re:.*experts.*"],
                               "format": "pack-quantized", "weights": {"num_bits": 8, "type": "int",
                               "strategy": "channel"}}}})",
             "8-bit by channel", "fp8 by channel"},
        Case{"w8a8", R"({"quant_method": "compressed-tensors", "format": "int-quantized",
                         "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 8,
                         "type": "int", "strategy": "channel", "symmetric": true},
                         "input_activations": {"num_bits": 8, "dynamic": true}}},
                         "ignore": ["model.layers.3.mlp.gate"], "sparsity_config": {},
                         "kv_cache_scheme": null})",
             "int8 by channel"},
        Case{"block", R"({"quant_method": "compressed-tensors", "format": "float-quantized",
                          "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 8,
                          "type": "float", "strategy": "block", "block_structure": [128, 128]}}},
                          "ignore": ["re:.*gate$"]})",
             "fp8 in blocks of 128 x 128"},
        Case{"nvfp4", R"({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
                          "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 4,
                          "type": "float", "strategy": "tensor_group", "group_size": 16}}},
                          "ignore": ["re:.*gate$"]})",
             "NVFP4 in groups of 16"},
        Case{"modelopt", R"({"quant_method": "modelopt", "quant_algo": "NVFP4",
                             "exclude_modules": ["*.mlp.gate", "lm_head"]})",
             "NVFP4 in groups of 16"},
        Case{"modelopt_fp8", R"({"quant_algo": "FP8", "exclude_modules": ["*gate"]})",
             "fp8 by tensor"},
        Case{"nf4", R"({"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false,
                        "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": ["gate"]})",
             "4-bit NF4 in groups of 64"},
        Case{"bnb8", R"({"quant_method": "bitsandbytes", "load_in_8bit": true,
                         "llm_int8_skip_modules": ["gate"]})",
             "int8 by channel"}),
    [](const testing::TestParamInfo<Case>& info) { return std::string(info.param.what); });

TEST(QuantizationRules, DetailsThatChangeValuesAreRead) {
  const QuantizationRules first = rules_of(R"({"quant_method": "gptq", "desc_act": true})");
  const QuantizationRules second =
      rules_of(R"({"quant_method": "gptq", "checkpoint_format": "gptq_v2"})");
  EXPECT_EQ(first.find(kExpert)->format.zero_offset, 1);
  EXPECT_EQ(second.find(kExpert)->format.zero_offset, 0);
  EXPECT_TRUE(first.find(kExpert)->order_needed);
  EXPECT_FALSE(second.find(kExpert)->order_needed);
  EXPECT_NE(first.digest(), second.digest());
  EXPECT_EQ(first.description(), "4-bit GPTQ in groups of 128");
}

struct Refused {
  const char* json;
  std::vector<const char*> named;
};

TEST(QuantizationRules, WhatCannotBeReadIsRefusedByName) {
  for (const Refused& bad : std::vector<Refused>{
           {R"({"quant_method": "aqlm"})", {"quant_method", "aqlm"}},
           {R"({"quant_method": "eetq"})", {"quant_method", "eetq"}},
           {R"({})", {"quant_method"}},
           {R"({"quant_method": "gptq", "bits": 3})", {"bits", "is 3", "2, 4 and 8"}},
           {R"({"quant_method": "gptq", "bits": "four"})", {"bits"}},
           {R"({"quant_method": "gptq", "checkpoint_format": "marlin"})", {"marlin"}},
           {R"({"quant_method": "gptq", "is_marlin_format": true})", {"Marlin"}},
           {R"({"quant_method": "gptq", "dynamic": {"+:.*": {"bits": 3}}})", {"dynamic", "is 3"}},
           {R"j({"quant_method": "gptq", "dynamic": {"-:(?!a)": {}}})j",
            {"dynamic", "looks ahead"}},
           {R"({"quant_method": "gptq", "dynamic": {"+:a": 3}})", {"dynamic"}},
           {R"({"quant_method": "awq", "bits": 8})", {"bits", "is 8"}},
           {R"({"quant_method": "awq", "version": "gemv_fast"})", {"version", "gemv_fast"}},
           {R"({"quant_method": "fp8", "fmt": "e4m3fnuz"})", {"fmt", "e4m3fnuz"}},
           {R"({"quant_method": "fp8", "weight_block_size": [128]})", {"weight_block_size"}},
           {R"({"quant_method": "fp8", "weight_block_size": [128, 0]})", {"weight_block_size"}},
           {R"({"quant_method": "compressed-tensors"})", {"config_groups"}},
           {R"({"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups":
                {"g": {"targets": ["Linear"], "weights": {"num_bits": 4}}}})",
            {"marlin-24"}},
           {R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
                {"g": {"targets": ["Linear"], "weights": {"num_bits": 3}}}})",
            {"num_bits", "is 3"}},
           {R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
                {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group"}}}})",
            {"group_size"}},
           {R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
                {"g": {"targets": ["re:(a"], "weights": {"num_bits": 4, "strategy": "channel"}}}})",
            {"targets", "without its )"}},
           {R"({"quant_method": "compressed-tensors", "sparsity_config": {"format":
                "sparse-24-bitmask"}})",
            {"sparsity_config"}},
           {R"({"quant_algo": "MIXED_PRECISION"})", {"quant_algo", "MIXED_PRECISION"}},
           {R"({"quant_method": "awq", "modules_to_not_convert": ["re:a{999999}"]})",
            {"modules_to_not_convert", "too often"}},
       }) {
    try {
      rules_of(bad.json);
      ADD_FAILURE() << bad.json;
    } catch (const base::ModelFileError& error) {
      for (const char* named : bad.named) {
        EXPECT_NE(std::string(error.what()).find(named), std::string::npos)
            << bad.json << ": " << error.what();
      }
    }
  }
}

}  // namespace
}  // namespace moesaic::model
