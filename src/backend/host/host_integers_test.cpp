// Weights in integers: what is packed, products beside sums in double of the same rounded
// activations, and bit for bit the same whatever the rows, the threads and the instruction set.

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <set>

#include "backend/host/host_ops_testing.h"
#include "tensor/integers.h"
#include "tensor/unpack.h"

namespace moesaic::backend::testing {
namespace {

using tensor::IntegerFormat;

WeightFormat affine(int64_t bits, int64_t group, bool zeros) {
  WeightFormat format = *tensor::find_weight_format(bits == 8 ? "int8" : "int4");
  format.value_bits = bits;
  format.group_k = group;
  format.zeros_stored = zeros;
  format.packing = tensor::Packing::kWords;
  return format;
}

struct Named {
  std::string name;
  WeightFormat format;
};

const std::vector<Named>& formats() {
  static const std::vector<Named> rows = [] {
    std::vector<Named> all;
    for (const WeightFormat& format : tensor::block_formats()) {
      all.push_back({std::string(format.name), format});
    }
    for (const int64_t bits : {2, 4, 8}) {
      for (const int64_t group : {0, 32, 64, 128}) {
        for (const bool zeros : {false, true}) {
          all.push_back(
              {"int" + std::to_string(bits) + "_" + std::to_string(group) + (zeros ? "_zeros" : ""),
               affine(bits, group, zeros)});
        }
      }
    }
    return all;
  }();
  return rows;
}

IntegerFormat sure_integers(const WeightFormat& format) { return *tensor::integers_of(format); }

/// Values [rows, cols] of a format, stored: random codes, scales of normal size.
class Stored {
 public:
  Stored(const WeightFormat& format, uint64_t seed, int64_t rows, int64_t cols)
      : format_(format), rows_(rows), cols_(cols), random_(seed) {
    if (format.scheme == tensor::Scheme::kBlocks) {
      blocks();
    } else {
      words();
    }
  }

  SourcePart part() const { return {.part = part_, .format = &format_, .rows = rows_}; }
  Floats values() const {
    Floats all(static_cast<size_t>(rows_ * cols_));
    for (int64_t row = 0; row < rows_; ++row) {
      tensor::unpack(format_, part_, row, 0, cols_, all.data() + row * cols_);
    }
    return all;
  }

 private:
  /// Any bytes are blocks, but for halves that are no scales, which are wherever a type has them.
  void blocks() {
    const int64_t each = cols_ / format_.block_values;
    const int64_t row_bytes = each * format_.block_bytes;
    bytes_.resize(static_cast<size_t>(rows_ * row_bytes));
    Floats values(static_cast<size_t>(format_.block_values));
    for (int64_t block = 0; block < rows_ * each; ++block) {
      std::byte* at = bytes_.data() + block * format_.block_bytes;
      do {
        for (int64_t i = 0; i < format_.block_bytes; ++i) at[i] = std::byte(random_() & 255);
        part_.values = {DType::kU8, {1, format_.block_bytes}, at};
        tensor::unpack(format_, part_, 0, 0, format_.block_values, values.data());
      } while (!sound(values));
    }
    part_.values = {DType::kU8, {rows_, row_bytes}, bytes_.data()};
  }

  static bool sound(const Floats& values) {
    float most = 0;
    for (const float value : values) {
      if (!std::isfinite(value)) return false;
      most = std::max(most, std::abs(value));
    }
    return most > 1e-3f && most < 100.0f;
  }

  void words() {
    const int64_t each = 32 / format_.value_bits;
    const int64_t groups =
        format_.group_k > 0 ? (cols_ + format_.group_k - 1) / format_.group_k : 1;
    const auto fill = [&](std::vector<uint32_t>& to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) to.push_back(static_cast<uint32_t>(random_()));
      return reinterpret_cast<const std::byte*>(to.data());
    };
    const int64_t words = (cols_ + each - 1) / each;
    part_.values = {DType::kI32, {rows_, words}, fill(words_, rows_ * words)};
    const int64_t zero_rows = (rows_ + each - 1) / each;
    part_.zeros = {DType::kI32, {zero_rows, groups}, fill(zeros_, zero_rows * groups)};
    scales_ = random_floats(random_(), rows_ * groups, 0.05f);
    part_.scales = {
        DType::kF32, {rows_, groups}, reinterpret_cast<const std::byte*>(scales_.data())};
  }

