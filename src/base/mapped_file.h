#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace moesaic::base {

/// A regular file mapped read-only. Throws as open_regular_file() does, and OsError when it cannot
/// be mapped. Movable, not copyable.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// What tells a file's content from another's without reading it. Whoever changes a file can set
  /// its modification time, but not the time of its last change.
  struct Stamp {
    uint64_t inode = 0;
    int64_t size = 0;
    int64_t modified_ns = 0;
    int64_t changed_ns = 0;
  };
  /// The file's stamp when it was mapped.
  const Stamp& stamp() const { return stamp_; }

  /// True while the file still has the size and modification time it had when mapped. One that
  /// shrank would kill the process with SIGBUS when read, so readers ask before and after.
  bool unchanged() const;

 private:
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  Stamp stamp_;
};

}  // namespace moesaic::base
