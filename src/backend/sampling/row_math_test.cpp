#include "backend/sampling/row_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace moesaic::backend {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Rows of every length near the edges of lanes and blocks.
std::vector<std::vector<float>> rows() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 5);
  std::vector<std::vector<float>> result;
  for (size_t size : {1, 2, 15, 16, 17, 31, 1023, 1024, 1025, 1040, 2048, 5000}) {
    result.emplace_back(size);
    for (float& x : result.back()) x = normal(random);
  }
  return result;
}

TEST(RowMath, LargestSeesEveryPlace) {
  for (std::vector<float> row : rows()) {
    EXPECT_EQ(largest(row), *std::max_element(row.begin(), row.end()));
    for (size_t i = 0; i < row.size(); i += row.size() < 40 ? 1 : 97) {
      const float kept = row[i];
      row[i] = 99;
      EXPECT_EQ(largest(row), 99.0f);
      row[i] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_FALSE(largest(row));
      row[i] = kInfinity;
      EXPECT_FALSE(largest(row));
      row[i] = -kInfinity;
      EXPECT_EQ(largest(row).has_value(), row.size() > 1);
      row[i] = kept;
    }
  }
  EXPECT_FALSE(largest({}));
}

TEST(RowMath, ExpIsCloseToTheRealOne) {
  double worst = 0;
  for (float x = 0; x > -87; x -= 0.00137f) {
    const double real = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(exp_below(x) - real) / real);
  }
  EXPECT_LT(worst, 3 * 1.2e-7);
  EXPECT_EQ(exp_below(0), 1.0f);
  EXPECT_EQ(exp_below(-88), 0.0f);
  EXPECT_EQ(exp_below(-kInfinity), 0.0f);
}

TEST(RowMath, WeightsSumAsTheFormulaSays) {
  for (std::vector<float> row : rows()) {
    row.push_back(-kInfinity);
    row.insert(row.begin(), -kInfinity);
    const float best = *largest(row);
    for (const float floor : {-kInfinity, best - 3}) {
      const RowWeights weights(row, best, 0.7f, floor);
      double sum = 0;
      for (float x : row) {
        if (x >= floor) sum += std::exp((static_cast<double>(x) - best) / 0.7f);
      }
      EXPECT_NEAR(weights.total(), sum, 2e-6 * sum);
    }
    double sum = 0;
    for (float x : row) sum += std::exp(static_cast<double>(x));
    EXPECT_NEAR(log_sum_exp(row, best), std::log(sum), 1e-6);
  }
}

TEST(RowMath, FindStopsWhereTheRunningSumPasses) {
  for (const std::vector<float>& row : rows()) {
    const float best = *largest(row);
    const float floor = best - 6;
    const RowWeights weights(row, best, 2.0f, floor);
    for (int step = 0; step < 200; ++step) {
      const double share = step / 200.0;
      const size_t at = weights.find(share);
      ASSERT_LT(at, row.size());
      EXPECT_GE(row[at], floor);
      double before = 0;
      for (size_t i = 0; i < at; ++i) before += static_cast<double>(weights.weight(row[i]));
      const double slack = 1e-5 * weights.total();
      EXPECT_LE(before, share * weights.total() + slack);
      EXPECT_GE(before + static_cast<double>(weights.weight(row[at])),
                share * weights.total() - slack);
    }
    EXPECT_GE(row[weights.find(std::nextafter(1.0, 0.0))], floor);
  }
}

TEST(RowMath, FindNeverTakesAMaskedEntry) {
  std::vector<float> row(3000, -kInfinity);
  row[1500] = 1;
  const RowWeights weights(row, 1, 1, -kInfinity);
  for (double share : {0.0, 0.5, std::nextafter(1.0, 0.0)}) EXPECT_EQ(weights.find(share), 1500u);
}

/// What is left of the last share after the blocks that weigh may be a rounding more than nothing.
TEST(RowMath, FindDoesNotRunOnIntoBlocksThatWeighNothing) {
  std::mt19937 random(23);
  std::uniform_real_distribution<float> uniform(-1, 0);
  for (int round = 0; round < 300; ++round) {
    std::vector<float> row(24 * RowWeights::kBlock, -kInfinity);
    const size_t weighty = row.size() - 2 * RowWeights::kBlock;
    // Each block weighs so much less than the one before that sums of all are rounded.
    for (size_t i = 0; i < weighty; ++i) {
      row[i] = uniform(random) - 3.0f * static_cast<float>(i / RowWeights::kBlock);
    }
    const RowWeights weights(row, *largest(row), 1, -kInfinity);
    ASSERT_LT(weights.find(std::nextafter(1.0, 0.0)), weighty) << round;
  }
}

TEST(RowMath, FindsAndCountsWhatIsAbove) {
  for (const std::vector<float>& row : rows()) {
    const float x = row[row.size() / 2];
    const auto above = [x](float y) { return y > x; };
    for (size_t from = 0; from <= row.size(); from += 1 + row.size() / 50) {
      const auto first = std::find_if(row.begin() + static_cast<ptrdiff_t>(from), row.end(), above);
      EXPECT_EQ(find_above(row, from, x), static_cast<size_t>(first - row.begin()));
    }
    EXPECT_EQ(count_above(row, x), static_cast<size_t>(std::count_if(
                                       row.begin(), row.end(), [x](float y) { return y > x; })));
  }
}

}  // namespace
}  // namespace moesaic::backend
