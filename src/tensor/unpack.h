#pragma once

// What stored values are: the one meaning of every weight format, which backends read through
// where they have no kernels of their own for it.

#include <cstdint>

#include "tensor/weight_format.h"

namespace moesaic::tensor {

/// Writes the values [col, col + count) of output `row` of a stored matrix as floats, exactly by
/// the format's published formula. `part` holds the whole matrix; its views were checked against
/// the format, and those of elements larger than a byte are aligned.
void unpack(const WeightFormat& format, const Part& part, int64_t row, int64_t col, int64_t count,
            float* out);

}  // namespace moesaic::tensor
