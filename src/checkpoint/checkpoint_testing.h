#pragma once

// For tests: temporary folders and safetensors files, well-formed or not.

#include <unistd.h>

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/view.h"

namespace moesaic::checkpoint::testing {

/// A new folder, removed with everything in it at the end of the scope.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "moesaic-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = std::filesystem::canonical(pattern);
  }
  ~TempFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::filesystem::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// A safetensors file of that header text and data; `length` replaces the true header length.
inline std::string safetensors_file(const std::string& header, const std::string& data,
                                    int64_t length = -1) {
  const auto n = std::bit_cast<uint64_t>(length < 0 ? static_cast<int64_t>(header.size()) : length);
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[static_cast<size_t>(i)] = static_cast<char>(n >> (8 * i));
  return file + header + data;
}

/// Collects tensors and writes them as one well-formed file.
class SafetensorsWriter {
 public:
  void add(const std::string& name, const std::string& dtype, const tensor::Shape& shape,
           const std::string& bytes) {
    std::string dims;
    for (int64_t dim : shape) dims += (dims.empty() ? "" : ",") + std::to_string(dim);
    header_ += (header_.empty() ? "\"" : ",\"") + name + "\":{\"dtype\":\"" + dtype +
               "\",\"shape\":[" + dims + "],\"data_offsets\":[" + std::to_string(data_.size()) +
               "," + std::to_string(data_.size() + bytes.size()) + "]}";
    data_ += bytes;
    names_.push_back(name);
  }

  /// Values in the given float type.
  void add_floats(const std::string& name, tensor::DType dtype, const tensor::Shape& shape,
                  const std::vector<float>& values) {
    std::string bytes(values.size() * tensor::size_of(dtype), '\0');
    for (size_t i = 0; i < values.size(); ++i) {
      tensor::store_float(dtype, bytes.data(), static_cast<int64_t>(i), values[i]);
    }
    add(name, std::string(tensor::to_string(dtype)), shape, bytes);
  }

  /// The file's bytes; the header is padded so that 8 + its length is `remainder` modulo 8.
  std::string bytes(size_t remainder = 0) const {
    std::string header = "{" + header_ + "}";
    while (header.size() % 8 != remainder) header += ' ';
    return safetensors_file(header, data_);
  }
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::string header_, data_;
  std::vector<std::string> names_;
};

/// A file with one to four bits flipped, or bytes of `odd` put in, or a few taken out; never empty.
inline std::string damaged(std::string file, std::string_view odd, std::mt19937& random) {
  const int edits = 1 + static_cast<int>(random() % 4);
  for (int i = 0; i < edits; ++i) {
    const size_t at = random() % file.size();
    switch (random() % 4) {
      case 0:
        file[at] = static_cast<char>(file[at] ^ (1 << (random() % 8)));
        break;
      case 1:
        file[at] = odd[random() % odd.size()];
        break;
      case 2:
        file.erase(at, 1 + random() % 3);
        break;
      default:
        file.insert(at, 1, odd[random() % odd.size()]);
        break;
    }
    if (file.empty()) file = "x";
  }
  return file;
}

}  // namespace moesaic::checkpoint::testing
