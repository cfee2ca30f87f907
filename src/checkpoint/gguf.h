#pragma once

// GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3: "GGUF",
// u32 version, u64 count of tensors, u64 count of keys, the keys with their values, one entry for
// each tensor, padding, data. All numbers are little-endian.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace moesaic::checkpoint {

/// The types of values, by their numbers in files.
enum class GgufType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

/// Where a value lies in the file.
struct GgufValue {
  GgufType type = GgufType::kU8;  ///< of an array: of its elements, which are no arrays
  bool array = false;
  uint64_t count = 1;
  uint64_t offset = 0;              ///< of the first element
  const std::byte* data = nullptr;  ///< there
};

/// What a GGUF file says of the model beside its tensors. Everything points into the file, whose
/// lengths were all checked; values are read when they are asked for. All getters throw
/// ModelFileError that names the file, the key and where the value lies.
class GgufMetadata {
 public:
  GgufMetadata(std::string file, std::map<std::string_view, GgufValue> values)
      : file_(std::move(file)), values_(std::move(values)) {}

  const std::string& file() const { return file_; }
  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// Every key that starts so, in order.
  std::vector<std::string_view> keys(std::string_view prefix = {}) const;

  /// A whole number of any width in [lowest, highest]; without a fallback the key is required.
  int64_t integer(std::string_view key, int64_t lowest, int64_t highest,
                  std::optional<int64_t> fallback = std::nullopt) const;
  /// A finite number.
  double number(std::string_view key, std::optional<double> fallback = std::nullopt) const;
  bool boolean(std::string_view key, std::optional<bool> fallback = std::nullopt) const;
  /// UTF-8 text.
  std::string_view string(std::string_view key,
                          std::optional<std::string_view> fallback = std::nullopt) const;
  /// At most `most` strings; an absent key is an empty list.
  std::vector<std::string_view> strings(std::string_view key, size_t most) const;
  /// At most `most` whole numbers in [lowest, highest]; a lone one is a list of one, an absent key
  /// an empty list.
  std::vector<int64_t> integers(std::string_view key, int64_t lowest, int64_t highest,
                                size_t most) const;
  /// At most `most` numbers, finite or not; an absent key is an empty list.
  std::vector<float> numbers(std::string_view key, size_t most) const;

  /// Throws ModelFileError: '<key>' <problem>.
  [[noreturn]] void fail(std::string_view key, const std::string& problem) const;

 private:
  const GgufValue* find(std::string_view key) const;
  /// The one value of a key; null when it is absent and `required` is not set.
  const GgufValue* scalar(std::string_view key, bool required) const;
  /// The value of a key as a list of at most `most`; null when it is absent.
  const GgufValue* list(std::string_view key, size_t most) const;
  int64_t integer_at(std::string_view key, const GgufValue& value, uint64_t index, int64_t lowest,
                     int64_t highest) const;
  double number_at(std::string_view key, const GgufValue& value, uint64_t index) const;
  /// The string at `data`, which is moved past it.
  std::string_view text_at(std::string_view key, const std::byte*& data) const;

  std::string file_;
  std::map<std::string_view, GgufValue> values_;
};

struct GgufFile {
  GgufMetadata metadata;
  /// In the order of their data. A matrix is [outputs, inputs] as everywhere, the reverse of the
  /// file's order of dimensions; what is stored in blocks is kU8 with the bytes of a row.
  std::vector<TensorEntry> tensors;
};

/// A file held in memory, which must outlive what is returned; `path` names it in messages. Throws
/// ModelFileError unless every rule of the format holds: counts and lengths within the file, known
/// types, no name twice, aligned data that lies as the entries say, without gap or overlap. Takes
/// memory in proportion to the keys and tensors that are really there.
GgufFile parse_gguf(std::span<const std::byte> file, const std::string& path);

/// Whether a file's first bytes are GGUF's.
bool is_gguf(std::span<const std::byte> file);

}  // namespace moesaic::checkpoint
