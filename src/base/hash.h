#pragma once

// A fast hash for finding damage and naming cache files. Not for untrusted collisions.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace moesaic::base {

/// 64-bit hash of the bytes, the same on every little-endian machine. Several GB/s on one core.
uint64_t hash_bytes(std::span<const std::byte> bytes, uint64_t seed = 0);

/// The same of text.
inline uint64_t hash_text(std::string_view text, uint64_t seed = 0) {
  return hash_bytes(std::as_bytes(std::span(text.data(), text.size())), seed);
}

/// A well-mixed value of one number: nearby inputs give unrelated outputs. A bijection.
uint64_t mix_bits(uint64_t value);

}  // namespace moesaic::base
