#include "checkpoint/model_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <string_view>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/strict_json.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using base::MissingFileError;
using base::ModelFileError;

constexpr size_t kMaxIndexBytes = 100'000'000;
// Each shard holds a file descriptor; the largest published checkpoints have a few hundred.
constexpr size_t kMaxShards = 4096;

bool plain_shard_name(std::string_view name) {
  return name.ends_with(".safetensors") && name.size() <= 255 && name.front() != '.' &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

bool inside(const fs::path& file, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), file.begin(), file.end()).first ==
         folder.end();
}

/// Where links of a Hugging Face cache snapshot may lead; empty when `folder` is not one.
fs::path blobs_of(const fs::path& folder) {
  const fs::path snapshots = folder.parent_path();
  const fs::path repository = snapshots.parent_path();
  if (snapshots.filename() != "snapshots" ||
      !repository.filename().string().starts_with("models--")) {
    return {};
  }
  return repository / "blobs";
}

void check_link(const fs::path& folder, const fs::path& path, const fs::path& target) {
  if (inside(target, folder)) return;
  const fs::path blobs = blobs_of(folder);
  if (!blobs.empty() && inside(target, blobs)) return;
  throw ModelFileError(path.string(),
                       fmt::format("symbolic link to {}, outside the model's folder; put the file "
                                   "itself in the folder",
                                   printable(target.string())));
}

}  // namespace

ShardMap read_index(const fs::path& index) {
  const std::string file = index.string();
  const json::object object = read_json_file(index, kMaxIndexBytes);
  const json::value* map = object.if_contains("weight_map");
  if (map == nullptr || !map->is_object()) {
    throw ModelFileError(file, "'weight_map' is missing or not an object");
  }
  ShardMap shards;
  for (const auto& line : map->get_object()) {
    const std::string tensor(line.key().data(), line.key().size());
    if (!line.value().is_string()) {
      throw ModelFileError(file, "the shard's name is not a string", printable(tensor));
    }
    const std::string name(line.value().get_string().data(), line.value().get_string().size());
    if (!plain_shard_name(name)) {
      throw ModelFileError(file,
                           fmt::format("shard '{}' is not the name of a .safetensors file in the "
                                       "model's folder",
                                       printable(name)),
                           printable(tensor));
    }
    shards[name].push_back(tensor);
    if (shards.size() > kMaxShards) {
      throw ModelFileError(file, fmt::format("names more than {} shards", kMaxShards));
    }
  }
  if (shards.empty()) throw ModelFileError(file, "'weight_map' is empty");
  return shards;
}

fs::path resolve_file(const fs::path& folder, const std::string& name) {
  const fs::path path = folder / name;
  std::error_code error;
  const fs::file_status link = fs::symlink_status(path, error);
  if (link.type() == fs::file_type::not_found) {
    throw MissingFileError(fmt::format("{} does not exist", path.string()));
  }
  if (error) {
    throw MissingFileError(fmt::format("cannot look at {}: {}", path.string(), error.message()));
  }
  fs::path target = fs::canonical(path, error);
  if (error == std::errc::too_many_symbolic_link_levels) {
    throw ModelFileError(path.string(), "symbolic link that leads back to itself");
  }
  if (error) {
    throw MissingFileError(fmt::format("{} is a symbolic link to a file that does not exist ({})",
                                       path.string(), error.message()));
  }
  if (link.type() == fs::file_type::symlink) check_link(folder, path, target);
  if (!fs::is_regular_file(target, error)) {
    throw ModelFileError(path.string(), "not a regular file");
  }
  return target;
}

}  // namespace moesaic::checkpoint
