#pragma once

// What a GGUF file says of a model, as a folder in Hugging Face layout would say it, so that
// everything behind reads one thing.

#include <boost/json/object.hpp>

#include "checkpoint/checkpoint.h"
#include "model/family.h"

namespace moesaic::model {

/// The config.json that the metadata of a GGUF file stands for: `general.architecture` and what is
/// written under its name. Throws ModelFileError for an architecture that is not known, a key that
/// is missing or out of range, and what no family here computes.
boost::json::object gguf_config(const checkpoint::Checkpoint& checkpoint);

/// Whether files of that architecture store the rows of queries' and keys' heads as rope's pairs:
/// (0, half), (1, half + 1), ..., which rotate as neighbours.
bool gguf_rope_pairs(const checkpoint::Checkpoint& checkpoint);

/// The names of a GGUF file's tensors, the same for all families.
const TensorNames& gguf_names();

}  // namespace moesaic::model