  WeightFormat format_;
  int64_t rows_, cols_;
  std::mt19937_64 random_;
  std::vector<std::byte> bytes_;
  std::vector<uint32_t> words_, zeros_;
  Floats scales_;
  tensor::Part part_;
};

/// Activations as the kernels round them: signed bytes in groups of at most 32.
Floats rounded_inputs(const IntegerFormat& integers, const Floats& x, int64_t k) {
  const int64_t size = std::min<int64_t>(integers.group, 32);
  Floats out = x;
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(k)) {
    for (int64_t first = 0; first < k; first += size) {
      const int64_t end = std::min(k, first + size);
      float most = 0;
      const auto at = [&](int64_t i) -> float& { return out[row + static_cast<size_t>(i)]; };
      for (int64_t i = first; i < end; ++i) most = std::max(most, std::abs(at(i)));
      if (most == 0) continue;
      for (int64_t i = first; i < end; ++i) {
        at(i) = std::nearbyint(at(i) * (127.0f / most)) * (most / 127.0f);
      }
    }
  }
  return out;
}

/// A multiple of the block that is none of a stretch of 256, and one that ends within a block.
int64_t inputs_of(const WeightFormat& format) {
  if (format.scheme != tensor::Scheme::kBlocks) return 344;
  return format.block_values == 256 ? 768 : 352;
}

/// One instruction set; each test goes through the formats.
class Integers : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!machine_has(GetParam())) {
      GTEST_SKIP() << "this machine does not have the instruction set " << GetParam();
    }
  }
  HostOps& ops(int threads = 2) const { return ops_of(GetParam(), threads); }

  static void for_formats(const std::function<void(const WeightFormat&, int64_t inputs)>& body) {
    for (const Named& row : formats()) {
      SCOPED_TRACE(row.name);
      body(row.format, inputs_of(row.format));
      if (HasFatalFailure()) return;
    }
  }

  /// All rows of a matrix of values, packed and read back.
  Floats packed_values(const MatrixDesc& desc, const MatrixSource& source) const {
    const PackedMatrix table = pack_matrix(ops(), desc, source);
    std::vector<int32_t> ids(static_cast<size_t>(desc.n));
    std::iota(ids.begin(), ids.end(), 0);
    Floats out(static_cast<size_t>(desc.n * desc.k));
    ops().embed(table.matrix, ids, out.data());
    return out;
  }
};

/// A zero point is multiplied before it is subtracted: a few roundings.
void expect_values(const Floats& expected, const Floats& actual) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(expected[i], actual[i], 1e-5) << "value " << i;
  }
}

/// Rows of x times the transpose of w, [n, k], in double.
Floats products(const Floats& x, const Floats& w, int64_t n, int64_t k) {
  Floats y;
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(k)) {
    for (int64_t o = 0; o < n; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        sum += static_cast<double>(w[static_cast<size_t>(o * k + i)]) *
               x[row + static_cast<size_t>(i)];
      }
      y.push_back(static_cast<float>(sum));
    }
  }
  return y;
}

TEST_P(Integers, PackedValuesAreTheStoredOnes) {
  for_formats([&](const WeightFormat& format, int64_t k) {
    constexpr int64_t kRows = 75;
    const Stored stored(format, 3, kRows, k);
    expect_values(stored.values(), packed_values({kRows, k, format}, {.parts = {stored.part()}}));
  });
}

/// Rows of a matrix that two parts give, the second from its fourth row and second block on.
TEST_P(Integers, TakesSlices) {
  for_formats([&](const WeightFormat& format, int64_t k) {
    const int64_t block = sure_integers(format).block;
    const int64_t cols = k + block;
    const Stored first(format, 3, 20, k);
    const Stored second(format, 4, 50, cols);
    SourcePart slice = second.part();
    slice.rows = 40;
    slice.first_row = 3;
    slice.first_col = block;
    Floats expected = first.values();
    const Floats others = second.values();
    for (int64_t row = 3; row < 43; ++row) {
      const auto from = others.begin() + row * cols + block;
      expected.insert(expected.end(), from, from + k);
    }
    expect_values(expected, packed_values({60, k, format}, {.parts = {first.part(), slice}}));
  });
}

