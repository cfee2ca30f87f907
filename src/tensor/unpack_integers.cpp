#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "tensor/unpack_stored.h"

namespace moesaic::tensor {
namespace {

/// A matrix of words of 32 bits, each of which holds integers of `bits`: 2, 4 or 8.
class Words {
 public:
  Words(const View& view, int64_t bits)
      : words_(reinterpret_cast<const uint32_t*>(view.data)),
        stride_(view.data == nullptr ? 0 : view.shape[1]),
        bits_(bits),
        log_each_(std::countr_zero(static_cast<uint64_t>(32 / bits))) {}

  /// Integer `at` of those that share words along a row.
  int along_row(int64_t row, int64_t at) const { return get(row, at >> log_each_, place(at)); }
  /// Integer `at` of those that share words along a column.
  int along_column(int64_t at, int64_t col) const { return get(at >> log_each_, col, place(at)); }
  /// The integer in `place`, 0 lowest, of a word.
  int get(int64_t row, int64_t col, int64_t place) const {
    return static_cast<int>(words_[row * stride_ + col] >> (place * bits_) & ((1U << bits_) - 1));
  }

 private:
  int64_t place(int64_t at) const { return at & ((int64_t{1} << log_each_) - 1); }

  const uint32_t* words_;
  int64_t stride_;
  int64_t bits_;
  int log_each_;
};

// How one packing lies: the value of (output, input), the zero point and the scale of (output,
// group).

/// Values [outputs, words of inputs], scales [outputs, groups], zero points [words of outputs,
/// groups].
struct AlongInputs {
  Words values, zeros;
  const View& scales;

  int value(int64_t n, int64_t k) const { return values.along_row(n, k); }
  int zero(int64_t n, int64_t g) const { return zeros.along_column(n, g); }
  float scale(int64_t n, int64_t g) const { return load_scale(scales, n, g); }
};

/// Values [words of inputs, outputs], scales [groups, outputs], zero points [groups, words of
/// outputs].
struct Gptq {
  Words values, zeros;
  const View& scales;

  int value(int64_t n, int64_t k) const { return values.along_column(k, n); }
  int zero(int64_t n, int64_t g) const { return zeros.along_row(g, n); }
  float scale(int64_t n, int64_t g) const { return load_scale(scales, g, n); }
};

/// Values [inputs, words of outputs], scales [groups, outputs], zero points [groups, words of
/// outputs]; the eight outputs of a word lie in the order 0, 2, 4, 6, 1, 3, 5, 7.
struct AwqGemm {
  Words values, zeros;
  const View& scales;

  static int64_t place(int64_t n) {
    constexpr std::array<int64_t, 8> kPlace = {0, 4, 1, 5, 2, 6, 3, 7};
    return kPlace[static_cast<size_t>(n % 8)];
  }
  int value(int64_t n, int64_t k) const { return values.get(k, n / 8, place(n)); }
  int zero(int64_t n, int64_t g) const { return zeros.get(g, n / 8, place(n)); }
  float scale(int64_t n, int64_t g) const { return load_scale(scales, g, n); }
};

/// Values [outputs, words of inputs], scales [outputs, groups], zero points [outputs, words of
/// groups]; groups are padded.
struct AwqGemv {
  Words values, zeros;
  const View& scales;

  int value(int64_t n, int64_t k) const { return values.along_row(n, k); }
  int zero(int64_t n, int64_t g) const { return zeros.along_row(n, g); }
  float scale(int64_t n, int64_t g) const { return load_scale(scales, n, g); }
};

/// Values are bytes, [outputs, inputs]; zero points too, which lie as scales do: [groups of
/// outputs, groups of inputs].
struct Bytes {
  const Part& part;
  int64_t group_n;

