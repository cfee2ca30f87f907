#include "tensor/unpack_blocks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "tensor/unpack_stored.h"

namespace moesaic::tensor {
namespace {

constexpr int64_t kMostValues = 256;  ///< of a block

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
int signed_byte(uint8_t byte) { return static_cast<int8_t>(byte); }

/// Bit `bit` of `bits`.
int bit_of(uint32_t bits, int bit) { return static_cast<int>(bits >> bit & 1U); }

// --- blocks of 32 values: values 0 to 15 in the low nibbles of 16 bytes, 16 to 31 in the high ones

void q4_0(const uint8_t* block, float* out) {
  const float scale = half_at(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>((block[2 + i] & 15) - 8) * scale;
    out[i + 16] = static_cast<float>((block[2 + i] >> 4) - 8) * scale;
  }
}

void q4_1(const uint8_t* block, float* out) {
  const float scale = half_at(block);
  const float least = half_at(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>(block[4 + i] & 15) * scale + least;
    out[i + 16] = static_cast<float>(block[4 + i] >> 4) * scale + least;
  }
}

void q5_0(const uint8_t* block, float* out) {
  const float scale = half_at(block);
  const uint32_t fifth = u32_at(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int low = (block[6 + i] & 15) | bit_of(fifth, i) << 4;
    const int high = block[6 + i] >> 4 | bit_of(fifth, i + 16) << 4;
    out[i] = static_cast<float>(low - 16) * scale;
    out[i + 16] = static_cast<float>(high - 16) * scale;
  }
}

void q5_1(const uint8_t* block, float* out) {
  const float scale = half_at(block);
  const float least = half_at(block + 2);
  const uint32_t fifth = u32_at(block + 4);
  for (int i = 0; i < 16; ++i) {
    const int low = (block[8 + i] & 15) | bit_of(fifth, i) << 4;
    const int high = block[8 + i] >> 4 | bit_of(fifth, i + 16) << 4;
    out[i] = static_cast<float>(low) * scale + least;
    out[i + 16] = static_cast<float>(high) * scale + least;
  }
}

void q8_0(const uint8_t* block, float* out) {
  const float scale = half_at(block);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(signed_byte(block[2 + i])) * scale;
}

/// The code book of the IQ4 types.
constexpr std::array<float, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                              1,    13,   25,  38,  53,  69,  89,  113};

void iq4_nl(const uint8_t* block, float* out) {
  const float scale = half_at(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = kIq4Values[block[2 + i] & 15] * scale;
    out[i + 16] = kIq4Values[block[2 + i] >> 4] * scale;
  }
}

void mxfp4(const uint8_t* block, float* out) {
  const float scale = std::ldexp(1.0F, block[0] - 128);  // half of it, which never overflows
  for (int i = 0; i < 16; ++i) {
    out[i] = 2 * kE2M1[block[1 + i] & 15] * scale;
    out[i + 16] = 2 * kE2M1[block[1 + i] >> 4] * scale;
  }
}

// --- blocks of 256 values, in sub-blocks of 16 or 32 with scales of their own

/// scales[16], quants[64], d, dmin.
void q2_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 80);
  const float dmin = half_at(block + 82);
  for (int v = 0; v < 256; ++v) {
    const int half = v / 128;
    const int lane = v % 32;
    const uint8_t scales = block[v / 16];
    const int quant = block[16 + half * 32 + lane] >> (v % 128 / 32 * 2) & 3;
    out[v] = d * static_cast<float>(scales & 15) * static_cast<float>(quant) -
             dmin * static_cast<float>(scales >> 4);
  }
}

/// Scale `i` of the sixteen of six bits in twelve bytes: four low bits, two high ones.
int q3_scale(const uint8_t* scales, int i) {
  const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
  const int high = scales[8 + i % 4] >> (i / 4 * 2) & 3;
  return (low | high << 4) - 32;
}

/// high bits[32], quants[64], scales[12], d.
void q3_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 108);
  for (int v = 0; v < 256; ++v) {
    const int half = v / 128;
    const int lane = v % 32;
    const int shift = v % 128 / 32;
    const int low = block[32 + half * 32 + lane] >> (shift * 2) & 3;
    const int quant = low - (bit_of(block[lane], half * 4 + shift) != 0 ? 0 : 4);
    out[v] = d * static_cast<float>(q3_scale(block + 96, v / 16)) * static_cast<float>(quant);
  }
}

struct ScaleAndMin {
  float scale, min;
};

/// Sub-block `i` of the eight whose scales and minima, of six bits each, lie in twelve bytes.
ScaleAndMin q4_scale(const uint8_t* s, int i) {
  if (i < 4) return {static_cast<float>(s[i] & 63), static_cast<float>(s[i + 4] & 63)};
  return {static_cast<float>((s[i + 4] & 15) | s[i - 4] >> 6 << 4),
          static_cast<float>(s[i + 4] >> 4 | s[i] >> 6 << 4)};
}

