// What a checkpoint's files say of quantised weights: as published tools write them.

#include "model/quantization.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "model/family.h"

namespace moesaic::model {
namespace {

QuantizationFacts facts_of(const std::string& quantization) {
  const boost::json::object config = {{"quantization_config", boost::json::parse(quantization)}};
  return read_quantization(ConfigReader(config, "config.json"));
}

struct Written {
  const char* what;
  const char* json;
  const char* format;
  int64_t bits = 0;
  int64_t group = 0;
  bool experts_only = false;
};

void PrintTo(const Written& written, std::ostream* out) { *out << written.what; }

class Quantization : public testing::TestWithParam<Written> {};

TEST_P(Quantization, IsReadFromTheKeys) {
  const QuantizationFacts facts = facts_of(GetParam().json);
  EXPECT_EQ(facts.format, GetParam().format) << facts.found;
  EXPECT_EQ(facts.bits, GetParam().bits);
  EXPECT_EQ(facts.group, GetParam().group);
  EXPECT_EQ(facts.experts_only, GetParam().experts_only);
  EXPECT_NE(facts.found.find("quant_method"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Table, Quantization,
    testing::Values(
        Written{"awq", R"({"quant_method": "awq", "bits": 4, "group_size": 64})", "awq", 4, 64},
        Written{"gptq8", R"({"quant_method": "gptq", "bits": 8, "group_size": 128})", "gptq", 8,
                128},
        Written{"gptq3", R"({"quant_method": "gptq", "bits": 3, "group_size": -1})", "gptq", 3, -1},
        Written{"auto_round", R"({"quant_method": "intel/auto-round", "bits": 2,
                                  "group_size": 32})",
                "gptq", 2, 32},
        Written{"bnb8", R"({"quant_method": "bitsandbytes", "load_in_8bit": true,
                            "load_in_4bit": false})",
                "int8"},
        Written{"bnb4", R"({"quant_method": "bitsandbytes", "load_in_4bit": true,
                            "bnb_4bit_quant_type": "nf4"})",
                "bitsandbytes"},
        Written{"fp8", R"({"quant_method": "fp8", "weight_block_size": [128, 128]})", "fp8"},
        Written{"fbgemm", R"({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0,
                              "modules_to_not_convert": ["lm_head"]})",
                "fp8"},
        Written{"tensors_fp8", R"({"quant_method": "compressed-tensors", "config_groups": {
                                   "group_0": {"targets": ["Linear"], "weights":
                                   {"num_bits": 8, "type": "float", "strategy": "channel"}}}})",
                "fp8", 8},
        Written{"tensors_int8", R"({"quant_method": "compressed-tensors", "config_groups": {
                                    "group_0": {"weights": {"num_bits": 8, "type": "int",
                                    "strategy": "channel"}}}})",
                "int8", 8},
        Written{"kimi", R"({"quant_method": "compressed-tensors", "config_groups": {"group_0":
                            {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
                            "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]})",
                "int4", 4, 32, true},
        Written{"widest", R"({"quant_method": "compressed-tensors", "config_groups": {"a":
                              {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}, "b":
                              {"weights": {"num_bits": 8, "type": "float"}}}})",
                "fp8", 8},
        Written{"modelopt", R"({"quant_algo": "NVFP4", "kv_cache_scheme": "FP8"})", "nvfp4"},
        Written{"modelopt_fp8", R"({"quant_method": "modelopt", "quant_algo": "FP8"})", "fp8"},
        Written{"modelopt_mixed", R"({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
                                      "config_groups": {"group_0": {"weights":
                                      {"num_bits": 4, "type": "float", "group_size": 16}}}})",
                "nvfp4", 4, 16},
        Written{"quark", R"({"quant_method": "quark", "global_quant_config": {"weight":
                             {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}})",
                "fp8"},
        Written{"quark_list", R"({"quant_method": "quark", "global_quant_config": {"weight":
                                  [{"dtype": "fp4", "group_size": 32}]}})",
                "mxfp4", 0, 32},
        Written{"mxfp4", R"({"quant_method": "mxfp4", "modules_to_not_convert":
                             ["model.layers.*.self_attn", "lm_head"]})",
                "mxfp4", 0, 0, true},
        Written{"one_layer", R"({"quant_method": "fp8", "ignored_layers":
                                 ["model.layers.0.self_attn.q_proj"]})",
                "fp8"},
        Written{"unknown", R"({"quant_method": "aqlm", "nbits_per_codebook": 16})", ""},
        Written{"five_bits", R"({"quant_method": "compressed-tensors", "config_groups": {"a":
                                 {"weights": {"num_bits": 16, "type": "int"}}}})",
                "", 16},
        Written{"odd_width", R"({"quant_method": "gptq", "bits": 16})", "", 16}),
    [](const testing::TestParamInfo<Written>& info) { return std::string(info.param.what); });

TEST(QuantizationKeys, OfTheWrongTypeAreRefusedByName) {
  for (const char* wrong :
       {R"({"quant_method": "gptq", "bits": "four"})", R"({"quant_method": 4})",
        R"({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights":
            {"num_bits": -1}}}})",
        R"({"quant_method": "bitsandbytes", "load_in_8bit": 1})"}) {
    try {
      facts_of(wrong);
      FAIL() << wrong;
    } catch (const base::ModelFileError& error) {
      EXPECT_NE(std::string(error.what()).find("quantization_config"), std::string::npos);
    }
  }
}

/// Each tool's own file beside a config.json that says nothing of it.
TEST(QuantizationFile, IsReadWhereTheConfigSaysNothing) {
  const auto folder = std::filesystem::path(testing::TempDir()) /
                      fmt::format("quantization_{}", static_cast<int>(getpid()));
  std::filesystem::create_directories(folder);
  const auto with = [&](const char* name, const char* text) {
    std::ofstream(folder / name, std::ios::binary) << text;
    boost::json::object config;
    add_quantization_file(folder, config);
    std::filesystem::remove(folder / name);
    return read_quantization(ConfigReader(config, "config.json"));
  };
  const QuantizationFacts nvidia =
      with("hf_quant_config.json",
           R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4",
          "group_size": 16, "exclude_modules": ["lm_head", "model.layers.*.self_attn*"]}})");
  EXPECT_EQ(nvidia.format, "nvfp4");
  EXPECT_TRUE(nvidia.experts_only);
  EXPECT_EQ(nvidia.found, "hf_quant_config.json: quant_method modelopt, quant_algo NVFP4");
  const QuantizationFacts awq =
      with("quant_config.json", R"({"w_bit": 4, "q_group_size": 64, "version": "GEMM"})");
  EXPECT_EQ(awq.format, "awq");
  EXPECT_EQ(awq.group, 64);
  const QuantizationFacts gptq = with("quantize_config.json", R"({"bits": 8, "group_size": 32})");
  EXPECT_EQ(gptq.format, "gptq");
  EXPECT_EQ(gptq.bits, 8);
  boost::json::object told = {{"quantization_config", {{"quant_method", "fp8"}}}};
  std::ofstream(folder / "quant_config.json") << R"({"w_bit": 4})";
  add_quantization_file(folder, told);
  EXPECT_EQ(read_quantization(ConfigReader(told, "config.json")).format, "fp8");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace moesaic::model
