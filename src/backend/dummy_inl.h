#pragma once

// The hash behind dummy_value (ops.h). Static functions, for kernels compiled with special flags
// include this too.

#include <cstdint>

namespace moesaic::backend {

/// A key for one row of a dummy matrix.
[[maybe_unused]] static constexpr uint32_t dummy_row_key(uint64_t seed, int64_t row) {
  uint64_t x = seed * 0xd1342543de82ef95u + static_cast<uint64_t>(row);
  x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 29)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>(x >> 32);
}

/// The value in column `col` of the row with `key`. The 23 random bits, the half and the scale
/// make one rounding, so every instruction set gives the same float. The scale makes the largest
/// magnitude 0.02 sqrt(3).
[[maybe_unused]] static constexpr float dummy_from_key(uint32_t key, uint32_t col) {
  uint32_t x = key + col * 0x9e3779b9u;
  x = (x ^ (x >> 16)) * 0x45d9f3bu;
  x = (x ^ (x >> 15)) * 0x2c1b3c6du;
  x ^= x >> 16;
  const int32_t centred = static_cast<int32_t>(x >> 9) - (1 << 22);
  return (static_cast<float>(centred) + 0.5f) * (0.034641016f / (1 << 22));
}

}  // namespace moesaic::backend
