#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moesaic::plan {

/// How the projections' weights are held. Embedding, head, norms and router stay in 16 bits in
/// every one, as the published quantised checkpoints have them.
struct WeightFormat {
  std::string name;             ///< as --quantization takes it; "none" for plain types
  std::string label;            ///< for people
  int64_t bits = 16;            ///< of one weight
  double extra_bits = 0;        ///< scales and zero points, per weight
  int64_t granule = 64;         ///< expert widths are cut at multiples of this
  bool experts_only = false;    ///< attention and shared experts stay in 16 bits (gpt-oss)
  bool fp8_arithmetic = false;  ///< activations are quantised too, where the device can
  double bytes_per_weight() const { return (static_cast<double>(bits) + extra_bits) / 8; }
};

/// The format that `quantization` (a --quantization value or a config's quant_method) means; empty
/// or "none" is the plain 16-bit one, or 32-bit for `dtype` float32. Throws UsageError with the
/// nearest known name.
WeightFormat find_format(const std::string& quantization, const std::string& dtype = "bfloat16");
std::vector<std::string> format_names();

}  // namespace moesaic::plan