  static int get(const View& bytes, int64_t row, int64_t col) {
    return reinterpret_cast<const int8_t*>(bytes.data)[row * bytes.shape[1] + col];
  }
  int64_t group_row(int64_t n) const { return group_n > 0 ? n / group_n : 0; }
  int value(int64_t n, int64_t k) const { return get(part.values, n, k); }
  int zero(int64_t n, int64_t g) const { return get(part.zeros, group_row(n), g); }
  float scale(int64_t n, int64_t g) const { return load_scale(part.scales, group_row(n), g); }
};

/// The group of an input where a file says it; one that does not exist counts as the last, since
/// the file may have changed after it was checked.
int64_t ordered_group(const View& order, int64_t k, int64_t groups) {
  const int32_t group = reinterpret_cast<const int32_t*>(order.data)[k];
  return std::clamp<int64_t>(group, 0, groups - 1);
}

/// The group of input `k`, in order.
int64_t group_of(const WeightFormat& format, int64_t k) {
  return format.group_k > 0 ? k / format.group_k : 0;
}

/// Calls take(packed, zero): how the values of a part lie, and their zero point where groups have
/// none of their own.
template <typename Take>
void with_packing(const WeightFormat& format, const Part& part, const Take& take) {
  const Words values(part.values, format.value_bits);
  const Words zeros(part.zeros, format.value_bits);
  const int middle = 1 << (format.value_bits - 1);
  switch (format.packing) {
    case Packing::kElements:
      return take(Bytes{part, format.group_n}, 0);
    case Packing::kWords:
      return take(AlongInputs{values, zeros, part.scales}, middle);
    case Packing::kGptq:
      return take(Gptq{values, zeros, part.scales}, middle);
    case Packing::kAwqGemm:
      return take(AwqGemm{values, zeros, part.scales}, middle);
    case Packing::kAwqGemv:
      return take(AwqGemv{values, zeros, part.scales}, middle);
    default:
      base::assertion_failed("a packing of integers", __FILE__, __LINE__);
  }
}

template <typename Packed>
void unpack_as(const Packed& packed, const WeightFormat& format, const Part& part, int fixed_zero,
               int64_t row, int64_t col, int64_t count, float* out) {
  const bool ordered = part.order.data != nullptr;
  const bool transposed = format.packing == Packing::kGptq || format.packing == Packing::kAwqGemm;
  const int64_t groups = part.scales.shape[transposed ? 0 : 1];
  const int64_t end = col + count;
  for (int64_t k = col; k < end;) {
    int64_t group = group_of(format, k);
    int64_t group_end = end;
    if (ordered) {
      group = ordered_group(part.order, k, groups);
      group_end = k + 1;
    } else if (format.group_k > 0) {
      group_end = std::min(end, (group + 1) * format.group_k);
    }
    const float scale = packed.scale(row, group) * format.scale_unit;
    const int zero = format.zeros_stored
                         ? packed.zero(row, group) + static_cast<int>(format.zero_offset)
                         : fixed_zero;
    for (; k < group_end; ++k) *out++ = static_cast<float>(packed.value(row, k) - zero) * scale;
  }
}

}  // namespace

void unpack_integers(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                     int64_t count, float* out) {
  with_packing(format, part, [&](const auto& packed, int fixed_zero) {
    unpack_as(packed, format, part, fixed_zero, row, col, count, out);
  });
}

std::optional<IntegerFormat> affine_integers(const WeightFormat& format) {
  constexpr int64_t kLargest = 128;
  IntegerFormat integers;
  integers.bits = format.value_bits;
  integers.scale = ScaleKind::kF32;
  integers.offset = format.zeros_stored ? OffsetKind::kZero : OffsetKind::kNone;
  // Bytes are signed, and codes are not.
  if (!format.zeros_stored) integers.zero = int64_t{1} << (format.value_bits - 1);
  const int64_t group = format.group_k;
  if (group % kLargest != 0 && group != 32 && group != 64) return std::nullopt;
  integers.group = integers.block = group % kLargest == 0 ? kLargest : group;
  return integers;
}

void affine_block(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                  int64_t end, IntegerBlock& out) {
  const int bias = format.packing == Packing::kElements ? 128 : 0;
  const int64_t group = group_of(format, col);
  with_packing(format, part, [&](const auto& packed, int) {
    out.scale = packed.scale(row, group) * format.scale_unit;
    if (format.zeros_stored) {
      out.group_offset[0] = static_cast<int16_t>(packed.zero(row, group) + bias +
                                                 static_cast<int>(format.zero_offset));
    }
    for (int64_t k = col; k < end; ++k) {
      out.codes[static_cast<size_t>(k - col)] = static_cast<uint8_t>(packed.value(row, k) + bias);
    }
  });
}

bool affine_in_order(const WeightFormat& format, const Part& part) {
  if (part.order.data == nullptr) return true;
  for (int64_t k = 0; k < part.order.shape[0]; ++k) {
    int32_t group = 0;  // it may lie at any address in the file
    std::memcpy(&group, part.order.data + static_cast<size_t>(k) * sizeof(group), sizeof(group));
    if (group != group_of(format, k)) return false;
  }
  return true;
}

}  // namespace moesaic::tensor
