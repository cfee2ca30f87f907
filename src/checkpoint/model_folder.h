#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace moesaic::checkpoint {

/// What the index of a sharded checkpoint says: for each shard's file name, the tensors in it.
using ShardMap = std::map<std::string, std::vector<std::string>>;

/// Reads `folder`/`name`, an index of shards. Throws ModelFileError when a shard's name is not a
/// plain
/// *.safetensors file name.
ShardMap read_index(const std::filesystem::path& folder, const std::string& name);

}  // namespace moesaic::checkpoint
