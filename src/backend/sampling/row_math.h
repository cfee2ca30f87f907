#pragma once

// Passes over one row of logits, a vocabulary long. The order of every sum is fixed, so a row gives
// the same bits on every machine and whatever is computed beside it.

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace moesaic::backend {

/// The largest entry; none when one is NaN or +inf, or when there is no finite one.
std::optional<float> largest(std::span<const float> row);

/// e^x for x <= 0, within 3 units in the last place; 0 below -87. The vector passes give these
/// bits.
float exp_below(float x);

/// Weights exp((x - best) / temperature) of a row's entries that reach `floor`, summed in blocks,
/// so that a point in the distribution is found without a third pass over the row.
class RowWeights {
 public:
  static constexpr size_t kBlock = 1024;

  RowWeights(std::span<const float> row, float best, float temperature, float floor);

  double total() const { return total_; }
  float weight(float x) const { return x < floor_ ? 0.0f : exp_below((x - best_) * scale_); }
  /// The index at which the running sum of weights first exceeds `share` (in [0, 1)) of the total.
  size_t find(double share) const;

 private:
  std::span<const float> row_;
  float best_, scale_, floor_;
  std::vector<double> blocks_;
  double total_ = 0;
};

/// log(sum(exp(row))), given its largest entry.
double log_sum_exp(std::span<const float> row, float best);

/// The first entry from index `from` on that is greater than `x`; the row's size when none is.
size_t find_above(std::span<const float> row, size_t from, float x);

/// How many entries are greater than `x`.
size_t count_above(std::span<const float> row, float x);

}  // namespace moesaic::backend
