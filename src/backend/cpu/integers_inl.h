// The products of integers, compiled once per instruction set (gemm_<isa>.cpp), beside gemm_inl.h,
// whose epilogues and prefetching they share.
//
// For a few rows codes are unpacked in registers, on their way into the products. For more rows a
// stretch of inputs is unpacked once, to a byte a code, and then meets them all.

#pragma once

#include <cstring>
#include <utility>

#include "backend/cpu/gemm_inl.h"
#include "backend/cpu/kernels_integers.h"

namespace moesaic::backend::cpu {
namespace {

// --- Vectors of bytes: kLanes outputs, four inputs each.

#if defined(__AVX512VNNI__)

using Bytes = __m512i;
MOESAIC_INLINE Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
MOESAIC_INLINE void store_bytes(void* p, Bytes v) { _mm512_storeu_si512(p, v); }
MOESAIC_INLINE Bytes set_quad(int32_t quad) { return _mm512_set1_epi32(quad); }
MOESAIC_INLINE Bytes set_byte(int byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }
MOESAIC_INLINE Bytes and_bytes(Bytes a, Bytes b) { return _mm512_and_si512(a, b); }
MOESAIC_INLINE Bytes or_bytes(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
template <int kBits>
MOESAIC_INLINE Bytes shift(Bytes v) {  // to the right, or by less than 0 to the left
  if constexpr (kBits > 0) return _mm512_srli_epi16(v, kBits);
  if constexpr (kBits < 0) return _mm512_slli_epi16(v, -kBits);
  return v;
}
/// Entry v of a table of 16.
MOESAIC_INLINE Bytes look_up(const uint8_t* table, Bytes v) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), v);
}
/// sums + the four products of each lane, of bytes and signed bytes.
template <bool kWide>
MOESAIC_INLINE Bytes dot(Bytes sums, Bytes weights, Bytes inputs) {
  return _mm512_dpbusd_epi32(sums, weights, inputs);
}
MOESAIC_INLINE Vec to_floats(Bytes sums) { return _mm512_cvtepi32_ps(sums); }
MOESAIC_INLINE Vec floats_of_bytes(const uint8_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
MOESAIC_INLINE Vec floats_of_signed_bytes(const uint8_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
MOESAIC_INLINE Vec floats_of_words(const uint16_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
/// 2^(e - 128), for e of 1 and more a normal number or its half.
MOESAIC_INLINE Vec floats_of_exponents(const uint8_t* p) {
  const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return mul(_mm512_castsi512_ps(_mm512_slli_epi32(e, 23)), set1(0.5f));
}
/// Stores rounded values, which fit signed bytes, and returns their sum. What is no number is
/// stored as some byte and summed as one: the last addition of reduce_add is of signed ints, which
/// may not wrap.
MOESAIC_INLINE int32_t store_signed(std::byte* out, Vec values) {
  const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(values));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
  return _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(bytes));
}
MOESAIC_INLINE Vec magnitude(Vec v) { return _mm512_abs_ps(v); }

#elif defined(__AVX2__) && !defined(__AVX512F__)

using Bytes = __m256i;
MOESAIC_INLINE Bytes load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
MOESAIC_INLINE void store_bytes(void* p, Bytes v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v);
}
MOESAIC_INLINE Bytes set_quad(int32_t quad) { return _mm256_set1_epi32(quad); }
MOESAIC_INLINE Bytes set_byte(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
MOESAIC_INLINE Bytes and_bytes(Bytes a, Bytes b) { return _mm256_and_si256(a, b); }
MOESAIC_INLINE Bytes or_bytes(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
template <int kBits>
MOESAIC_INLINE Bytes shift(Bytes v) {
  if constexpr (kBits > 0) return _mm256_srli_epi16(v, kBits);
  if constexpr (kBits < 0) return _mm256_slli_epi16(v, -kBits);
  return v;
}
MOESAIC_INLINE Bytes look_up(const uint8_t* table, Bytes v) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), v);
}
/// VPMADDUBSW saturates the sum of two products. Of bytes below 128 it cannot; wider ones go as
/// magnitudes of what they are over 128, the sign to the other factor.
template <bool kWide>
MOESAIC_INLINE Bytes dot(Bytes sums, Bytes weights, Bytes inputs) {
  if constexpr (kWide) {
    weights = _mm256_xor_si256(weights, set_byte(0x80));
    inputs = _mm256_sign_epi8(inputs, weights);
    weights = _mm256_abs_epi8(weights);
  }
  const __m256i pairs = _mm256_maddubs_epi16(weights, inputs);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
MOESAIC_INLINE Vec to_floats(Bytes sums) { return _mm256_cvtepi32_ps(sums); }
MOESAIC_INLINE __m128i load_eight_bytes(const void* p) {
  return _mm_loadl_epi64(static_cast<const __m128i*>(p));
}
MOESAIC_INLINE Vec floats_of_bytes(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_eight_bytes(p)));
}
MOESAIC_INLINE Vec floats_of_signed_bytes(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_eight_bytes(p)));
}
MOESAIC_INLINE Vec floats_of_words(const uint16_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
MOESAIC_INLINE Vec floats_of_exponents(const uint8_t* p) {
  const __m256i e = _mm256_cvtepu8_epi32(load_eight_bytes(p));
  return mul(_mm256_castsi256_ps(_mm256_slli_epi32(e, 23)), set1(0.5f));
}
MOESAIC_INLINE int32_t store_signed(std::byte* out, Vec values) {
  const __m256i rounded = _mm256_cvtps_epi32(values);
  const __m128i low = _mm256_castsi256_si128(rounded);
  const __m128i high = _mm256_extracti128_si256(rounded, 1);
  const __m128i words = _mm_packs_epi32(low, high);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packs_epi16(words, words));
  __m128i sum = _mm_add_epi32(low, high);
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}
MOESAIC_INLINE Vec magnitude(Vec v) {
  return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}

