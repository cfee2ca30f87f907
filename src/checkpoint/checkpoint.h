#pragma once

// A model's tensors: a folder in Hugging Face layout, config.json and safetensors, one file or
// sharded; or a GGUF file, which says everything else of the model too.
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
#include "tensor/weight_format.h"

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
  /// How `view`, then kU8 with the bytes of a row last, is stored in blocks; null: plain.
  const tensor::WeightFormat* format = nullptr;
  std::string file;     ///< path of the shard
  uint64_t offset = 0;  ///< byte offset in the shard

  /// Of the values, which in blocks are others than the bytes of the view.
  tensor::Shape shape() const;
  /// What people call the type of the values: "BF16", "Q4_K".
  std::string_view type_name() const;
};

class GgufMetadata;

/// The GGUF file that `path` stands for: itself, if it is one, or the only one, of one part or
/// several, of a folder without safetensors. Nothing when there is none. Throws ModelFileError when
/// a folder has several, naming them.
std::optional<std::filesystem::path> find_gguf(const std::filesystem::path& path);

/// An opened checkpoint: mapped files and their tensors, sorted by name.
class Checkpoint {
 public:
  /// `path` is a folder that holds model.safetensors, or else model.safetensors.index.json and the
  /// shards it names, or what find_gguf() finds a GGUF file for: then all parts of that, whichever
  /// is named. No other file is read. Throws MissingFileError for an absent file, ModelFileError
  /// for a malformed one, and as base::find_model_file() does for a link.
  static Checkpoint open(const std::filesystem::path& path);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;

  /// The folder opened, or the first part of the GGUF file; symbolic links of folders are resolved.
  const std::filesystem::path& path() const;
  /// What a GGUF file, of several parts the first, says beside its tensors; null for a folder of
  /// safetensors.
  const GgufMetadata* metadata() const;
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
