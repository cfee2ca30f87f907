// Families that are planned and not run: their sizes against the authors' figures.

#include <gtest/gtest.h>

#include <boost/json/array.hpp>
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

class PublishedModel : public testing::TestWithParam<Published> {};

TEST_P(PublishedModel, CountsTheAuthorsParameters) {
  const Published& model = GetParam();
  const ModelSpec spec = planned(model.name);
  const ParameterCount count = count_parameters(spec);
  EXPECT_NEAR(static_cast<double>(count.total) / 1e9, model.total, model.within * model.total);
  if (model.active > 0) {
    EXPECT_NEAR(static_cast<double>(count.active) / 1e9, model.active, 0.02 * model.active);
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
                    Published{"zai-org/GLM-4.5", 355, 0, 0.01}),
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

TEST(PlannedFamily, QuantisedWeightsOfAServedFamilyAreOnlyPlanned) {
  boost::json::object config = shipped("mistralai/Mixtral-8x7B-v0.1");
  config["quantization_config"] = {{"quant_method", "awq"}, {"bits", 4}};
  EXPECT_THROW(parse_spec(config, "config.json"), base::ModelFileError);
  const ModelSpec spec = parse_spec(config, "config.json", Purpose::kPlan);
  EXPECT_EQ(spec.quantization, "awq");
  EXPECT_NE(spec.not_served.find("awq"), std::string::npos);
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
  EXPECT_EQ(oss.quantization, "mxfp4");
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
        "openai/gpt-oss-20b", "microsoft/Phi-3.5-MoE-instruct", "zai-org/GLM-4.5"}) {
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
