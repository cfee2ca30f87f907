#include "checkpoint/model_folder.h"

#include <fmt/format.h>

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <string_view>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/checkpoint.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using base::ModelFileError;
using base::printable;

constexpr size_t kMaxIndexBytes = 100'000'000;
// Each shard holds a file descriptor; the largest published checkpoints have a few hundred.
constexpr size_t kMaxShards = 4096;

bool plain_shard_name(std::string_view name) {
  return name.ends_with(".safetensors") && name.size() <= 255 && name.front() != '.' &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace

ShardMap read_index(const fs::path& folder, const std::string& name) {
  const std::string file = (folder / name).string();
  const json::object object = read_json_file(folder, name, kMaxIndexBytes).value();
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

}  // namespace moesaic::checkpoint
