#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <random>

#include "tensor/view.h"

namespace moesaic::tensor {
namespace {

constexpr std::array kAll = {DType::kF32,    DType::kBF16,   DType::kF16,    DType::kF64,
                             DType::kF8E4M3, DType::kF8E5M2, DType::kF8E8M0, DType::kI8,
                             DType::kU8,     DType::kI16,    DType::kU16,    DType::kI32,
                             DType::kU32,    DType::kI64,    DType::kU64,    DType::kBool};

bool is_nan(F16 half) { return (half.bits & 0x7c00) == 0x7c00 && (half.bits & 0x3ff) != 0; }

// The value of a half by its definition, in double, to check the bit tricks against.
double value_by_definition(F16 half) {
  const int exponent = (half.bits >> 10) & 0x1f;
  const int mantissa = half.bits & 0x3ff;
  const double sign = (half.bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(DType, NamesGoThereAndBack) {
  for (DType dtype : kAll) {
    EXPECT_EQ(dtype_from_safetensors(to_string(dtype)), dtype);
    EXPECT_GT(size_of(dtype), 0U);
  }
  for (const char* unknown : {"", "F4", "bf16", "BF16 ", "FLOAT"}) {
    EXPECT_FALSE(dtype_from_safetensors(unknown)) << unknown;
  }
}

TEST(DType, SizesMatchTheNames) {
  for (DType dtype : kAll) {
    const std::string name(to_string(dtype));
    const size_t bits = name.find("64") != std::string::npos    ? 64
                        : name.find("32") != std::string::npos  ? 32
                        : name.find("F16") != std::string::npos ? 16
                        : name.ends_with("16")                  ? 16
                                                                : 8;
    EXPECT_EQ(size_of(dtype) * 8, bits) << name;
  }
}

TEST(DType, TorchNames) {
  EXPECT_EQ(dtype_from_torch("bfloat16"), DType::kBF16);
  EXPECT_EQ(dtype_from_torch("torch.bfloat16"), DType::kBF16);
  EXPECT_EQ(dtype_from_torch("half"), DType::kF16);
  EXPECT_EQ(dtype_from_torch("float16"), DType::kF16);
  EXPECT_EQ(dtype_from_torch("float"), DType::kF32);
  EXPECT_EQ(dtype_from_torch("torch.float32"), DType::kF32);
  EXPECT_FALSE(dtype_from_torch("int8"));
  EXPECT_FALSE(dtype_from_torch(""));
}

TEST(F16, EveryValueIsItsDefinitionAndSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const F16 half{static_cast<uint16_t>(bits)};
    if (is_nan(half)) {
      EXPECT_TRUE(std::isnan(to_float(half)));
      EXPECT_TRUE(is_nan(to_f16(to_float(half))));
      continue;
    }
    ASSERT_EQ(to_float(half), value_by_definition(half)) << bits;
    ASSERT_EQ(to_f16(to_float(half)).bits, half.bits);
  }
}

// Between each two neighbours: the midpoint goes to the even one, a hair beside it to the nearer.
TEST(F16, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const double low = value_by_definition(F16{static_cast<uint16_t>(bits)});
    const double high =
        bits == 0x7bff ? 65536.0 : value_by_definition(F16{static_cast<uint16_t>(bits + 1)});
    const auto middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(to_f16(middle).bits, (bits & 1) == 0 ? bits : bits + 1) << bits;
    ASSERT_EQ(to_f16(-middle).bits, ((bits & 1) == 0 ? bits : bits + 1) | 0x8000) << bits;
    ASSERT_EQ(to_f16(std::nextafter(middle, 0.0f)).bits, bits) << bits;
    ASSERT_EQ(to_f16(std::nextafter(middle, 1e9f)).bits, bits + 1) << bits;
  }
}

TEST(F16, ExtremesOfFloat) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(to_f16(infinity).bits, 0x7c00);
  EXPECT_EQ(to_f16(-infinity).bits, 0xfc00);
  EXPECT_EQ(to_f16(std::numeric_limits<float>::max()).bits, 0x7c00);
  EXPECT_EQ(to_f16(-std::numeric_limits<float>::denorm_min()).bits, 0x8000);
  EXPECT_TRUE(is_nan(to_f16(std::nanf(""))));
}

TEST(BF16, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const BF16 value{static_cast<uint16_t>(bits)};
    const float wide = to_float(value);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(to_float(to_bf16(wide))));
    } else {
      ASSERT_EQ(to_bf16(wide).bits, bits);
    }
  }
}

TEST(BF16, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const uint32_t middle = (bits << 16) | 0x8000;
    ASSERT_EQ(to_bf16(std::bit_cast<float>(middle)).bits, (bits & 1) == 0 ? bits : bits + 1);
    ASSERT_EQ(to_bf16(std::bit_cast<float>(middle - 1)).bits, bits);
    ASSERT_EQ(to_bf16(std::bit_cast<float>(middle + 1)).bits, bits + 1);
  }
}

TEST(BF16, NaNStaysNaN) {
  // A signalling NaN whose payload is only in the low half must not round to infinity.
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::bit_cast<float>(0xffffffffu)))));
}

TEST(DType, LoadsAndStoresArrays) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    std::array<uint64_t, 32> storage{};
    for (int64_t i = 0; i < 40; ++i) {
      const float value = normal(random);
      store_float(dtype, storage.data(), i, value);
      const float got = load_float(dtype, storage.data(), i);
      const float tolerance = dtype == DType::kF32 ? 0 : std::abs(value) / 250;
      EXPECT_NEAR(got, value, tolerance);
    }
  }
}

TEST(DType, StoresAndLoadsTheBitsOfItsType) {
  const std::pair<DType, uint64_t> one_and_a_half[] = {
      {DType::kF32, 0x3FC00000}, {DType::kBF16, 0x3FC0}, {DType::kF16, 0x3E00}};
  for (const auto& [dtype, bits] : one_and_a_half) {
    uint64_t storage = 0;
    store_float(dtype, &storage, 0, 1.5f);
    EXPECT_EQ(storage, bits) << to_string(dtype);
    EXPECT_EQ(load_float(dtype, &bits, 0), 1.5f) << to_string(dtype);
  }
}

TEST(DTypeDeathTest, OtherTypesAreNoFloats) {
  const int32_t value = 1;
  EXPECT_DEATH(load_float(DType::kI32, &value, 0), "float type");
}

TEST(View, CountsElementsAndBytes) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({3, 0, 5}), 0);
  const View view{.dtype = DType::kBF16, .shape = {3, 4}, .data = nullptr};
  EXPECT_EQ(view.elements(), 12);
  EXPECT_EQ(view.bytes(), 24U);
}

}  // namespace
}  // namespace moesaic::tensor
