// The demo model in bfloat16 against transformers; tests/golden/make_demo_golden.py made what is
// expected, and is to be run again when models/demo changes.

#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <boost/json/value_to.hpp>
#include <cmath>
#include <filesystem>

#include "checkpoint/checkpoint.h"
#include "model/golden_testing.h"

namespace moesaic::model {
namespace {

std::filesystem::path source() { return MOESAIC_SOURCE_DIR; }

/// The two best tokens of one greedy step of transformers, the chosen one first.
struct Step {
  std::vector<int32_t> ids;
  std::vector<double> bfloat16, float32;  ///< their logits in both types

  /// Closer than rounding to bfloat16 can tell: twice the larger of what rounding did to these
  /// logits, and the distance of neighbouring bfloat16 numbers (8 significant bits) of their size.
  bool is_tie() const {
    const double noise =
        std::max(std::fabs(bfloat16[0] - float32[0]), std::fabs(bfloat16[1] - float32[1]));
    const double neighbour = std::ldexp(1.0, std::ilogb(bfloat16[0]) - 7);
    return bfloat16[0] - bfloat16[1] <= 2 * std::max(noise, neighbour);
  }
};

class DemoGolden : public testing::TestWithParam<std::string> {};

TEST_P(DemoGolden, GreedyTokensAreThoseOfTransformersUpToTies) {
  golden::Runner runner(source() / "models/demo", GetParam(), tensor::DType::kBF16);
  const boost::json::object expected =
      checkpoint::read_json_file(source() / "tests/golden/demo/expected.json", size_t{1} << 20);
  const boost::json::array& prompts = expected.at("prompts").as_array();
  ASSERT_GE(prompts.size(), 20u);
  size_t same = 0;
  for (size_t p = 0; p < prompts.size(); ++p) {
    SCOPED_TRACE("prompt " + std::to_string(p));
    const auto tokens = boost::json::value_to<golden::Tokens>(prompts[p].at("tokens"));
    const auto greedy = boost::json::value_to<golden::Tokens>(prompts[p].at("greedy"));
    const boost::json::array& steps = prompts[p].at("steps").as_array();
    ASSERT_EQ(steps.size(), greedy.size());
    const golden::Tokens produced =
        runner.run({tokens}, golden::kMaxRows, greedy.size(), {})[0].tokens;
    size_t first = 0;
    while (first < greedy.size() && produced[first] == greedy[first]) ++first;
    if (first == greedy.size()) {
      ++same;
      continue;
    }
    const Step step{boost::json::value_to<std::vector<int32_t>>(steps[first].at("ids")),
                    boost::json::value_to<std::vector<double>>(steps[first].at("bfloat16")),
                    boost::json::value_to<std::vector<double>>(steps[first].at("float32"))};
    EXPECT_EQ(produced[first], step.ids[1]) << "step " << first;
    EXPECT_TRUE(step.is_tie()) << "step " << first << ": " << step.bfloat16[0] << " and "
                               << step.bfloat16[1];
  }
  // Ties are the exception; a broken model could not hide behind them.
  EXPECT_GE(same, prompts.size() / 2);
}

INSTANTIATE_TEST_SUITE_P(All, DemoGolden, testing::ValuesIn(golden::backend_names(true)),
                         [](const testing::TestParamInfo<std::string>& info) {
                           return info.param;
                         });

}  // namespace
}  // namespace moesaic::model
