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

/// Bytes of somebody else's tensor, row-major and contiguous.
struct View {
  DType dtype = DType::kF32;
  Shape shape;
  const std::byte* data = nullptr;

  int64_t elements() const { return element_count(shape); }
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype); }
};

}  // namespace moesaic::tensor
