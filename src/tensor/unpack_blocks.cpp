#include "tensor/unpack_blocks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "tensor/code_books.h"

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

// --- blocks of 256 values that name entries of a code book, and a sign for each value

/// Writes the codes of an entry of `count` values: their bits, and `marks` bits from the lowest on
/// as bit 3.
void put_entry(uint32_t entry, int count, uint32_t marks, uint8_t* codes) {
  const int bits = count == 8 ? 2 : 3;
  for (int i = 0; i < count; ++i) {
    const uint32_t digit = entry >> (bits * i) & ((1U << bits) - 1);
    codes[i] = static_cast<uint8_t>(digit | (marks >> i & 1U) << 3);
  }
}

/// Eight signs of which seven are stored: an even number are minus.
uint32_t even_signs(uint32_t seven) {
  return seven | static_cast<uint32_t>(std::popcount(seven) & 1) << 7;
}

/// Groups' scales are odd numbers, of which the bits above the lowest are stored.
int16_t odd(uint32_t stored) { return static_cast<int16_t>(2 * stored + 1); }

/// Nibble `i` of some bytes.
uint32_t nibble(const uint8_t* bytes, int i) { return bytes[i / 2] >> (i % 2 * 4) & 15U; }

/// d; for each 32 values four entries, and a word of four times seven signs and the scale.
void iq2_xxs(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block) / 8;
  for (int group = 0; group < 8; ++group) {
    const uint8_t* entries = block + 2 + 8 * group;
    const uint32_t word = u32_at(entries + 4);
    out.group_scale[static_cast<size_t>(group)] = odd(word >> 28);
    for (int i = 0; i < 4; ++i) {
      put_entry(kIq2Xxs[entries[i]], 8, even_signs(word >> (7 * i) & 127),
                out.codes.data() + 32 * group + 8 * i);
    }
  }
}

/// d, entries[32] of nine bits with seven signs each, scales[8] of four bits.
void iq2_xs(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block) / 8;
  for (int i = 0; i < 16; ++i) {
    out.group_scale[static_cast<size_t>(i)] = odd(nibble(block + 66, i));
  }
  for (int i = 0; i < 32; ++i) {
    const uint32_t word = u16_at(block + 2 + 2 * i);
    put_entry(kIq2Xs[word & 511], 8, even_signs(word >> 9), out.codes.data() + 8 * i);
  }
}

/// d, entries[32] of eight bits, signs[32], two more bits of the entries[8], scales[8].
void iq2_s(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block) / 8;
  for (int i = 0; i < 16; ++i) {
    out.group_scale[static_cast<size_t>(i)] = odd(nibble(block + 74, i));
  }
  for (int i = 0; i < 32; ++i) {
    const uint32_t high = block[66 + i / 4] >> (i % 4 * 2) & 3U;
    put_entry(kIq2S[block[2 + i] | high << 8], 8, block[34 + i], out.codes.data() + 8 * i);
  }
}

/// d, entries[64]; for each 32 values a word of four times seven signs and the scale.
void iq3_xxs(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block) / 4;
  for (int group = 0; group < 8; ++group) {
    const uint32_t word = u32_at(block + 66 + 4 * group);
    out.group_scale[static_cast<size_t>(group)] = odd(word >> 28);
    for (int i = 0; i < 8; ++i) {
      const uint32_t signs = even_signs(word >> (i / 2 * 7) & 127) >> (i % 2 * 4);
      put_entry(kIq3Xxs[block[2 + 8 * group + i]], 4, signs, out.codes.data() + 32 * group + 4 * i);
    }
  }
}

/// d, entries[64] of eight bits, a ninth bit of them[8], signs[32], scales[4].
void iq3_s(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block);
  for (int i = 0; i < 8; ++i) {
    out.group_scale[static_cast<size_t>(i)] = odd(nibble(block + 106, i));
  }
  for (int i = 0; i < 64; ++i) {
    const uint32_t high = block[66 + i / 8] >> (i % 8) & 1U;
    put_entry(kIq3S[block[2 + i] | high << 8], 4, block[74 + i / 2] >> (i % 2 * 4),
              out.codes.data() + 4 * i);
  }
}

