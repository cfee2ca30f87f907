#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

namespace moesaic::tensor {

using Shape = std::vector<int64_t>;

/// Elements of a shape. The caller has validated that the product fits.
inline int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

/// Somebody else's tensor, row-major. The rows of a matrix may lie apart, as those of a slice of
/// its columns do; everything else is contiguous.
struct View {
  DType dtype = DType::kF32;
  Shape shape;
  const std::byte* data = nullptr;
  int64_t row_stride = 0;  ///< elements from one row of a matrix to the next; 0 = its columns

  int64_t elements() const { return element_count(shape); }
  /// Of its elements.
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype); }
  /// From the first element to the end of the last one.
  size_t extent() const {
    if (row_stride == 0 || elements() == 0) return bytes();
    return static_cast<size_t>((shape[0] - 1) * row_stride + shape[1]) * size_of(dtype);
  }
  /// The first element of a row of a matrix.
  const std::byte* row(int64_t index) const {
    const int64_t stride = row_stride > 0 ? row_stride : shape[1];
    return data + static_cast<size_t>(index * stride) * size_of(dtype);
  }
};

}  // namespace moesaic::tensor
