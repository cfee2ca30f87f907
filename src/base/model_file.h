#pragma once

// Files that are found in a model's folder, as opposed to those that the operator names: what is in
// the folder came with the model, so one rule says which of them are read.

#include <cstddef>
#include <filesystem>
#include <map>
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

/// A model's small files by their names: those of its folder, or texts that were made from the one
/// file that a model may be.
class ModelFolder {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): a path is a folder
  ModelFolder(std::filesystem::path folder) : path_(std::move(folder)) {}
  ModelFolder(std::filesystem::path file, std::map<std::string, std::string> texts)
      : path_(std::move(file)), texts_(std::move(texts)) {}

  /// The folder, or the file.
  const std::filesystem::path& path() const { return path_; }
  bool has(const std::string& name) const;
  /// As read_model_file() does.
  std::optional<std::string> read(const std::string& name, size_t limit) const;

 private:
  std::filesystem::path path_;
  std::optional<std::map<std::string, std::string>> texts_;  ///< none: a folder
};

}  // namespace moesaic::base
