#pragma once

// Weights in a backend's own layout: what they are, where their values come from, and the handles
// that operators take. The layout itself is the backend's.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "backend/address.h"
#include "tensor/weight_format.h"

namespace moesaic::backend {

using tensor::DType;
using tensor::WeightFormat;

/// A weight matrix W [n outputs, k inputs]; y = x W^T.
struct MatrixDesc {
  int64_t n = 0;
  int64_t k = 0;
  WeightFormat format;
};

/// The gated feed-forward weights of `experts` experts: gate, up [width, hidden], down [hidden,
/// width]. A dense FFN and a shared expert are the case experts = 1.
struct ExpertsDesc {
  int64_t experts = 0;
  int64_t hidden = 0;
  int64_t width = 0;
  WeightFormat format;  ///< of gate and up, and of down unless it has its own
  std::optional<WeightFormat> down_format = {};  ///< where it is another

  const WeightFormat& down() const { return down_format ? *down_format : format; }
  bool operator==(const ExpertsDesc&) const = default;
};

/// Handles to packed weights. They own nothing.
struct Matrix {
  MatrixDesc desc;
  Address packed;
};
struct Experts {
  ExpertsDesc desc;
  Address packed;
};

/// A rectangle of a matrix's values: rows from first_row and columns from first_col of a stored
/// matrix, whose type may differ from the packed format's; or, without views, of pseudo-random
/// values dummy_value(seed, row, col).
struct SourcePart {
  tensor::Part part;
  /// How `part` is stored; null: plain row-major values of the view's type.
  const WeightFormat* format = nullptr;
  int64_t rows = 0;
  uint64_t seed = 0;
  int64_t first_row = 0, first_col = 0;
  /// Not 0: each so many rows, a head's, are stored as rope's pairs (0, half), (1, half + 1), ...
  int64_t paired_rows = 0;

  bool dummy() const { return part.values.data == nullptr; }
  /// Where a row of the rectangle lies in the stored matrix.
  int64_t stored_row(int64_t row) const {
    if (paired_rows == 0) return first_row + row;
    const int64_t in_head = row % paired_rows;
    const int64_t half = paired_rows / 2;
    return first_row + row - in_head + in_head % half * 2 + in_head / half;
  }
  /// The first value of a row of the rectangle, where it is stored plain.
  const std::byte* plain_row(int64_t row) const {
    return part.values.row(stored_row(row)) +
           static_cast<size_t>(first_col) * tensor::size_of(part.values.dtype);
  }
};

/// The first `cols` values of a row of a part, whatever its format.
void read_row(const SourcePart& part, int64_t row, int64_t cols, float* out);

/// Where packed values come from: slices stacked over n, each [rows, k].
struct MatrixSource {
  std::vector<SourcePart> parts;
};
/// One entry per expert: gate, up [width, hidden], down [hidden, width].
struct ExpertsSource {
  std::vector<SourcePart> gate, up, down;
};

/// The bytes of a packed item that one unit of packing writes, and no other does.
struct PackUnit {
  size_t offset = 0;
  size_t bytes = 0;
};

/// The value of a dummy weight, before rounding to the weight's dtype: uniform in
/// (-0.0346, 0.0346), standard deviation 0.02, a pure function of its arguments, so that every
/// backend and layout gets the same model from the same seed.
float dummy_value(uint64_t seed, int64_t row, int64_t col);

/// A matrix of dummy values, and experts of them: expert e uses seeds seed + 3e (gate), + 3e + 1
/// (up), + 3e + 2 (down).
MatrixSource dummy_source(const MatrixDesc& desc, uint64_t seed);
ExpertsSource dummy_source(const ExpertsDesc& desc, uint64_t seed);

}  // namespace moesaic::backend
