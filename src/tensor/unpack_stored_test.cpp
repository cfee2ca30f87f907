// Numbers of 8 bits, every one of them, by their definitions. What whole matrices of them mean is
// tested where checkpoints are read, against writers of each format.

#include "tensor/unpack_stored.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moesaic::tensor {
namespace {

TEST(SmallFloats, E4M3HasNoInfinities) {
  for (int bits = 0; bits < 256; ++bits) {
    const float value = float_from_e4m3(static_cast<uint8_t>(bits));
    const int exponent = bits / 8 % 16;
    const double fraction = bits % 8 / 8.0;
    if (exponent == 15 && bits % 8 == 7) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      continue;
    }
    const double magnitude =
        exponent == 0 ? fraction * std::pow(2.0, -6) : (1 + fraction) * std::pow(2.0, exponent - 7);
    EXPECT_EQ(value, bits < 128 ? magnitude : -magnitude) << bits;
    EXPECT_EQ(std::signbit(value), bits >= 128);
  }
  EXPECT_EQ(float_from_e4m3(0x7e), 448.0f);
}

/// The first byte of an IEEE half.
TEST(SmallFloats, E5M2IsHalfAHalf) {
  for (int bits = 0; bits < 256; ++bits) {
    const float value = float_from_e5m2(static_cast<uint8_t>(bits));
    const float half = to_float(F16{static_cast<uint16_t>(bits << 8)});
    EXPECT_TRUE(value == half || (std::isnan(value) && std::isnan(half))) << bits;
  }
}

TEST(SmallFloats, E8M0IsAPowerOfTwo) {
  for (int bits = 0; bits < 255; ++bits) {
    EXPECT_EQ(float_from_e8m0(static_cast<uint8_t>(bits)), std::pow(2.0, bits - 127)) << bits;
  }
  EXPECT_TRUE(std::isnan(float_from_e8m0(255)));
}

TEST(SmallFloats, ScalesAreReadByTheirType) {
  const std::array<uint8_t, 4> bytes = {0x7e, 0x38, 0x80, 0x3f};
  const auto view = [&](DType dtype, int64_t cols) {
    return View{dtype, {1, cols}, reinterpret_cast<const std::byte*>(bytes.data())};
  };
  EXPECT_EQ(load_scale(view(DType::kF8E4M3, 4), 0, 0), 448.0f);
  EXPECT_EQ(load_scale(view(DType::kU8, 4), 0, 2), 2.0f);
  EXPECT_EQ(load_scale(view(DType::kF8E8M0, 4), 0, 2), 2.0f);
  EXPECT_EQ(load_scale(view(DType::kBF16, 2), 0, 1), 1.0f);
}

}  // namespace
}  // namespace moesaic::tensor
