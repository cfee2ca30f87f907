#include "plan/formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

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

/// A label for integers of a width that no format of the table has.
std::string_view bits_label(int64_t bits) {
  constexpr std::array kLabels = {"2-bit", "3-bit", "4-bit", "5-bit", "6-bit", "7-bit", "8-bit"};
  return kLabels.at(static_cast<size_t>(bits - 2));
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

WeightFormat published_format(const model::QuantizationFacts& facts, const std::string& model,
                              const std::string& dtype) {
  if (facts.method.empty()) return find_format("none", dtype);
  if (facts.format.empty()) {
    throw base::ModelFileError(
        model, fmt::format("quantised in a way that is not known here ({}); say what comes near "
                           "it with --quantization: {}",
                           facts.found, fmt::join(format_names(), ", ")));
  }
  WeightFormat format = find_format(facts.format);
  format.experts_only |= facts.experts_only;
  if (format.scheme != tensor::Scheme::kAffine) return format;
  if (facts.bits > 0 && facts.bits != format.value_bits) {
    format.value_bits = facts.bits;
    format.label = bits_label(facts.bits);
  }
  if (facts.group != 0) format.group_k = std::max<int64_t>(0, facts.group);
  return format;
}

}  // namespace moesaic::plan