#else

using Bytes = __m128i;
MOESAIC_INLINE Bytes load_bytes(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
MOESAIC_INLINE void store_bytes(void* p, Bytes v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
MOESAIC_INLINE Bytes set_quad(int32_t quad) { return _mm_set1_epi32(quad); }
MOESAIC_INLINE Bytes set_byte(int byte) { return _mm_set1_epi8(static_cast<char>(byte)); }
MOESAIC_INLINE Bytes and_bytes(Bytes a, Bytes b) { return _mm_and_si128(a, b); }
MOESAIC_INLINE Bytes or_bytes(Bytes a, Bytes b) { return _mm_or_si128(a, b); }
template <int kBits>
MOESAIC_INLINE Bytes shift(Bytes v) {
  if constexpr (kBits > 0) return _mm_srli_epi16(v, kBits);
  if constexpr (kBits < 0) return _mm_slli_epi16(v, -kBits);
  return v;
}
/// SSE2 has no shuffle by a vector.
MOESAIC_INLINE Bytes look_up(const uint8_t* table, Bytes v) {
  alignas(16) uint8_t bytes[16];
  store_bytes(bytes, v);
  for (uint8_t& byte : bytes) byte = table[byte];
  return load_bytes(bytes);
}
template <bool kWide>
MOESAIC_INLINE Bytes dot(Bytes sums, Bytes weights, Bytes inputs) {
  const __m128i none = _mm_setzero_si128();
  const __m128i words = _mm_unpacklo_epi8(inputs, _mm_cmpgt_epi8(none, inputs));
  const __m128 low = _mm_castsi128_ps(_mm_madd_epi16(_mm_unpacklo_epi8(weights, none), words));
  const __m128 high = _mm_castsi128_ps(_mm_madd_epi16(_mm_unpackhi_epi8(weights, none), words));
  const __m128i even = _mm_castps_si128(_mm_shuffle_ps(low, high, 0x88));
  const __m128i odd = _mm_castps_si128(_mm_shuffle_ps(low, high, 0xdd));
  return _mm_add_epi32(sums, _mm_add_epi32(even, odd));
}
MOESAIC_INLINE Vec to_floats(Bytes sums) { return _mm_cvtepi32_ps(sums); }
MOESAIC_INLINE Vec floats_of_bytes(const uint8_t* p) {
  return _mm_cvtepi32_ps(_mm_setr_epi32(p[0], p[1], p[2], p[3]));
}
MOESAIC_INLINE Vec floats_of_signed_bytes(const uint8_t* p) {
  const auto* bytes = reinterpret_cast<const int8_t*>(p);
  return _mm_cvtepi32_ps(_mm_setr_epi32(bytes[0], bytes[1], bytes[2], bytes[3]));
}
MOESAIC_INLINE Vec floats_of_words(const uint16_t* p) {
  return _mm_cvtepi32_ps(_mm_setr_epi32(p[0], p[1], p[2], p[3]));
}
MOESAIC_INLINE Vec floats_of_exponents(const uint8_t* p) {
  const __m128i e = _mm_setr_epi32(p[0], p[1], p[2], p[3]);
  return mul(_mm_castsi128_ps(_mm_slli_epi32(e, 23)), set1(0.5f));
}
MOESAIC_INLINE int32_t store_signed(std::byte* out, Vec values) {
  const __m128i rounded = _mm_cvtps_epi32(values);
  const __m128i words = _mm_packs_epi32(rounded, rounded);
  const int32_t bytes = _mm_cvtsi128_si32(_mm_packs_epi16(words, words));
  std::memcpy(out, &bytes, sizeof(bytes));
  const __m128i sum = _mm_add_epi32(rounded, _mm_shuffle_epi32(rounded, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}
MOESAIC_INLINE Vec magnitude(Vec v) {
  return _mm_and_ps(v, _mm_castsi128_ps(_mm_set1_epi32(0x7fffffff)));
}

#endif

/// Whether weights go as what they are over 128 (dot).
#if defined(__AVX2__) && !defined(__AVX512F__)
MOESAIC_INLINE bool is_wide(const IntegerShape& shape) {
  return shape.bits == 8 || shape.levels != nullptr;
}
constexpr bool kWideDiffers = true;
#else
MOESAIC_INLINE bool is_wide(const IntegerShape&) { return false; }
constexpr bool kWideDiffers = false;
#endif

// --- Activations.

/// Rounds the `size` values of a group, a multiple of kLanes, with the scale that the largest asks
/// for.
MOESAIC_INLINE void round_group(const IntegerShape& shape, const float* values, int64_t size,
                                std::byte* out) {
  /// Below it 127 / largest overflows.
  constexpr float kLeastMagnitude = 1e-30f;
  Vec largest = zero();
  Vec poison = zero();  // NaN where a value is not finite
  for (int64_t i = 0; i < size; i += kLanes) {
    const Vec value = load(values + i);
    largest = vmax(largest, magnitude(value));
    poison = add(poison, sub(value, value));
  }
  const float most = max_of(largest);
  const bool some = most > kLeastMagnitude;
  const Vec inverse = set1(some ? 127.0f / most : 0.0f);
  std::byte* bytes = out + sizeof(ActivationGroup);
  uint32_t sum = 0;  // wraps where a value is not finite
  for (int64_t i = 0; i < size; i += kLanes) {
    sum += static_cast<uint32_t>(store_signed(bytes + i, mul(load(values + i), inverse)));
  }
  ActivationGroup group;
  group.scale = (some ? most / 127.0f : 0.0f) + sum_of(poison);
  const int zero = (is_wide(shape) ? 128 : 0) - shape.zero;
  group.start = static_cast<int32_t>(static_cast<uint32_t>(zero) * sum);
  group.minus = -group.scale * static_cast<float>(static_cast<int32_t>(sum));
  group.unused = 0;
  std::memcpy(out, &group, sizeof(group));
}

/// Rounds a unit of 32 values.
MOESAIC_INLINE void round_unit(const IntegerShape& shape, const float* values, std::byte* out) {
  const int64_t size = activation_group(shape.halves);
  for (int64_t at = 0; at < kUnitInputs; at += size) {
    round_group(shape, values + at, size, out);
    out += static_cast<int64_t>(sizeof(ActivationGroup)) + size;
  }
}

void round_integer_rows(const IntegerShape& shape, const float* x, const int32_t* index,
                        int64_t first, int64_t rows, int64_t k, int64_t units, std::byte* out,
                        const ActivationLayout& layout) {
  for (int64_t row = first; row < first + rows; ++row) {
    const int64_t source = index == nullptr ? row : index[row];
    if (source < 0) continue;
    const float* from = x + source * k;
    std::byte* to = out + row / 16 * layout.group + row % 16 * layout.row;
    for (int64_t unit = 0; unit < units; ++unit, to += layout.block) {
      const int64_t left = k - unit * kUnitInputs;
      if (left >= kUnitInputs) {
        round_unit(shape, from + unit * kUnitInputs, to);
        continue;
      }
      float values[kUnitInputs] = {};
      for (int64_t i = 0; i < left; ++i) values[i] = from[unit * kUnitInputs + i];
      round_unit(shape, values, to);
    }
  }
}

// --- Unpacking.

/// Vector `kAt` of a unit's codes, of the plane of kPlane bits at `plane`, moved up by kUp bits.
template <int kPlane, int kUp, int kAt>
MOESAIC_INLINE Bytes plane_vector(const std::byte* plane) {
  constexpr int kVector = static_cast<int>(sizeof(Bytes));
  constexpr int kBytes = static_cast<int>(kUnitBitBytes) * kPlane;
  constexpr int kByte = kAt * kVector;
  const Bytes bits = load_bytes(plane + kByte % kBytes);
  if constexpr (kPlane == 8) {
    return bits;
  } else {
    constexpr int kMask = ((1 << kPlane) - 1) << kUp;
    return and_bytes(shift<kByte / kBytes * kPlane - kUp>(bits), set_byte(kMask));
  }
}

template <int kBits, int kAt>
MOESAIC_INLINE Bytes code_vector(const std::byte* codes) {
  constexpr int kLow = low_plane(kBits);
  const Bytes low = plane_vector<kLow, 0, kAt>(codes);
  if constexpr (kLow == kBits) {
    return low;
  } else {
    return or_bytes(low, plane_vector<kBits - kLow, kLow, kAt>(codes + kLow * kUnitBitBytes));
  }
}

/// Where products take the codes of a unit from: unpacked, or as they are packed.
struct UnpackedCodes {
  template <int kAt>
  MOESAIC_INLINE static Bytes vector(const std::byte* codes, const uint8_t*) {
    return load_bytes(codes + kAt * static_cast<int>(sizeof(Bytes)));
  }
};
template <int kBits, bool kLevels>
struct PackedCodes {
  template <int kAt>
  MOESAIC_INLINE static Bytes vector(const std::byte* codes, const uint8_t* levels) {
    const Bytes code = code_vector<kBits, kAt>(codes);
    if constexpr (kLevels) {
      return look_up(levels, code);
    } else {
      return code;
    }
  }
};

template <class Codes, int... kAt>
MOESAIC_INLINE void unpack_vectors(const std::byte* codes, const uint8_t* levels, uint8_t* out,
                                   std::integer_sequence<int, kAt...>) {
  (store_bytes(out + kAt * static_cast<int>(sizeof(Bytes)),
               Codes::template vector<kAt>(codes, levels)),
   ...);
}

template <int kBits, bool kLevels = false>
void unpack_unit(const std::byte* codes, const uint8_t* levels, uint8_t* out) {
  constexpr int kVectors = static_cast<int>(kUnitCodes / static_cast<int64_t>(sizeof(Bytes)));
  unpack_vectors<PackedCodes<kBits, kLevels>>(codes, levels, out,
                                              std::make_integer_sequence<int, kVectors>());
}

using UnpackUnit = void (*)(const std::byte* codes, const uint8_t* levels, uint8_t* out);

UnpackUnit unpacker_of(const IntegerShape& shape) {
  switch (shape.bits) {
    case 2:
      return unpack_unit<2>;
    case 3:
      return unpack_unit<3>;
    case 4:
      return shape.levels != nullptr ? unpack_unit<4, true> : unpack_unit<4>;
    case 5:
      return unpack_unit<5>;
    case 6:
      return unpack_unit<6>;
    default:
      return nullptr;  // they are bytes
  }
}

/// Units that are unpacked at once: two level blocks have as many.
constexpr int64_t kStretchUnits = kMostUnits;

/// A stretch of a panel, unpacked. Codes of bytes are used where they lie.
struct Stretch {
  bool has_offsets;
  const std::byte* units[kStretchUnits];
  alignas(64) uint8_t codes[kStretchUnits * kUnitCodes];
  /// Of each group of activations.
  alignas(64) float scales[2 * kStretchUnits * kPanelOutputs];
  alignas(64) float offsets[2 * kStretchUnits * kPanelOutputs];
};

MOESAIC_INLINE Vec block_scale(const IntegerShape& shape, const std::byte* block, int64_t output) {
  switch (shape.scale) {
    case ScaleKind::kF32:
      return load(reinterpret_cast<const float*>(block) + output);
    case ScaleKind::kExponent:
      return floats_of_exponents(reinterpret_cast<const uint8_t*>(block) + output);
    case ScaleKind::kF16:
    case ScaleKind::kSigned:
    case ScaleKind::kUnsigned:
      break;
  }
  return mul(load_f16(reinterpret_cast<const uint16_t*>(block) + output), set1(shape.unit));
}

/// The scales, and if there are any the offsets, of the groups of a block from `first` on.
void unpack_scales(const IntegerShape& shape, const std::byte* block, int64_t groups, float* scales,
                   float* offsets) {
  const auto* offset_bytes = reinterpret_cast<const uint8_t*>(block + shape.offsets_at);
  for (int64_t output = 0; output < kPanelOutputs; output += kLanes) {
    const Vec unit = block_scale(shape, block, output);
    Vec offset_unit = zero();
    if (shape.offset == OffsetKind::kZero) {
      const Vec zeros =
          shape.bits == 8
              ? floats_of_words(reinterpret_cast<const uint16_t*>(offset_bytes) + output)
              : floats_of_bytes(offset_bytes + output);
      offset_unit = mul(unit, zeros);
    } else if (shape.offset != OffsetKind::kNone) {
      offset_unit = load_f16(reinterpret_cast<const uint16_t*>(offset_bytes) + output);
    }
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t at = group * kPanelOutputs + output;
      const auto* bytes = reinterpret_cast<const uint8_t*>(block) + at;
      Vec scale = unit;
      if (shape.scale == ScaleKind::kSigned) {
        scale = mul(unit, floats_of_signed_bytes(bytes + shape.group_scales_at));
      } else if (shape.scale == ScaleKind::kUnsigned) {
        scale = mul(unit, floats_of_bytes(bytes + shape.group_scales_at));
      }
      store(scales + at, scale);
      if (shape.offset == OffsetKind::kNone) continue;
      const bool own = shape.offset == OffsetKind::kUnsigned;
      store(offsets + at,
            own ? mul(offset_unit, floats_of_bytes(bytes + shape.group_offsets_at)) : offset_unit);
    }
  }
}

/// Unpacks `blocks` blocks; without `unpack` their codes stay where they are.
void unpack_stretch(const IntegerShape& shape, UnpackUnit unpack, const std::byte* block,
                    int64_t blocks, Stretch& out) {
  const int64_t groups = shape.units * (shape.halves ? 2 : 1);
  out.has_offsets = shape.offset != OffsetKind::kNone;
  int64_t at = 0;
  int64_t unit = 0;
  for (int64_t b = 0; b < blocks; ++b, block += shape.block_bytes) {
    unpack_scales(shape, block, groups, out.scales + at, out.offsets + at);
    at += groups * kPanelOutputs;
    const std::byte* codes = block + shape.codes_at;
    for (int64_t u = 0; u < shape.units; ++u, ++unit, codes += unit_bytes(shape)) {
      if (unpack == nullptr) {
        out.units[unit] = codes;
        continue;
      }
      uint8_t* to = out.codes + unit * kUnitCodes;
      unpack(codes, shape.levels, to);
      out.units[unit] = reinterpret_cast<const std::byte*>(to);
    }
  }
}

// --- Products.

/// What the sums of a group become: acc + scale * (weight scale * sum), then less the offset.
MOESAIC_INLINE Vec add_group(Vec acc, Bytes sum, const float* scales, const float* offsets,
                             bool offset, Vec scale, Vec minus) {
  acc = fma(mul(to_floats(sum), load(scales)), scale, acc);
  if (offset) acc = fma(load(offsets), minus, acc);
  return acc;
}

/// Adds the products of a quad of inputs to the sums of R rows.
template <class Codes, int kQuad, bool kWide, int R, int kVecs, int... kVec>
MOESAIC_INLINE void add_quad(const std::byte* codes, const uint8_t* levels,
                             const std::byte* const (&x)[R], int64_t x_at, Bytes (&sums)[R][kVecs],
                             std::integer_sequence<int, kVec...>) {
  constexpr int kFirst = kQuad * static_cast<int>(kPanelOutputs * 4 / sizeof(Bytes));
  const Bytes weights[kVecs] = {Codes::template vector<kFirst + kVec>(codes, levels)...};
  _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
    const Bytes inputs = set_quad(static_cast<int32_t>(bits_at(x[r] + x_at)));
    _Pragma("GCC unroll 16") for (int v = 0; v < kVecs; ++v) {
      sums[r][v] = dot<kWide>(sums[r][v], weights[v], inputs);
    }
  }
}

/// And of a group of them, which begins with quad kFirst of the unit.
template <class Codes, int kFirst, bool kWide, int R, int kVecs, int... kQuad>
MOESAIC_INLINE void add_quads(const std::byte* codes, const uint8_t* levels,
                              const std::byte* const (&x)[R], Bytes (&sums)[R][kVecs],
                              std::integer_sequence<int, kQuad...>) {
  (add_quad<Codes, kFirst + kQuad, kWide>(codes, levels, x,
                                          static_cast<int64_t>(sizeof(ActivationGroup)) + kQuad * 4,
                                          sums, std::make_integer_sequence<int, kVecs>()),
   ...);
}

/// The sums of R rows in float, in registers where they fit beside those of a group.
template <int R, int kVecs>
struct FloatSums {
  static constexpr bool kKept = R * kVecs <= 8;
  float* memory;
  Vec kept[(R * kVecs - 1) * static_cast<int>(kKept) + 1];

  MOESAIC_INLINE FloatSums(float* at, bool first) : memory(at) {
    _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
      _Pragma("GCC unroll 16") for (int v = 0; v < kVecs; ++v) {
        if constexpr (kKept) {
          kept[r * kVecs + v] = first ? zero() : load(place(r, v));
        } else if (first) {
          store(place(r, v), zero());
        }
      }
    }
  }
  MOESAIC_INLINE float* place(int r, int v) const {
    return memory + r * kPanelOutputs + v * kLanes;
  }
  MOESAIC_INLINE Vec get(int r, int v) const {
    if constexpr (kKept) {
      return kept[r * kVecs + v];
    } else {
      return load(place(r, v));
    }
  }
  MOESAIC_INLINE void set(int r, int v, Vec value) {
    if constexpr (kKept) {
      kept[r * kVecs + v] = value;
    } else {
      store(place(r, v), value);
    }
  }
  MOESAIC_INLINE void keep() const {
    if constexpr (kKept) {
      _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
        _Pragma("GCC unroll 16") for (int v = 0; v < kVecs; ++v)
            store(place(r, v), kept[r * kVecs + v]);
      }
    }
  }
};

