#pragma once

// For tests: GGUF files, well-formed or not, written piece by piece.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tensor/dtype.h"

namespace moesaic::checkpoint::testing {

template <typename T>
std::string little_endian(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

inline std::string gguf_string(const std::string& text) {
  return little_endian<uint64_t>(text.size()) + text;
}

/// A key with the value of a type, whose bytes are given.
inline std::string gguf_key(const std::string& key, uint32_t type, const std::string& value) {
  return gguf_string(key) + little_endian(type) + value;
}
inline std::string gguf_array(uint32_t type, uint64_t count, const std::string& elements) {
  return little_endian(type) + little_endian(count) + elements;
}

/// A tensor's entry; `dims` innermost first.
inline std::string gguf_entry(const std::string& name, const std::vector<uint64_t>& dims,
                              uint32_t type, uint64_t offset) {
  std::string entry = gguf_string(name) + little_endian(static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) entry += little_endian(dim);
  return entry + little_endian(type) + little_endian(offset);
}

/// A file of those keys, entries and data, with the counts that it should have or others.
struct GgufPieces {
  std::vector<std::string> keys, entries;
  std::string data;
  std::string magic = "GGUF";
  uint32_t version = 3;
  int64_t key_count = -1, tensor_count = -1;  ///< -1: as many as there are
  size_t alignment = 32;

  std::string file() const {
    const auto count = [](int64_t given, size_t real) {
      return little_endian(given < 0 ? static_cast<uint64_t>(real) : static_cast<uint64_t>(given));
    };
    std::string bytes = magic + little_endian(version) + count(tensor_count, entries.size()) +
                        count(key_count, keys.size());
    for (const std::string& key : keys) bytes += key;
    for (const std::string& entry : entries) bytes += entry;
    if (!data.empty()) bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
    return bytes + data;
  }
};

/// Collects keys and tensors and writes them as one well-formed file.
class GgufWriter {
 public:
  void add_u32(const std::string& key, uint32_t value) {
    pieces_.keys.push_back(gguf_key(key, 4, little_endian(value)));
  }
  void add_u16(const std::string& key, uint16_t value) {
    pieces_.keys.push_back(gguf_key(key, 2, little_endian(value)));
  }
  void add_i32(const std::string& key, int32_t value) {
    pieces_.keys.push_back(gguf_key(key, 5, little_endian(value)));
  }
  void add_f32(const std::string& key, float value) {
    pieces_.keys.push_back(gguf_key(key, 6, little_endian(value)));
  }
  void add_bool(const std::string& key, bool value) {
    pieces_.keys.push_back(gguf_key(key, 7, little_endian(static_cast<uint8_t>(value))));
  }
  void add_string(const std::string& key, const std::string& value) {
    pieces_.keys.push_back(gguf_key(key, 8, gguf_string(value)));
  }
  void add_strings(const std::string& key, const std::vector<std::string>& values) {
    std::string elements;
    for (const std::string& value : values) elements += gguf_string(value);
    pieces_.keys.push_back(gguf_key(key, 9, gguf_array(8, values.size(), elements)));
  }
  void add_i32s(const std::string& key, const std::vector<int32_t>& values) {
    std::string elements;
    for (const int32_t value : values) elements += little_endian(value);
    pieces_.keys.push_back(gguf_key(key, 9, gguf_array(5, values.size(), elements)));
  }
  void add_f32s(const std::string& key, const std::vector<float>& values) {
    std::string elements;
    for (const float value : values) elements += little_endian(value);
    pieces_.keys.push_back(gguf_key(key, 9, gguf_array(6, values.size(), elements)));
  }

  /// A tensor of a type by its number; `shape` is outermost first.
  void add(const std::string& name, uint32_t type, const std::vector<int64_t>& shape,
           const std::string& bytes) {
    pieces_.entries.push_back(
        gguf_entry(name, {shape.rbegin(), shape.rend()}, type, pieces_.data.size()));
    pieces_.data += bytes;
    pieces_.data.resize((pieces_.data.size() + 31) / 32 * 32, '\0');
  }
  void add_floats(const std::string& name, const std::vector<int64_t>& shape,
                  const std::vector<float>& values) {
    add(name, 0, shape,
        {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }

  std::string bytes() const { return pieces_.file(); }

 private:
  GgufPieces pieces_;
};

}  // namespace moesaic::checkpoint::testing
