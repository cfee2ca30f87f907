// Families that are planned and not run: their sizes against the authors' figures.

#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "model/family.h"
#include "model/tensor_list.h"

namespace moesaic::model {
namespace {

/// The config that the repository ships for a published model.
boost::json::object shipped(const std::string& name) {
  const auto folder = std::filesystem::path(MOESAIC_SOURCE_DIR) / "data";
  const boost::json::object data =
      checkpoint::read_json_file(folder, "models.json", size_t{1} << 20).value();
  for (const boost::json::value& model : data.at("models").as_array()) {
    if (model.at("name").as_string() == name) return model.at("config").as_object();
  }
  throw std::runtime_error("not shipped: " + name);
}

ModelSpec planned(const std::string& name) {
  return parse_spec(shipped(name), "config.json", Purpose::kPlan);
}

struct Published {
  std::string name;
  double total;   ///< billions, as the authors print it
  double active;  ///< 0 = not printed
  double within;  ///< half of the last digit printed, relative
  bool served = false;
};

void PrintTo(const Published& model, std::ostream* out) { *out << model.name; }

/// `billions` are active for a token, as authors print it: within 2 % or, in whole billions, within
/// half of one; with all embeddings, without the table that is only looked up, or without the head
/// too.
bool is_active(const ModelSpec& spec, const ParameterCount& count, double billions) {
  const bool whole = billions == static_cast<double>(static_cast<int64_t>(billions));
  const double within = std::max(0.02 * billions, whole ? 0.5 : 0.0);
  const double table = static_cast<double>(spec.vocab_size * spec.hidden) / 1e9;
  const double all = static_cast<double>(count.active) / 1e9;
  return std::abs(all - billions) <= within || std::abs(all - table - billions) <= within ||
         std::abs(all - static_cast<double>(count.embeddings) / 1e9 - billions) <= within;
}

class PublishedModel : public testing::TestWithParam<Published> {};

TEST_P(PublishedModel, CountsTheAuthorsParameters) {
  const Published& model = GetParam();
  const ModelSpec spec = planned(model.name);
  const ParameterCount count = count_parameters(spec);
  EXPECT_NEAR(static_cast<double>(count.total) / 1e9, model.total, model.within * model.total);
  if (model.active > 0) {
    EXPECT_TRUE(is_active(spec, count, model.active)) << count.active;
  }
  EXPECT_EQ(spec.not_served.empty(), model.served) << spec.not_served;
}

INSTANTIATE_TEST_SUITE_P(
    Table, PublishedModel,
    testing::Values(Published{"mistralai/Mixtral-8x7B-v0.1", 46.7, 12.9, 0.002, true},
                    Published{"mistralai/Mixtral-8x22B-v0.1", 141, 39, 0.004, true},
                    Published{"deepseek-ai/deepseek-moe-16b-base", 16.4, 2.8, 0.004},
                    Published{"deepseek-ai/DeepSeek-V2-Lite", 15.7, 0, 0.004},
                    Published{"deepseek-ai/DeepSeek-V2", 236, 21, 0.003},
                    Published{"deepseek-ai/DeepSeek-V3", 671, 37, 0.001},
                    Published{"Qwen/Qwen1.5-MoE-A2.7B", 14.3, 2.7, 0.004, true},
                    Published{"Qwen/Qwen2-57B-A14B", 57.4, 14.2, 0.002, true},
                    Published{"Qwen/Qwen3-30B-A3B", 30.5, 3.3, 0.002, true},
                    Published{"Qwen/Qwen3-235B-A22B", 235, 22, 0.003, true},
                    Published{"databricks/dbrx-base", 132, 36, 0.004},
                    Published{"allenai/OLMoE-1B-7B-0924", 6.92, 0, 0.001, true},
                    Published{"openai/gpt-oss-20b", 20.9, 0, 0.003},
                    Published{"openai/gpt-oss-120b", 117, 0, 0.005},
                    Published{"microsoft/Phi-3.5-MoE-instruct", 41.9, 6.6, 0.002},
                    Published{"zai-org/GLM-4.5-Air", 106, 0, 0.01},
                    Published{"zai-org/GLM-4.5", 355, 0, 0.01},
                    // The model cards' figures, read 2026-11-27, but for those that say otherwise.
                    Published{"Qwen/Qwen3-Coder-480B-A35B-Instruct", 480, 35, 0.01, true},
                    Published{"Qwen/Qwen3-Next-80B-A3B-Instruct", 80, 0, 0.01},
                    Published{"Qwen/Qwen3.5-35B-A3B", 35, 0, 0.01},
                    Published{"Qwen/Qwen3.5-122B-A10B", 122, 10, 0.01},
                    Published{"Qwen/Qwen3.5-397B-A17B", 397, 17, 0.01},
                    Published{"Qwen/Qwen3-VL-30B-A3B-Instruct", 31.1, 0, 0.01},
                    Published{"Qwen/Qwen3-VL-235B-A22B-Instruct", 236, 22, 0.01},
                    Published{"deepseek-ai/DeepSeek-V3.2", 671, 37, 0.01},
                    Published{"moonshotai/Kimi-K2-Instruct", 1030, 32.6, 0.01},
                    Published{"moonshotai/Kimi-K2.5", 1030, 32.6, 0.01},
                    Published{"zai-org/GLM-4.7-Flash", 30, 0, 0.01},
                    Published{"zai-org/GLM-5", 744, 40, 0.01},
                    Published{"MiniMaxAI/MiniMax-M2.5", 230, 10, 0.01},
                    Published{"meta-llama/Llama-4-Scout-17B-16E-Instruct", 109, 17, 0.01},
                    Published{"meta-llama/Llama-4-Maverick-17B-128E-Instruct", 400, 17, 0.01},
                    Published{"google/gemma-4-26B-A4B", 25.2 + 0.55, 3.8, 0.01},
                    Published{"google/gemma-4-31B", 30.7 + 0.55, 0, 0.01},
                    Published{"baidu/ERNIE-4.5-21B-A3B-PT", 21.8, 0, 0.01},
                    Published{"baidu/ERNIE-4.5-300B-A47B-PT", 300, 47, 0.01},
                    Published{"tencent/Hunyuan-A13B-Instruct", 80, 13, 0.01},
                    Published{"rednote-hilab/dots.llm1.inst", 142, 14, 0.01},
                    Published{"inclusionAI/Ling-lite-1.5", 16.8, 2.75, 0.01},
                    Published{"inclusionAI/Ling-mini-2.0", 16.3, 1.43, 0.01},
                    Published{"ibm-granite/granite-4.0-h-small", 32.2, 9, 0.01},
                    Published{"ibm-granite/granite-4.0-h-tiny", 7, 1, 0.01},
                    Published{"nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31.6, 3.6, 0.01},
                    Published{"nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", 120.6, 12.7, 0.01},
                    Published{"stepfun-ai/step3", 321, 38, 0.01},
                    Published{"meituan-longcat/LongCat-Flash-Chat", 560, 27, 0.01},
                    Published{"ai21labs/Jamba-v0.1", 52, 12, 0.01},
                    Published{"ai21labs/AI21-Jamba-1.5-Large", 398, 94, 0.01}),
    [](const testing::TestParamInfo<Published>& info) {
      std::string name = info.param.name.substr(info.param.name.find('/') + 1);
      for (char& c : name) {
        if (c == '-' || c == '.') c = '_';
      }
      return name;
    });

TEST(PlannedFamily, IsRefusedByServeAndSaysWhy) {
  for (const char* name :
       {"deepseek-ai/DeepSeek-V3", "databricks/dbrx-base", "openai/gpt-oss-20b"}) {
    try {
      parse_spec(shipped(name), "config.json");
      FAIL() << name;
    } catch (const base::ModelFileError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("planned and inspected"), std::string::npos) << message;
      EXPECT_NE(message.find("mixtral"), std::string::npos) << "names those that run";
      EXPECT_EQ(message.find("dbrx, "), std::string::npos) << "and no other: " << message;
    }
  }
}

TEST(PlannedFamily, QuantisedWeightsThatCannotBeReadAreOnlyPlanned) {
  boost::json::object config = shipped("mistralai/Mixtral-8x7B-v0.1");
  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}};
  EXPECT_TRUE(parse_spec(config, "config.json").quantization.rules);
  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 3}};
  EXPECT_THROW(parse_spec(config, "config.json"), base::ModelFileError);
  const ModelSpec spec = parse_spec(config, "config.json", Purpose::kPlan);
  EXPECT_EQ(spec.quantization.method, "gptq");
  EXPECT_NE(spec.not_served.find("is 3; of GPTQ"), std::string::npos) << spec.not_served;
}

