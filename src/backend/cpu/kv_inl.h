// Elements of the KV cache: their places and their conversion, for each instruction set.

#pragma once

#include <cstring>

#include "backend/cpu/kernels_attention.h"
#include "backend/cpu/vec_inl.h"

namespace moesaic::backend::cpu {
namespace {

template <KvType T>
constexpr int64_t kBytes = T == KvType::kF32 ? 4 : 2;

MOESAIC_INLINE uint16_t bf16_bits(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// IEEE half, rounded to nearest even.
MOESAIC_INLINE uint16_t f16_bits(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    float shifted = 0;
    std::memcpy(&shifted, &magnitude, sizeof(shifted));
    shifted += 0.5f;
    uint32_t low = 0;
    std::memcpy(&low, &shifted, sizeof(low));
    return static_cast<uint16_t>(sign | (low - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

template <KvType T>
MOESAIC_INLINE void put(std::byte* place, float value) {
  if constexpr (T == KvType::kF32) {
    std::memcpy(place, &value, 4);
  } else {
    const uint16_t bits = T == KvType::kBF16 ? bf16_bits(value) : f16_bits(value);
    std::memcpy(place, &bits, 2);
  }
}

/// kLanes consecutive elements.
template <KvType T>
MOESAIC_INLINE Vec load_kv(const std::byte* place) {
  if constexpr (T == KvType::kF32) return load(reinterpret_cast<const float*>(place));
  if constexpr (T == KvType::kBF16) return load_bf16(reinterpret_cast<const uint16_t*>(place));
  if constexpr (T == KvType::kF16) return load_f16(reinterpret_cast<const uint16_t*>(place));
}

/// dst[i] = element i, for i < count.
template <KvType T>
MOESAIC_INLINE void get(const std::byte* place, int64_t count, float* dst) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(dst + i, load_kv<T>(place + i * kBytes<T>));
  if (i == count) return;
  // A whole vector could lie past the end of the cache.
  alignas(64) std::byte rest[kLanes * 4] = {};
  alignas(64) float lanes[kLanes];
  std::memcpy(rest, place + i * kBytes<T>, static_cast<size_t>((count - i) * kBytes<T>));
  store(lanes, load_kv<T>(rest));
  std::memcpy(dst + i, lanes, static_cast<size_t>(count - i) * sizeof(float));
}

/// Index of K's element (dim 0, position `offset`) of a head in a block; dims lie block_size apart.
MOESAIC_INLINE int64_t key_index(const KvView& kv, int64_t block, int64_t head, int64_t offset) {
  return (block * 2 * kv.kv_heads + head) * kv.head_dim * kv.block_size + offset;
}
/// Index of V's element (position `offset`, dim 0) of a head in a block; dims lie side by side.
MOESAIC_INLINE int64_t value_index(const KvView& kv, int64_t block, int64_t head, int64_t offset) {
  return ((block * 2 + 1) * kv.kv_heads + head) * kv.head_dim * kv.block_size +
         offset * kv.head_dim;
}

}  // namespace
}  // namespace moesaic::backend::cpu