/// One group of a unit: from the start on through the quads into the sums in float. Moves x on.
template <class Codes, int kFirstQuad, int kQuads, bool kWide, int R, int kVecs>
MOESAIC_INLINE void add_whole_group(const std::byte* codes, const uint8_t* levels,
                                    const float* scales, const float* offsets, bool offset,
                                    const std::byte* (&x)[R], FloatSums<R, kVecs>& floats) {
  Bytes sums[R][kVecs];
  _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
    const Bytes start = set_quad(static_cast<int32_t>(bits_at(x[r] + 4)));
    _Pragma("GCC unroll 16") for (int v = 0; v < kVecs; ++v) sums[r][v] = start;
  }
  add_quads<Codes, kFirstQuad, kWide>(codes, levels, x, sums,
                                      std::make_integer_sequence<int, kQuads>());
  _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
    const Vec scale = set1(float_at(x[r]));
    const Vec minus = set1(float_at(x[r] + 8));
    _Pragma("GCC unroll 16") for (int v = 0; v < kVecs; ++v) {
      floats.set(r, v,
                 add_group(floats.get(r, v), sums[r][v], scales + v * kLanes, offsets + v * kLanes,
                           offset, scale, minus));
    }
    x[r] += static_cast<int64_t>(sizeof(ActivationGroup)) + kQuads * 4;
  }
}

