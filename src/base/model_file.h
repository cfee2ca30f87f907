#pragma once

// Files that are found in a model's folder, as opposed to those that the operator names: what is in
// the folder came with the model, so one rule says which of them are read.

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

namespace moesaic::base {

/// The real path of `folder`/`name`, or nothing when there is nothing of that name. Following
/// symbolic links, it must lie in `folder`, or in the repository of the Hugging Face cache
/// (models--ORG--NAME) that `folder` is a snapshot of. Throws ModelFileError for a link that leads
/// elsewhere or back to itself, MissingFileError for one that leads nowhere and for what is not a
/// regular file.
std::optional<std::filesystem::path> find_model_file(const std::filesystem::path& folder,
                                                     const std::string& name);

/// The content of that file, or nothing when there is none. Throws as find_model_file() and
/// read_file() do, and ModelFileError when it has more than `limit` bytes.
std::optional<std::string> read_model_file(const std::filesystem::path& folder,
                                           const std::string& name, size_t limit);

}  // namespace moesaic::base
