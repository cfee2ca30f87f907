#include "tensor/weight_format.h"

#include <array>

namespace moesaic::tensor {
namespace {

struct Row {
  std::string_view name, label;
  Scheme scheme;
  DType base;
  int64_t value_bits, group_n, group_k, scale_bits, zero_bits, granule;
  bool experts_only, fp8_arithmetic;
};

constexpr WeightFormat format_of(const Row& row) {
  WeightFormat format;
  format.name = row.name;
  format.label = row.label;
  format.scheme = row.scheme;
  format.base = row.base;
  format.value_bits = row.value_bits;
  format.group_n = row.group_n;
  format.group_k = row.group_k;
  format.scale_bits = row.scale_bits;
  format.zero_bits = row.zero_bits;
  format.granule = row.granule;
  format.experts_only = row.experts_only;
  format.fp8_arithmetic = row.fp8_arithmetic;
  return format;
}

constexpr WeightFormat blocks(std::string_view name, std::string_view label, int32_t type,
                              int64_t values, int64_t bytes) {
  WeightFormat format;
  format.name = name;
  format.label = label;
  format.scheme = Scheme::kBlocks;
  format.base = DType::kU8;
  format.value_bits = 0;
  format.block_values = values;
  format.block_bytes = bytes;
  format.block_type = type;
  format.granule = values;
  return format;
}

using enum Scheme;
using enum DType;

// fp8 blocks of 128 x 128 share a scale of 4 bytes; int8 has one of 2 bytes for each output; AWQ
// and GPTQ groups of 128 have a scale of 16 bits and a zero point of 4; MXFP4 groups of 32 share an
// exponent of 8 bits, NVFP4 groups of 16 a scale of 8; NF4 blocks of 64 a scale of 8 with double
// quantisation.
constexpr std::array kFormats = {
    WeightFormat(kBF16),
    WeightFormat(kF16),
    WeightFormat(kF32),
    // name, label, scheme, base, bits, group n, k, scale, zero bits, granule, experts only, fp8
    format_of({"fp8", "fp8", kScaled, kF8E4M3, 8, 128, 128, 32, 0, 128, false, true}),
    format_of({"int8", "int8", kAffine, kI8, 8, 1, 0, 16, 0, 64, false, false}),
    format_of({"awq", "4-bit AWQ", kAffine, kI32, 4, 1, 128, 16, 4, 128, false, false}),
    format_of({"gptq", "4-bit GPTQ", kAffine, kI32, 4, 1, 128, 16, 4, 128, false, false}),
    format_of({"int4", "4-bit", kAffine, kI32, 4, 1, 128, 16, 4, 128, false, false}),
    format_of({"mxfp4", "MXFP4 (experts)", kCoded, kU8, 4, 1, 32, 8, 0, 32, true, false}),
    format_of({"nvfp4", "NVFP4", kCoded, kU8, 4, 1, 16, 8, 0, 64, false, false}),
    format_of({"bitsandbytes", "4-bit NF4", kCoded, kU8, 4, 1, 64, 8, 0, 64, false, false}),
};

constexpr std::array kBlockFormats = {
    // name, label, number in GGUF files, values, bytes
    blocks("q4_0", "Q4_0", 2, 32, 18),         blocks("q4_1", "Q4_1", 3, 32, 20),
    blocks("q5_0", "Q5_0", 6, 32, 22),         blocks("q5_1", "Q5_1", 7, 32, 24),
    blocks("q8_0", "Q8_0", 8, 32, 34),         blocks("q2_k", "Q2_K", 10, 256, 84),
    blocks("q3_k", "Q3_K", 11, 256, 110),      blocks("q4_k", "Q4_K", 12, 256, 144),
    blocks("q5_k", "Q5_K", 13, 256, 176),      blocks("q6_k", "Q6_K", 14, 256, 210),
    blocks("iq2_xxs", "IQ2_XXS", 16, 256, 66), blocks("iq2_xs", "IQ2_XS", 17, 256, 74),
    blocks("iq3_xxs", "IQ3_XXS", 18, 256, 98), blocks("iq1_s", "IQ1_S", 19, 256, 50),
    blocks("iq4_nl", "IQ4_NL", 20, 32, 18),    blocks("iq3_s", "IQ3_S", 21, 256, 110),
    blocks("iq2_s", "IQ2_S", 22, 256, 82),     blocks("iq4_xs", "IQ4_XS", 23, 256, 136),
    blocks("iq1_m", "IQ1_M", 29, 256, 56),     blocks("tq1_0", "TQ1_0", 34, 256, 54),
    blocks("tq2_0", "TQ2_0", 35, 256, 66),     blocks("gguf_mxfp4", "MXFP4", 39, 32, 17),
};

}  // namespace

std::span<const WeightFormat> weight_formats() { return kFormats; }
std::span<const WeightFormat> block_formats() { return kBlockFormats; }

const WeightFormat* find_block_format(uint32_t block_type) {
  for (const WeightFormat& format : kBlockFormats) {
    if (static_cast<uint32_t>(format.block_type) == block_type) return &format;
  }
  return nullptr;
}

const WeightFormat* find_weight_format(std::string_view name) {
  for (const WeightFormat& format : kFormats) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

}  // namespace moesaic::tensor
