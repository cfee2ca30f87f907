#pragma once

// Float32 weights on tensor cores that take bf16: three matrices in place of one.

#include <array>
#include <cmath>

#include "tensor/dtype.h"

namespace moesaic::backend::cuda {

inline constexpr int kSplitParts = 3;

/// Three bf16 values whose sum is `value` up to 2^-24 of it: each is what the ones before leave,
/// rounded. A product of bf16 rows with all three, added up in float32, is one with float32
/// weights.
inline std::array<tensor::BF16, kSplitParts> split_f32(float value) {
  std::array<tensor::BF16, kSplitParts> parts{};
  for (tensor::BF16& part : parts) {
    part = tensor::to_bf16(value);
    value -= tensor::to_float(part);
    if (!std::isfinite(value)) break;  // infinity and NaN are in the first part
  }
  return parts;
}

}  // namespace moesaic::backend::cuda
