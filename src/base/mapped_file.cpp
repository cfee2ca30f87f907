#include "base/mapped_file.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace moesaic::base {

namespace {

std::optional<MappedFile::Stamp> stamp_of(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return std::nullopt;
  const auto nanoseconds = [](const timespec& time) {
    return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
  };
  return MappedFile::Stamp{info.st_ino, info.st_size, nanoseconds(info.st_mtim),
                           nanoseconds(info.st_ctim)};
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  fd_ = open_regular_file(path);
  const std::optional<Stamp> stamp = stamp_of(fd_);
  if (!stamp) {
    const int error = errno;
    ::close(fd_);
    throw OsError("cannot look at " + path.string(), error);
  }
  stamp_ = *stamp;
  size_ = static_cast<size_t>(stamp_.size);
  if (size_ == 0) return;
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    ::close(fd_);
    if (error == ENOMEM) {
      throw UnavailableError(
          fmt::format("there is not enough address space to map the {} bytes of {}; raise the "
                      "process's memory limit",
                      size_, path.string()));
    }
    throw OsError("cannot map " + path.string(), error);
  }
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) ::close(fd_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      stamp_(other.stamp_) {}

bool MappedFile::unchanged() const {
  const std::optional<Stamp> now = stamp_of(fd_);
  // Not the time of the last change: a new link or owner of the file is no new content.
  return now && now->size == stamp_.size && now->modified_ns == stamp_.modified_ns;
}

}  // namespace moesaic::base
