#pragma once

// Products of integers: weights in codes of a few bits, activations rounded to signed bytes in
// groups. Sums of a group are exact, so that every instruction set and every number of rows makes
// the same of them; what follows is float, group by group in ascending order. Like kernels.h this
// is included by sources compiled for each set: plain data only.
//
// Packed weights are panels of 64 outputs, as kernels.h has them, in blocks of inputs one after the
// other. A block has
//   scales [64] of the block: halves, floats, exponents in bytes; halves of offsets or zero points,
//     in bytes or, of codes of 8 bits, two bytes, if there are any;
//   where groups have bytes of their own, those of the scales [groups][64], then of the offsets;
//   units of 32 inputs: codes in planes of 8, 4, 2 or 1 bits.
// A unit's codes are numbered i = [8 quads of inputs][64 outputs][4 inputs]. Byte j of a plane of b
// bits, which takes 256 b bytes, holds the bits of the codes j + 256 b m in its bits from b m on;
// so a vector of a plane, shifted, is a vector of codes. Codes of 3, 5 and 6 bits are two planes,
// low bits first.

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"
#include "tensor/integer_kinds.h"

namespace moesaic::backend::cpu {

using tensor::OffsetKind;
using tensor::ScaleKind;

constexpr int64_t kUnitInputs = 32;
/// Bytes of a unit's codes for each bit of a code, and of the codes unpacked.
constexpr int64_t kUnitBitBytes = kPanelOutputs * kUnitInputs / 8;
constexpr int64_t kUnitCodes = kPanelOutputs * kUnitInputs;
constexpr int64_t kMostUnits = 8;  ///< of a block

/// Where things lie in a block of weights.
struct IntegerShape {
  int bits = 8;
  int zero = 0;
  ScaleKind scale = ScaleKind::kF32;
  OffsetKind offset = OffsetKind::kNone;
  const uint8_t* levels = nullptr;  ///< of codes of 4 bits that name one of 16 levels; or null
  float unit = 1;                   ///< halves of scales are multiples of it
  bool halves = false;              ///< groups are of 16 inputs, two a unit; else of 32 or more
  int64_t units = 1;                ///< of a block
  /// In bytes from the block's start.
  int64_t offsets_at = 0;        ///< of the block
  int64_t group_scales_at = 0;   ///< kSigned, kUnsigned
  int64_t group_offsets_at = 0;  ///< kUnsigned
  int64_t codes_at = 0;
  int64_t block_bytes = 0;
};
static constexpr int64_t unit_bytes(const IntegerShape& shape) {
  return shape.bits * kUnitBitBytes;
}

/// Bits of the low plane of two, or of the only one.
static constexpr int low_plane(int bits) {
  if (bits == 3) return 2;
  return bits == 5 || bits == 6 ? 4 : bits;
}

/// What a group of activations has before its bytes, which are `scale` times the values.
struct ActivationGroup {
  float scale;
  int32_t start;  ///< what a sum of the group begins with: what the zero asks for
  float minus;    ///< minus the sum of the group's rounded values; offsets are multiplied by it
  float unused;
};

/// Inputs of a group of activations: those of a group of weights, at most a unit.
static constexpr int64_t activation_group(bool halves) { return halves ? 16 : 32; }
/// Bytes of a unit of activations.
static constexpr int64_t activation_unit(bool halves) {
  return kUnitInputs + (halves ? 2 : 1) * static_cast<int64_t>(sizeof(ActivationGroup));
}

struct IntegerTable {
  /// As KernelTable::gemm. Activations are units as above, with zeros up to the end of the last
  /// block; with kSwiGlu, what is handed on is units for weights of the shape `then`.
  void (*gemm)(const IntegerShape& shape, const IntegerShape* then, const Gemm& task);

  /// Rounds rows x[index[i]] (or x[i]) for i in [first, first + rows), `k` inputs each and zeros up
  /// to `units` units for weights of `shape`, into rows `first`.. of `out`; a negative index leaves
  /// its row alone. What is not finite makes all of its group's products NaN.
  void (*round_rows)(const IntegerShape& shape, const float* x, const int32_t* index, int64_t first,
                     int64_t rows, int64_t k, int64_t units, std::byte* out,
                     const ActivationLayout& layout);

  /// As KernelTable::peak, of integer products.
  double (*peak)(int64_t iterations);
};

}  // namespace moesaic::backend::cpu
