#include "base/hash.h"

#include <array>
#include <cstring>

namespace moesaic::base {
namespace {

constexpr uint64_t kMultiplier = 0xd1342543de82ef95u;  // odd, bits evenly spread
constexpr uint64_t kIncrement = 0x9e3779b97f4a7c15u;   // 2^64 / golden ratio
constexpr size_t kLanes = 8;                           // hides the multiplier's latency

// For a fixed lane a bijection of the word, so one changed word always shows. The shift spreads the
// top bit, which multiplication leaves where it is.
uint64_t step(uint64_t lane, uint64_t word) {
  lane = (lane ^ word) * kMultiplier;
  return lane ^ (lane >> 32);
}

}  // namespace

uint64_t hash_bytes(std::span<const std::byte> bytes, uint64_t seed) {
  std::array<uint64_t, kLanes> lanes;
  for (size_t i = 0; i < kLanes; ++i) lanes[i] = mix_bits(seed + (i + 1) * kIncrement);
  const std::byte* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= sizeof(lanes); at += sizeof(lanes), left -= sizeof(lanes)) {
    std::array<uint64_t, kLanes> words;
    std::memcpy(words.data(), at, sizeof(words));
    for (size_t i = 0; i < kLanes; ++i) lanes[i] = step(lanes[i], words[i]);
  }
  if (left > 0) {
    std::array<uint64_t, kLanes> words{};
    std::memcpy(words.data(), at, left);
    for (size_t i = 0; i < kLanes; ++i) lanes[i] = step(lanes[i], words[i]);
  }
  uint64_t hash = mix_bits(bytes.size() + seed);
  for (uint64_t lane : lanes) hash = mix_bits(hash ^ lane) + kIncrement;
  return hash;
}

}  // namespace moesaic::base
