#include "tensor/unpack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tensor/code_books.h"

namespace moesaic::tensor {
namespace {

/// Writes one block bit by bit from what is to be in it, and says which values that means: the
/// formats' descriptions in the other direction, in double.
class BlockWriter {
 public:
  BlockWriter(const WeightFormat& format, std::mt19937& random)
      : bytes(static_cast<size_t>(format.block_bytes)),
        values(static_cast<size_t>(format.block_values)),
        random_(random) {}

  std::vector<uint8_t> bytes;
  std::vector<double> values;
  double slack = 0;  ///< of a value that is a difference or a sum

  int any(int count) { return static_cast<int>(random_() % static_cast<uint32_t>(count)); }
  /// A random half of normal size at `byte`.
  double half(int byte) {
    const float value = std::ldexp(static_cast<float>(any(2000) - 1000), -12);
    const F16 stored = to_f16(value);
    put(byte, 0, 8, stored.bits & 255);
    put(byte + 1, 0, 8, stored.bits >> 8);
    return to_float(stored);
  }
  /// `count` bits of `byte`, from bit `first` on.
  void put(int byte, int first, int count, int value) {
    for (int i = 0; i < count; ++i) {
      if ((value >> i & 1) != 0) {
        bytes[static_cast<size_t>(byte)] |= static_cast<uint8_t>(1 << (first + i));
      }
    }
  }
  /// Bit `bit` of a little-endian number at `byte`.
  void put_bit(int byte, int bit, int value) { put(byte + bit / 8, bit % 8, 1, value); }
  double& value(int i) { return values[static_cast<size_t>(i)]; }

