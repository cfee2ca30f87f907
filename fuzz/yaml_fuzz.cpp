// Any bytes as a manifest: documents that, written out, read as themselves again, or
// ModelFileError.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "deploy/yaml_reader.h"
#include "deploy/yaml_writer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const auto& document : moesaic::deploy::read_yaml(text, "fuzz")) {
      MOESAIC_ASSERT(document.line >= 1);
      // The writer is for objects; aliases may have made a small text a large value.
      if (!document.value.is_object() || size > 2000) continue;
      const std::string written = moesaic::deploy::to_yaml(document.value);
      const auto again = moesaic::deploy::read_yaml(written, "written");
      MOESAIC_ASSERT(again.size() == 1 && again[0].value == document.value);
    }
  } catch (const moesaic::base::ModelFileError&) {
    // The answer to most inputs.
  }
  return 0;
}
