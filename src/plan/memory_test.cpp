#include "plan/memory.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "model/decoder.h"
#include "model/family.h"
#include "model/weights.h"
#include "plan/names.h"

namespace moesaic::plan {
namespace {

using model::ModelSpec;

ModelSpec spec_of(const std::string& name) { return resolve_model(name).spec; }

struct Published {
  std::string name;
  double bf16_gb;  ///< as published for 16-bit weights
  double int8_gb;  ///< 0 = not published
};

void PrintTo(const Published& model, std::ostream* out) { *out << model.name; }

class PublishedWeights : public testing::TestWithParam<Published> {};

TEST_P(PublishedWeights, AreWithin2Percent) {
  const ModelSpec spec = spec_of(GetParam().name);
  const auto gb = [&](const char* format) {
    return static_cast<double>(weight_bytes(spec, find_format(format))) / 1e9;
  };
  EXPECT_NEAR(gb("none"), GetParam().bf16_gb, 0.02 * GetParam().bf16_gb);
  if (GetParam().int8_gb > 0) {
    EXPECT_NEAR(gb("int8"), GetParam().int8_gb, 0.02 * GetParam().int8_gb);
    EXPECT_NEAR(gb("fp8"), GetParam().int8_gb, 0.02 * GetParam().int8_gb);
  }
}

INSTANTIATE_TEST_SUITE_P(Table, PublishedWeights,
                         testing::Values(Published{"mixtral-8x7b", 93.4, 46.7},
                                         Published{"mixtral-8x22b", 282, 141},
                                         Published{"deepseek-ai/deepseek-moe-16b-base", 33, 0},
                                         Published{"Qwen/Qwen1.5-MoE-A2.7B", 29, 0},
                                         Published{"databricks/dbrx-base", 264, 0},
                                         Published{"deepseek-ai/DeepSeek-V3", 1342, 671}));

TEST(Weights, CutPartsAddUpToTheWhole) {
  const WeightFormat plain = find_format("none");
  for (const std::string& name : shipped_model_names()) {
    const ModelSpec spec = spec_of(name);
    const auto whole = static_cast<double>(weight_bytes(spec, plain));
    for (const Layout& layout : {Layout{2, 1, 1}, Layout{1, 2, 1}, Layout{2, 2, 1}}) {
      if (!check_layout(spec, layout).empty()) continue;
      const auto all = static_cast<double>(weight_terms(spec, layout, plain).weights()) *
                       static_cast<double>(layout.devices());
      EXPECT_GE(all, whole) << name;
      // Expert parallelism repeats what is no expert; that is much of a model whose every layer has
      // a dense feed-forward beside its experts, as Gemma 4's.
      const bool dense_too = name.find("gemma-4") != std::string::npos;
      EXPECT_LT(all, (dense_too ? 1.16 : 1.08) * whole) << name << ": what is repeated is small";
    }
  }
}

TEST(Weights, PipelineStagesHoldTheirLayers) {
  const ModelSpec spec = spec_of("mixtral-8x7b");
  const WeightFormat plain = find_format("none");
  const MemoryTerms whole = weight_terms(spec, {}, plain);
  const MemoryTerms half = weight_terms(spec, {1, 1, 2}, plain);
  EXPECT_EQ(half.experts * 2, whole.experts);
  EXPECT_NEAR(static_cast<double>(half.embeddings), static_cast<double>(whole.embeddings) / 2,
              9000);
  const auto [first, last] = stage_layers(7, {1, 1, 3}, 1);
  EXPECT_EQ(first, 3u);
  EXPECT_EQ(last, 5u);
}

TEST(Weights, WidthsThatDoNotDivideArePaddedOrDealtOut) {
  const ModelSpec spec = spec_of("deepseek-ai/deepseek-moe-16b-base");
  const WeightFormat plain = find_format("none");
  const WeightFormat fp8 = find_format("fp8");
  EXPECT_TRUE(expert_widths_divide(spec, {2, 1, 1}, plain)) << "1408 = 2 x 11 x 64";
  EXPECT_FALSE(expert_widths_divide(spec, {4, 1, 1}, plain));
  EXPECT_FALSE(expert_widths_divide(spec, {2, 1, 1}, fp8)) << "1408 = 11 x 128";
  EXPECT_TRUE(expert_widths_divide(spec, {1, 8, 1}, fp8));
  EXPECT_EQ(expert_share(1408, {4, 1, 1}, plain), 384);
  EXPECT_EQ(expert_share(1408, {8, 1, 1}, fp8), 256);
  const auto experts = [&](const Layout& layout) {
    return static_cast<double>(weight_terms(spec, layout, plain).experts);
  };
  EXPECT_NEAR(experts({4, 1, 1}) / experts({1, 4, 1}), 384.0 / 352, 1e-6);
}

TEST(KvCache, GroupedHeadsAreDividedThenRepeated) {
  const ModelSpec spec = spec_of("mixtral-8x7b");
  const double whole = 32 * 2 * 8 * 128 * 2.0;
  EXPECT_EQ(sequence_bytes(spec, {}, 2, 1), whole);
  EXPECT_EQ(sequence_bytes(spec, {4, 1, 1}, 2, 1), whole / 4);
  EXPECT_EQ(sequence_bytes(spec, {2, 4, 1}, 2, 1), whole / 8);
  EXPECT_EQ(sequence_bytes(spec, {16, 1, 1}, 2, 1), whole / 8)
      << "8 heads on 16 devices: twice each";
  EXPECT_EQ(sequence_bytes(spec, {1, 1, 2}, 2, 1), whole / 2);
  EXPECT_EQ(sequence_bytes(spec, {}, 1, 1000), whole * 500);
}

TEST(KvCache, TheLatentIsWholeOnEveryDeviceAndStillFarSmaller) {
  const ModelSpec spec = spec_of("deepseek-ai/DeepSeek-V3");
  EXPECT_EQ(sequence_bytes(spec, {}, 2, 1), 61 * 576 * 2.0);
  EXPECT_EQ(sequence_bytes(spec, {8, 1, 1}, 2, 1), sequence_bytes(spec, {}, 2, 1));
}

TEST(KvCache, WindowsHoldNoMoreThanTheirLength) {
  const ModelSpec spec = spec_of("openai/gpt-oss-20b");
  const double layer = 2 * 8 * 64 * 2.0;
  EXPECT_EQ(sequence_bytes(spec, {}, 2, 100), 24 * layer * 100);
  EXPECT_EQ(sequence_bytes(spec, {}, 2, 10000), 12 * layer * (10000 + 128));
}

TEST(KvCache, ARecurrentLayerHoldsTheSameOfAnyLength) {
  const ModelSpec spec = spec_of("Qwen/Qwen3.5-35B-A3B");
  const double state = 30 * (32 * 128 * 128 * 4.0 + 3 * 8192 * 2.0);
  const double token = 10 * 2 * 2 * 256 * 2.0;
  EXPECT_EQ(sequence_bytes(spec, {}, 2, 1), state + token);
  EXPECT_EQ(sequence_bytes(spec, {}, 2, 1000), state + 1000 * token);
  EXPECT_EQ(sequence_bytes(spec, {}, 1, 1000), state + 500 * token) << "the state stays as it is";
  EXPECT_EQ(sequence_bytes(spec, {2, 1, 1}, 2, 1000), (state + 1000 * token) / 2);
}

TEST(Formats, ArePlannedAsTheCheckpointSaysOrRefusedWithWhatWasFound) {
  model::QuantizationFacts facts;
  facts.method = "auto-round";
  facts.format = "gptq";
  facts.bits = 3;
  facts.group = 64;
  const WeightFormat three = published_format(facts, "x", "auto");
  EXPECT_EQ(three.value_bits, 3);
  EXPECT_EQ(three.group_k, 64);
  EXPECT_FALSE(three.experts_only);
  facts.experts_only = true;
  EXPECT_TRUE(published_format(facts, "x", "auto").experts_only);
  EXPECT_TRUE(published_format({}, "x", "auto").plain());
  facts = {};
  facts.method = "odd";
  facts.found = "config.json: quant_method odd";
  try {
    published_format(facts, "x", "auto");
    FAIL() << "planned as something else";
  } catch (const base::ModelFileError& error) {
    EXPECT_NE(std::string(error.what()).find("config.json: quant_method odd"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("--quantization"), std::string::npos);
  }
}

TEST(Layouts, ImpossibleOnesSayWhy) {
  EXPECT_EQ(check_layout(spec_of("mixtral-8x7b"), {8, 1, 1}), "");
  EXPECT_NE(check_layout(spec_of("Qwen/Qwen2-57B-A14B"), {8, 1, 1}).find("28 heads"),
            std::string::npos);
  EXPECT_NE(check_layout(spec_of("Qwen/Qwen1.5-MoE-A2.7B"), {1, 8, 1}).find("60 experts"),
            std::string::npos);
  EXPECT_NE(check_layout(spec_of("mixtral-8x7b"), {1, 1, 33}).find("32 layers"), std::string::npos);
}

/// The planner's sizes and the server's, which has its own packing, for models that both know.
TEST(ServerAgreement, WeightsAndCacheAreWithin2Percent) {
  const auto backend = backend::make_reference_backend();
  for (const std::string& name :
       {std::string(MOESAIC_SOURCE_DIR) + "/models/demo", std::string("mixtral-8x7b"),
        std::string("allenai/OLMoE-1B-7B-0924"), std::string("Qwen/Qwen1.5-MoE-A2.7B")}) {
    SCOPED_TRACE(name);
    const ModelSpec spec = spec_of(name);
    const model::WeightLayout server = lay_out_weights(spec, *backend, tensor::DType::kBF16);
    const auto planned = static_cast<double>(weight_bytes(spec, find_format("none")));
    EXPECT_NEAR(planned, static_cast<double>(server.bytes), 0.02 * planned);
    const model::WeightParts parts = weight_parts(server);
    EXPECT_EQ(parts.attention + parts.experts + parts.shared + parts.embeddings, server.bytes);
    const MemoryTerms terms = weight_terms(spec, {}, find_format("none"));
    EXPECT_NEAR(static_cast<double>(parts.experts), static_cast<double>(terms.experts),
                0.02 * static_cast<double>(terms.experts));
    EXPECT_NEAR(static_cast<double>(parts.shared), static_cast<double>(terms.shared_experts),
                0.02 * static_cast<double>(terms.shared_experts));
    const auto block = static_cast<double>(
        model::KvCache::block_bytes(spec, {}, *backend, tensor::DType::kBF16, 16));
    const double token = sequence_bytes(spec, {}, 2, 16);
    EXPECT_NEAR(token, block, 0.02 * block);
  }
}

}  // namespace
}  // namespace moesaic::plan
