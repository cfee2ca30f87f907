#pragma once

// tensor/weight_format.h as the planner reads it: how the projections' weights are held. Embedding,
// head, norms and router stay in 16 bits in every quantised one, as the published checkpoints have
// them.

#include <string>
#include <vector>

#include "model/quantization_facts.h"
#include "tensor/weight_format.h"

namespace moesaic::plan {

using tensor::WeightFormat;

/// As --quantization names it: "none" for plain types.
std::string quantization_name(const WeightFormat& format);

/// The format that `quantization` (a --quantization value or a config's quant_method) means; empty
/// or "none" is the plain 16-bit one, or 32-bit for `dtype` float32. Throws UsageError with the
/// nearest known name.
WeightFormat find_format(const std::string& quantization, const std::string& dtype = "bfloat16");
std::vector<std::string> format_names();

/// The format that a checkpoint's own files describe; the plain one for `dtype` where they describe
/// none. `model` is for messages. Throws ModelFileError with what was found in which file, and the
/// remedy, when it is not known.
WeightFormat published_format(const model::QuantizationFacts& facts, const std::string& model,
                              const std::string& dtype = "bfloat16");

}  // namespace moesaic::plan
