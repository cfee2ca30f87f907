#include "backend/sampling/row_math.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace moesaic::backend {
namespace {

constexpr float kMax = std::numeric_limits<float>::max();
constexpr float kNever = -std::numeric_limits<float>::infinity();

// Vectors of four, which every x86-64 and Arm machine has, and four running sums: the order of the
// sums is the same everywhere.
constexpr size_t kLanes = 4;
constexpr size_t kSums = 4;
constexpr size_t kStride = kLanes * kSums;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Bits __attribute__((vector_size(kLanes * sizeof(int32_t))));

inline Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

/// Constants of exp: 2^n * e^r, |r| <= ln(2) / 2, e^r by its Taylor polynomial of degree 7. ln(2)
/// in two parts, the first exact in few bits, so that n * ln(2) loses nothing (Cody and Waite
/// 1980).
constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
constexpr float kSmallest = -87.0f;
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
constexpr float kTaylor[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};

/// One formula for vectors and scalars; T is Lanes or float, I the integers of its size.
template <typename T, typename I>
inline T exp_unchecked(T x) {
  const T shifted = x * kLog2E + kRound;
  const T n = shifted - kRound;
  const T r = (x - n * kLn2High) - n * kLn2Low;
  T sum = r * kTaylor[0] + kTaylor[1];
  for (size_t i = 2; i < std::size(kTaylor); ++i) sum = sum * r + kTaylor[i];
  // n stands in the low bits of `shifted`; 2^n is n put into the exponent.
  I exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent + 127) << 23;
  T power;
  std::memcpy(&power, &exponent, sizeof power);
  return sum * power;
}

/// Weights of four entries; those below `floor` and those far below `best` weigh nothing.
inline Lanes weights_of(Lanes x, float best, float scale, float floor) {
  const Lanes scaled = (x - best) * scale;
  const Bits counts = (x >= floor) & (scaled >= kSmallest);
  const Lanes safe = counts ? scaled : Lanes{};
  return counts ? exp_unchecked<Lanes, Bits>(safe) : Lanes{};
}

double block_sum(const float* row, size_t count, float best, float scale, float floor) {
  Lanes sums[kSums] = {};
  size_t i = 0;
  for (; i + kStride <= count; i += kStride) {
    for (size_t k = 0; k < kSums; ++k) {
      sums[k] += weights_of(load(row + i + k * kLanes), best, scale, floor);
    }
  }
  double total = 0;
  for (const Lanes& sum : sums) {
    for (size_t lane = 0; lane < kLanes; ++lane) total += static_cast<double>(sum[lane]);
  }
  for (; i < count; ++i) {
    if (row[i] >= floor) total += static_cast<double>(exp_below((row[i] - best) * scale));
  }
  return total;
}

}  // namespace

std::optional<float> largest(std::span<const float> row) {
  Lanes bests[kSums];
  Bits good = ~Bits{};
  for (Lanes& best : bests) best = Lanes{} + kNever;
  size_t i = 0;
  for (; i + kStride <= row.size(); i += kStride) {
    for (size_t k = 0; k < kSums; ++k) {
      const Lanes x = load(row.data() + i + k * kLanes);
      good &= x <= kMax;  // false for NaN and +inf
      bests[k] = x > bests[k] ? x : bests[k];
    }
  }
  float result = kNever;
  bool all_good = true;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    all_good = all_good && good[lane] != 0;
    for (const Lanes& best : bests) result = std::max(result, best[lane]);
  }
  for (; i < row.size(); ++i) {
    all_good = all_good && row[i] <= kMax;
    result = std::max(result, row[i]);
  }
  if (!all_good || result == kNever) return std::nullopt;
  return result;
}

float exp_below(float x) { return x >= kSmallest ? exp_unchecked<float, int32_t>(x) : 0.0f; }

RowWeights::RowWeights(std::span<const float> row, float best, float temperature, float floor)
    : row_(row), best_(best), scale_(1.0f / temperature), floor_(floor) {
  blocks_.reserve((row.size() + kBlock - 1) / kBlock);
  for (size_t first = 0; first < row.size(); first += kBlock) {
    const size_t count = std::min(kBlock, row.size() - first);
    blocks_.push_back(block_sum(row.data() + first, count, best_, scale_, floor_));
    total_ += blocks_.back();
  }
}

size_t RowWeights::find(double share) const {
  double left = share * total_;
  size_t block = 0;
  size_t last_weighty = 0;
  for (size_t b = 0; b < blocks_.size(); ++b) {
    if (blocks_[b] > 0) last_weighty = b;
  }
  while (block < last_weighty && left >= blocks_[block]) left -= blocks_[block++];
  // Summed one by one a block may come to a little less than its sum; its last weighty entry then
  // stands for the rest.
  const size_t first = block * kBlock;
  const size_t end = std::min(first + kBlock, row_.size());
  size_t last = first;
  for (size_t i = first; i < end; ++i) {
    const float w = weight(row_[i]);
    if (w <= 0) continue;
    last = i;
    left -= static_cast<double>(w);
    if (left < 0) break;
  }
  return last;
}

double log_sum_exp(std::span<const float> row, float best) {
  return static_cast<double>(best) + std::log(RowWeights(row, best, 1.0f, kNever).total());
}

size_t find_above(std::span<const float> row, size_t from, float x) {
  for (; from + kStride <= row.size(); from += kStride) {
    Bits any{};
    for (size_t k = 0; k < kSums; ++k) any |= load(row.data() + from + k * kLanes) > x;
    if ((any[0] | any[1] | any[2] | any[3]) != 0) break;
  }
  while (from < row.size() && !(row[from] > x)) ++from;
  return from;
}

size_t count_above(std::span<const float> row, float x) {
  Bits count{};
  size_t i = 0;
  for (; i + kLanes <= row.size(); i += kLanes) {
    count -= load(row.data() + i) > x;  // true is -1
  }
  size_t total = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) total += static_cast<size_t>(count[lane]);
  for (; i < row.size(); ++i) total += row[i] > x ? 1 : 0;
  return total;
}

}  // namespace moesaic::backend
