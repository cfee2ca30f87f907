#pragma once

// GGUF files that are cut into parts: NAME-00001-of-00003.gguf and so on, each a whole GGUF file of
// its own; the first holds the model's metadata.

#include <string>
#include <vector>

#include "checkpoint/gguf.h"

namespace moesaic::checkpoint {

/// The names of all parts of the file that `name` is a part of, in order; itself if it is not named
/// as a part is.
std::vector<std::string> gguf_parts(const std::string& name);

/// Throws ModelFileError unless the file says that it is part `index` of `count`.
void check_part(const GgufMetadata& metadata, size_t index, size_t count);

/// Throws ModelFileError when a tensor is in two parts, or when there are not as many tensors as
/// the first part says.
void check_parts_together(const GgufMetadata& first, const std::vector<TensorEntry>& tensors);

}  // namespace moesaic::checkpoint
