#include "plan/formats.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/nearest.h"

namespace moesaic::plan {

namespace {

// Scales: fp8 blocks of 128 x 128 share one of 4 bytes; int8 has one of 2 bytes per output row,
// small beside a row of thousands; AWQ and GPTQ groups of 128 have a scale of 16 bits and a zero of
// 4; MXFP4 groups of 32 share an exponent of 8 bits; NF4 blocks of 64 a scale of 8 with double
// quantisation.
const std::vector<WeightFormat>& formats() {
  static const std::vector<WeightFormat> all = {
      {"none", "16-bit", 16, 0, 64, false, false},
      {"fp8", "fp8", 8, 32.0 / (128 * 128), 128, false, true},
      {"int8", "int8", 8, 16.0 / 4096, 64, false, false},
      {"awq", "4-bit AWQ", 4, 20.0 / 128, 128, false, false},
      {"gptq", "4-bit GPTQ", 4, 20.0 / 128, 128, false, false},
      {"int4", "4-bit", 4, 20.0 / 128, 128, false, false},
      {"mxfp4", "MXFP4 (experts)", 4, 8.0 / 32, 32, true, false},
      {"bitsandbytes", "4-bit NF4", 4, 8.0 / 64, 64, false, false},
  };
  return all;
}

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

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const WeightFormat& format : formats()) names.push_back(format.name);
  return names;
}

WeightFormat find_format(const std::string& quantization, const std::string& dtype) {
  const std::string name = canonical(quantization);
  for (WeightFormat format : formats()) {
    if (format.name != name) continue;
    if (name == "none" && dtype == "float32") {
      format.bits = 32;
      format.label = "32-bit";
    }
    return format;
  }
  throw base::UsageError(fmt::format(
      "--quantization {}: unknown; the nearest known one is {} (known: {})", quantization,
      base::nearest(name, format_names()), fmt::join(format_names(), ", ")));
}

}  // namespace moesaic::plan
