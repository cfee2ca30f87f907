// Any bytes as a container's script: its commands, none larger than the bound, or UsageError.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "deploy/shell_words.h"

namespace {

std::optional<std::string> variable(const std::string& name) {
  if (name.size() > 3) return std::nullopt;
  return name + " \"$" + name + "$(A)${B:-c} d'";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view script(reinterpret_cast<const char*>(data), size);
  try {
    size_t bytes = 0;
    for (const auto& command : moesaic::deploy::shell_commands(script, variable)) {
      for (const std::string& word : command) {
        bytes += word.size();
        moesaic::deploy::is_assignment(word);
      }
    }
    MOESAIC_ASSERT(bytes <= moesaic::deploy::kMaxExpandedText);
  } catch (const moesaic::base::UsageError&) {
    // Beyond the bound.
  }
  try {
    moesaic::deploy::expand_references(script, variable);
  } catch (const moesaic::base::UsageError&) {
    // The same.
  }
  return 0;
}