TEST_P(Integers, ProductsAreThoseOfRoundedInputs) {
  for_formats([&](const WeightFormat& format, int64_t k) {
    constexpr int64_t kOutputs = 203;
    const Stored stored(format, 3, kOutputs, k);
    const PackedMatrix w = pack_matrix(ops(), {kOutputs, k, format}, {.parts = {stored.part()}});
    for (const int64_t rows : {1, 2, 7, 103}) {
      const Floats x = random_floats(5, rows * k);
      Floats y(static_cast<size_t>(rows * kOutputs));
      ops().linear(w.matrix, nullptr, x.data(), rows, y.data(), kOutputs);
      const Floats rounded = rounded_inputs(sure_integers(format), x, k);
      expect_close(products(rounded, stored.values(), kOutputs, k), y, kExact,
                   std::to_string(rows) + " rows");
      if (rows > 2) continue;
      expect_close(products(x, stored.values(), kOutputs, k), y, 8e-2, "unrounded");
    }
  });
}

TEST_P(Integers, RowsDoNotDependOnTheBatchTheThreadsOrTheInstructionSet) {
  for_formats([&](const WeightFormat& format, int64_t k) {
    constexpr int64_t kOutputs = 130;
    constexpr int64_t kRows = 101;
    const Stored stored(format, 3, kOutputs, k);
    const Floats x = random_floats(5, kRows * k);
    const auto run = [&](HostOps& on, const float* rows, int64_t count) {
      const PackedMatrix w = pack_matrix(on, {kOutputs, k, format}, {.parts = {stored.part()}});
      Floats y(static_cast<size_t>(count * kOutputs));
      on.linear(w.matrix, nullptr, rows, count, y.data(), kOutputs);
      return y;
    };
    const Floats together = run(ops(), x.data(), kRows);
    expect_same_bits(together.data(), run(ops(1), x.data(), kRows).data(), kRows * kOutputs,
                     "1 thread");
    for (const int64_t r : {0, 50, 100}) {
      expect_same_bits(together.data() + r * kOutputs, run(ops(), x.data() + r * k, 1).data(),
                       kOutputs, "alone");
    }
    // The baseline has no fused multiply-add.
    if (GetParam() == "baseline" || !machine_has("avx2")) return;
    expect_same_bits(run(ops_of("avx2"), x.data(), kRows).data(), together.data(), kRows * kOutputs,
                     "avx2");
  });
}

/// Experts whose down has a format of its own, and whose width ends within a block of it.
struct IntegerExperts {
  static constexpr int64_t kExperts = 4, kTopK = 2, kRows = 23, kWidth = 96;
  ExpertsDesc desc;
  std::vector<Floats> gate, up, down;
  ExpertsSource source;
  Routing routing;
  std::vector<std::unique_ptr<Stored>> stored;

  explicit IntegerExperts(const WeightFormat& format) {
    const int64_t hidden = std::max<int64_t>(64, sure_integers(format).block);
    desc = {kExperts, hidden, kWidth, format, affine(8, 64, false)};
    for (int64_t e = 0; e < kExperts; ++e) {
      add(format, kWidth, hidden, source.gate, gate);
      add(format, kWidth, hidden, source.up, up);
      add(desc.down(), hidden, kWidth, source.down, down);
    }
    routing.rows = kRows;
    routing.top_k = kTopK;
    for (int32_t i = 0; i < kRows * kTopK; ++i) {
      routing.experts.push_back((i * 7 + i / 2) % kExperts);
      routing.weights.push_back(0.25f + 0.01f * static_cast<float>(i));
    }
  }

  Floats run(HostOps& on, const Floats& x, const Routing& routed) const {
    const PackedExperts w = pack_experts(on, desc, source);
    on.reserve({desc, kTopK}, kRows);
    Floats y(x.size(), std::nanf(""));
    on.experts(w.experts, routed, x.data(), routed.rows, false, y.data());
    return y;
  }

  /// In double, with inputs and gated values rounded as kernels do.
  Floats by_definition(const Floats& x) const {
    Floats y(x.size(), 0.0f);
    const Floats rounded = rounded_inputs(sure_integers(desc.format), x, desc.hidden);
    for (int64_t i = 0; i < kRows * kTopK; ++i) {
      const auto e = static_cast<size_t>(routing.experts[static_cast<size_t>(i)]);
      const auto row = rounded.begin() + i / kTopK * desc.hidden;
      const Floats input(row, row + desc.hidden);
      Floats h = products(input, gate[e], kWidth, desc.hidden);
      const Floats by = products(input, up[e], kWidth, desc.hidden);
      for (size_t j = 0; j < h.size(); ++j) h[j] = h[j] / (1 + std::exp(-h[j])) * by[j];
      const Floats out = products(rounded_inputs(sure_integers(desc.down()), h, kWidth), down[e],
                                  desc.hidden, kWidth);
      for (size_t o = 0; o < out.size(); ++o) {
        y[static_cast<size_t>(i / kTopK * desc.hidden) + o] +=
            routing.weights[static_cast<size_t>(i)] * out[o];
      }
    }
    return y;
  }

