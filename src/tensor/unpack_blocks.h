#pragma once

// The block types of GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and the
// structures of ggml-common.h).

#include <cstddef>
#include <cstdint>

#include "tensor/weight_format.h"

namespace moesaic::tensor {

/// Values [col, col + count) of a row of blocks.
void unpack_blocks(const WeightFormat& format, const std::byte* row, int64_t col, int64_t count,
                   float* out);

}  // namespace moesaic::tensor
