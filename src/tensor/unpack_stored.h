#pragma once

// The formats of quantised Hugging Face checkpoints. Each function writes the values
// [col, col + count) of output `row`, as unpack() does.

#include <array>
#include <cstdint>
#include <optional>

#include "tensor/integers.h"
#include "tensor/weight_format.h"

namespace moesaic::tensor {

/// kAffine: (q - zero) * scale. Of integers that share words, zero is the group's stored zero point
/// plus zero_offset, or the middle of their range where none are stored; of int8 it is the stored
/// one or 0. AWQ (Lin et al., 2023; AutoAWQ's WQLinear_GEMM and WQLinear_GEMV), GPTQ (Frantar et
/// al., 2022; AutoGPTQ's and GPTQModel's QuantLinear), compressed-tensors' pack- and int-quantized,
/// bitsandbytes' LLM.int8 (Dettmers et al., 2022).
void unpack_integers(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                     int64_t count, float* out);

/// What kAffine formats are in integers, as integers_of(), integer_block() and in_order() have it.
std::optional<IntegerFormat> affine_integers(const WeightFormat& format);
void affine_block(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                  int64_t end, IntegerBlock& out);
bool affine_in_order(const WeightFormat& format, const Part& part);

/// kScaled: an FP8 value (OCP 8-bit floating point, E4M3 or E5M2) times its group's scale.
void unpack_small_floats(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                         int64_t count, float* out);

/// kCoded: an entry of a code book times its group's scale. MXFP4 (OCP microscaling formats 1.0:
/// E2M1 values, E8M0 scales), NVFP4 (E2M1 values, E4M3 scales, one outer scale), and bitsandbytes'
/// 4-bit types (Dettmers et al., 2023: the file's code book, scales that may be codes themselves).
void unpack_codes(const WeightFormat& format, const Part& part, int64_t row, int64_t col,
                  int64_t count, float* out);

/// Element (row, col) of a matrix of scales: a float, FP8, or a byte that is an exponent (E8M0).
float load_scale(const View& scales, int64_t row, int64_t col);

/// E2M1: a sign, two bits of exponent and one of mantissa (OCP microscaling formats 1.0, 5.3.3).
inline constexpr std::array<float, 16> kE2M1 = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,
                                                4.0f,  6.0f,  -0.0f, -0.5f, -1.0f, -1.5f,
                                                -2.0f, -3.0f, -4.0f, -6.0f};

/// The value of an FP8 number, E4M3 without infinities and with infinities E5M2.
float float_from_e4m3(uint8_t bits);
float float_from_e5m2(uint8_t bits);
/// 2^(bits - 127); NaN for 255.
float float_from_e8m0(uint8_t bits);

}  // namespace moesaic::tensor