/// Some rows and tiles of a stretch.
template <class Codes, int R, int T, bool kHalves, bool kWide>
void multiply_units(const Stretch& stretch, const uint8_t* levels, int64_t first_tile,
                    const std::byte* x_base, const ActivationLayout& layout, const int32_t* index,
                    int64_t row, int64_t units, bool first, float* sums_at, Prefetcher& prefetch) {
  constexpr int kVecs = T * kTileVecs;
  const std::byte* x[R];
  _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
    const int64_t source = index == nullptr ? row + r : index[row + r];
    x[r] = x_base + source / 16 * layout.group + source % 16 * layout.row;
  }
  FloatSums<R, kVecs> floats(sums_at, first);
  const float* scales = stretch.scales + first_tile * kTileOutputs;
  const float* offsets = stretch.offsets + first_tile * kTileOutputs;
  const bool offset = stretch.has_offsets;
  for (int64_t unit = 0; unit < units; ++unit) {
    prefetch.step();
    const std::byte* codes = stretch.units[unit] + first_tile * kTileOutputs * 4;
    if constexpr (kHalves) {
      add_whole_group<Codes, 0, 4, kWide>(codes, levels, scales, offsets, offset, x, floats);
      scales += kPanelOutputs;
      offsets += kPanelOutputs;
      add_whole_group<Codes, 4, 4, kWide>(codes, levels, scales, offsets, offset, x, floats);
    } else {
      add_whole_group<Codes, 0, 8, kWide>(codes, levels, scales, offsets, offset, x, floats);
    }
    scales += kPanelOutputs;
    offsets += kPanelOutputs;
  }
  floats.keep();
}

