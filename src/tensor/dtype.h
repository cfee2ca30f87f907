#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace moesaic::tensor {

/// Element types that a checkpoint can hold. Only kF32, kBF16 and kF16 are computed with so far.
enum class DType : uint8_t {
  kF32,
  kBF16,
  kF16,
  kF64,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kI8,
  kU8,
  kI16,
  kU16,
  kI32,
  kU32,
  kI64,
  kU64,
  kBool,
};

/// Bytes of one element.
size_t size_of(DType dtype);

/// The name that safetensors uses, e.g. "BF16".
std::string_view to_string(DType dtype);

/// The type that a safetensors name stands for; empty for an unknown name.
std::optional<DType> dtype_from_safetensors(std::string_view name);

/// The type that a config.json `torch_dtype`/`dtype` or a --dtype flag names ("bfloat16", "half",
/// "float16", "float", "float32"); empty for an unknown name.
std::optional<DType> dtype_from_torch(std::string_view name);

/// bfloat16 and IEEE half as raw bits, with conversions that round to nearest even.
struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

inline float to_float(BF16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}
inline BF16 to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return BF16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return BF16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
float to_float(F16 value);
F16 to_f16(float value);

/// Reads element `index` of an array of `dtype` (kF32, kBF16 or kF16) as float.
float load_float(DType dtype, const void* data, int64_t index);
/// Writes `value` as element `index` of an array of `dtype`, rounded to nearest even.
void store_float(DType dtype, void* data, int64_t index, float value);

}  // namespace moesaic::tensor
