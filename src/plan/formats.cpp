#include "plan/formats.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/nearest.h"

namespace moesaic::plan {

namespace {

std::string canonical(const std::string& name) {
  if (name.empty() || name == "auto") return "none";
  if (name == "4bit") return "int4";
  if (name == "8bit" || name == "eetq" || name == "w8a8" || name == "bitsandbytes-8bit")
    return "int8";
  if (name == "awq_marlin") return "awq";
  if (name == "gptq_marlin" || name == "w4a16") return "gptq";
  if (name == "bitsandbytes-nf4" || name == "bitsandbytes-fp4") return "bitsandbytes";
  return name;
}

}  // namespace

std::string quantization_name(const WeightFormat& format) {
  return format.plain() ? "none" : std::string(format.name);
}

std::vector<std::string> format_names() {
  std::vector<std::string> names = {"none"};
  for (const WeightFormat& format : tensor::weight_formats()) {
    if (!format.plain()) names.emplace_back(format.name);
  }
  return names;
}

WeightFormat find_format(const std::string& quantization, const std::string& dtype) {
  const std::string name = canonical(quantization);
  if (name == "none") return dtype == "float32" ? tensor::DType::kF32 : tensor::DType::kBF16;
  const WeightFormat* format = tensor::find_weight_format(name);
  if (format != nullptr && !format->plain()) return *format;
  throw base::UsageError(fmt::format(
      "--quantization {}: unknown; the nearest known one is {} (known: {})", quantization,
      base::nearest(name, format_names()), fmt::join(format_names(), ", ")));
}

}  // namespace moesaic::plan
