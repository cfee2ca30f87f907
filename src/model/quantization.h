#pragma once

// What a checkpoint's files say of quantised weights: "quantization_config" of config.json, or the
// file that a tool writes beside it: facts for planning and for messages, and the rules by which
// the weights are read (quantization_rules.h).

#include <filesystem>
#include <string>

#include "model/config_reader.h"
#include "model/quantization_facts.h"

namespace moesaic::model {

/// The facts of "quantization_config"; empty without one. A key of the wrong type is a
/// ModelFileError, an unknown method leaves `format` empty.
QuantizationFacts read_quantization(const ConfigReader& config);

/// Puts what hf_quant_config.json, quant_config.json or quantize_config.json of `folder` says into
/// `config` as its "quantization_config", where that has none.
void add_quantization_file(const std::filesystem::path& folder, boost::json::object& config);

}  // namespace moesaic::model
