#pragma once

// The block types of GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and the
// structures of ggml-common.h).

#include <cstddef>
#include <cstdint>

#include "tensor/integers.h"
#include "tensor/weight_format.h"

namespace moesaic::tensor {

/// What the blocks of a kBlocks format are in integers.
const IntegerFormat& block_integers(const WeightFormat& format);

/// Takes block `index` of a row of them apart.
void decode_block(const WeightFormat& format, const std::byte* row, int64_t index,
                  IntegerBlock& out);

/// Writes the values [col, col + count) of a row of blocks, as unpack() does.
void unpack_blocks(const WeightFormat& format, const std::byte* row, int64_t col, int64_t count,
                   float* out);

}  // namespace moesaic::tensor
