// The demo model in bfloat16 against transformers; tests/golden/make_demo_golden.py made what is
// expected, and is to be run again when models/demo changes.

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value_to.hpp>
#include <cmath>
#include <filesystem>

#include "checkpoint/checkpoint.h"
#include "model/golden_testing.h"

namespace moesaic::model {
namespace {

std::filesystem::path source() { return MOESAIC_SOURCE_DIR; }

/// The best tokens of one greedy step of transformers, the chosen one first.
struct Step {
  std::vector<int32_t> ids;
  std::vector<double> bfloat16, float32;  ///< their logits in both types

  explicit Step(const boost::json::value& step)
      : ids(boost::json::value_to<std::vector<int32_t>>(step.at("ids"))),
        bfloat16(boost::json::value_to<std::vector<double>>(step.at("bfloat16"))),
        float32(boost::json::value_to<std::vector<double>>(step.at("float32"))) {}

  /// `id` and the chosen token are closer than rounding to bfloat16 can tell: twice the larger of
  /// what rounding did to their logits, and the distance of neighbouring bfloat16 numbers (8
  /// significant bits) of that size.
  bool is_tie(int32_t id) const {
    const auto at = static_cast<size_t>(std::find(ids.begin(), ids.end(), id) - ids.begin());
    if (at == ids.size()) return false;
    const double noise =
        std::max(std::fabs(bfloat16[0] - float32[0]), std::fabs(bfloat16[at] - float32[at]));
    const double neighbour = std::ldexp(1.0, std::ilogb(bfloat16[0]) - 7);
    return bfloat16[0] - bfloat16[at] <= 2 * std::max(noise, neighbour);
  }
};

class DemoGolden : public testing::TestWithParam<std::string> {};

TEST_P(DemoGolden, GreedyTokensAreThoseOfTransformersUpToTies) {
#ifdef MOESAIC_SANITIZE
  if (GetParam() == "reference") {
    GTEST_SKIP() << "the reference's plain loops take many minutes in a sanitized build";
  }
#endif
  golden::Runner runner(source() / "models/demo", GetParam(), tensor::DType::kBF16);
  const boost::json::object expected =
      checkpoint::read_json_file(source() / "tests/golden/demo", "expected.json", size_t{1} << 20)
          .value();
  const boost::json::array& prompts = expected.at("prompts").as_array();
  ASSERT_GE(prompts.size(), 20u);
  size_t same = 0;  // prompts answered alike to the end
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
    EXPECT_TRUE(Step(steps[first]).is_tie(produced[first]))
        << "step " << first << ": " << produced[first] << " instead of "
        << boost::json::serialize(steps[first]);
  }
  // Ties are the exception; a broken model could not hide behind them.
  EXPECT_GE(same, prompts.size() / 2);
  RecordProperty("same", static_cast<int>(same));
}

INSTANTIATE_TEST_SUITE_P(All, DemoGolden, testing::ValuesIn(golden::backend_names(true)),
                         [](const testing::TestParamInfo<std::string>& info) {
                           return info.param;
                         });

}  // namespace
}  // namespace moesaic::model
