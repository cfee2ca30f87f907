#include "model/rope.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/value_to.hpp>
#include <cmath>
#include <fstream>
#include <sstream>

#include "model/family.h"

namespace moesaic::model {
namespace {

boost::json::object golden() {
  std::ifstream file(std::string(MOESAIC_SOURCE_DIR) + "/tests/golden/rope.json");
  std::stringstream text;
  text << file.rdbuf();
  return boost::json::parse(text.str()).as_object().at("ropes").as_object();
}

/// The rope of a minimal Llama config with the golden's settings, so that the parser is tested too.
RopeSpec parse(const boost::json::object& settings) {
  const int64_t head_dim = settings.at("head_dim").as_int64();
  const boost::json::object config = {
      {"model_type", "llama"},
      {"hidden_size", 4 * head_dim},
      {"num_attention_heads", 4},
      {"num_hidden_layers", 1},
      {"intermediate_size", 64},
      {"vocab_size", 16},
      {"max_position_embeddings", settings.at("max_position_embeddings")},
      {"rope_parameters", settings.at("rope_parameters")}};
  return parse_spec(config, "config.json").rope;
}

class RopeGolden : public testing::TestWithParam<std::string> {};

TEST_P(RopeGolden, MatchesTransformers) {
  const boost::json::object all = golden();
  const boost::json::object& expected = all.at(GetParam()).as_object();
  const backend::RopeTable rope = rope_table(parse(expected));
  const auto frequencies = boost::json::value_to<std::vector<float>>(expected.at("frequencies"));
  ASSERT_EQ(rope.frequencies.size(), frequencies.size());
  for (size_t i = 0; i < frequencies.size(); ++i) {
    EXPECT_NEAR(rope.frequencies[i], frequencies[i], 3e-7f * frequencies[i]) << "pair " << i;
  }
  EXPECT_NEAR(rope.amplitude, expected.at("amplitude").to_number<double>(), 1e-6);

  std::vector<float> cos(frequencies.size());
  std::vector<float> sin(frequencies.size());
  for (const boost::json::value& row : expected.at("rows").as_array()) {
    const auto position = row.at("position").to_number<int32_t>();
    rope.row(position, cos.data(), sin.data());
    const auto want_cos = boost::json::value_to<std::vector<float>>(row.at("cos"));
    const auto want_sin = boost::json::value_to<std::vector<float>>(row.at("sin"));
    // Half a unit in the last place of a frequency, times the position, is an angle.
    const float tolerance = 2e-6f + 2e-7f * static_cast<float>(position);
    for (size_t i = 0; i < cos.size(); ++i) {
      EXPECT_NEAR(cos[i], want_cos[i], tolerance) << "position " << position << " pair " << i;
      EXPECT_NEAR(sin[i], want_sin[i], tolerance) << "position " << position << " pair " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Table, RopeGolden,
                         testing::Values("default", "mixtral", "linear", "dynamic", "llama3",
                                         "yarn_qwen", "yarn_untruncated", "yarn_mscale",
                                         "yarn_factor"),
                         [](const testing::TestParamInfo<std::string>& info) {
                           return info.param;
                         });

TEST(Rope, GoldensAreAllTested) { EXPECT_EQ(golden().size(), 9u); }

TEST(Rope, DynamicScalingDependsOnThePositionAlone) {
  RopeSpec spec;
  spec.rotary_dim = 16;
  spec.scaling = RopeScaling::kDynamic;
  spec.factor = 2.0;
  spec.original_max_position = 32;
  const backend::RopeTable rope = rope_table(spec);
  std::vector<float> before(8), after(8), other(8), sin(8);
  rope.row(20, before.data(), sin.data());
  rope.row(100, other.data(), sin.data());
  rope.row(20, after.data(), sin.data());
  EXPECT_EQ(before, after);
  // Past the original length the slowest pair turns slower than unscaled.
  RopeSpec plain = spec;
  plain.scaling = RopeScaling::kNone;
  std::vector<float> unscaled(8);
  rope_table(plain).row(100, unscaled.data(), sin.data());
  EXPECT_GT(other[7], unscaled[7]);
  rope_table(plain).row(31, unscaled.data(), sin.data());
  rope.row(31, other.data(), sin.data());
  EXPECT_EQ(other, unscaled);
}

TEST(Rope, Llama3WithEqualFactorsStaysFinite) {
  RopeSpec spec;
  spec.rotary_dim = 64;
  spec.scaling = RopeScaling::kLlama3;
  spec.factor = 8.0;
  spec.low_freq_factor = spec.high_freq_factor = 4.0;
  spec.original_max_position = 512;
  const backend::RopeTable rope = rope_table(spec);
  for (float frequency : rope.frequencies) EXPECT_TRUE(std::isfinite(frequency));
}

}  // namespace
}  // namespace moesaic::model