/// One stretch of one panel with some rows.
struct StretchTask {
  const IntegerShape& shape;
  const Gemm& task;
  const Stretch& stretch;
  const std::byte* x;  ///< the stretch's first unit of row 0
  int64_t row = 0, rows = 0;
  int64_t units = 0;
  bool first = false;
  float* sums = nullptr;
};

template <class Codes, int T, int R, bool kHalves, bool kWide>
void multiply_rows(const StretchTask& s, int64_t tile, int64_t row, int64_t rows, float* sums,
                   Prefetcher& prefetch) {
  if constexpr (R > 1) {
    if (rows < R) {
      multiply_rows<Codes, T, R - 1, kHalves, kWide>(s, tile, row, rows, sums, prefetch);
      return;
    }
  }
  multiply_units<Codes, R, T, kHalves, kWide>(s.stretch, s.shape.levels, tile, s.x, s.task.x_layout,
                                              s.task.x_index, row, s.units, s.first, sums,
                                              prefetch);
}

template <int T, bool kHalves, bool kWide>
void sweep_units(const StretchTask& s, Prefetcher& prefetch) {
  const int64_t shares = (s.rows + kMaxRows<T> - 1) / kMaxRows<T>;
  for (int64_t t = 0; t < s.task.tiles; t += T) {
    for (int64_t share = 0; share < shares; ++share) {
      const int64_t begin = s.rows * share / shares;
      const int64_t end = s.rows * (share + 1) / shares;
      multiply_rows<UnpackedCodes, T, kMaxRows<T>, kHalves, kWide>(
          s, s.task.first_tile + t, s.row + begin, end - begin,
          s.sums + begin * kPanelOutputs + t * kTileOutputs, prefetch);
    }
  }
}

