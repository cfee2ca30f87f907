#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/printable.h"

namespace moesaic::base {
namespace {

/// A descriptor, closed at the end of the scope.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

std::string shown(const std::filesystem::path& path) { return printable(path.string()); }

/// Why a file did not open: the file's fault, or the system's.
[[noreturn]] void refuse(const std::filesystem::path& path, int error) {
  const std::string what = fmt::format("cannot open {}", shown(path));
  if (error == EMFILE || error == ENFILE || error == ENOMEM) throw OsError(what, error);
  throw MissingFileError(fmt::format("{}: {}", what, std::strerror(error)));
}

}  // namespace

int open_regular_file(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a FIFO would otherwise wait for its writer.
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.get() < 0) refuse(path, errno);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) refuse(path, errno);
  if (!S_ISREG(info.st_mode)) {
    throw MissingFileError(
        fmt::format("{} is not a regular file; put the file itself there", shown(path)));
  }
  return file.release();
}

std::optional<std::string> read_file(const std::filesystem::path& path, size_t limit) {
  const Descriptor file(open_regular_file(path));
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) refuse(path, errno);
  if (static_cast<size_t>(info.st_size) > limit) return std::nullopt;
  // One byte more than there should be: a file of /proc has no size, another may be growing.
  std::string content(static_cast<size_t>(info.st_size) + 1, '\0');
  size_t filled = 0;
  for (;;) {
    const ssize_t n = ::read(file.get(), content.data() + filled, content.size() - filled);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw OsError("cannot read " + shown(path), errno);
    if (n == 0) break;
    filled += static_cast<size_t>(n);
    if (filled > limit) return std::nullopt;
    if (filled == content.size()) content.resize(std::min(2 * filled, limit) + 1);
  }
  content.resize(filled);
  return content;
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  const Descriptor file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666));
  if (file.get() < 0) refuse(path, errno);
  // Only opening must not wait; writing to a pipe whose reader is slow may.
  ::fcntl(file.get(), F_SETFL, ::fcntl(file.get(), F_GETFL) & ~O_NONBLOCK);
  while (!content.empty()) {
    const ssize_t n = ::write(file.get(), content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw OsError("cannot write " + shown(path), errno);
    content.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace moesaic::base
