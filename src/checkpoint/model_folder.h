#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace moesaic::checkpoint {

/// What the index of a sharded checkpoint says: for each shard's file name, the tensors in it.
using ShardMap = std::map<std::string, std::vector<std::string>>;

/// Reads model.safetensors.index.json. Throws ModelFileError when a shard's name is not a plain
/// *.safetensors file name.
ShardMap read_index(const std::filesystem::path& index);

/// The real path of `folder`/`name`, a regular file. A symbolic link may lead only to a file inside
/// `folder`, or inside the `blobs` folder of the Hugging Face cache repository (models--*/
/// snapshots/<revision>) that `folder` is a snapshot of. Throws MissingFileError when absent,
/// ModelFileError when forbidden. `folder` has its own links resolved.
std::filesystem::path resolve_file(const std::filesystem::path& folder, const std::string& name);

}  // namespace moesaic::checkpoint
