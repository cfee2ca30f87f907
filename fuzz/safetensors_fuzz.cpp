// Any bytes as a safetensors file: the parser answers with tensors that lie inside the file and
// cover its data exactly, or with ModelFileError. Nothing else may leave it.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace {

void check(const std::vector<std::byte>& file) {
  try {
    const auto tensors = moesaic::checkpoint::parse_safetensors(file, "fuzz");
    uint64_t bytes = 0;
    for (const auto& entry : tensors) {
      MOESAIC_ASSERT(entry.offset + entry.view.bytes() <= file.size());
      MOESAIC_ASSERT(entry.view.data == file.data() + entry.offset);
      bytes += entry.view.bytes();
    }
    uint64_t header = 0;
    std::memcpy(&header, file.data(), sizeof(header));
    MOESAIC_ASSERT(sizeof(header) + header + bytes == file.size());
  } catch (const moesaic::base::ModelFileError&) {
    // The answer to most inputs.
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  check({bytes, bytes + size});
  // The same as a header of the right length, so that mutation need not find it.
  const uint64_t length = size;
  std::vector<std::byte> framed(sizeof(length) + size);
  std::memcpy(framed.data(), &length, sizeof(length));
  if (size > 0) std::memcpy(framed.data() + sizeof(length), data, size);
  check(framed);
  // And with some data behind it.
  framed.resize(framed.size() + 16);
  check(framed);
  return 0;
}