TEST(PlannedFamily, LatentAttentionIsWhatTheKeysSay) {
  const AttentionSpec attention = planned("deepseek-ai/DeepSeek-V3").layers.front().attention;
  EXPECT_EQ(attention.kind, AttentionKind::kMla);
  EXPECT_EQ(attention.cached_values(), 576);
  EXPECT_EQ(attention.output_width(), 128 * 128);
  EXPECT_EQ(attention.head_dim, 192);
  EXPECT_EQ(planned("deepseek-ai/DeepSeek-V2-Lite").layers[0].attention.latent.q_rank, 0);
  // Plain attention of the same heads would cache 71 times as much.
  EXPECT_EQ(128 * (192 + 128) / attention.cached_values(), 71);
}

TEST(PlannedFamily, LayersDifferWhereTheConfigSays) {
  const ModelSpec v3 = planned("deepseek-ai/DeepSeek-V3");
  EXPECT_EQ(v3.moe_layers(), 58);
  EXPECT_FALSE(v3.layers[2].ffn.moe);
  EXPECT_TRUE(v3.layers[3].ffn.router.selection_bias);
  const ModelSpec v1 = planned("deepseek-ai/deepseek-moe-16b-base");
  EXPECT_EQ(v1.layers[1].ffn.shared_width, 2816);
  EXPECT_EQ(v1.layers[1].ffn.shared_count, 2);
  EXPECT_EQ(v1.layers[0].ffn.width, 10944);
  const ModelSpec oss = planned("openai/gpt-oss-20b");
  EXPECT_EQ(oss.layers[0].attention.sliding_window, 128);
  EXPECT_EQ(oss.layers[1].attention.sliding_window, 0);
  EXPECT_EQ(oss.quantization.method, "mxfp4");
}

