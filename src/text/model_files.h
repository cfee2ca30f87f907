#pragma once

// What the Rust library is given of a model's folder: it opens no files itself, so that one rule
// (base/model_file.h) says which files of a model are read.

#include <filesystem>
#include <string>
#include <vector>

#include "base/model_file.h"
#include "text/rust/moesaic_text.h"

namespace moesaic::text {

/// The tokenizer's files of a folder, those of them that are there.
class ModelFiles {
 public:
  /// Reads tokenizer.json and the configs beside it; with `templates` the chat templates too.
  /// Throws as base::read_model_file() does.
  ModelFiles(const base::ModelFolder& folder, bool templates);

  /// For one call; points into this object.
  MoesaicFolder view();

  /// Bytes of all files.
  size_t bytes() const;

 private:
  struct File {
    std::string name;
    std::string content;
  };
  std::string path_;
  std::vector<File> files_;
  std::vector<MoesaicFile> views_;
};

/// Bytes of memory that the Rust library may take to make something of files of so many bytes.
uint64_t loading_memory(size_t bytes);

/// Largest chat template.
inline constexpr size_t kMaxTemplateBytes = size_t{1} << 20;

/// The file as the Rust library takes it; points into the arguments.
MoesaicFile file_view(const std::string& name, const std::string& content);

}  // namespace moesaic::text
