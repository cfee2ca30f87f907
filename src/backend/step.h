#pragma once

// One forward pass as flat arrays, and the rotary embedding that its positions are turned by.

#include <cstdint>
#include <vector>

namespace moesaic::backend {

/// The rows (tokens) of one step; the same batch goes to every rank. Rows of one sequence are
/// consecutive; S sequences, T rows. Sequence s owns rows [seq_starts[s], seq_starts[s+1]); its
/// last row sits at position context_lens[s] - 1, the others just before it. A sequence's positions
/// p live in block block_tables[s * max_blocks + p / block_size].
struct StepBatch {
  /// [T]; -1 - k stands for what wanted row k of the step before chose, if that is not known yet.
  std::vector<int32_t> token_ids;
  std::vector<int32_t> positions;     ///< [T]
  std::vector<int64_t> slots;         ///< [T] block * block_size + offset for the row's K and V
  std::vector<int32_t> seq_starts;    ///< [S + 1]
  std::vector<int32_t> context_lens;  ///< [S] positions in the cache once this step has run
  std::vector<int32_t> block_tables;  ///< [S, max_blocks]
  int64_t max_blocks = 0;
  std::vector<int32_t> logit_rows;  ///< rows whose logits are wanted, ascending

  int64_t rows() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t sequences() const { return static_cast<int64_t>(context_lens.size()); }
};

/// Rotary position embedding as data (https://arxiv.org/abs/2104.09864, half-split or "neox"
/// layout): pair i of a head's first rotary dims turns by position * frequencies[i], with cos and
/// sin times amplitude. Where `length` is not 0, positions p >= length use instead the frequencies
/// of theta (factor (p + 1) / length - (factor - 1))^(D / (D - 2)) with D = 2 * pairs, and
/// exponents as given ("dynamic" scaling, https://arxiv.org/abs/2309.00071, A.2).
struct RopeTable {
  std::vector<float> frequencies;  ///< radians per position
  float amplitude = 1.0f;
  std::vector<float> exponents;  ///< 2i / D
  double theta = 0;
  double factor = 1;
  int64_t length = 0;

  int64_t pairs() const { return static_cast<int64_t>(frequencies.size()); }
  /// Fills one row of cos and sin, [pairs()] each, for one position.
  void row(int32_t position, float* cos, float* sin) const;
};

}  // namespace moesaic::backend