TEST(PlannedFamily, RecurrentLayersKeepAStateAndNoCache) {
  const ModelSpec qwen = planned("Qwen/Qwen3.5-35B-A3B");
  const AttentionSpec& delta = qwen.layers[0].attention;
  EXPECT_EQ(delta.kind, AttentionKind::kRecurrent);
  EXPECT_EQ(delta.cached_values(), 0);
  EXPECT_EQ(delta.recurrent.state, 32 * 128 * 128);
  EXPECT_EQ(delta.recurrent.conv_width, 2 * 16 * 128 + 32 * 128);
  EXPECT_EQ(delta.recurrent.state_bytes(), 4.0 * 32 * 128 * 128 + 2.0 * 3 * 8192);
  EXPECT_EQ(qwen.layers[3].attention.cached_values(), 2 * 2 * 256);
  const ModelSpec granite = planned("ibm-granite/granite-4.0-h-tiny");
  EXPECT_EQ(granite.layers[5].attention.kind, AttentionKind::kGqa);
  EXPECT_EQ(granite.layers[4].attention.recurrent.in_width, 3072 + 3072 + 2 * 128 + 48);
  const ModelSpec jamba = planned("ai21labs/Jamba-v0.1");
  EXPECT_EQ(jamba.layers[4].attention.kind, AttentionKind::kGqa);
  EXPECT_EQ(jamba.layers[0].attention.recurrent.step_width, 256 + 32);
  EXPECT_FALSE(jamba.layers[0].ffn.moe);
  EXPECT_TRUE(jamba.layers[1].ffn.moe);
}

TEST(PlannedFamily, PartsThatAFamilyHasAloneAreWhatItsKeysSay) {
  const ModelSpec nano = planned("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16");
  EXPECT_EQ(nano.layers[1].attention.kind, AttentionKind::kNone);
  EXPECT_FALSE(nano.layers[1].ffn.gated);
  EXPECT_TRUE(nano.layers[0].ffn.empty());
  EXPECT_EQ(planned("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16").layers[1].ffn.latent, 1024);
  const ModelSpec glm = planned("zai-org/GLM-5.2");
  EXPECT_EQ(glm.layers[2].attention.indexer.cached_bytes(), 132);
  EXPECT_EQ(glm.layers[3].attention.indexer.cached_bytes(), 0) << "uses the choice of layer 2";
  EXPECT_EQ(glm.layers[3].attention.indexer.top_k, 2048);
  // V3.2 is V3 and an indexer in each layer: its queries from the latent of 1536, one key of the
  // state with a norm, and a weight for each head.
  EXPECT_EQ(count_parameters(planned("deepseek-ai/DeepSeek-V3.2")).total -
                count_parameters(planned("deepseek-ai/DeepSeek-V3")).total,
            61 * (64 * 128 * 1536 + 128 * 7168 + 64 * 7168 + 2 * 128));
  const ModelSpec gemma = planned("google/gemma-4-26B-A4B");
  EXPECT_EQ(gemma.layers[0].attention.sliding_window, 1024);
  EXPECT_EQ(gemma.layers[5].attention.head_dim, 512);
  EXPECT_EQ(gemma.layers[5].attention.kv_heads, 2);
  EXPECT_TRUE(gemma.layers[5].attention.keys_are_values);
  const ModelSpec scout = planned("meta-llama/Llama-4-Scout-17B-16E-Instruct");
  EXPECT_EQ(scout.layers[0].attention.sliding_window, 8192);
  EXPECT_EQ(scout.layers[3].attention.sliding_window, 0);
  EXPECT_NEAR(static_cast<double>(scout.encoder_params) / 1e9, 0.87, 0.02);
  const ModelSpec longcat = planned("meituan-longcat/LongCat-Flash-Chat");
  EXPECT_EQ(longcat.layers.size(), 56u);
  EXPECT_EQ(longcat.layers[0].ffn.chosen(), 8);
  EXPECT_FALSE(longcat.layers[1].ffn.moe);
  EXPECT_EQ(planned("stepfun-ai/step3").layers[10].attention.cached_values(), 512);
  EXPECT_EQ(planned("moonshotai/Kimi-K2.5").quantization.format, "int4");
}

