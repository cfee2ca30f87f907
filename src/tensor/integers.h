#pragma once

// Formats whose values are integers, as kernels of integer products take them: codes, and what
// makes values of codes. unpack.h says what the values are; this is the same before the last
// multiplication.

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "tensor/integer_kinds.h"
#include "tensor/weight_format.h"

namespace moesaic::tensor {

/// The value of an input is scale * (level - zero) - offset: the level is its code, or the entry of
/// `levels` that the code names.
struct IntegerFormat {
  int64_t bits = 8;    ///< of a code: 2, 3, 4, 5, 6 or 8
  int64_t zero = 0;    ///< the same for all groups
  int64_t group = 32;  ///< inputs that share a scale
  int64_t block = 32;  ///< inputs that integer_block() takes apart at once, one group or several
  ScaleKind scale = ScaleKind::kF32;
  OffsetKind offset = OffsetKind::kNone;
  const uint8_t* levels = nullptr;  ///< sixteen, there for ever
  float unit = 1;  ///< a power of two; halves of scales are held as multiples of it

  int64_t groups() const { return block / group; }
  bool operator==(const IntegerFormat&) const = default;
};

/// Most inputs of a block, and most groups.
inline constexpr int64_t kMostBlockInputs = 256;
inline constexpr int64_t kMostBlockGroups = 16;

/// Some inputs of one output: IntegerFormat::block of them.
struct IntegerBlock {
  std::array<uint8_t, kMostBlockInputs> codes{};
  float scale = 0;   ///< of the one group, or what the groups' bytes are times; `unit` included
  float offset = 0;  ///< likewise
  /// kSigned, kUnsigned: the groups' bytes; kExponent: the byte.
  std::array<int16_t, kMostBlockGroups> group_scale{};
  /// kUnsigned: the groups' bytes; kZero: the zero point.
  std::array<int16_t, kMostBlockGroups> group_offset{};
};

/// What a format is in integers; nothing where it has floats, a code book of floats, or groups of
/// another size than 32, 64 or a multiple of 128.
std::optional<IntegerFormat> integers_of(const WeightFormat& format);

/// Whether a part's inputs lie in the order of their groups: the others are no integer blocks.
bool in_order(const WeightFormat& format, const Part& part);

/// Takes inputs [col, col + block) of output `row` apart; `col` is a multiple of the block. Inputs
/// from `end` on are not there and get code 0. The part is in_order().
void integer_block(const WeightFormat& format, const IntegerFormat& integers, const Part& part,
                   int64_t row, int64_t col, int64_t end, IntegerBlock& out);

/// The nearest codes of up to a block of values, with the scales and offsets that the extreme
/// values of each group ask for; codes of the rest are 0.
void quantise_block(const IntegerFormat& integers, std::span<const float> values,
                    IntegerBlock& out);

/// The scale and the offset of a group of a block.
struct IntegerScale {
  float scale, offset;
};
IntegerScale integer_scale(const IntegerFormat& integers, const IntegerBlock& block, int64_t group);

/// The values of inputs [first, first + count) of a block.
void integer_values(const IntegerFormat& integers, const IntegerBlock& block, int64_t first,
                    int64_t count, float* out);

}  // namespace moesaic::tensor
