#include "plan/names.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"

namespace moesaic::plan {
namespace {

struct Asked {
  std::string name;
  std::string shipped;
  std::string quantization;
};

void PrintTo(const Asked& asked, std::ostream* out) { *out << asked.name; }

class Recognised : public testing::TestWithParam<Asked> {};

TEST_P(Recognised, IsTheShippedModel) {
  const ResolvedModel model = resolve_model(GetParam().name);
  EXPECT_EQ(model.name, GetParam().shipped);
  EXPECT_EQ(model.spec.quantization.method, GetParam().quantization);
  EXPECT_EQ(model.relation.empty(), model.name == GetParam().name) << "what is guessed is said";
}

INSTANTIATE_TEST_SUITE_P(
    Table, Recognised,
    testing::Values(
        Asked{"mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x7B-v0.1", ""},
        Asked{"mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x7B-v0.1", ""},
        Asked{"mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", ""},
        Asked{"Mixtral 8x22B", "mistralai/Mixtral-8x22B-v0.1", ""},
        Asked{"TheBloke/Mixtral-8x7B-Instruct-v0.1-AWQ", "mistralai/Mixtral-8x7B-v0.1", "awq"},
        Asked{"TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ", "mistralai/Mixtral-8x7B-v0.1", "gptq"},
        Asked{"someone/Mixtral-8x7B-AWQ-fp16", "mistralai/Mixtral-8x7B-v0.1", "awq"},
        Asked{"someone/Mixtral-8x7B-bnb-4bit", "mistralai/Mixtral-8x7B-v0.1", "bitsandbytes"},
        Asked{"someone/Mixtral-8x7B-bnb-8bit", "mistralai/Mixtral-8x7B-v0.1", "int8"},
        Asked{"NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO", "mistralai/Mixtral-8x7B-v0.1", ""},
        Asked{"deepseek-ai/deepseek-moe-16b-chat", "deepseek-ai/deepseek-moe-16b-base", ""},
        Asked{"deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-ai/DeepSeek-V2-Lite", ""},
        Asked{"deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-V3", "fp8"},
        Asked{"unsloth/DeepSeek-V3-bf16", "deepseek-ai/DeepSeek-V3", ""},
        Asked{"databricks/dbrx-instruct", "databricks/dbrx-base", ""},
        Asked{"Qwen/Qwen1.5-MoE-A2.7B-Chat-GPTQ-Int4", "Qwen/Qwen1.5-MoE-A2.7B", "int4"},
        Asked{"Qwen/Qwen3-30B-A3B-FP8", "Qwen/Qwen3-30B-A3B", "fp8"},
        Asked{"Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "Qwen/Qwen3-235B-A22B-Instruct-2507",
              "fp8"},
        Asked{"allenai/OLMoE-1B-7B-0924-Instruct", "allenai/OLMoE-1B-7B-0924", ""},
        Asked{"openai/gpt-oss-120b", "openai/gpt-oss-120b", "mxfp4"},
        Asked{"unsloth/gpt-oss-20b-BF16", "openai/gpt-oss-20b", ""},
        Asked{"zai-org/GLM-4.5-Air-FP8", "zai-org/GLM-4.5-Air", "fp8"},
        Asked{"microsoft/Phi-3.5-MoE-instruct", "microsoft/Phi-3.5-MoE-instruct", ""},
        Asked{"Qwen/Qwen3.6-35B-A3B", "Qwen/Qwen3.5-35B-A3B", ""},
        Asked{"Qwen/Qwen3-Coder-30B-A3B-Instruct", "Qwen/Qwen3-30B-A3B-Instruct-2507", ""},
        Asked{"Qwen/Qwen3-Next-80B-A3B-Thinking-FP8", "Qwen/Qwen3-Next-80B-A3B-Instruct", "fp8"},
        Asked{"deepseek-ai/DeepSeek-V3.2-Exp", "deepseek-ai/DeepSeek-V3.2", "fp8"},
        Asked{"moonshotai/Kimi-K2-Thinking", "moonshotai/Kimi-K2-Thinking", "compressed-tensors"},
        Asked{"moonshotai/Kimi-K2.6", "moonshotai/Kimi-K2.5", "compressed-tensors"},
        Asked{"nvidia/Kimi-K2.5-NVFP4", "moonshotai/Kimi-K2.5", "nvfp4"},
        Asked{"zai-org/GLM-4.7", "zai-org/GLM-4.6", ""},
        Asked{"zai-org/GLM-5.1-FP8", "zai-org/GLM-5", "fp8"},
        Asked{"MiniMaxAI/MiniMax-M2", "MiniMaxAI/MiniMax-M2.5", "fp8"},
        Asked{"meta-llama/Llama-4-Scout-17B-16E", "meta-llama/Llama-4-Scout-17B-16E-Instruct", ""},
        Asked{"nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8",
              "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "fp8"}));

class Unsafe : public testing::TestWithParam<std::string> {};

TEST_P(Unsafe, AsksForTheConfig) {
  try {
    const ResolvedModel model = resolve_model(GetParam());
    FAIL() << "taken for " << model.name;
  } catch (const base::UsageError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("config.json"), std::string::npos) << message;
    EXPECT_NE(message.find("nearest shipped model is"), std::string::npos) << message;
    EXPECT_LT(message.size(), 2500u) << "names every shipped model, and no more";
  }
}

INSTANTIATE_TEST_SUITE_P(Table, Unsafe,
                         testing::Values("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
                                         "deepseek-ai/DeepSeek-V4", "deepseek-ai/DeepSeek-V2.5",
                                         "Qwen/Qwen3-Omni-30B-A3B", "someone/tiny-mixtral-8x7b",
                                         "someone/Mixtral-8x7B-pruned-6x7B", "mixtral", "",
                                         "someone/Mixtral-8x7B-2bit", std::string(100000, 'a'),
                                         "meta-llama/Llama-3.1-8B", "../etc"));

TEST(Names, TheNearestNameIsNear) {
  const auto nearest = [](const std::string& asked) {
    try {
      resolve_model(asked);
    } catch (const base::UsageError& error) {
      const std::string message = error.what();
      const std::string mark = "nearest shipped model is ";
      const size_t at = message.find(mark) + mark.size();
      return message.substr(at, message.find(". ", at) - at);
    }
    return std::string();
  };
  EXPECT_EQ(nearest("mixtral-8x9b"), "mistralai/Mixtral-8x7B-v0.1");
  EXPECT_EQ(nearest("mistralai/Mixtral-8x22C"), "mistralai/Mixtral-8x22B-v0.1");
  EXPECT_EQ(nearest("openai/gpt-oss-121b"), "openai/gpt-oss-120b");
  EXPECT_EQ(nearest("deepseek-v4"), "deepseek-ai/DeepSeek-V2");
}

TEST(Names, AFolderWinsOverANameAndItsOwnConfigIsRead) {
  const auto demo = std::filesystem::path(MOESAIC_SOURCE_DIR) / "models/demo";
  const ResolvedModel model = resolve_model(demo.string());
  EXPECT_EQ(model.source, "its own config.json");
  EXPECT_TRUE(model.spec.not_served.empty());
}

TEST(Names, RecalledFactsAreMarked) {
  EXPECT_TRUE(resolve_model("mixtral-8x7b").recalled.empty());
  EXPECT_FALSE(resolve_model("deepseek-ai/deepseek-moe-16b-base").recalled.empty());
}

TEST(Names, AQuantisedCopyIsServedNoMoreThanItsConfigWouldBe) {
  EXPECT_TRUE(resolve_model("mixtral-8x7b").spec.not_served.empty());
  EXPECT_TRUE(resolve_model("mixtral-8x7b-awq").spec.not_served.empty());
  EXPECT_NE(resolve_model("openai/gpt-oss-20b").spec.not_served.find("gpt_oss"), std::string::npos);
}

}  // namespace
}  // namespace moesaic::plan