template <bool kHalves, bool kWide>
void sweep_stretch(const StretchTask& s, int64_t at_once, Prefetcher& prefetch) {
  if (at_once == 4) {
    sweep_units<4, kHalves, kWide>(s, prefetch);
  } else if (at_once == 2) {
    sweep_units<2, kHalves, kWide>(s, prefetch);
  } else if constexpr (kLanes < 16) {
    sweep_units<1, kHalves, kWide>(s, prefetch);
  }
}

/// Rows of which codes are unpacked in registers; all tiles of a panel at once.
#if defined(__SANITIZE_ADDRESS__)
constexpr int kDirectRows = kLanes >= 8 ? 1 : 0;  // each more takes a sanitizer minutes to compile
#else
constexpr int kDirectRows = kLanes == 16 ? 4 : kLanes == 8 ? 1 : 0;
#endif

template <int kBits, bool kLevels, bool kHalves>
void sweep_packed(const StretchTask& s, int64_t, Prefetcher& prefetch) {
  constexpr bool kWide = kWideDiffers && (kBits == 8 || kLevels);
  constexpr int kRows = kDirectRows > 0 ? kDirectRows : 1;
  multiply_rows<PackedCodes<kBits, kLevels>, static_cast<int>(kPanelTiles), kRows, kHalves, kWide>(
      s, 0, s.row, s.rows, s.sums, prefetch);
}

