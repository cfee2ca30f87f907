#include "tensor/unpack_blocks.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"

namespace moesaic::tensor {
namespace {

/// Little-endian numbers in a block, at any address.
uint16_t u16_at(const uint8_t* bytes) {
  uint16_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}
uint32_t u32_at(const uint8_t* bytes) {
  uint32_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}
float half_at(const uint8_t* bytes) { return to_float(F16{u16_at(bytes)}); }

int signed_byte(uint8_t byte) { return byte < 128 ? byte : byte - 256; }

/// Bit `bit` of `bits`.
int bit_of(uint32_t bits, int bit) { return static_cast<int>(bits >> bit & 1U); }

// --- blocks of 32 values: values 0 to 15 in the low nibbles of 16 bytes, 16 to 31 in the high ones

void nibbles(const uint8_t* bytes, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = bytes[i] & 15;
    codes[i + 16] = bytes[i] >> 4;
  }
}

/// Nibbles, and before them the fifth bits of 32 codes.
void fifth_bits_and_nibbles(const uint8_t* bytes, uint8_t* codes) {
  const uint32_t fifth = u32_at(bytes);
  nibbles(bytes + 4, codes);
  for (int i = 0; i < 32; ++i) codes[i] |= static_cast<uint8_t>(bit_of(fifth, i) << 4);
}

void q4_0(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block);
  nibbles(block + 2, out.codes.data());
}

void q4_1(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block);
  out.offset = -half_at(block + 2);
  nibbles(block + 4, out.codes.data());
}

void q5_0(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block);
  fifth_bits_and_nibbles(block + 2, out.codes.data());
}

void q5_1(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block);
  out.offset = -half_at(block + 2);
  fifth_bits_and_nibbles(block + 4, out.codes.data());
}

void q8_0(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block);
  for (int i = 0; i < 32; ++i) out.codes[static_cast<size_t>(i)] = block[2 + i] ^ 0x80;
}

void mxfp4(const uint8_t* block, IntegerBlock& out) {
  out.group_scale[0] = block[0];
  nibbles(block + 1, out.codes.data());
}

// --- blocks of 256 values, in groups of 16 or 32 with scales of their own

/// scales[16], quants[64], d, dmin.
void q2_k(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block + 80);
  out.offset = half_at(block + 82);
  for (size_t i = 0; i < 16; ++i) {
    out.group_scale[i] = block[i] & 15;
    out.group_offset[i] = block[i] >> 4;
  }
  for (int v = 0; v < 256; ++v) {
    out.codes[static_cast<size_t>(v)] = block[16 + v / 128 * 32 + v % 32] >> (v % 128 / 32 * 2) & 3;
  }
}

/// Scale `i` of the sixteen of six bits in twelve bytes: four low bits, two high ones.
int q3_scale(const uint8_t* scales, int i) {
  const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
  const int high = scales[8 + i % 4] >> (i / 4 * 2) & 3;
  return (low | high << 4) - 32;
}

/// high bits[32], quants[64], scales[12], d.
void q3_k(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block + 108);
  for (int i = 0; i < 16; ++i) {
    out.group_scale[static_cast<size_t>(i)] = static_cast<int16_t>(q3_scale(block + 96, i));
  }
  for (int v = 0; v < 256; ++v) {
    const int half = v / 128;
    const int lane = v % 32;
    const int shift = v % 128 / 32;
    const int low = block[32 + half * 32 + lane] >> (shift * 2) & 3;
    out.codes[static_cast<size_t>(v)] =
        static_cast<uint8_t>(low | bit_of(block[lane], half * 4 + shift) << 2);
  }
}

/// The scales and minima of eight groups, of six bits each, lie in twelve bytes.
void q4_scales(const uint8_t* s, IntegerBlock& out) {
  for (size_t i = 0; i < 8; ++i) {
    const int scale = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
    const int min = i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | s[i] >> 6 << 4;
    out.group_scale[i] = static_cast<int16_t>(scale);
    out.group_offset[i] = static_cast<int16_t>(min);
  }
}

/// d, dmin, scales[12], quants[128]; Q5_K has the fifth bits[32] before the quants.
template <bool kFifth>
void q4_or_q5_k(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block);
  out.offset = half_at(block + 2);
  q4_scales(block + 4, out);
  const uint8_t* fifth = block + 16;
  const uint8_t* quants = block + (kFifth ? 48 : 16);
  for (int v = 0; v < 256; ++v) {
    const int sub = v / 32;
    const int lane = v % 32;
    int quant = quants[sub / 2 * 32 + lane] >> (sub % 2 * 4) & 15;
    if (kFifth) quant |= bit_of(fifth[lane], sub) << 4;
    out.codes[static_cast<size_t>(v)] = static_cast<uint8_t>(quant);
  }
}

/// low bits[128], high bits[64], scales[16], d.
void q6_k(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block + 208);
  for (size_t i = 0; i < 16; ++i) {
    out.group_scale[i] = static_cast<int16_t>(signed_byte(block[192 + i]));
  }
  for (int v = 0; v < 256; ++v) {
    const int half = v / 128;
    const int quarter = v % 128 / 32;
    const int lane = v % 32;
    const int low = block[half * 64 + quarter % 2 * 32 + lane] >> (quarter / 2 * 4) & 15;
    const int high = block[128 + half * 32 + lane] >> (quarter * 2) & 3;
    out.codes[static_cast<size_t>(v)] = static_cast<uint8_t>(low | high << 4);
  }
}

