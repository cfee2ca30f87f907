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

}  // namespace

const tensor::WeightFormat* find_load_format(std::string_view name) {
  return name == kFP8.name ? &kFP8 : nullptr;
}

}  // namespace moesaic::model
