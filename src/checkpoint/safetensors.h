#pragma once

#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace moesaic::checkpoint {

/// The tensors of one safetensors file held in memory, in the order of their data. Layout: u64
/// little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets: [begin,
/// end)}}, then data to which the offsets are relative. `path` names the file in messages. Throws
/// ModelFileError unless every rule of the format holds: a header of at most 100 MB within the
/// file, known dtypes, shape times dtype equal to the range, ranges that cover the data exactly
/// without gap or overlap.
std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> file,
                                           const std::string& path);

}  // namespace moesaic::checkpoint
