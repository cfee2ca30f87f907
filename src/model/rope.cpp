#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moesaic::model {

namespace {

/// Blends long wavelengths towards position interpolation.
void scale_llama3(const RopeSpec& spec, std::vector<float>& frequencies) {
  const auto length = static_cast<double>(spec.original_max_position);
  const auto longest = static_cast<float>(length / spec.low_freq_factor);
  const auto shortest = static_cast<float>(length / spec.high_freq_factor);
  const double band = spec.high_freq_factor - spec.low_freq_factor;
  const auto factor = static_cast<float>(spec.factor);
  for (float& frequency : frequencies) {
    const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / frequency;
    if (wavelength < shortest) continue;
    if (wavelength > longest || band == 0.0) {
      frequency /= factor;
      continue;
    }
    const float share =
        (static_cast<float>(length) / wavelength - static_cast<float>(spec.low_freq_factor)) /
        static_cast<float>(band);
    frequency = (1.0f - share) * frequency / factor + share * frequency;
  }
}

/// The (fractional) pair of dims that makes `turns` full turns over the original length.
double yarn_dimension(const RopeSpec& spec, double turns) {
  const auto length = static_cast<double>(spec.original_max_position);
  return static_cast<double>(spec.rotary_dim) *
         std::log(length / (turns * 2.0 * std::numbers::pi)) / (2.0 * std::log(spec.theta));
}

void scale_yarn(const RopeSpec& spec, const std::vector<float>& exponents,
                std::vector<float>& frequencies) {
  double low = yarn_dimension(spec, spec.beta_fast);
  double high = yarn_dimension(spec, spec.beta_slow);
  if (spec.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(spec.rotary_dim - 1));
  if (low == high) high += 0.001;
  const auto factor = static_cast<float>(spec.factor);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float period = std::pow(static_cast<float>(spec.theta), exponents[i]);
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f,
        1.0f);
    const float keep = 1.0f - ramp;
    frequencies[i] = 1.0f / (factor * period) * (1.0f - keep) + 1.0f / period * keep;
  }
}

double yarn_magnitude(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double yarn_amplitude(const RopeSpec& spec) {
  if (spec.attention_factor > 0) return spec.attention_factor;
  if (spec.mscale > 0 && spec.mscale_all_dim > 0) {
    return yarn_magnitude(spec.factor, spec.mscale) /
           yarn_magnitude(spec.factor, spec.mscale_all_dim);
  }
  return yarn_magnitude(spec.factor, 1.0);
}

}  // namespace

backend::RopeTable rope_table(const RopeSpec& spec) {
  backend::RopeTable table;
  const auto dim = static_cast<float>(spec.rotary_dim);
  for (int64_t i = 0; i < spec.rotary_dim; i += 2) {
    table.exponents.push_back(static_cast<float>(i) / dim);
    table.frequencies.push_back(1.0f /
                                std::pow(static_cast<float>(spec.theta), table.exponents.back()));
  }
  switch (spec.scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kDynamic:
      table.theta = spec.theta;
      table.factor = spec.factor;
      table.length = spec.original_max_position;
      break;
    case RopeScaling::kLinear:
      for (float& frequency : table.frequencies) frequency /= static_cast<float>(spec.factor);
      break;
    case RopeScaling::kLlama3:
      scale_llama3(spec, table.frequencies);
      break;
    case RopeScaling::kYarn:
      scale_yarn(spec, table.exponents, table.frequencies);
      table.amplitude = static_cast<float>(yarn_amplitude(spec));
      break;
  }
  return table;
}

}  // namespace moesaic::model