TEST(PlannedFamily, ATextPartSavedAloneIsTheSameModelWithoutItsEncoder) {
  for (const char* name :
       {"Qwen/Qwen3.5-35B-A3B", "google/gemma-4-26B-A4B", "stepfun-ai/step3",
        "Qwen/Qwen3-VL-30B-A3B-Instruct", "meta-llama/Llama-4-Scout-17B-16E-Instruct"}) {
    const boost::json::object whole = shipped(name);
    const ModelSpec spec = planned(name);
    const ModelSpec text =
        parse_spec(whole.at("text_config").as_object(), "config.json", Purpose::kPlan);
    EXPECT_EQ(text.family, spec.family);
    EXPECT_EQ(text.encoder_params, 0);
    EXPECT_EQ(count_parameters(text).total, count_parameters(spec).total - spec.encoder_params)
        << name;
  }
}

TEST(PlannedFamily, WhatIsNotKnownOfAFamilyIsRefused) {
  const auto refused = [](const char* name, const char* key, const boost::json::value& value) {
    boost::json::object config = shipped(name);
    boost::json::object& text =
        config.contains("text_config") ? config.at("text_config").as_object() : config;
    text[key] = value;
    try {
      parse_spec(config, "config.json", Purpose::kPlan);
    } catch (const base::ModelFileError& error) {
      return std::string(error.what()).find(key) != std::string::npos;
    }
    return false;
  };
  EXPECT_TRUE(refused("google/gemma-4-26B-A4B", "num_kv_shared_layers", 10));
  EXPECT_TRUE(refused("google/gemma-4-26B-A4B", "hidden_size_per_layer_input", 256));
  EXPECT_TRUE(refused("tencent/Hunyuan-A13B-Instruct", "use_cla", true));
  EXPECT_TRUE(
      refused("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "hybrid_override_pattern", "MX"));
  EXPECT_TRUE(refused("stepfun-ai/step3", "moe_layers_enum", "4,five"));
  EXPECT_TRUE(refused("Qwen/Qwen3.5-35B-A3B", "layer_types", boost::json::array{"full_attention"}));
}

TEST(PlannedFamily, NonsenseInAnyKeyIsATypedErrorOrHarmless) {
  const std::vector<boost::json::value> nonsense = {nullptr,
                                                    true,
                                                    -1,
                                                    0,
                                                    3,
                                                    std::numeric_limits<int64_t>::max(),
                                                    1e300,
                                                    "x",
                                                    "",
                                                    boost::json::array{1, "x"},
                                                    boost::json::object{{"kv_n_heads", -1}}};
  int refused = 0;
  for (const char* name :
       {"deepseek-ai/deepseek-moe-16b-base", "deepseek-ai/DeepSeek-V3", "databricks/dbrx-base",
        "openai/gpt-oss-20b", "microsoft/Phi-3.5-MoE-instruct", "zai-org/GLM-4.5",
        "Qwen/Qwen3.5-35B-A3B", "moonshotai/Kimi-K2.5", "zai-org/GLM-5.2", "google/gemma-4-26B-A4B",
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct", "baidu/ERNIE-4.5-21B-A3B-PT",
        "tencent/Hunyuan-A13B-Instruct", "inclusionAI/Ling-mini-2.0", "stepfun-ai/step3",
        "ibm-granite/granite-4.0-h-tiny", "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
        "meituan-longcat/LongCat-Flash-Chat", "ai21labs/Jamba-v0.1"}) {
    const boost::json::object sane = shipped(name);
    for (const auto& member : sane) {
      for (const boost::json::value& value : nonsense) {
        boost::json::object config = sane;
        config[member.key()] = value;
        try {
          const ModelSpec spec = parse_spec(config, "config.json", Purpose::kPlan);
          const ParameterCount count = count_parameters(spec);
          EXPECT_GT(count.active, 0);
          EXPECT_LE(count.active, count.total);
        } catch (const base::ModelFileError&) {
          ++refused;
        }
      }
    }
  }
  EXPECT_GT(refused, 200);
}

}  // namespace
}  // namespace moesaic::model
