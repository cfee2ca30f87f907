#include "backend/step.h"

#include <cmath>

namespace moesaic::backend {

void RopeTable::row(int32_t position, float* cos, float* sin) const {
  const auto at = static_cast<float>(position);
  const int64_t context = int64_t{position} + 1;
  if (length > 0 && context > length) {
    const double stretch =
        factor * static_cast<double>(context) / static_cast<double>(length) - (factor - 1.0);
    const auto dims = static_cast<double>(2 * pairs());
    const auto base = static_cast<float>(theta * std::pow(stretch, dims / (dims - 2.0)));
    for (size_t i = 0; i < exponents.size(); ++i) {
      const float angle = at * (1.0f / std::pow(base, exponents[i]));
      cos[i] = std::cos(angle);
      sin[i] = std::sin(angle);
    }
    return;
  }
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float angle = at * frequencies[i];
    cos[i] = std::cos(angle) * amplitude;
    sin[i] = std::sin(angle) * amplitude;
  }
}

}  // namespace moesaic::backend
