// One vector of floats per instruction set, for kernel sources that are compiled once per set. No
// include guard is needed beyond #pragma once: each set is its own translation unit. Everything is
// static, for the reason that kernels.h gives.

#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace moesaic::backend::cpu {
namespace {

#define MOESAIC_INLINE [[maybe_unused]] __attribute__((always_inline)) inline

#if defined(__AVX512F__)

constexpr int kLanes = 16;
using Vec = __m512;

MOESAIC_INLINE Vec zero() { return _mm512_setzero_ps(); }
MOESAIC_INLINE Vec set1(float value) { return _mm512_set1_ps(value); }
MOESAIC_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
MOESAIC_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
MOESAIC_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
MOESAIC_INLINE Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
MOESAIC_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
MOESAIC_INLINE Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
MOESAIC_INLINE Vec vmin(Vec a, Vec b) { return _mm512_min_ps(a, b); }
MOESAIC_INLINE Vec vmax(Vec a, Vec b) { return _mm512_max_ps(a, b); }
/// a b + c
MOESAIC_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
/// The lanes folded in halves: a fixed order.
MOESAIC_INLINE float sum_of(Vec v) { return _mm512_reduce_add_ps(v); }
MOESAIC_INLINE float max_of(Vec v) { return _mm512_reduce_max_ps(v); }
MOESAIC_INLINE Vec round_to_int(Vec a) { return _mm512_cvtepi32_ps(_mm512_cvtps_epi32(a)); }
/// a 2^n for integral n; a 2^n must be a normal number.
MOESAIC_INLINE Vec scale_by_exponent(Vec a, Vec n) {
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23)));
}
MOESAIC_INLINE Vec load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
/// kLanes consecutive bf16.
MOESAIC_INLINE Vec load_bf16(const uint16_t* p) {
  const __m512i wide =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
/// The even and the odd elements of 2 kLanes bf16, as floats.
MOESAIC_INLINE Vec load_bf16_even(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
MOESAIC_INLINE Vec load_bf16_odd(const uint16_t* p) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
#if defined(__AVX512BF16__)
/// The pairs of bf16 that `bits` are. Clang 16 dies of a product when it sees that its pairs were
/// broadcast, so it does not get to see it.
MOESAIC_INLINE __m512bh as_pairs(__m512i bits) {
#if defined(__clang__)
  __asm__("" : "+v"(bits));
#endif
  return (__m512bh)bits;
}
/// kLanes floats rounded to bf16.
MOESAIC_INLINE void store_bf16(void* out, Vec values) {
  const __m256bh rounded = _mm512_cvtneps_pbh(values);
  _mm256_storeu_si256(static_cast<__m256i*>(out), (__m256i)rounded);
}
#endif

#elif defined(__AVX2__)

constexpr int kLanes = 8;
using Vec = __m256;

MOESAIC_INLINE Vec zero() { return _mm256_setzero_ps(); }
MOESAIC_INLINE Vec set1(float value) { return _mm256_set1_ps(value); }
MOESAIC_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
MOESAIC_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
MOESAIC_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
MOESAIC_INLINE Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
MOESAIC_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
MOESAIC_INLINE Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
MOESAIC_INLINE Vec vmin(Vec a, Vec b) { return _mm256_min_ps(a, b); }
MOESAIC_INLINE Vec vmax(Vec a, Vec b) { return _mm256_max_ps(a, b); }
MOESAIC_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
MOESAIC_INLINE float sum_of(Vec v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
MOESAIC_INLINE float max_of(Vec v) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}
MOESAIC_INLINE Vec round_to_int(Vec a) { return _mm256_cvtepi32_ps(_mm256_cvtps_epi32(a)); }
MOESAIC_INLINE Vec scale_by_exponent(Vec a, Vec n) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}
MOESAIC_INLINE Vec load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
MOESAIC_INLINE Vec load_bf16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
MOESAIC_INLINE Vec load_bf16_even(const uint16_t* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 16));
}
MOESAIC_INLINE Vec load_bf16_odd(const uint16_t* p) {
  return _mm256_castsi256_ps(
      _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                       _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

#else

constexpr int kLanes = 4;
using Vec = __m128;

MOESAIC_INLINE Vec zero() { return _mm_setzero_ps(); }
MOESAIC_INLINE Vec set1(float value) { return _mm_set1_ps(value); }
MOESAIC_INLINE Vec load(const float* p) { return _mm_loadu_ps(p); }
MOESAIC_INLINE void store(float* p, Vec v) { _mm_storeu_ps(p, v); }
MOESAIC_INLINE Vec add(Vec a, Vec b) { return _mm_add_ps(a, b); }
MOESAIC_INLINE Vec sub(Vec a, Vec b) { return _mm_sub_ps(a, b); }
MOESAIC_INLINE Vec mul(Vec a, Vec b) { return _mm_mul_ps(a, b); }
MOESAIC_INLINE Vec div(Vec a, Vec b) { return _mm_div_ps(a, b); }
MOESAIC_INLINE Vec vmin(Vec a, Vec b) { return _mm_min_ps(a, b); }
MOESAIC_INLINE Vec vmax(Vec a, Vec b) { return _mm_max_ps(a, b); }
/// SSE2 has no fused multiply-add: two roundings.
MOESAIC_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
MOESAIC_INLINE float sum_of(Vec v) {
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}
MOESAIC_INLINE float max_of(Vec v) {
  v = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps(v, v, 1)));
}
MOESAIC_INLINE Vec round_to_int(Vec a) { return _mm_cvtepi32_ps(_mm_cvtps_epi32(a)); }
MOESAIC_INLINE Vec scale_by_exponent(Vec a, Vec n) {
  return _mm_castsi128_ps(
      _mm_add_epi32(_mm_castps_si128(a), _mm_slli_epi32(_mm_cvtps_epi32(n), 23)));
}
/// Shifting the half's bits into place leaves its exponent 112 too small; a multiplication by
/// 2^112 mends that for subnormals too. Infinities and NaNs come out as large numbers from it, so
/// their exponent is set after.
MOESAIC_INLINE Vec load_f16(const uint16_t* p) {
  const __m128i half =
      _mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), _mm_setzero_si128());
  const __m128i magnitude = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x7fff)), 13);
  const __m128i sign = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x8000)), 16);
  const __m128 scaled =
      _mm_mul_ps(_mm_castsi128_ps(magnitude), _mm_castsi128_ps(_mm_set1_epi32((127 + 112) << 23)));
  const __m128i special = _mm_and_si128(_mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x0f7fffff)),
                                        _mm_set1_epi32(0x7f800000));
  return _mm_castsi128_ps(_mm_or_si128(_mm_or_si128(_mm_castps_si128(scaled), special), sign));
}
MOESAIC_INLINE Vec load_bf16(const uint16_t* p) {
  const __m128i half = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), half));
}
MOESAIC_INLINE Vec load_bf16_even(const uint16_t* p) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), 16));
}
MOESAIC_INLINE Vec load_bf16_odd(const uint16_t* p) {
  return _mm_castsi128_ps(_mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
                                        _mm_set1_epi32(static_cast<int>(0xffff0000u))));
}

#endif

/// e^x within 2 ulp for |x| < 87; beyond that it saturates. x = n ln 2 + r with |r| <= ln 2 / 2
/// (ln 2 in two parts, so that r is exact), and e^r by its Taylor polynomial to r^7.
MOESAIC_INLINE Vec exp_approx(Vec x) {
  x = vmin(vmax(x, set1(-87.0f)), set1(88.0f));
  const Vec n = round_to_int(mul(x, set1(1.44269504f)));
  Vec r = sub(x, mul(n, set1(0.693359375f)));
  r = sub(r, mul(n, set1(-2.12194440e-4f)));
  Vec p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return scale_by_exponent(p, n);
}

/// x / (1 + e^-x)
MOESAIC_INLINE Vec silu(Vec x) { return div(x, add(set1(1.0f), exp_approx(sub(zero(), x)))); }

}  // namespace
}  // namespace moesaic::backend::cpu
