// Packing of weights, on every backend and instruction set this machine has.

#include <numeric>
#include <random>

#include "backend/host/host_attention_testing.h"

namespace moesaic::backend::testing {
namespace {

// --- packing

struct PackingCase {
  const char* name;
  DType source;
  DType packed;
};
void PrintTo(const PackingCase& row, std::ostream* out) { *out << row.name; }

using Packing = OpTest<PackingCase>;

TEST_P(Packing, ConvertsFromTheTypeOfTheSource) {
  constexpr int64_t kRows = 21;
  constexpr int64_t kCols = 40;
  const Floats values = random_floats(1, kRows * kCols);
  Bytes stored(values.size() * tensor::size_of(row().source));
  for (size_t i = 0; i < values.size(); ++i) {
    tensor::store_float(row().source, stored.data(), static_cast<int64_t>(i), values[i]);
  }
  const tensor::View view{row().source, {kRows, kCols}, stored.data()};
  const PackedMatrix table =
      pack_matrix(ops(), {kRows, kCols, row().packed}, {.parts = {part_of(view)}});
  std::vector<int32_t> ids(kRows);
  std::iota(ids.begin(), ids.end(), 0);
  Floats out(values.size());
  ops().embed(table.matrix, ids, out.data());
  const Floats expected = rounded(row().packed, rounded(row().source, values));
  expect_same_bits(expected.data(), out.data(), kRows * kCols, "converted");
}

TEST_P(Packing, DummyWeightsAreTheSameEverywhere) {
  constexpr int64_t kRows = 150;
  constexpr int64_t kCols = 70;
  constexpr uint64_t kSeed = 42;
  const MatrixDesc desc{kRows, kCols, row().packed};
  const PackedMatrix table = pack_matrix(ops(), desc, dummy_source(desc, kSeed));
  std::vector<int32_t> ids(kRows);
  std::iota(ids.begin(), ids.end(), 0);
  Floats out(kRows * kCols);
  ops().embed(table.matrix, ids, out.data());
  Floats expected;
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kCols; ++c) {
      expected.push_back(rounded(row().packed, dummy_value(kSeed, r, c)));
    }
  }
  expect_same_bits(expected.data(), out.data(), kRows * kCols, "dummy matrix");

  const ExpertsDesc experts{3, 40, 48, row().packed};
  const ExpertsSource source = dummy_source(experts, kSeed);
  // Dummy weights are small: large inputs keep the outputs off the noise.
  const Floats x = random_floats(2, 4 * experts.hidden, 30.0f);
  Routing routing;
  routing.rows = 4;
  routing.top_k = 1;
  routing.experts = {0, 1, 2, 1};
  routing.weights = {1, 1, 1, 1};
  const auto run = [&](HostOps& on) {
    const PackedExperts packed = pack_experts(on, experts, source);
    on.reserve({experts, 1}, 4);
    Floats y(x.size());
    on.experts(packed.experts, routing, x.data(), 4, false, y.data());
    return y;
  };
  expect_close(run(reference()), run(ops()), product_tolerance(row().packed), "dummy experts");
}

/// Slices of a matrix's rows and columns are packed as the matrix itself would be there.
TEST_P(Packing, TakesSlices) {
  constexpr int64_t kAllRows = 90;
  constexpr int64_t kAllCols = 77;
  const Floats values = random_floats(1, kAllRows * kAllCols);
  Bytes stored(values.size() * tensor::size_of(row().source));
  for (size_t i = 0; i < values.size(); ++i) {
    tensor::store_float(row().source, stored.data(), static_cast<int64_t>(i), values[i]);
  }
  struct Rows {
    int64_t first, count;
  };
  for (const auto& [first_col, cols] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 77}, {31, 40}}) {
    MatrixSource source;
    MatrixSource dummy;
    Floats expected;
    Floats expected_dummy;
    for (const Rows rows : {Rows{70, 20}, Rows{3, 11}}) {
      const tensor::View view{
          row().source,
          {rows.count, cols},
          stored.data() + static_cast<size_t>(rows.first * kAllCols + first_col) *
                              tensor::size_of(row().source),
          kAllCols};
      source.parts.push_back(part_of(view));
      dummy.parts.push_back({.part = {},
                             .rows = rows.count,
                             .seed = 5,
                             .first_row = rows.first,
                             .first_col = first_col});
      for (int64_t r = rows.first; r < rows.first + rows.count; ++r) {
        for (int64_t c = first_col; c < first_col + cols; ++c) {
          const float value = values[static_cast<size_t>(r * kAllCols + c)];
          expected.push_back(rounded(row().packed, rounded(row().source, value)));
          expected_dummy.push_back(rounded(row().packed, dummy_value(5, r, c)));
        }
      }
    }
    std::vector<int32_t> ids(31);
    std::iota(ids.begin(), ids.end(), 0);
    for (const bool made_up : {false, true}) {
      const PackedMatrix table =
          pack_matrix(ops(), {31, cols, row().packed}, made_up ? dummy : source);
      Floats out(expected.size());
      ops().embed(table.matrix, ids, out.data());
      expect_same_bits((made_up ? expected_dummy : expected).data(), out.data(),
                       static_cast<int64_t>(out.size()), made_up ? "dummy" : "slices");
    }
  }
}

