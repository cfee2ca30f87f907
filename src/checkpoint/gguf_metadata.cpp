#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/printable.h"
#include "base/utf8.h"
#include "checkpoint/gguf.h"

namespace moesaic::checkpoint {
namespace {

template <typename T>
T load(const std::byte* data, uint64_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto at = values_.find(key);
  return at == values_.end() ? nullptr : &at->second;
}

void GgufMetadata::fail(std::string_view key, const std::string& problem) const {
  const GgufValue* value = find(key);
  throw base::ModelFileError(file_, fmt::format("'{}' {}", base::printable(key), problem), {},
                             value == nullptr ? std::nullopt : std::optional(value->offset));
}

std::vector<std::string_view> GgufMetadata::keys(std::string_view prefix) const {
  std::vector<std::string_view> found;
  for (auto at = values_.lower_bound(prefix); at != values_.end(); ++at) {
    if (!at->first.starts_with(prefix)) break;
    found.push_back(at->first);
  }
  return found;
}

const GgufValue* GgufMetadata::scalar(std::string_view key, bool required) const {
  const GgufValue* value = find(key);
  if (value == nullptr && required) fail(key, "is missing from the file's metadata");
  if (value != nullptr && value->array) fail(key, "is an array; a single value belongs here");
  return value;
}

const GgufValue* GgufMetadata::list(std::string_view key, size_t most) const {
  const GgufValue* value = find(key);
  if (value != nullptr && value->count > most) {
    fail(key, fmt::format("has {} elements; at most {} are possible", value->count, most));
  }
  return value;
}

int64_t GgufMetadata::integer_at(std::string_view key, const GgufValue& value, uint64_t index,
                                 int64_t lowest, int64_t highest) const {
  const auto read = [&]() -> std::optional<int64_t> {
    switch (value.type) {
      case GgufType::kU8:
        return load<uint8_t>(value.data, index);
      case GgufType::kI8:
        return load<int8_t>(value.data, index);
      case GgufType::kU16:
        return load<uint16_t>(value.data, index);
      case GgufType::kI16:
        return load<int16_t>(value.data, index);
      case GgufType::kU32:
        return load<uint32_t>(value.data, index);
      case GgufType::kI32:
        return load<int32_t>(value.data, index);
      case GgufType::kU64:
        return static_cast<int64_t>(
            std::min<uint64_t>(load<uint64_t>(value.data, index), INT64_MAX));
      case GgufType::kI64:
        return load<int64_t>(value.data, index);
      default:
        return std::nullopt;
    }
  };
  const std::optional<int64_t> number = read();
  if (!number) fail(key, "is not a whole number");
  if (*number < lowest || *number > highest) {
    fail(key, fmt::format("is {}; it must be from {} to {}", *number, lowest, highest));
  }
  return *number;
}

double GgufMetadata::number_at(std::string_view key, const GgufValue& value, uint64_t index) const {
  if (value.type == GgufType::kF32) return load<float>(value.data, index);
  if (value.type == GgufType::kF64) return load<double>(value.data, index);
  return static_cast<double>(integer_at(key, value, index, INT64_MIN, INT64_MAX));
}

std::string_view GgufMetadata::text_at(std::string_view key, const std::byte*& data) const {
  const std::string_view text(reinterpret_cast<const char*>(data) + sizeof(uint64_t),
                              load<uint64_t>(data, 0));
  data += sizeof(uint64_t) + text.size();
  if (!base::is_utf8(text)) fail(key, "is not UTF-8");
  return text;
}

int64_t GgufMetadata::integer(std::string_view key, int64_t lowest, int64_t highest,
                              std::optional<int64_t> fallback) const {
  const GgufValue* value = scalar(key, !fallback);
  return value == nullptr ? *fallback : integer_at(key, *value, 0, lowest, highest);
}

double GgufMetadata::number(std::string_view key, std::optional<double> fallback) const {
  const GgufValue* value = scalar(key, !fallback);
  if (value == nullptr) return *fallback;
  const double number = number_at(key, *value, 0);
  if (!std::isfinite(number)) fail(key, "is not a finite number");
  return number;
}

bool GgufMetadata::boolean(std::string_view key, std::optional<bool> fallback) const {
  const GgufValue* value = scalar(key, !fallback);
  if (value == nullptr) return *fallback;
  if (value->type != GgufType::kBool) fail(key, "is not true or false");
  return load<uint8_t>(value->data, 0) != 0;
}

std::string_view GgufMetadata::string(std::string_view key,
                                      std::optional<std::string_view> fallback) const {
  const GgufValue* value = scalar(key, !fallback);
  if (value == nullptr) return *fallback;
  if (value->type != GgufType::kString) fail(key, "is not a string");
  const std::byte* data = value->data;
  return text_at(key, data);
}

std::vector<std::string_view> GgufMetadata::strings(std::string_view key, size_t most) const {
  std::vector<std::string_view> all;
  const GgufValue* value = list(key, most);
  if (value == nullptr) return all;
  if (value->type != GgufType::kString) fail(key, "is not a list of strings");
  all.reserve(value->count);
  const std::byte* data = value->data;
  for (uint64_t i = 0; i < value->count; ++i) all.push_back(text_at(key, data));
  return all;
}

std::vector<int64_t> GgufMetadata::integers(std::string_view key, int64_t lowest, int64_t highest,
                                            size_t most) const {
  std::vector<int64_t> all;
  const GgufValue* value = list(key, most);
  if (value == nullptr) return all;
  all.reserve(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    all.push_back(integer_at(key, *value, i, lowest, highest));
  }
  return all;
}

std::vector<float> GgufMetadata::numbers(std::string_view key, size_t most) const {
  std::vector<float> all;
  const GgufValue* value = list(key, most);
  if (value == nullptr) return all;
  all.reserve(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    all.push_back(static_cast<float>(number_at(key, *value, i)));
  }
  return all;
}

}  // namespace moesaic::checkpoint