using SweepStretch = void (*)(const StretchTask& s, int64_t at_once, Prefetcher& prefetch);

template <bool kWide>
SweepStretch sweep_of(const IntegerShape& shape) {
  return shape.halves ? sweep_stretch<true, kWide> : sweep_stretch<false, kWide>;
}

/// For the formats that there are; null for others.
SweepStretch packed_sweep_of(const IntegerShape& shape) {
  if (shape.halves) {
    switch (shape.bits) {
      case 2:
        return sweep_packed<2, false, true>;
      case 3:
        return sweep_packed<3, false, true>;
      case 4:
        return sweep_packed<4, true, true>;
      case 6:
        return sweep_packed<6, false, true>;
      default:
        return nullptr;
    }
  }
  switch (shape.bits) {
    case 2:
      return sweep_packed<2, false, false>;
    case 4:
      return shape.levels != nullptr ? sweep_packed<4, true, false> : sweep_packed<4, false, false>;
    case 5:
      return sweep_packed<5, false, false>;
    case 8:
      return sweep_packed<8, false, false>;
    default:
      return nullptr;
  }
}

/// 32 gated values from sums laid out gate, up, gate, up, as a unit of activations.
MOESAIC_INLINE void swiglu_unit(const Gemm& task, const IntegerShape& then, int64_t row,
                                int64_t panel, const float* sums) {
  alignas(64) float values[kUnitInputs];
  for (int half = 0; half < 2; ++half) {
    for (int v = 0; v < kTileVecs; ++v) {
      const float* gate = sums + half * 2 * kTileOutputs + v * kLanes;
      store(values + half * kTileOutputs + v * kLanes,
            mul(silu(load(gate)), load(gate + kTileOutputs)));
    }
  }
  round_unit(then, values,
             task.h + row / 16 * task.h_layout.group + row % 16 * task.h_layout.row +
                 panel * task.h_layout.block);
}