/// Each unit writes the bytes it names and no others, and together they are the whole item.
TEST_P(Packing, UnitsWriteTheirOwnBytes) {
  const MatrixDesc matrix{300, 70, row().packed};
  const ExpertsDesc experts{3, 40, 48, row().packed};
  const auto check = [&](const auto& desc) {
    const size_t bytes = ops().packed_bytes(desc);
    const auto source = dummy_source(desc, 3);
    size_t next = 0;
    for (int64_t unit = 0; unit < ops().pack_units(desc); ++unit) {
      const PackUnit place = ops().pack_unit(desc, unit);
      EXPECT_EQ(place.offset, next);
      next = place.offset + place.bytes;
      Bytes memory(bytes);
      ops().pack(desc, source, unit, memory.data());
      Bytes untouched(bytes);
      EXPECT_EQ(std::memcmp(memory.data(), untouched.data(), place.offset), 0);
      ASSERT_LE(next, bytes);
      EXPECT_EQ(std::memcmp(memory.data() + next, untouched.data() + next, bytes - next), 0);
    }
    EXPECT_EQ(next, bytes);
  };
  check(matrix);
  check(experts);
}

/// Of a matrix stored in blocks: any rectangle of it, and rows that are stored as rope's pairs.
TEST_P(Packing, UnpacksStoredBlocks) {
  constexpr int64_t kStoredRows = 40;
  constexpr int64_t kBlocks = 3;
  const tensor::WeightFormat& format = *tensor::find_block_format(8);  // Q8_0
  std::mt19937 random(3);
  std::vector<std::byte> stored;
  Floats values;
  for (int64_t b = 0; b < kStoredRows * kBlocks; ++b) {
    const tensor::F16 scale = tensor::to_f16(0.01F * static_cast<float>(1 + random() % 100));
    stored.push_back(static_cast<std::byte>(scale.bits & 255));
    stored.push_back(static_cast<std::byte>(scale.bits >> 8));
    for (int64_t i = 0; i < 32; ++i) {
      const auto quant = static_cast<int8_t>(random() % 256);
      stored.push_back(static_cast<std::byte>(quant));
      values.push_back(static_cast<float>(quant) * tensor::to_float(scale));
    }
  }
  SourcePart part;
  part.part.values = {DType::kU8, {kStoredRows, kBlocks * format.block_bytes}, stored.data()};
  part.format = &format;
  part.rows = 24;
  part.first_row = 8;
  part.first_col = 7;
  constexpr int64_t kCols = 80;
  for (const int64_t head : {0, 8}) {
    part.paired_rows = head;
    Floats expected;
    for (int64_t r = 0; r < part.rows; ++r) {
      // Of a head of 8, rows 0 to 7 are stored as 0, 4, 1, 5, 2, 6, 3, 7.
      const int64_t at = head == 0 ? r : r / 8 * 8 + (r % 8 < 4 ? r % 8 * 2 : (r % 8 - 4) * 2 + 1);
      for (int64_t c = 0; c < kCols; ++c) {
        const int64_t index = (part.first_row + at) * kBlocks * 32 + part.first_col + c;
        expected.push_back(rounded(row().packed, values[static_cast<size_t>(index)]));
      }
    }
    const PackedMatrix table =
        pack_matrix(ops(), {part.rows, kCols, row().packed}, {.parts = {part}});
    std::vector<int32_t> ids(static_cast<size_t>(part.rows));
    std::iota(ids.begin(), ids.end(), 0);
    Floats out(expected.size());
    ops().embed(table.matrix, ids, out.data());
    expect_same_bits(expected.data(), out.data(), part.rows * kCols, "unpacked");
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ops, Packing,
    ::testing::Combine(::testing::ValuesIn(subjects()),
                       ::testing::Values(PackingCase{"f32_as_f32", kF32, kF32},
                                         PackingCase{"f32_as_bf16", kF32, kBF16},
                                         PackingCase{"f32_as_f16", kF32, kF16},
                                         PackingCase{"bf16_as_f32", kBF16, kF32},
                                         PackingCase{"bf16_as_bf16", kBF16, kBF16},
                                         PackingCase{"bf16_as_f16", kBF16, kF16},
                                         PackingCase{"f16_as_f32", kF16, kF32},
                                         PackingCase{"f16_as_f16", kF16, kF16})),
    CaseName{});

TEST(Dummy, IsUniformWithTheRightSpread) {
  double sum = 0;
  double squares = 0;
  constexpr int64_t kCount = 100000;
  for (int64_t i = 0; i < kCount; ++i) {
    const double value = dummy_value(9, i / 100, i % 100);
    EXPECT_LT(std::abs(value), 0.03465);
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / kCount, 0.0, 3 * 0.02 / std::sqrt(kCount));
  EXPECT_NEAR(std::sqrt(squares / kCount), 0.02, 2e-4);
  EXPECT_NE(dummy_value(9, 1, 2), dummy_value(9, 2, 1));
  EXPECT_NE(dummy_value(9, 1, 2), dummy_value(10, 1, 2));
}

TEST(Subjects, UnsupportedTypesHaveAReason) {
  for (const std::string& subject : subjects()) {
    if (!machine_has(subject)) continue;
    EXPECT_EQ(ops_of(subject).supports(kBF16), "");
    EXPECT_NE(ops_of(subject).supports(*tensor::find_weight_format("nvfp4")), "");
    EXPECT_NE(ops_of(subject).supports(DType::kI8), "");
  }
}

}  // namespace
}  // namespace moesaic::backend::testing
