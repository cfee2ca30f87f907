// The declarative suite (host_ops_test.cpp): routing and experts.

#include <numeric>

#include "backend/host/host_attention_testing.h"

namespace moesaic::backend::testing {
namespace {

// --- route

struct RouteCase {
  const char* name;
  int64_t rows;
  RouterDesc desc;
  float logit_scale = 1.0f;
  float step = 0;  ///< logits are rounded to multiples of it, which makes ties
};
void PrintTo(const RouteCase& row, std::ostream* out) { *out << row.name; }

constexpr Scoring kSoftmax = Scoring::kSoftmax;
constexpr Scoring kSigmoid = Scoring::kSigmoid;

const std::vector<RouteCase>& route_cases() {
  static const std::vector<RouteCase> rows = {
      {"mixtral", 20, {8, 2, kSoftmax, true, 1.0f}},
      {"olmoe", 50, {64, 8, kSoftmax, false, 1.0f}},
      {"qwen3", 300, {128, 8, kSoftmax, true, 1.0f}},
      {"sigmoid", 20, {64, 6, kSigmoid, true, 2.5f}},
      {"sigmoid_as_they_are", 20, {64, 6, kSigmoid, false, 1.0f}},
      {"top_1", 9, {16, 1, kSoftmax, false, 1.0f}},
      {"all", 9, {5, 5, kSoftmax, true, 1.0f}},
      {"one_expert", 3, {1, 1, kSoftmax, true, 1.0f}},
      {"ties", 60, {16, 4, kSoftmax, true, 1.0f}, 1.0f, 0.5f},
      {"all_equal", 4, {9, 3, kSigmoid, true, 1.0f}, 1.0f, 100.0f},
      {"saturated", 20, {16, 4, kSigmoid, true, 1.0f}, 60.0f},
      {"large", 20, {16, 4, kSoftmax, true, 1.0f}, 1e4f},
      {"odd", 11, {61, 7, kSoftmax, true, 1.0f}},
      {"none", 0, {16, 4, kSoftmax, true, 1.0f}},
  };
  return rows;
}

Floats logits_of(const RouteCase& row) {
  Floats logits = random_floats(5, row.rows * row.desc.experts, row.logit_scale);
  if (row.step > 0) {
    for (float& value : logits) value = std::round(value / row.step) * row.step;
  }
  return logits;
}

using Route = OpTest<RouteCase>;

TEST_P(Route, ChoosesTheBestAndWeighsThem) {
  const RouterDesc& desc = row().desc;
  const Floats logits = logits_of(row());
  Routing routing;
  ops().route(desc, logits.data(), row().rows, routing);
  EXPECT_EQ(routing.rows, row().rows);
  EXPECT_EQ(routing.top_k, desc.top_k);
  std::vector<int32_t> chosen;
  Floats weights;
  for (int64_t r = 0; r < row().rows; ++r) {
    const float* x = logits.data() + r * desc.experts;
    // Sorted by (logit descending, index ascending), the ties spelled out.
    std::vector<std::pair<float, int32_t>> order;
    for (int32_t e = 0; e < desc.experts; ++e) order.emplace_back(-x[e], e);
    std::sort(order.begin(), order.end());
    const auto score = [&](int32_t e) {
      if (desc.scoring == kSigmoid) return 1.0 / (1.0 + std::exp(-static_cast<double>(x[e])));
      double sum = 0;
      for (int64_t o = 0; o < desc.experts; ++o) sum += std::exp(static_cast<double>(x[o]) - x[e]);
      return 1.0 / sum;
    };
    double sum = 0;
    for (int64_t i = 0; i < desc.top_k; ++i) sum += score(order[static_cast<size_t>(i)].second);
    for (int64_t i = 0; i < desc.top_k; ++i) {
      const int32_t e = order[static_cast<size_t>(i)].second;
      chosen.push_back(e);
      weights.push_back(static_cast<float>(score(e) / (desc.renormalize ? sum : 1.0) * desc.scale));
    }
  }
  EXPECT_EQ(routing.experts, chosen);
  expect_close(weights, routing.weights, 2e-6, "weights");
}

TEST_P(Route, RowsDoNotDependOnTheBatchOrTheThreads) {
  const RouterDesc& desc = row().desc;
  const Floats logits = logits_of(row());
  Routing together;
  Routing threads1;
  ops().route(desc, logits.data(), row().rows, together);
  ops(1).route(desc, logits.data(), row().rows, threads1);
  EXPECT_EQ(together.experts, threads1.experts);
  EXPECT_EQ(together.weights, threads1.weights);
  for (int64_t r = 0; r < row().rows; ++r) {
    Routing alone;
    ops().route(desc, logits.data() + r * desc.experts, 1, alone);
    expect_same_bits(alone.weights.data(), together.weights.data() + r * desc.top_k, desc.top_k,
                     "alone");
    EXPECT_TRUE(std::equal(alone.experts.begin(), alone.experts.end(),
                           together.experts.begin() + r * desc.top_k));
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Route,
                         ::testing::Combine(::testing::ValuesIn(subjects()),
                                            ::testing::ValuesIn(route_cases())),
                         CaseName{});

/// A router that makes a NaN must not take the process down with it.
TEST(RouteOfBrokenLogits, ChoosesDifferentExperts) {
  const float nan = std::nanf("");
  const Floats logits = {nan, nan, nan, nan, 1.0f, nan, 3.0f, 2.0f};
  for (const std::string& subject : subjects()) {
    if (!machine_has(subject)) continue;
    Routing routing;
    ops_of(subject).route({4, 3, kSoftmax, true, 1.0f}, logits.data(), 2, routing);
    for (size_t r = 0; r < 2; ++r) {
      std::vector<int32_t> chosen(routing.experts.begin() + static_cast<int64_t>(r * 3),
                                  routing.experts.begin() + static_cast<int64_t>(r * 3 + 3));
      std::sort(chosen.begin(), chosen.end());
      EXPECT_EQ(std::unique(chosen.begin(), chosen.end()), chosen.end()) << subject;
      EXPECT_GE(chosen.front(), 0);
      EXPECT_LT(chosen.back(), 4);
    }
  }
}

// --- experts

/// How the rows of a case are routed.
enum class Spread {
  kRandom,
  kOne,      ///< every row to the last expert first: most experts empty, one full
  kSkewed,   ///< row r only to experts up to r, so counts are uneven
  kDropped,  ///< some choices are -1, of some rows all
};

struct ExpertsCase {
  const char* name;
  int64_t experts;
  int64_t hidden;
  int64_t width;
  DType dtype;
  int64_t top_k;
  int64_t rows;
  Spread spread = Spread::kRandom;
  bool accumulate = false;
};
void PrintTo(const ExpertsCase& row, std::ostream* out) { *out << row.name; }

const std::vector<ExpertsCase>& experts_cases() {
  static const std::vector<ExpertsCase> rows = {
      {"f32", 4, 64, 96, kF32, 2, 9},
      {"bf16", 4, 64, 96, kBF16, 2, 9},
      {"f16", 4, 64, 96, kF16, 2, 9},
      {"f32_odd", 3, 50, 37, kF32, 2, 5},
      {"bf16_odd", 3, 50, 37, kBF16, 2, 5},
      {"f16_odd", 3, 50, 37, kF16, 3, 5},
      {"f32_accumulate", 4, 64, 64, kF32, 2, 9, Spread::kRandom, true},
      {"bf16_accumulate", 4, 64, 64, kBF16, 2, 9, Spread::kRandom, true},
      {"bf16_one_row", 16, 128, 64, kBF16, 8, 1},
      {"bf16_one_expert_takes_all", 8, 64, 64, kBF16, 1, 70, Spread::kOne},
      {"bf16_skewed", 8, 64, 64, kBF16, 2, 80, Spread::kSkewed},
      {"f32_skewed", 8, 64, 64, kF32, 2, 80, Spread::kSkewed},
      {"f32_dropped", 4, 64, 64, kF32, 2, 12, Spread::kDropped},
      {"bf16_dropped", 4, 64, 64, kBF16, 2, 12, Spread::kDropped},
      {"bf16_dropped_accumulate", 4, 64, 64, kBF16, 2, 12, Spread::kDropped, true},
      {"bf16_dense", 1, 64, 160, kBF16, 1, 21, Spread::kOne},
      {"f32_dense_accumulate", 1, 64, 160, kF32, 1, 21, Spread::kOne, true},
      {"bf16_many_rows", 4, 96, 64, kBF16, 2, 150},
      {"bf16_no_rows", 4, 64, 64, kBF16, 2, 0},
  };
  return rows;
}

struct ExpertWeights {
  std::vector<Floats> gate, up, down;
  ExpertsSource source;

  explicit ExpertWeights(const ExpertsCase& row) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(row.hidden));
    for (int64_t e = 0; e < row.experts; ++e) {
      const auto seed = static_cast<uint64_t>(100 + 3 * e);
      gate.push_back(random_floats(seed, row.width * row.hidden, scale));
      up.push_back(random_floats(seed + 1, row.width * row.hidden, scale));
      down.push_back(random_floats(seed + 2, row.hidden * row.width, scale));
    }
    for (size_t e = 0; e < gate.size(); ++e) {
      source.gate.push_back(part_of(gate[e], row.width, row.hidden));
      source.up.push_back(part_of(up[e], row.width, row.hidden));
      source.down.push_back(part_of(down[e], row.hidden, row.width));
    }
  }
};

Routing routing_of(const ExpertsCase& row) {
  Routing routing;
  routing.rows = row.rows;
  routing.top_k = row.top_k;
  std::mt19937 engine(17);
  for (int64_t r = 0; r < row.rows; ++r) {
    std::vector<int32_t> order(static_cast<size_t>(row.experts));
    std::iota(order.begin(), order.end(), 0);
    if (row.spread == Spread::kOne) std::reverse(order.begin(), order.end());
    if (row.spread == Spread::kSkewed) {
      order.resize(static_cast<size_t>(std::clamp(r / 8 + 1, row.top_k, row.experts)));
    }
    if (row.spread != Spread::kOne) std::shuffle(order.begin(), order.end(), engine);
    for (int64_t i = 0; i < row.top_k; ++i) {
      int32_t expert = order[static_cast<size_t>(i)];
      if (row.spread == Spread::kDropped && (r % 4 == 1 || (r + i) % 3 == 0)) expert = -1;
      routing.experts.push_back(expert);
    }
  }
  for (float weight : random_floats(18, row.rows * row.top_k)) {
    routing.weights.push_back(std::abs(weight) + 0.1f);
  }
  return routing;
}

/// The routing of one row alone.
Routing row_of(const Routing& all, int64_t r) {
  Routing one;
  one.rows = 1;
  one.top_k = all.top_k;
  const auto first = static_cast<std::ptrdiff_t>(r * all.top_k);
  const auto last = first + static_cast<std::ptrdiff_t>(all.top_k);
  one.experts.assign(all.experts.begin() + first, all.experts.begin() + last);
  one.weights.assign(all.weights.begin() + first, all.weights.begin() + last);
  return one;
}

using ExpertsOp = OpTest<ExpertsCase>;

Floats run_experts(HostOps& ops, const ExpertsCase& row, const Routing& routing, const Floats& x,
                   const Floats& before) {
  const ExpertsDesc desc{row.experts, row.hidden, row.width, row.dtype};
  const PackedExperts w = pack_experts(ops, desc, ExpertWeights(row).source);
  ops.reserve({desc, row.top_k}, row.rows);
  Floats y = row.accumulate ? before : Floats(before.size(), std::nanf(""));
  ops.experts(w.experts, routing, x.data(), routing.rows, row.accumulate, y.data());
  return y;
}

/// The formula of ops.h with weights straight from the source.
Floats experts_by_definition(const ExpertsCase& row, const Routing& routing, const Floats& x,
                             const Floats& before) {
  const ExpertWeights weights(row);
  Floats y(before.size(), 0.0f);
  if (row.accumulate) y = before;
  const auto at = [&](const Floats& matrix, int64_t r, int64_t c, int64_t cols) {
    return static_cast<double>(rounded(row.dtype, matrix[static_cast<size_t>(r * cols + c)]));
  };
  for (int64_t r = 0; r < row.rows; ++r) {
    for (int64_t i = 0; i < row.top_k; ++i) {
      const auto choice = static_cast<size_t>(r * row.top_k + i);
      if (routing.experts[choice] < 0) continue;
      const auto e = static_cast<size_t>(routing.experts[choice]);
      std::vector<double> h;
      for (int64_t j = 0; j < row.width; ++j) {
        double gate = 0;
        double up = 0;
        for (int64_t c = 0; c < row.hidden; ++c) {
          const double input = x[static_cast<size_t>(r * row.hidden + c)];
          gate += at(weights.gate[e], j, c, row.hidden) * input;
          up += at(weights.up[e], j, c, row.hidden) * input;
        }
        h.push_back(gate / (1.0 + std::exp(-gate)) * up);
      }
      for (int64_t o = 0; o < row.hidden; ++o) {
        double sum = 0;
        for (int64_t j = 0; j < row.width; ++j) {
          sum += at(weights.down[e], o, j, row.width) * h[static_cast<size_t>(j)];
        }
        y[static_cast<size_t>(r * row.hidden + o)] +=
            static_cast<float>(sum * routing.weights[choice]);
      }
    }
  }
  return y;
}

TEST_P(ExpertsOp, AgreesWithTheReference) {
  const Routing routing = routing_of(row());
  const Floats x = random_floats(6, row().rows * row().hidden);
  const Floats before = random_floats(7, row().rows * row().hidden);
  const Floats actual = run_experts(ops(), row(), routing, x, before);
  if (subject() == "reference") {
    expect_close(experts_by_definition(row(), routing, x, before), actual, 2e-6, "by definition");
  } else {
    expect_close(run_experts(reference(), row(), routing, x, before), actual,
                 product_tolerance(row().dtype), "experts");
  }
  for (int64_t r = 0; r < row().rows; ++r) {
    const Routing one = row_of(routing, r);
    if (*std::max_element(one.experts.begin(), one.experts.end()) >= 0) continue;
    const Floats nothing(static_cast<size_t>(row().hidden), 0.0f);
    const float* expected = row().accumulate ? before.data() + r * row().hidden : nothing.data();
    expect_same_bits(expected, actual.data() + r * row().hidden, row().hidden, "no expert");
  }
}

TEST_P(ExpertsOp, RowsDoNotDependOnTheBatchOrTheThreads) {
  const Routing routing = routing_of(row());
  const int64_t hidden = row().hidden;
  const Floats x = random_floats(6, row().rows * hidden);
  const Floats before = random_floats(7, row().rows * hidden);
  const Floats together = run_experts(ops(), row(), routing, x, before);
  const Floats threads1 = run_experts(ops(1), row(), routing, x, before);
  expect_same_bits(together.data(), threads1.data(), row().rows * hidden, "1 thread");
  for (int64_t r = 0; r < row().rows; r += std::max<int64_t>(1, row().rows / 9)) {
    const Floats one(x.begin() + r * hidden, x.begin() + (r + 1) * hidden);
    const Floats old(before.begin() + r * hidden, before.begin() + (r + 1) * hidden);
    const Floats alone = run_experts(ops(), row(), row_of(routing, r), one, old);
    expect_same_bits(alone.data(), together.data() + r * hidden, hidden, "alone");
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, ExpertsOp,
                         ::testing::Combine(::testing::ValuesIn(subjects()),
                                            ::testing::ValuesIn(experts_cases())),
                         CaseName{});

TEST(Routing, DenseSendsEveryRowToExpertZero) {
  const Routing routing = Routing::dense(3);
  EXPECT_EQ(routing.rows, 3);
  EXPECT_EQ(routing.top_k, 1);
  EXPECT_EQ(routing.experts, (std::vector<int32_t>{0, 0, 0}));
  EXPECT_EQ(routing.weights, (Floats{1.0f, 1.0f, 1.0f}));
}

}  // namespace
}  // namespace moesaic::backend::testing