/// d, dmin, scales[12], quants[128]; Q5_K has the fifth bits[32] before the quants.
template <bool kFifth>
void q4_or_q5_k(const uint8_t* block, float* out) {
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  const uint8_t* fifth = block + 16;
  const uint8_t* quants = block + (kFifth ? 48 : 16);
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleAndMin of = q4_scale(block + 4, sub);
    const float scale = d * of.scale;
    const float min = dmin * of.min;
    for (int lane = 0; lane < 32; ++lane) {
      int quant = quants[sub / 2 * 32 + lane] >> (sub % 2 * 4) & 15;
      if (kFifth) quant |= bit_of(fifth[lane], sub) << 4;
      out[sub * 32 + lane] = scale * static_cast<float>(quant) - min;
    }
  }
}

/// low bits[128], high bits[64], scales[16], d.
void q6_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 208);
  for (int v = 0; v < 256; ++v) {
    const int half = v / 128;
    const int quarter = v % 128 / 32;
    const int lane = v % 32;
    const int low = block[half * 64 + quarter % 2 * 32 + lane] >> (quarter / 2 * 4) & 15;
    const int high = block[128 + half * 32 + lane] >> (quarter * 2) & 3;
    const int scale = signed_byte(block[192 + v / 16]);
    out[v] = d * static_cast<float>(scale) * static_cast<float>((low | high << 4) - 32);
  }
}

/// d, high bits of the scales (u16), low bits[4], quants[128].
void iq4_xs(const uint8_t* block, float* out) {
  const float d = half_at(block);
  const uint32_t high = u16_at(block + 2);
  for (int sub = 0; sub < 8; ++sub) {
    const int low_bits = block[4 + sub / 2] >> (sub % 2 * 4) & 15;
    const int high_bits = static_cast<int>(high >> (2 * sub) & 3U);
    const float scale = d * static_cast<float>((low_bits | high_bits << 4) - 32);
    const uint8_t* quants = block + 8 + sub * 16;
    for (int i = 0; i < 16; ++i) {
      out[sub * 32 + i] = scale * kIq4Values[quants[i] & 15];
      out[sub * 32 + i + 16] = scale * kIq4Values[quants[i] >> 4];
    }
  }
}

// --- ternary blocks

/// quants[64] of two bits, d. Of 128 values, each byte has one of every 32.
void tq2_0(const uint8_t* block, float* out) {
  const float d = half_at(block + 64);
  for (int v = 0; v < 256; ++v) {
    const int quant = block[v / 128 * 32 + v % 32] >> (v % 128 / 32 * 2) & 3;
    out[v] = static_cast<float>(quant - 1) * d;
  }
}

/// Digit `i` of the five to base three in a byte, which holds their fraction of 256.
int ternary_digit(uint8_t byte, int i) {
  constexpr std::array<int, 5> kPowers = {1, 3, 9, 27, 81};
  return static_cast<uint8_t>(byte * kPowers[static_cast<size_t>(i)]) * 3 >> 8;
}

/// quants[48] of five digits: 32 bytes that have one of every 32 values, 16 that have one of every
/// 16; then 4 bytes of four digits, one of every 4 values; d.
void tq1_0(const uint8_t* block, float* out) {
  struct Run {
    int first_byte, bytes, digits;
  };
  const float d = half_at(block + 52);
  for (const Run run : {Run{0, 32, 5}, Run{32, 16, 5}, Run{48, 4, 4}}) {
    for (int digit = 0; digit < run.digits; ++digit) {
      for (int i = 0; i < run.bytes; ++i) {
        *out++ = static_cast<float>(ternary_digit(block[run.first_byte + i], digit) - 1) * d;
      }
    }
  }
}

using Decoder = void (*)(const uint8_t* block, float* out);

Decoder decoder_of(int32_t block_type) {
  switch (block_type) {
    case 2:
      return q4_0;
    case 3:
      return q4_1;
    case 6:
      return q5_0;
    case 7:
      return q5_1;
    case 8:
      return q8_0;
    case 10:
      return q2_k;
    case 11:
      return q3_k;
    case 12:
      return q4_or_q5_k<false>;
    case 13:
      return q4_or_q5_k<true>;
    case 14:
      return q6_k;
    case 20:
      return iq4_nl;
    case 23:
      return iq4_xs;
    case 34:
      return tq1_0;
    case 35:
      return tq2_0;
    case 39:
      return mxfp4;
    default:
      break;
  }
  base::assertion_failed("the type of block is in the table", __FILE__, __LINE__);
}

}  // namespace

void unpack_blocks(const WeightFormat& format, const std::byte* row, int64_t col, int64_t count,
                   float* out) {
  const Decoder decode = decoder_of(format.block_type);
  const int64_t size = format.block_values;
  std::array<float, kMostValues> values{};
  for (const int64_t end = col + count; col < end;) {
    const auto* block = reinterpret_cast<const uint8_t*>(row) + col / size * format.block_bytes;
    const int64_t first = col % size;
    const int64_t taken = std::min(size - first, end - col);
    if (taken == size) {
      decode(block, out);
    } else {
      decode(block, values.data());
      std::copy_n(values.data() + first, taken, out);
    }
    col += taken;
    out += taken;
  }
}

}  // namespace moesaic::tensor
