#pragma once

// How scales and offsets of integer formats are held; apart from integers.h, whose functions kernel
// sources may not include.

#include <cstdint>

namespace moesaic::tensor {

/// How the scale of a group of inputs of one output is held.
enum class ScaleKind : uint8_t {
  kF16,       ///< a half
  kF32,       ///< a float
  kExponent,  ///< a byte e: 2^(e - 128)
  kSigned,    ///< a signed byte, times the half of a block
  kUnsigned,  ///< a byte, times the half of a block
};

/// What is subtracted from the values of a group.
enum class OffsetKind : uint8_t {
  kNone,
  kF16,       ///< a half
  kZero,      ///< the scale times a zero point, which no value of 9 bits exceeds
  kUnsigned,  ///< a byte, times a second half of the block
};

}  // namespace moesaic::tensor
