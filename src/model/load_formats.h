#pragma once

#include <string_view>

#include "tensor/weight_format.h"

namespace moesaic::model {

/// What --quantization `name` makes of a checkpoint's matrices at load; null for a name that it
/// does not have yet. eetq, TGI's name for integers of 8 bits, is int8 here. Embedding, head,
/// routers and norms stay as they are.
const tensor::WeightFormat* find_load_format(std::string_view name);

}  // namespace moesaic::model
