#pragma once

// A model folder in Hugging Face layout: config.json and safetensors, one file or sharded.
// Everything is validated when opened; nothing read from a file sizes an allocation unchecked.
// Checkpoints never execute code.

#include <boost/json/object.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/view.h"

namespace moesaic::checkpoint {

/// The JSON object in the text of `file`. Throws ModelFileError for an empty file, a Git LFS
/// pointer and what parse_strict_object() refuses.
boost::json::object parse_json_file(std::string_view text, const std::string& file);

/// The JSON object in `folder`/`name`, or nothing when there is no such file. Throws as
/// base::read_model_file() and parse_json_file() do.
std::optional<boost::json::object> read_json_file(const std::filesystem::path& folder,
                                                  const std::string& name, size_t max_bytes);

/// One tensor of a checkpoint; `view` points into the mapped file.
struct TensorEntry {
  std::string name;
  tensor::View view;
  std::string file;     ///< path of the shard
  uint64_t offset = 0;  ///< byte offset in the shard
};

/// An opened checkpoint: mapped files and their tensors, sorted by name.
class Checkpoint {
 public:
  /// `folder` holds model.safetensors, or else model.safetensors.index.json and the shards it
  /// names; no other file is read. Throws MissingFileError for an absent file, ModelFileError for a
  /// malformed one, and as base::find_model_file() does for a link.
  static Checkpoint open(const std::filesystem::path& folder);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;

  /// The folder opened, with symbolic links resolved.
  const std::filesystem::path& folder() const;
  const std::vector<TensorEntry>& tensors() const;
  /// The tensor of that name, or null.
  const TensorEntry* find(std::string_view name) const;
  /// Sum of all tensors' bytes.
  uint64_t total_bytes() const;
  /// 32 hexadecimal digits that change with any shard's path, inode, size, modification time or
  /// time of its last change, or with a sample of its content; names the prepared cache. Reads a
  /// few pages of each shard.
  std::string fingerprint() const;
  /// Throws ModelFileError when a shard was written to or cut short since it was opened.
  void check_unchanged() const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::checkpoint
