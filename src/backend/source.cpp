#include "backend/weights.h"
#include "tensor/unpack.h"

namespace moesaic::backend {

void read_row(const SourcePart& part, int64_t row, int64_t cols, float* out) {
  if (part.dummy()) {
    for (int64_t i = 0; i < cols; ++i) {
      out[i] = dummy_value(part.seed, part.first_row + row, part.first_col + i);
    }
    return;
  }
  const WeightFormat plain(part.part.values.dtype);
  tensor::unpack(part.format != nullptr ? *part.format : plain, part.part, part.stored_row(row),
                 part.first_col, cols, out);
}

}  // namespace moesaic::backend
