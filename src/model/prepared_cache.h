#pragma once

// The prepared cache: a rank's packed weights as they lie in memory, in a file, so that the next
// start reads them instead of converting the checkpoint again. One file per model folder, named
// after the folder and what it was made from. It is only ever a shortcut: whatever is wrong with
// it, loading goes on without.
//
// Names: MODEL-FOLDER-RANKofRANKS-KEY.moesaic, FOLDER and KEY being hashes of 16 digits.
//
// File: a header, a hash of each chunk of data, padding to a page, the buffer's bytes. It is
// written under a temporary name, locked, and renamed when complete.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "base/thread_pool.h"
#include "model/weights.h"

namespace moesaic::model {

/// A number that changes with any item's tensors, shape, dtype or place.
uint64_t layout_digest(const WeightLayout& layout);

/// What a prepared file was made from and for.
struct PreparedKey {
  std::string folder;      ///< the model's, resolved
  std::string checkpoint;  ///< Checkpoint::fingerprint()
  std::string packing;     ///< Backend::layout_id()
  uint64_t layout = 0;     ///< layout_digest()
  Shard shard;
};

class PreparedCache {
 public:
  PreparedCache(std::filesystem::path cache_folder, const PreparedKey& key);

  /// Where this key's file is or would be.
  const std::filesystem::path& path() const { return path_; }

  /// Fills the buffer from the file, verifying every byte. False when there is none (silently) or
  /// it cannot be used (logged, and the file removed); the buffer may then hold part of it.
  bool read(const backend::Buffer& buffer, backend::Backend& backend, base::ThreadPool& pool,
            const LoadProgress& progress) const;

  /// Writes the file and removes the model folder's other ones. Whatever prevents it is a warning:
  /// a full or read-only disk, or another process that is writing the same file.
  void write(const backend::Buffer& buffer, backend::Backend& backend,
             base::ThreadPool& pool) const;

 private:
  std::filesystem::path folder_;
  std::filesystem::path path_;
  Shard shard_;
  std::string prefix_;  ///< of all file names of the model's folder
  uint64_t key_[2];
};

/// A file of the cache, finished or not.
struct PreparedFile {
  std::filesystem::path path;
  std::string model;  ///< as the name says; "" in names of older versions
  uint64_t bytes = 0;
  std::filesystem::file_time_type written;
  bool finished = true;
};

/// The cache's files in a folder, by name; none when there is no such folder.
std::vector<PreparedFile> prepared_files(const std::filesystem::path& cache_folder);

/// Removes one of them. False when it is there still: somebody is writing it, or it may not be.
bool remove_prepared_file(const PreparedFile& file);

}  // namespace moesaic::model
