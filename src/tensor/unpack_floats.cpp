#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "tensor/unpack_stored.h"

namespace moesaic::tensor {
namespace {

using Table = std::array<float, 256>;

template <typename Value>
Table table_of(Value value) {
  Table table{};
  for (size_t bits = 0; bits < table.size(); ++bits) {
    table[bits] = value(static_cast<uint8_t>(bits));
  }
  return table;
}

const Table& e4m3_table() {
  static const Table kTable = table_of(float_from_e4m3);
  return kTable;
}
const Table& e5m2_table() {
  static const Table kTable = table_of(float_from_e5m2);
  return kTable;
}

uint8_t byte_at(const View& view, int64_t row, int64_t col) {
  return static_cast<uint8_t>(view.row(row)[col]);
}

/// Sign, exponent and mantissa of a number of 8 bits without special values.
float small_float(uint8_t bits, int mantissa_bits, int bias) {
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int exponent = (bits & 0x7f) >> mantissa_bits;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits)
                              : std::ldexp(static_cast<float>(mantissa + (1 << mantissa_bits)),
                                           exponent - bias - mantissa_bits);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

/// Values [outputs, inputs / 2], the first in the low four bits; scales [outputs, groups].
void unpack_nibbles(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                    int64_t count, float* out) {
  const bool outer = part.outer_scales.data != nullptr;
  const float all = outer ? load_scale(part.outer_scales, 0, 0) : 1.0f;
  const auto* bytes = reinterpret_cast<const uint8_t*>(part.values.row(row));
  const int64_t end = col + count;
  for (int64_t k = col; k < end;) {
    const int64_t group = k / format.group_k;
    const int64_t group_end = std::min(end, (group + 1) * format.group_k);
    const float own = load_scale(part.scales, row, group);
    const float scale = !outer ? own : format.outer_divides ? own / all : own * all;
    for (; k < group_end; ++k) {
      const int code = bytes[k / 2] >> (k % 2 * 4) & 15;
      *out++ = kE2M1[static_cast<size_t>(code)] * scale;
    }
  }
}

/// The scale of a block of bitsandbytes' 4-bit types: a float, or a code whose value is scaled by
/// that of 256 blocks and moved by one offset for the whole matrix.
float block_scale(const Part& part, int64_t block) {
  constexpr int64_t kOuterBlocks = 256;
  if (part.scale_codes.data == nullptr) return load_scale(part.scales, 0, block);
  const int64_t code = byte_at(part.scales, 0, block);
  return load_scale(part.scale_codes, 0, code) *
             load_scale(part.outer_scales, 0, block / kOuterBlocks) +
         part.scale_offset;
}

/// Values two to a byte over the whole matrix, row by row, the first in the high four bits; a scale
/// for each group_k values of that.
void unpack_flat(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                 int64_t count, float* out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(part.values.data);
  std::array<float, 16> values{};
  for (size_t code = 0; code < values.size(); ++code) {
    values[code] = load_scale(part.codes, 0, static_cast<int64_t>(code));
  }
  const int64_t begin = row * part.inputs + col;
  const int64_t end = begin + count;
  for (int64_t i = begin; i < end;) {
    const int64_t block = i / format.group_k;
    const int64_t block_end = std::min(end, (block + 1) * format.group_k);
    const float scale = block_scale(part, block);
    for (; i < block_end; ++i) {
      const int code = i % 2 == 0 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15;
      *out++ = values[static_cast<size_t>(code)] * scale;
    }
  }
}

}  // namespace

float float_from_e4m3(uint8_t bits) {
  if ((bits & 0x7f) == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  return small_float(bits, 3, 7);
}

float float_from_e5m2(uint8_t bits) {
  if ((bits & 0x7f) > 0x7c) return std::numeric_limits<float>::quiet_NaN();
  if ((bits & 0x7f) == 0x7c) {
    return (bits & 0x80) != 0 ? -std::numeric_limits<float>::infinity()
                              : std::numeric_limits<float>::infinity();
  }
  return small_float(bits, 2, 15);
}

float float_from_e8m0(uint8_t bits) {
  if (bits == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0f, bits - 127);
}

float load_scale(const View& scales, int64_t row, int64_t col) {
  switch (scales.dtype) {
    case DType::kF8E4M3:
      return e4m3_table()[byte_at(scales, row, col)];
    case DType::kU8:
    case DType::kF8E8M0:
      return float_from_e8m0(byte_at(scales, row, col));
    default:
      return load_float(scales.dtype, scales.row(row), col);
  }
}

void unpack_small_floats(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                         int64_t count, float* out) {
  const Table& table = part.values.dtype == DType::kF8E5M2 ? e5m2_table() : e4m3_table();
  const auto* bytes = reinterpret_cast<const uint8_t*>(part.values.row(row));
  const int64_t group_row = format.group_n > 0 ? row / format.group_n : 0;
  const int64_t end = col + count;
  for (int64_t k = col; k < end;) {
    const int64_t group = format.group_k > 0 ? k / format.group_k : 0;
    const int64_t group_end =
        format.group_k > 0 ? std::min(end, (group + 1) * format.group_k) : end;
    const float scale = load_scale(part.scales, group_row, group);
    for (; k < group_end; ++k) *out++ = table[bytes[k]] * scale;
  }
}

void unpack_codes(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                  int64_t count, float* out) {
  if (format.packing == Packing::kFlat) {
    unpack_flat(format, part, row, col, count, out);
  } else {
    MOESAIC_ASSERT(format.packing == Packing::kNibbles);
    unpack_nibbles(format, part, row, col, count, out);
  }
}

}  // namespace moesaic::tensor
