#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace moesaic::base {

/// A regular file mapped read-only. Throws MissingFileError when it cannot be opened or is not a
/// regular file, OsError when it cannot be mapped. Movable, not copyable.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  /// True while the file on disk still has the size it had when mapped. A file that shrank would
  /// kill the process with SIGBUS when read, so readers ask before and after.
  bool unchanged() const;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace moesaic::base
