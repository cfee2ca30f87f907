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

/// A well-mixed value of one number: every input bit reaches every output bit. A bijection, the
/// finaliser of SplitMix64 (Steele, Lea, Flood 2014).
inline uint64_t mix_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// The number that SplitMix64 gives in state `x`.
inline uint64_t split_mix(uint64_t x) { return mix_bits(x + 0x9e3779b97f4a7c15ULL); }

}  // namespace moesaic::base
