#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/value.hpp>
#include <span>
#include <unordered_set>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mapped_file.h"
#include "base/model_file.h"
#include "base/printable.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_parts.h"
#include "checkpoint/model_folder.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/strict_json.h"
#include "checkpoint/truncation_guard.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::MissingFileError;
using base::ModelFileError;
using base::printable;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kSampledPages = 16;
constexpr size_t kSamplePage = 4096;

/// Explains a folder without safetensors by what it holds instead.
[[noreturn]] void refuse_folder(const fs::path& folder) {
  std::string hint = "is this a model's folder?";
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth")) {
      hint = fmt::format("{} may run code when loaded and is not read; convert it to safetensors",
                         printable(name));
    } else if (name.ends_with(".safetensors")) {
      hint = fmt::format("{} is there, but the index that names its parts is not; fetch it too",
                         printable(name));
      break;
    }
  }
  throw MissingFileError(
      fmt::format("no {} or {} in {}: {}", kSingle, kIndex, folder.string(), hint));
}

/// One opened shard.
struct Shard {
  std::string path;  ///< as found in the folder, for messages
  base::MappedFile file;
};

Shard open_shard(const fs::path& folder, const std::string& name) {
  const std::optional<fs::path> found = base::find_model_file(folder, name);
  if (!found) throw MissingFileError(fmt::format("{} does not exist", (folder / name).string()));
  return {(folder / name).string(), base::MappedFile(*found)};
}

/// All shards must be there before any is read: one message for a broken download.
void check_present(const fs::path& folder, const ShardMap& shards) {
  std::vector<std::string> missing;
  std::error_code error;
  for (const auto& [name, tensors] : shards) {
    if (fs::symlink_status(folder / name, error).type() == fs::file_type::not_found) {
      missing.push_back(name);
    }
  }
  if (missing.empty()) return;
  throw MissingFileError(
      fmt::format("{} is named by {} but does not exist ({} of {} shards are missing); fetch the "
                  "model again",
                  (folder / missing.front()).string(), kIndex, missing.size(), shards.size()));
}

/// The file's tensors are exactly those that the index puts there.
void check_listed(std::span<const TensorEntry> found, const std::vector<std::string>& listed,
                  const ShardMap& shards, const std::string& path) {
  std::unordered_set<std::string_view> names(listed.begin(), listed.end());
  for (const TensorEntry& entry : found) {
    if (names.erase(entry.name) > 0) continue;
    for (const auto& [shard, tensors] : shards) {
      if (std::find(tensors.begin(), tensors.end(), entry.name) != tensors.end()) {
        throw ModelFileError(path, fmt::format("also in {}, where {} puts it", shard, kIndex),
                             printable(entry.name), entry.offset);
      }
    }
    throw ModelFileError(path, fmt::format("not listed in {}", kIndex), printable(entry.name),
                         entry.offset);
  }
  if (names.empty()) return;
  throw ModelFileError(path, fmt::format("{} says it is here, but it is not", kIndex),
                       printable(*std::min_element(names.begin(), names.end())));
}

}  // namespace

boost::json::object parse_json_file(std::string_view text, const std::string& file) {
  if (text.empty()) throw ModelFileError(file, "the file is empty; fetch it again");
  if (text.starts_with("version https://git-lfs")) {
    throw ModelFileError(file,
                         "this is a Git LFS pointer, not the file; run `git lfs pull` in the "
                         "model's folder");
  }
  return parse_strict_object(text, file);
}

std::optional<boost::json::object> read_json_file(const fs::path& folder, const std::string& name,
                                                  size_t max_bytes) {
  const std::optional<std::string> text = base::read_model_file(folder, name, max_bytes);
  if (!text) return std::nullopt;
  return parse_json_file(*text, (folder / name).string());
}

struct Checkpoint::Impl {
  fs::path folder;  ///< of all shards
  fs::path path;    ///< the folder, or a file in it
  std::vector<Shard> shards;
  std::vector<TensorEntry> tensors;
  std::optional<GgufMetadata> metadata;
  uint64_t total_bytes = 0;

  void add_folder(const fs::path& path);

  void add_tensors(std::vector<TensorEntry> found) {
    for (const TensorEntry& entry : found) total_bytes += entry.view.bytes();
    std::move(found.begin(), found.end(), std::back_inserter(tensors));
  }

  void add_shard(const std::string& name) {
    shards.push_back(open_shard(folder, name));
    add_tensors(parse_safetensors(shards.back().file.bytes(), shards.back().path));
  }