/// d, high bits of the scales (u16), low bits[4], quants[128].
void iq4_xs(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block);
  const uint32_t high = u16_at(block + 2);
  for (int sub = 0; sub < 8; ++sub) {
    const int low_bits = block[4 + sub / 2] >> (sub % 2 * 4) & 15;
    const int high_bits = static_cast<int>(high >> (2 * sub) & 3U);
    out.group_scale[static_cast<size_t>(sub)] =
        static_cast<int16_t>((low_bits | high_bits << 4) - 32);
    nibbles(block + 8 + sub * 16, out.codes.data() + sub * 32);
  }
}

// --- ternary blocks

/// quants[64] of two bits, d. Of 128 values, each byte has one of every 32.
void tq2_0(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block + 64);
  for (int v = 0; v < 256; ++v) {
    out.codes[static_cast<size_t>(v)] = block[v / 128 * 32 + v % 32] >> (v % 128 / 32 * 2) & 3;
  }
}

/// Digit `i` of the five to base three in a byte, which holds their fraction of 256.
int ternary_digit(uint8_t byte, int i) {
  constexpr std::array<int, 5> kPowers = {1, 3, 9, 27, 81};
  return static_cast<uint8_t>(byte * kPowers[static_cast<size_t>(i)]) * 3 >> 8;
}

/// quants[48] of five digits: 32 bytes that have one of every 32 values, 16 that have one of every
/// 16; then 4 bytes of four digits, one of every 4 values; d.
void tq1_0(const uint8_t* block, IntegerBlock& out) {
  struct Run {
    int first_byte, bytes, digits;
  };
  out.scale = half_at(block + 52);
  int v = 0;
  for (const Run run : {Run{0, 32, 5}, Run{32, 16, 5}, Run{48, 4, 4}}) {
    for (int digit = 0; digit < run.digits; ++digit) {
      for (int i = 0; i < run.bytes; ++i) {
        out.codes[static_cast<size_t>(v++)] =
            static_cast<uint8_t>(ternary_digit(block[run.first_byte + i], digit));
      }
    }
  }
}

/// The code book of the IQ4 types, plus 128.
constexpr std::array<uint8_t, 16> kIq4Levels = {1,   24,  45,  63,  79,  93,  106, 118,
                                                129, 141, 153, 166, 181, 197, 217, 241};
/// Twice E2M1's values, plus 12.
constexpr std::array<uint8_t, 16> kE2M1Levels = {12, 13, 14, 15, 16, 18, 20, 24,
                                                 12, 11, 10, 9,  8,  6,  4,  0};

/// A type of block: what its codes are, and how they lie.
struct BlockType {
  int32_t number;
  IntegerFormat integers;
  void (*decode)(const uint8_t* block, IntegerBlock& out);
};

using enum ScaleKind;
constexpr auto kNone = OffsetKind::kNone;
constexpr auto kLeast = OffsetKind::kF16;
constexpr auto kLeasts = OffsetKind::kUnsigned;

constexpr IntegerFormat coded(IntegerFormat format, const std::array<uint8_t, 16>& levels) {
  format.levels = levels.data();
  return format;
}

constexpr std::array kTypes = {
    // number in GGUF files; bits, zero, inputs of a group and of a block, scale, offset
    BlockType{2, {4, 8, 32, 32, kF16, kNone}, q4_0},
    BlockType{3, {4, 0, 32, 32, kF16, kLeast}, q4_1},
    BlockType{6, {5, 16, 32, 32, kF16, kNone}, q5_0},
    BlockType{7, {5, 0, 32, 32, kF16, kLeast}, q5_1},
    BlockType{8, {8, 128, 32, 32, kF16, kNone}, q8_0},
    BlockType{10, {2, 0, 16, 256, kUnsigned, kLeasts}, q2_k},
    BlockType{11, {3, 4, 16, 256, kSigned, kNone}, q3_k},
    BlockType{12, {4, 0, 32, 256, kUnsigned, kLeasts}, q4_or_q5_k<false>},
    BlockType{13, {5, 0, 32, 256, kUnsigned, kLeasts}, q4_or_q5_k<true>},
    BlockType{14, {6, 32, 16, 256, kSigned, kNone}, q6_k},
    BlockType{20, coded({4, 128, 32, 32, kF16, kNone}, kIq4Levels), q4_0},
    BlockType{23, coded({4, 128, 32, 256, kSigned, kNone}, kIq4Levels), iq4_xs},
    BlockType{34, {2, 1, 256, 256, kF16, kNone}, tq1_0},
    BlockType{35, {2, 1, 256, 256, kF16, kNone}, tq2_0},
    BlockType{39, coded({4, 12, 32, 32, kExponent, kNone}, kE2M1Levels), mxfp4},
};

const BlockType& type_of(const WeightFormat& format) {
  for (const BlockType& type : kTypes) {
    if (type.number == format.block_type) return type;
  }
  base::assertion_failed("the type of block is in the table", __FILE__, __LINE__);
}

}  // namespace

const IntegerFormat& block_integers(const WeightFormat& format) { return type_of(format).integers; }

void decode_block(const WeightFormat& format, const std::byte* row, int64_t index,
                  IntegerBlock& out) {
  type_of(format).decode(reinterpret_cast<const uint8_t*>(row) + index * format.block_bytes, out);
}

void unpack_blocks(const WeightFormat& format, const std::byte* row, int64_t col, int64_t count,
                   float* out) {
  const IntegerFormat& integers = block_integers(format);
  const int64_t size = format.block_values;
  IntegerBlock block;
  for (const int64_t end = col + count; col < end;) {
    decode_block(format, row, col / size, block);
    const int64_t taken = std::min(end, (col / size + 1) * size) - col;
    integer_values(integers, block, col % size, taken, out);
    col += taken;
    out += taken;
  }
}

}  // namespace moesaic::tensor