void gemm_integers(const IntegerShape& shape, const IntegerShape* then, const Gemm& task) {
  const int64_t all_blocks = (task.k + shape.units * kUnitInputs - 1) / (shape.units * kUnitInputs);
  const int64_t panel_bytes = all_blocks * shape.block_bytes;
  const int64_t at_once = kStretchUnits / shape.units;  // blocks
  UnpackUnit unpack = unpacker_of(shape);
  SweepStretch sweep = sweep_of<false>(shape);
  if constexpr (kWideDiffers) {
    if (is_wide(shape)) sweep = sweep_of<true>(shape);
  }
  if (task.rows <= kDirectRows && task.tiles == kPanelTiles) {
    if (const SweepStretch direct = packed_sweep_of(shape); direct != nullptr) {
      sweep = direct;
      unpack = nullptr;
    }
  }
  Stretch stretch;
  alignas(64) float sums[kSumRows * kPanelOutputs];

  for (int64_t panel = 0; panel < task.panels; ++panel) {
    const std::byte* weights = task.weights + panel * panel_bytes;
    const int64_t first_rows = task.rows < kSumRows ? task.rows : kSumRows;
    const int64_t tiles = tiles_at_once(task.tiles, first_rows);
    const int64_t visits = (task.rows + 5) / 6 * (task.tiles / tiles);
    Prefetcher prefetch(visits > 1 ? Streaming::kPanel : Streaming::kAhead, weights,
                        panel + 1 < task.panels ? weights + panel_bytes : task.next, panel_bytes,
                        at_once * shape.block_bytes, visits);
    // A step is one of a stretch's units, and of several visits.
    prefetch.lines = (prefetch.lines + kStretchUnits - 1) / kStretchUnits;
    for (int64_t row = 0; row < task.rows; row += kSumRows) {
      const int64_t rows = task.rows - row < kSumRows ? task.rows - row : kSumRows;
      for (int64_t block = 0; block < all_blocks; block += at_once) {
        const int64_t blocks = all_blocks - block < at_once ? all_blocks - block : at_once;
        unpack_stretch(shape, unpack, weights + block * shape.block_bytes, blocks, stretch);
        const StretchTask part{.shape = shape,
                               .task = task,
                               .stretch = stretch,
                               .x = task.x + block * shape.units * task.x_layout.block,
                               .row = row,
                               .rows = rows,
                               .units = blocks * shape.units,
                               .first = block == 0,
                               .sums = sums};
        sweep(part, tiles, prefetch);
      }
      if (task.epilogue != Epilogue::kSwiGlu) {
        finish<WeightF32>(task, panel, row, rows, sums);
        continue;
      }
      for (int64_t r = 0; r < rows; ++r) {
        swiglu_unit(task, *then, row + r, panel, sums + r * kPanelOutputs);
      }
    }
  }
}

double peak_integers(int64_t iterations) {
  constexpr int kChains = kLanes == 16 ? 24 : 12;
  Bytes sums[kChains];
  for (Bytes& sum : sums) sum = set_quad(0);
  Bytes weights = set_quad(0x01020304);
  for (int64_t i = 0; i < iterations; ++i) {
    __asm__ volatile("" : "+x"(weights));
    _Pragma("GCC unroll 32") for (int c = 0; c < kChains; ++c) {
      sums[c] = dot<false>(sums[c], weights, weights);
    }
  }
  for (Bytes& sum : sums) __asm__ volatile("" : : "x"(sum));
  return static_cast<double>(iterations) * kChains * kLanes * 8;
}

constexpr IntegerTable kIntegers = {
    .gemm = gemm_integers,
    .round_rows = round_integer_rows,
    .peak = peak_integers,
};

}  // namespace
}  // namespace moesaic::backend::cpu
