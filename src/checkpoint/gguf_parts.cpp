#include "checkpoint/gguf_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <map>
#include <unordered_map>

#include "base/error.h"
#include "base/printable.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::ModelFileError;

constexpr std::string_view kSuffix = ".gguf";
constexpr std::string_view kOf = "-of-";
constexpr size_t kDigits = 5;

/// What comes before -00001-of-00003.gguf, and the count; a count of 0 for another name.
struct PartName {
  std::string stem;
  size_t count = 0;
};

size_t number(std::string_view digits) {
  size_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return error == std::errc() && end == digits.data() + digits.size() ? value : 0;
}

PartName part_name(std::string_view name) {
  constexpr size_t kTail = 1 + kDigits + kOf.size() + kDigits + kSuffix.size();
  if (name.size() < kTail || !name.ends_with(kSuffix)) return {};
  const std::string_view stem = name.substr(0, name.size() - kTail);
  const std::string_view tail = name.substr(stem.size());
  const size_t index = number(tail.substr(1, kDigits));
  const size_t count = number(tail.substr(1 + kDigits + kOf.size(), kDigits));
  const bool named = tail[0] == '-' && tail.substr(1 + kDigits, kOf.size()) == kOf;
  if (!named || index < 1 || index > count) return {};
  return {std::string(stem), count};
}

/// By name or by content.
bool looks_like_gguf(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return false;
  if (path.extension() == kSuffix) return true;
  std::array<char, 4> start{};
  std::ifstream(path, std::ios::binary).read(start.data(), start.size());
  return is_gguf(std::as_bytes(std::span(start)));
}

/// The GGUF files of a folder, of each that has several parts the first. Encoders of images that
/// go with a model are left out.
std::vector<std::string> models_in(const fs::path& folder) {
  std::map<std::string, std::string> first;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(kSuffix) || name.starts_with("mmproj")) continue;
    const PartName part = part_name(name);
    first.emplace(part.count > 0 ? part.stem : name, gguf_parts(name).front());
  }
  std::vector<std::string> names;
  names.reserve(first.size());
  for (const auto& [stem, name] : first) names.push_back(name);
  return names;
}

}  // namespace

std::vector<std::string> gguf_parts(const std::string& name) {
  const PartName part = part_name(name);
  if (part.count == 0) return {name};
  std::vector<std::string> names;
  for (size_t i = 1; i <= part.count; ++i) {
    names.push_back(fmt::format("{}-{:05}-of-{:05}.gguf", part.stem, i, part.count));
  }
  return names;
}

std::optional<fs::path> find_gguf(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    if (!looks_like_gguf(path)) return std::nullopt;
    return path.parent_path() / gguf_parts(path.filename().string()).front();
  }
  for (const char* safetensors : {"model.safetensors", "model.safetensors.index.json"}) {
    if (fs::symlink_status(path / safetensors, error).type() != fs::file_type::not_found) {
      return std::nullopt;
    }
  }
  const std::vector<std::string> names = models_in(path);
  if (names.empty()) return std::nullopt;
  if (names.size() > 1) {
    throw ModelFileError(
        path.string(),
        fmt::format("has {} GGUF models; give the file of one, such as {} or {}", names.size(),
                    base::printable(names[0]), base::printable(names[1])));
  }
  return path / names.front();
}

void check_part(const GgufMetadata& metadata, size_t index, size_t count) {
  constexpr int64_t kMost = 65535;
  const auto told = metadata.integer("split.count", 0, kMost, 1);
  // A file that is not cut may say so in two ways.
  if (count == 1 && told <= 1) return;
  if (static_cast<size_t>(told) != count) {
    metadata.fail(
        "split.count",
        fmt::format("is {}, but by its name the file is one of {} part{}; parts are named "
                    "NAME-00001-of-0000N.gguf",
                    told, count, count == 1 ? "" : "s"));
  }
  const auto at = static_cast<int64_t>(index);
  if (const int64_t no = metadata.integer("split.no", 0, kMost); no != at) {
    metadata.fail("split.no",
                  fmt::format("is {}, but by its name the file is part {} from 0", no, at));
  }
}

void check_parts_together(const GgufMetadata& first, const std::vector<TensorEntry>& tensors) {
  std::unordered_map<std::string_view, const TensorEntry*> seen;
  for (const TensorEntry& entry : tensors) {
    const auto [at, is_new] = seen.emplace(entry.name, &entry);
    if (!is_new) {
      throw ModelFileError(entry.file, fmt::format("is in {} too", at->second->file), entry.name,
                           entry.offset);
    }
  }
  constexpr std::string_view kKey = "split.tensors.count";
  const auto count = static_cast<int64_t>(tensors.size());
  if (const int64_t told = first.integer(kKey, 0, INT64_MAX, count); told != count) {
    first.fail(kKey, fmt::format("is {}, but the parts hold {} tensors", told, count));
  }
}

}  // namespace moesaic::checkpoint