 private:
  void add(const WeightFormat& format, int64_t rows, int64_t cols, std::vector<SourcePart>& parts,
           std::vector<Floats>& values) {
    stored.push_back(std::make_unique<Stored>(format, stored.size() + 7, rows, cols));
    parts.push_back(stored.back()->part());
    values.push_back(stored.back()->values());
  }
};

TEST_P(Integers, ExpertsAreThoseOfRoundedInputs) {
  for_formats([&](const WeightFormat& format, int64_t) {
    const IntegerExperts experts(format);
    const int64_t hidden = experts.desc.hidden;
    const Floats x = random_floats(6, IntegerExperts::kRows * hidden, 0.1f);
    const Floats together = experts.run(ops(), x, experts.routing);
    // A gated value may be rounded to the byte beside.
    expect_close(experts.by_definition(x), together, 3e-2, "experts");
    Routing first = experts.routing;
    first.rows = 1;
    first.experts.resize(IntegerExperts::kTopK);
    first.weights.resize(IntegerExperts::kTopK);
    const Floats one(x.begin(), x.begin() + hidden);
    expect_same_bits(together.data(), experts.run(ops(), one, first).data(), hidden, "alone");
  });
}

/// How many levels a format's codes can name.
size_t levels_of(const tensor::IntegerFormat& integers) {
  if (integers.levels == nullptr) return size_t{1} << integers.bits;
  return std::set<uint8_t>(integers.levels, integers.levels + 16).size();
}

/// Quantised here: no further off than the format's steps are wide.
TEST_P(Integers, QuantisesOtherWeights) {
  for_formats([&](const WeightFormat& format, int64_t k) {
    constexpr int64_t kRows = 70;
    const Floats values = random_floats(8, kRows * k, 0.02f);
    const Floats out = packed_values({kRows, k, format}, {.parts = {part_of(values, kRows, k)}});
    double errors = 0;
    for (size_t i = 0; i < out.size(); ++i) errors += std::pow(out[i] - values[i], 2);
    const double share = std::sqrt(errors / static_cast<double>(out.size())) / 0.02;
    // Steps are about 6 sigma / levels wide, and an error is a third of that.
    const double step = 1.0 / static_cast<double>(levels_of(sure_integers(format)));
    EXPECT_LT(share, 2.7 * step + (step > 0.1 ? 0.2 : 0.02));
    EXPECT_GT(share, 0.2 * step);
  });
}

/// Broken weights are not made sound ones by quantising them at load.
TEST_P(Integers, ANanAmongWeightsStaysOne) {
  for (const int64_t bits : {4, 8}) {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      const WeightFormat format = affine(bits, 128, bits == 4);
      Floats values = random_floats(8, 5 * 256, 0.02f);
      values[3 * 256 + 40] = bad;
      const Floats out = packed_values({5, 256, format}, {.parts = {part_of(values, 5, 256)}});
      for (size_t i = 0; i < out.size(); ++i) {
        EXPECT_EQ(std::isnan(out[i]), i / 128 == 6) << i;
      }
    }
  }
}

TEST_P(Integers, ANanOrInfinityReachesItsRowAndNoOther) {
  for_formats([&](const WeightFormat& format, int64_t k) {
    const Stored stored(format, 3, 64, k);
    const PackedMatrix w = pack_matrix(ops(), {64, k, format}, {.parts = {stored.part()}});
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      Floats x = random_floats(5, 3 * k);
      x[static_cast<size_t>(k + 40)] = bad;
      Floats y(size_t{3} * 64);
      ops().linear(w.matrix, nullptr, x.data(), 3, y.data(), 64);
      for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 64 == 1) << i;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Ops, Integers,
                         ::testing::Values("baseline", "avx2", "avx512vnni", "avx512", "amx"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace moesaic::backend::testing