 private:
  std::mt19937& random_;
};

/// The terms are below 64 and have a few roundings of floats.
constexpr double kSlack = 1e-5;

/// Value i of 32 is nibble i / 16 of byte i % 16.
void put_nibble(BlockWriter& block, int first_byte, int i, int quant) {
  block.put(first_byte + i % 16, i / 16 * 4, 4, quant);
}

void write_simple(BlockWriter& block, bool fifth, bool minimum) {
  int at = 0;
  const double d = block.half(at);
  const double m = minimum ? block.half(at += 2) : 0;
  if (minimum) block.slack = kSlack;
  const int bits = at += 2;
  if (fifth) at += 4;
  for (int i = 0; i < 32; ++i) {
    const int quant = block.any(fifth ? 32 : 16);
    put_nibble(block, at, i, quant & 15);
    if (fifth) block.put_bit(bits, i, quant >> 4);
    const int zero = minimum ? 0 : fifth ? 16 : 8;
    block.value(i) = d * (quant - zero) + m;
  }
}

void write_q8_0(BlockWriter& block) {
  const double d = block.half(0);
  for (int i = 0; i < 32; ++i) {
    const int quant = block.any(256) - 128;
    block.put(2 + i, 0, 8, quant & 255);
    block.value(i) = d * quant;
  }
}

constexpr int kNonlinear[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                              1,    13,   25,  38,  53,  69,  89,  113};

void write_iq4_nl(BlockWriter& block) {
  const double d = block.half(0);
  for (int i = 0; i < 32; ++i) {
    const int quant = block.any(16);
    put_nibble(block, 2, i, quant);
    block.value(i) = d * kNonlinear[quant];
  }
}

void write_iq4_xs(BlockWriter& block) {
  const double d = block.half(0);
  for (int sub = 0; sub < 8; ++sub) {
    const int scale = block.any(64);
    block.put(4 + sub / 2, sub % 2 * 4, 4, scale & 15);
    block.put_bit(2, 2 * sub, scale >> 4 & 1);
    block.put_bit(2, 2 * sub + 1, scale >> 5);
    for (int i = 0; i < 32; ++i) {
      const int quant = block.any(16);
      put_nibble(block, 8 + 16 * sub, i, quant);
      block.value(32 * sub + i) = d * (scale - 32) * kNonlinear[quant];
    }
  }
}

void write_mxfp4(BlockWriter& block) {
  constexpr double kE2m1[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  constexpr int kExponents[] = {0, 1, 2, 100, 127, 130, 250};
  const int exponent = kExponents[block.any(7)];
  block.put(0, 0, 8, exponent);
  for (int i = 0; i < 32; ++i) {
    const int quant = block.any(16);
    put_nibble(block, 1, i, quant);
    block.value(i) = std::ldexp(kE2m1[quant % 8], exponent - 127) * (quant < 8 ? 1 : -1);
  }
}

/// Two-bit value i of 256: 128 values share 32 bytes, each of which has one of every 32.
void put_pair(BlockWriter& block, int first_byte, int i, int quant) {
  block.put(first_byte + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2, quant);
}

void write_q2_k(BlockWriter& block) {
  const double d = block.half(80);
  const double dmin = block.half(82);
  block.slack = kSlack;
  for (int sub = 0; sub < 16; ++sub) {
    const int scale = block.any(16);
    const int min = block.any(16);
    block.put(sub, 0, 4, scale);
    block.put(sub, 4, 4, min);
    for (int i = 16 * sub; i < 16 * sub + 16; ++i) {
      const int quant = block.any(4);
      put_pair(block, 16, i, quant);
      block.value(i) = d * scale * quant - dmin * min;
    }
  }
}

void write_q3_k(BlockWriter& block) {
  const double d = block.half(108);
  for (int sub = 0; sub < 16; ++sub) {
    const int scale = block.any(64);
    block.put(96 + sub % 8, sub / 8 * 4, 4, scale & 15);
    block.put(96 + 8 + sub % 4, sub / 4 * 2, 2, scale >> 4);
    for (int i = 16 * sub; i < 16 * sub + 16; ++i) {
      const int quant = block.any(8);  // less four
      put_pair(block, 32, i, quant & 3);
      block.put(i % 32, i / 32, 1, quant >> 2);
      block.value(i) = d * (scale - 32) * (quant - 4);
    }
  }
}

void write_q4_or_q5_k(BlockWriter& block, bool fifth) {
  const double d = block.half(0);
  const double dmin = block.half(2);
  block.slack = kSlack;
  for (int sub = 0; sub < 8; ++sub) {
    const int scale = block.any(64);
    const int min = block.any(64);
    if (sub < 4) {
      block.put(4 + sub, 0, 6, scale);
      block.put(8 + sub, 0, 6, min);
    } else {
      block.put(8 + sub, 0, 4, scale & 15);
      block.put(8 + sub, 4, 4, min & 15);
      block.put(sub, 6, 2, scale >> 4);
      block.put(4 + sub, 6, 2, min >> 4);
    }
    for (int i = 0; i < 32; ++i) {
      const int quant = block.any(fifth ? 32 : 16);
      block.put((fifth ? 48 : 16) + sub / 2 * 32 + i, sub % 2 * 4, 4, quant & 15);
      if (fifth) block.put(16 + i, sub, 1, quant >> 4);
      block.value(32 * sub + i) = d * scale * quant - dmin * min;
    }
  }
}

void write_q6_k(BlockWriter& block) {
  const double d = block.half(208);
  for (int sub = 0; sub < 16; ++sub) {
    const int scale = block.any(256) - 128;
    block.put(192 + sub, 0, 8, scale & 255);
    for (int i = 16 * sub; i < 16 * sub + 16; ++i) {
      const int quant = block.any(64);
      // Of 128 values, those of the first and third 32 share bytes, and of the second and fourth.
      block.put(i / 128 * 64 + i % 64, i % 128 / 64 * 4, 4, quant & 15);
      put_pair(block, 128, i, quant >> 4);
      block.value(i) = d * scale * (quant - 32);
    }
  }
}

/// Some bits of a little-endian number at `byte`.
void put_bits(BlockWriter& block, int byte, int first, int count, int value) {
  for (int i = 0; i < count; ++i) block.put_bit(byte, first + i, value >> i & 1);
}

constexpr double kIq2Magnitudes[] = {8, 25, 43};
constexpr double kIq3XxsMagnitudes[] = {4, 12, 20, 28, 36, 44, 52, 62};
constexpr double kIq3SMagnitudes[] = {1, 3, 5, 7, 9, 11, 13, 15};

/// What an entry of `count` values means from value `first` on, with a sign bit for each.
void expect_entry(BlockWriter& block, int first, int count, int entry, const double* magnitudes,
                  int signs, double scale) {
  for (int i = 0; i < count; ++i) {
    const int digit = count == 8 ? entry >> (2 * i) & 3 : entry >> (3 * i) & 7;
    block.value(first + i) = scale * magnitudes[digit] * ((signs >> i & 1) != 0 ? -1 : 1);
  }
}

/// Eight signs, an even number of them minus.
int even_signs(BlockWriter& block) {
  const int seven = block.any(128);
  return std::popcount(static_cast<unsigned>(seven)) % 2 == 0 ? seven : seven + 128;
}

void write_iq2_xxs(BlockWriter& block) {
  const double d = block.half(0);
  for (int group = 0; group < 8; ++group) {
    const int scale = block.any(16);
    const int at = 2 + 8 * group;
    put_bits(block, at + 4, 28, 4, scale);
    for (int i = 0; i < 4; ++i) {
      const int entry = block.any(256);
      const int signs = even_signs(block);
      block.put(at + i, 0, 8, entry);
      put_bits(block, at + 4, 7 * i, 7, signs & 127);
      expect_entry(block, 32 * group + 8 * i, 8, kIq2Xxs[static_cast<size_t>(entry)],
                   kIq2Magnitudes, signs, d * (0.5 + scale) * 0.25);
    }
  }
}

void write_iq2_xs(BlockWriter& block) {
  const double d = block.half(0);
  for (int group = 0; group < 16; ++group) {
    const int scale = block.any(16);
    block.put(66 + group / 2, group % 2 * 4, 4, scale);
    for (int i = 2 * group; i < 2 * group + 2; ++i) {
      const int entry = block.any(512);
      const int signs = even_signs(block);
      put_bits(block, 2 + 2 * i, 0, 9, entry);
      put_bits(block, 2 + 2 * i, 9, 7, signs & 127);
      expect_entry(block, 8 * i, 8, kIq2Xs[static_cast<size_t>(entry)], kIq2Magnitudes, signs,
                   d * (0.5 + scale) * 0.25);
    }
  }
}

void write_iq2_s(BlockWriter& block) {
  const double d = block.half(0);
  for (int group = 0; group < 16; ++group) {
    const int scale = block.any(16);
    block.put(74 + group / 2, group % 2 * 4, 4, scale);
    for (int i = 2 * group; i < 2 * group + 2; ++i) {
      const int entry = block.any(1024);
      const int signs = block.any(256);
      block.put(2 + i, 0, 8, entry & 255);
      block.put(34 + i, 0, 8, signs);
      block.put(66 + i / 4, i % 4 * 2, 2, entry >> 8);
      expect_entry(block, 8 * i, 8, kIq2S[static_cast<size_t>(entry)], kIq2Magnitudes, signs,
                   d * (0.5 + scale) * 0.25);
    }
  }
}

void write_iq3_xxs(BlockWriter& block) {
  const double d = block.half(0);
  for (int group = 0; group < 8; ++group) {
    const int scale = block.any(16);
    const int word = 66 + 4 * group;
    put_bits(block, word, 28, 4, scale);
    for (int i = 0; i < 4; ++i) {
      const int signs = even_signs(block);
      put_bits(block, word, 7 * i, 7, signs & 127);
      for (int half = 0; half < 2; ++half) {
        const int entry = block.any(256);
        block.put(2 + 8 * group + 2 * i + half, 0, 8, entry);
        expect_entry(block, 32 * group + 8 * i + 4 * half, 4, kIq3Xxs[static_cast<size_t>(entry)],
                     kIq3XxsMagnitudes, signs >> (4 * half), d * (0.5 + scale) * 0.5);
      }
    }
  }
}

void write_iq3_s(BlockWriter& block) {
  const double d = block.half(0);
  for (int group = 0; group < 8; ++group) {
    const int scale = block.any(16);
    block.put(106 + group / 2, group % 2 * 4, 4, scale);
    for (int i = 8 * group; i < 8 * group + 8; ++i) {
      const int entry = block.any(512);
      const int signs = block.any(16);
      block.put(2 + i, 0, 8, entry & 255);
      block.put(66 + i / 8, i % 8, 1, entry >> 8);
      block.put(74 + i / 2, i % 2 * 4, 4, signs);
      expect_entry(block, 4 * i, 4, kIq3S[static_cast<size_t>(entry)], kIq3SMagnitudes, signs,
                   d * (1 + 2 * scale));
    }
  }
}

/// An entry of the IQ1 types: eight of -1, 0 and 1, all moved by an eighth.
void expect_moved(BlockWriter& block, int first, int entry, bool down, double scale) {
  for (int i = 0; i < 8; ++i) {
    const int digit = kIq1[static_cast<size_t>(entry)] >> (2 * i) & 3;
    block.value(first + i) = scale * (digit - 1 + (down ? -0.125 : 0.125));
  }
}

void write_iq1_s(BlockWriter& block) {
  const double d = block.half(0);
  for (int group = 0; group < 8; ++group) {
    const int scale = block.any(8);
    const int down = block.any(2);
    const int word = 34 + 2 * group;
    put_bits(block, word, 12, 3, scale);
    put_bits(block, word, 15, 1, down);
    for (int i = 0; i < 4; ++i) {
      const int entry = block.any(2048);
      block.put(2 + 4 * group + i, 0, 8, entry & 255);
      put_bits(block, word, 3 * i, 3, entry >> 8);
      expect_moved(block, 32 * group + 8 * i, entry, down != 0, d * (2 * scale + 1));
    }
  }
}

/// Its half has a nibble in each of four words.
void write_iq1_m(BlockWriter& block) {
  const F16 d = to_f16(std::ldexp(static_cast<float>(block.any(2000) - 1000), -12));
  for (int i = 0; i < 4; ++i) put_bits(block, 48 + 2 * i, 12, 4, d.bits >> (4 * i) & 15);
  for (int group = 0; group < 16; ++group) {
    const int scale = block.any(8);
    put_bits(block, 48 + group / 4 * 2, group % 4 * 3, 3, scale);
    for (int i = 2 * group; i < 2 * group + 2; ++i) {
      const int entry = block.any(2048);
      const int down = block.any(2);
      block.put(i, 0, 8, entry & 255);
      block.put(32 + i / 2, i % 2 * 4, 4, entry >> 8 | down << 3);
      expect_moved(block, 8 * i, entry, down != 0,
                   static_cast<double>(to_float(d)) * (2 * scale + 1));
    }
  }
}

void write_tq2_0(BlockWriter& block) {
  const double d = block.half(64);
  for (int i = 0; i < 256; ++i) {
    const int quant = block.any(3);
    put_pair(block, 0, i, quant);
    block.value(i) = d * (quant - 1);
  }
}

/// Bytes are the five digits as a number to base three, in 256ths of 243, rounded up.
void write_tq1_0(BlockWriter& block) {
  const double d = block.half(52);
  const auto put = [&](int byte, int first_value, int step, int digits) {
    int number = 0;
    for (int i = 0; i < 5; ++i) {
      const int digit = i < digits ? block.any(3) : 0;
      number = 3 * number + digit;
      if (i < digits) block.value(first_value + i * step) = d * (digit - 1);
    }
    block.put(byte, 0, 8, (number * 256 + 242) / 243);
  };
  for (int i = 0; i < 32; ++i) put(i, i, 32, 5);
  for (int i = 0; i < 16; ++i) put(32 + i, 160 + i, 16, 5);
  for (int i = 0; i < 4; ++i) put(48 + i, 240 + i, 4, 4);
}

void write(const WeightFormat& format, BlockWriter& block) {
  const std::string_view name = format.name;
  if (name == "q4_0") return write_simple(block, false, false);
  if (name == "q4_1") return write_simple(block, false, true);
  if (name == "q5_0") return write_simple(block, true, false);
  if (name == "q5_1") return write_simple(block, true, true);
  if (name == "q8_0") return write_q8_0(block);
  if (name == "q2_k") return write_q2_k(block);
  if (name == "q3_k") return write_q3_k(block);
  if (name == "q4_k") return write_q4_or_q5_k(block, false);
  if (name == "q5_k") return write_q4_or_q5_k(block, true);
  if (name == "q6_k") return write_q6_k(block);
  if (name == "iq4_nl") return write_iq4_nl(block);
  if (name == "iq4_xs") return write_iq4_xs(block);
  if (name == "iq1_s") return write_iq1_s(block);
  if (name == "iq1_m") return write_iq1_m(block);
  if (name == "iq2_xxs") return write_iq2_xxs(block);
  if (name == "iq2_xs") return write_iq2_xs(block);
  if (name == "iq2_s") return write_iq2_s(block);
  if (name == "iq3_xxs") return write_iq3_xxs(block);
  if (name == "iq3_s") return write_iq3_s(block);
  if (name == "tq1_0") return write_tq1_0(block);
  if (name == "tq2_0") return write_tq2_0(block);
  if (name == "gguf_mxfp4") return write_mxfp4(block);
  FAIL() << "no description of " << name;
}

class Blocks : public ::testing::TestWithParam<WeightFormat> {};

TEST_P(Blocks, MeanWhatTheirDescriptionSays) {
  const WeightFormat& format = GetParam();
  constexpr int64_t kRows = 3;
  constexpr int64_t kBlocks = 4;
  std::mt19937 random(7);
  std::vector<uint8_t> stored(1);  // blocks may lie at any address
  std::vector<double> expected;
  double slack = 0;
  for (int64_t i = 0; i < kRows * kBlocks; ++i) {
    BlockWriter block(format, random);
    write(format, block);
    stored.insert(stored.end(), block.bytes.begin(), block.bytes.end());
    expected.insert(expected.end(), block.values.begin(), block.values.end());
    slack = block.slack;
  }
  Part part;
  part.values = {DType::kU8,
                 {kRows, kBlocks * format.block_bytes},
                 reinterpret_cast<const std::byte*>(stored.data() + 1)};
  const int64_t cols = kBlocks * format.block_values;
  for (int64_t row = 0; row < kRows; ++row) {
    for (const auto& [col, count] :
         std::vector<std::pair<int64_t, int64_t>>{{0, cols},
                                                  {format.block_values, format.block_values},
                                                  {5, cols - 9},
                                                  {17, 1},
                                                  {3, 0}}) {
      std::vector<float> out(static_cast<size_t>(count) + 1, 77.0F);
      unpack(format, part, row, col, count, out.data());
      for (int64_t i = 0; i < count; ++i) {
        const double want = expected[static_cast<size_t>(row * cols + col + i)];
        ASSERT_NEAR(out[static_cast<size_t>(i)], want, std::abs(want) * 5e-7 + slack)
            << "row " << row << ", value " << col + i;
      }
      EXPECT_EQ(out.back(), 77.0F) << "written past the end";
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<WeightFormat>& info) {
  return std::string(info.param.name);
}
INSTANTIATE_TEST_SUITE_P(All, Blocks,
                         ::testing::ValuesIn(block_formats().begin(), block_formats().end()),
                         name_of);

TEST(WeightFormats, OfBlocksAreFoundByTheirNumberAndNotOffered) {
  for (const WeightFormat& format : block_formats()) {
    EXPECT_EQ(find_block_format(static_cast<uint32_t>(format.block_type)), &format);
    EXPECT_EQ(find_weight_format(format.name), nullptr) << format.name;
    EXPECT_FALSE(format.plain());
  }
  EXPECT_EQ(find_block_format(0), nullptr);  // F32
  EXPECT_EQ(find_block_format(1000), nullptr);
  EXPECT_EQ(find_block_format(2)->bits(), 4.5);
  EXPECT_EQ(find_block_format(14)->bits(), 6.5625);
}

TEST(Unpack, PlainValuesAreThemselves) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  Part part;
  part.values = {DType::kF32, {2, 3}, std::as_bytes(std::span(values)).data()};
  std::vector<float> out(2);
  unpack(WeightFormat(DType::kF32), part, 1, 1, 2, out.data());
  EXPECT_EQ(out, (std::vector<float>{5, 6}));
}

}  // namespace
}  // namespace moesaic::tensor
