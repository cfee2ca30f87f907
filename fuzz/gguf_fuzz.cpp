// Any bytes as a GGUF file: the parser answers with values that can be read and tensors that lie
// inside the file, one after the other, or with ModelFileError. Nothing else may leave it.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/gguf.h"

namespace {

using moesaic::base::ModelFileError;
using moesaic::checkpoint::GgufMetadata;

template <typename Read>
void attempt(const Read& read) {
  try {
    read();
  } catch (const ModelFileError&) {
    // Of another kind, or out of range.
  }
}

void read_value(const GgufMetadata& metadata, std::string_view key) {
  constexpr size_t kMost = 1000;
  attempt([&] { metadata.integer(key, -5, 5); });
  attempt([&] { metadata.number(key); });
  attempt([&] { metadata.boolean(key); });
  attempt([&] { metadata.string(key); });
  attempt([&] { metadata.strings(key, kMost); });
  attempt([&] { metadata.integers(key, -5, 5, kMost); });
  attempt([&] { metadata.numbers(key, kMost); });
}

void check(const std::vector<std::byte>& bytes) {
  try {
    const auto file = moesaic::checkpoint::parse_gguf(bytes, "fuzz");
    uint64_t end = 0;
    for (const auto& entry : file.tensors) {
      MOESAIC_ASSERT(entry.offset >= end);
      MOESAIC_ASSERT(entry.view.data == bytes.data() + entry.offset);
      end = entry.offset + entry.view.bytes();
      MOESAIC_ASSERT(end <= bytes.size());
      MOESAIC_ASSERT(entry.shape().size() == entry.view.shape.size());
    }
    for (const std::string_view key : file.metadata.keys()) read_value(file.metadata, key);
  } catch (const ModelFileError&) {
    // The answer to most inputs.
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  check({bytes, bytes + size});
  // The same behind magic and version, so that mutation need not find them.
  std::vector<std::byte> framed(8 + size);
  std::memcpy(framed.data(), "GGUF\3\0\0\0", 8);
  if (size > 0) std::memcpy(framed.data() + 8, data, size);
  check(framed);
  return 0;
}