  /// All parts of a GGUF file, of which `name` is the first or the only one.
  void add_gguf(const std::string& name) {
    const std::vector<std::string> names = gguf_parts(name);
    std::vector<std::string> missing;
    for (const std::string& part : names) {
      std::error_code error;
      if (!fs::exists(folder / part, error)) missing.push_back(part);
    }
    if (!missing.empty()) {
      throw MissingFileError(
          fmt::format("{} does not exist ({} of {} parts are missing); fetch the "
                      "model again",
                      (folder / missing.front()).string(), missing.size(), names.size()));
    }
    for (size_t i = 0; i < names.size(); ++i) {
      shards.push_back(open_shard(folder, names[i]));
      GgufFile part = parse_gguf(shards.back().file.bytes(), shards.back().path);
      check_part(part.metadata, i, names.size());
      if (i == 0) metadata.emplace(std::move(part.metadata));
      add_tensors(std::move(part.tensors));
    }
    check_parts_together(*metadata, tensors);
  }

  void add_sharded() {
    const ShardMap map = read_index(folder, kIndex);
    check_present(folder, map);
    for (const auto& [name, listed] : map) {
      const size_t first = tensors.size();
      add_shard(name);
      check_listed(std::span(tensors).subspan(first), listed, map, shards.back().path);
    }
  }
};

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;

Checkpoint Checkpoint::open(const fs::path& path) {
  const TruncationGuard guard;
  auto impl = std::make_unique<Impl>();
  if (const std::optional<fs::path> file = find_gguf(path)) {
    impl->folder = fs::canonical(file->has_parent_path() ? file->parent_path() : ".");
    impl->path = impl->folder / file->filename();
    impl->add_gguf(file->filename().string());
  } else {
    impl->add_folder(path);
    impl->path = impl->folder;
  }
  std::sort(impl->tensors.begin(), impl->tensors.end(),
            [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; });
  return Checkpoint(std::move(impl));
}

void Checkpoint::Impl::add_folder(const fs::path& path) {
  std::error_code error;
  folder = fs::canonical(path, error);
  if (error || !fs::is_directory(folder, error)) {
    throw MissingFileError(fmt::format("there is no folder {}", path.string()));
  }
  const auto present = [&](const char* name) {
    return fs::symlink_status(folder / name, error).type() != fs::file_type::not_found;
  };
  const bool single = present(kSingle);
  if (single && present(kIndex)) {
    spdlog::warn("{} has both {} and {}; the first is used", folder.string(), kSingle, kIndex);
  }
  if (!single && !present(kIndex)) refuse_folder(folder);
  if (single) {
    add_shard(kSingle);
  } else {
    add_sharded();
  }
}

const fs::path& Checkpoint::path() const { return impl_->path; }
const GgufMetadata* Checkpoint::metadata() const {
  return impl_->metadata ? &*impl_->metadata : nullptr;
}
const std::vector<TensorEntry>& Checkpoint::tensors() const { return impl_->tensors; }
uint64_t Checkpoint::total_bytes() const { return impl_->total_bytes; }

const TensorEntry* Checkpoint::find(std::string_view name) const {
  const auto at = std::lower_bound(
      impl_->tensors.begin(), impl_->tensors.end(), name,
      [](const TensorEntry& entry, std::string_view wanted) { return entry.name < wanted; });
  return at != impl_->tensors.end() && at->name == name ? &*at : nullptr;
}

std::string Checkpoint::fingerprint() const {
  const TruncationGuard guard;
  uint64_t low = 0;
  uint64_t high = 1;
  const auto add = [&](std::span<const std::byte> bytes) {
    low = base::hash_bytes(bytes, low);
    high = base::hash_bytes(bytes, high);
  };
  for (const Shard& shard : impl_->shards) {
    const base::MappedFile::Stamp& stamp = shard.file.stamp();
    const std::string line = fmt::format("{}\n{}\n{}\n{}\n{}\n", shard.path, stamp.inode,
                                         stamp.size, stamp.modified_ns, stamp.changed_ns);
    add(std::as_bytes(std::span(line)));
    // Images with fixed times could bring a changed file with the same stamp, so look at the
    // content too: pages spread evenly from the header to the end.
    const auto bytes = shard.file.bytes();
    const size_t page = std::min(kSamplePage, bytes.size());
    for (size_t i = 0; i < kSampledPages; ++i) {
      add(bytes.subspan((bytes.size() - page) / (kSampledPages - 1) * i, page));
    }
  }
  return fmt::format("{:016x}{:016x}", high, low);
}

void Checkpoint::check_unchanged() const {
  for (const Shard& shard : impl_->shards) {
    // A file replaced by another keeps its old content for whoever has it mapped.
    if (shard.file.unchanged()) continue;
    throw ModelFileError(shard.path,
                         "the file was written to while it was being read; wait until it is "
                         "complete and start again");
  }
}

}  // namespace moesaic::checkpoint
