#pragma once

// The texts that a folder in Hugging Face layout has beside config.json, made from a GGUF file's
// metadata.

#include <map>
#include <string>

#include "checkpoint/gguf.h"

namespace moesaic::model {

/// File names and their content: tokenizer.json and tokenizer_config.json from `tokenizer.ggml.*`,
/// chat_template.jinja and additional_chat_templates/tool_use.jinja from
/// `tokenizer.chat_template*`, generation_config.json from `general.sampling.*`; those of them that
/// the metadata has something for. Without `tokenizer` the first two are left out, whatever the
/// file says of them. Throws ModelFileError for a kind of tokenizer or a pre-tokenizer that is not
/// known, naming those that are, and for lists that do not fit together.
std::map<std::string, std::string> gguf_texts(const checkpoint::GgufMetadata& metadata,
                                              bool tokenizer = true);

}  // namespace moesaic::model
