#include "model/load_formats.h"

namespace moesaic::model {
namespace {

/// E4M3 values and a float32 scale an output, the largest magnitude over 448.
constexpr tensor::WeightFormat fp8() {
  tensor::WeightFormat format;
  format.name = "fp8";
  format.label = "fp8";
  format.scheme = tensor::Scheme::kScaled;
  format.base = tensor::DType::kF8E4M3;
  format.value_bits = 8;
  format.group_n = 1;
  format.group_k = 0;
  format.scale_bits = 32;
  format.fp8_arithmetic = true;
  return format;
}

constexpr tensor::WeightFormat kFP8 = fp8();

/// Integers in groups of 128 inputs, each with a float32 scale and, of 4 bits, a zero point.
tensor::WeightFormat integers(std::string_view row, std::string_view label, bool zeros) {
  tensor::WeightFormat format = *tensor::find_weight_format(row);
  format.label = label;
  format.group_k = 128;
  format.scale_bits = 32;
  format.zero_bits = zeros ? 8 : 0;
  format.zeros_stored = zeros;
  format.granule = 128;
  return format;
}

}  // namespace

const tensor::WeightFormat* find_load_format(std::string_view name) {
  static const tensor::WeightFormat kInt8 = integers("int8", "int8 in groups of 128", false);
  static const tensor::WeightFormat kInt4 = integers("int4", "4-bit in groups of 128", true);
  if (name == "fp8") return &kFP8;
  if (name == "int8" || name == "eetq") return &kInt8;
  if (name == "int4") return &kInt4;
  return nullptr;
}

}  // namespace moesaic::model
