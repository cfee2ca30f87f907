#include "tensor/unpack.h"

#include "base/error.h"
#include "tensor/unpack_blocks.h"
#include "tensor/unpack_stored.h"

namespace moesaic::tensor {

void unpack(const WeightFormat& format, const Part& part, int64_t row, int64_t col, int64_t count,
            float* out) {
  switch (format.scheme) {
    case Scheme::kPlain: {
      const std::byte* values = part.values.row(row);
      for (int64_t i = 0; i < count; ++i) {
        out[i] = load_float(part.values.dtype, values, col + i);
      }
      return;
    }
    case Scheme::kBlocks:
      unpack_blocks(format, part.values.row(row), col, count, out);
      return;
    case Scheme::kAffine:
      unpack_integers(format, part, row, col, count, out);
      return;
    case Scheme::kScaled:
      unpack_small_floats(format, part, row, col, count, out);
      return;
    case Scheme::kCoded:
      unpack_codes(format, part, row, col, count, out);
      return;
  }
  base::assertion_failed("the format can be unpacked", __FILE__, __LINE__);
}

}  // namespace moesaic::tensor