/// Entries of the IQ1 types mean -1, 0 or 1, all eight moved up or down by an eighth.
void put_moved_entry(uint32_t entry, bool down, uint8_t* codes) {
  put_entry(kIq1[entry], 8, down ? 255 : 0, codes);
}

/// d, entries[32] of eight bits; for each 32 values a word of four times three more bits of the
/// entries, the scale, and which way they are moved.
void iq1_s(const uint8_t* block, IntegerBlock& out) {
  out.scale = half_at(block) / 8;
  for (int group = 0; group < 8; ++group) {
    const uint32_t word = u16_at(block + 34 + 2 * group);
    out.group_scale[static_cast<size_t>(group)] = odd(word >> 12 & 7);
    for (int i = 0; i < 4; ++i) {
      const uint32_t high = word >> (3 * i) & 7;
      put_moved_entry(block[2 + 4 * group + i] | high << 8, word >> 15 != 0,
                      out.codes.data() + 32 * group + 8 * i);
    }
  }
}

/// Entries[32] of eight bits; nibbles of three more bits of each and which way it is moved; four
/// words of four scales of three bits, and in their highest nibbles d.
void iq1_m(const uint8_t* block, IntegerBlock& out) {
  uint32_t d = 0;
  for (int word = 0; word < 4; ++word) {
    const uint32_t bits = u16_at(block + 48 + 2 * word);
    d |= bits >> 12 << (4 * word);
    for (int i = 0; i < 4; ++i) {
      const int group = 4 * word + i;
      out.group_scale[static_cast<size_t>(group)] = odd(bits >> (3 * i) & 7);
    }
  }
  out.scale = to_float(F16{static_cast<uint16_t>(d)}) / 8;
  for (int i = 0; i < 32; ++i) {
    const uint32_t more = nibble(block + 32, i);
    put_moved_entry(block[i] | (more & 7) << 8, more >> 3 != 0, out.codes.data() + 8 * i);
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
/// The magnitudes that entries of the IQ2 and IQ3 types name, and minus those, plus 128.
constexpr std::array<uint8_t, 16> kIq2Levels = {136, 153, 171, 171, 136, 153, 171, 171,
                                                120, 103, 85,  85,  120, 103, 85,  85};
constexpr std::array<uint8_t, 16> kIq3XxsLevels = {132, 140, 148, 156, 164, 172, 180, 190,
                                                   124, 116, 108, 100, 92,  84,  76,  66};
constexpr std::array<uint8_t, 16> kIq3SLevels = {129, 131, 133, 135, 137, 139, 141, 143,
                                                 127, 125, 123, 121, 119, 117, 115, 113};
/// Eight times -1, 0 and 1, moved up by one, and down by one, plus 128.
constexpr std::array<uint8_t, 16> kIq1Levels = {121, 129, 137, 137, 121, 129, 137, 137,
                                                119, 127, 135, 135, 119, 127, 135, 135};
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

constexpr IntegerFormat coded(IntegerFormat format, const std::array<uint8_t, 16>& levels,
                              float unit = 1) {
  format.levels = levels.data();
  format.unit = unit;
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
    BlockType{16, coded({4, 128, 32, 256, kUnsigned, kNone}, kIq2Levels, 1.0f / 8), iq2_xxs},
    BlockType{17, coded({4, 128, 16, 256, kUnsigned, kNone}, kIq2Levels, 1.0f / 8), iq2_xs},
    BlockType{18, coded({4, 128, 32, 256, kUnsigned, kNone}, kIq3XxsLevels, 1.0f / 4), iq3_xxs},
    BlockType{19, coded({4, 128, 32, 256, kUnsigned, kNone}, kIq1Levels, 1.0f / 8), iq1_s},
    BlockType{20, coded({4, 128, 32, 32, kF16, kNone}, kIq4Levels), q4_0},
    BlockType{21, coded({4, 128, 32, 256, kUnsigned, kNone}, kIq3SLevels), iq3_s},
    BlockType{22, coded({4, 128, 16, 256, kUnsigned, kNone}, kIq2Levels, 1.0f / 8), iq2_s},
    BlockType{23, coded({4, 128, 32, 256, kSigned, kNone}, kIq4Levels), iq4_xs},
    BlockType{29, coded({4, 128, 16, 256, kUnsigned, kNone}, kIq1Levels, 1.0f / 8), iq1_m},
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
