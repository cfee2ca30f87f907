#include "model/prepared_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <regex>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "model/loader_sources.h"

namespace moesaic::model {
namespace {

namespace fs = std::filesystem;

constexpr std::array<char, 8> kMagic = {'m', 'o', 'e', 's', 'a', 'i', 'c', '\n'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kChunk = uint64_t{8} << 20;
constexpr uint64_t kPage = 4096;
constexpr const char* kSuffix = ".moesaic";
constexpr const char* kPartSuffix = ".part";

/// The first bytes of the file, little-endian as all machines we run on.
struct Header {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kVersion;
  uint32_t chunk_bytes = kChunk;
  uint64_t key[2] = {};
  uint64_t total_bytes = 0;
  uint64_t table_hash = 0;   ///< of the chunks' hashes
  uint64_t header_hash = 0;  ///< of the fields above
};
static_assert(sizeof(Header) == 56);

uint64_t hash_of(const Header& header) {
  return base::hash_bytes(std::as_bytes(std::span(&header, 1)).first(offsetof(Header, header_hash)),
                          kVersion);
}

uint64_t chunk_count(uint64_t bytes) { return (bytes + kChunk - 1) / kChunk; }

uint64_t data_offset(uint64_t bytes) {
  return (sizeof(Header) + chunk_count(bytes) * sizeof(uint64_t) + kPage - 1) / kPage * kPage;
}

/// The chunks of a buffer, for threads to fill or to read: in place where the host can, else
/// through host memory of their own, whose way to or from the backend is one thread's at a time.
class Chunks {
 public:
  Chunks(const backend::Buffer& buffer, backend::Backend& backend)
      : buffer_(buffer), backend_(backend), view_(backend.host_view(buffer)) {}

  uint64_t count() const { return chunk_count(buffer_.size()); }
  uint64_t size_of(uint64_t index) const {
    return std::min<uint64_t>(kChunk, buffer_.size() - index * kChunk);
  }

  /// What `fill` writes into the chunk becomes the buffer's, if it returns 0; returns what it does.
  template <typename Fill>
  int fill(uint64_t index, const Fill& fill) {
    if (!view_.empty()) return fill(in_place(index));
    std::vector<std::byte> chunk(size_of(index));
    const int problem = fill(std::span(chunk));
    if (problem != 0) return problem;
    const std::lock_guard lock(mutex_);
    backend_.write(address(index), chunk);
    return 0;
  }

  /// Returns what `use` returns of the chunk's bytes.
  template <typename Use>
  int use(uint64_t index, const Use& use) {
    if (!view_.empty()) return use(std::span<const std::byte>(in_place(index)));
    std::vector<std::byte> chunk(size_of(index));
    {
      const std::lock_guard lock(mutex_);
      backend_.wait(backend_.read(address(index), chunk));
    }
    return use(std::span<const std::byte>(chunk));
  }

 private:
  std::span<std::byte> in_place(uint64_t index) const {
    return view_.subspan(index * kChunk, size_of(index));
  }
  backend::Address address(uint64_t index) const { return buffer_.address() + index * kChunk; }

  const backend::Buffer& buffer_;
  backend::Backend& backend_;
  std::span<std::byte> view_;
  std::mutex mutex_;
};

/// A file descriptor, closed at the end of the scope.
class File {
 public:
  File(const fs::path& path, int flags)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  explicit operator bool() const { return fd_ >= 0; }
  int fd() const { return fd_; }

  /// 0, or the errno; a file that ends too early gives ENODATA.
  int read_at(std::span<std::byte> into, uint64_t offset) const {
    while (!into.empty()) {
      const ssize_t n = ::pread(fd_, into.data(), into.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return n < 0 ? errno : ENODATA;
      into = into.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
    return 0;
  }

  int write_at(std::span<const std::byte> from, uint64_t offset) const {
    while (!from.empty()) {
      const ssize_t n = ::pwrite(fd_, from.data(), from.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return n < 0 ? errno : ENOSPC;
      from = from.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
    return 0;
  }

 private:
  int fd_;
};

/// Reads and checks everything but the data. Empty when all is well.
std::string check_head(const File& file, const uint64_t (&key)[2], uint64_t bytes,
                       std::vector<uint64_t>& hashes) {
  struct stat info {};
  if (::fstat(file.fd(), &info) != 0 || !S_ISREG(info.st_mode)) return "not a regular file";
  Header header;
  if (file.read_at(std::as_writable_bytes(std::span(&header, 1)), 0) != 0) return "too short";
  if (header.magic != kMagic) return "not a prepared cache file";
  if (header.version != kVersion) return fmt::format("version {}", header.version);
  if (header.header_hash != hash_of(header)) return "the header is damaged";
  if (header.key[0] != key[0] || header.key[1] != key[1] || header.total_bytes != bytes ||
      header.chunk_bytes != kChunk) {
    return "made for other weights";
  }
  if (static_cast<uint64_t>(info.st_size) != data_offset(bytes) + bytes) {
    return fmt::format("{} bytes instead of {}", info.st_size, data_offset(bytes) + bytes);
  }
  hashes.resize(chunk_count(bytes));
  const auto table = std::as_writable_bytes(std::span(hashes));
  if (file.read_at(table, sizeof(Header)) != 0) return "too short";
  if (header.table_hash != base::hash_bytes(table)) return "the header is damaged";
  return {};
}

/// Reads the data into the buffer in parallel. Empty when every byte is right.
std::string read_data(const File& file, const std::vector<uint64_t>& hashes,
                      const backend::Buffer& buffer, backend::Backend& backend,
                      base::ThreadPool& pool, const LoadProgress& progress) {
  std::atomic<int> problem = 0;
  std::atomic<uint64_t> done = 0;
  std::mutex mutex;
  constexpr int kDamaged = -1;
  const uint64_t start = data_offset(buffer.size());
  Chunks chunks(buffer, backend);
  pool.parallel_for(static_cast<int64_t>(hashes.size()), [&](int64_t task, int) {
    if (problem != 0) return;
    const auto index = static_cast<uint64_t>(task);
    const int found = chunks.fill(index, [&](std::span<std::byte> chunk) {
      const int error = file.read_at(chunk, start + index * kChunk);
      if (error != 0) return error;
      return base::hash_bytes(chunk) == hashes[index] ? 0 : kDamaged;
    });
    if (found != 0) {
      problem = found;
      return;
    }
    done += chunks.size_of(index);
    const std::unique_lock lock(mutex, std::try_to_lock);
    if (progress && lock.owns_lock()) progress(done, buffer.size());
  });
  if (problem == kDamaged) return "the data is damaged";
  if (problem == 0 && progress) progress(buffer.size(), buffer.size());
  return problem == 0 ? std::string() : std::strerror(problem);
}

/// Writes data, then what describes it. 0 or an errno.
int write_all(const File& file, const uint64_t (&key)[2], const backend::Buffer& buffer,
              backend::Backend& backend, base::ThreadPool& pool) {
  const uint64_t start = data_offset(buffer.size());
  // Asking for the space at once finds a full disk early. Not every file system can.
  if (::ftruncate(file.fd(), 0) != 0) return errno;
  if (::fallocate(file.fd(), 0, 0, static_cast<off_t>(start + buffer.size())) != 0 &&
      errno != EOPNOTSUPP && errno != ENOSYS) {
    return errno;
  }
  Chunks chunks(buffer, backend);
  std::vector<uint64_t> hashes(chunks.count());
  std::atomic<int> problem = 0;
  pool.parallel_for(static_cast<int64_t>(hashes.size()), [&](int64_t task, int) {
    if (problem != 0) return;
    const auto index = static_cast<uint64_t>(task);
    const int error = chunks.use(index, [&](std::span<const std::byte> chunk) {
      hashes[index] = base::hash_bytes(chunk);
      return file.write_at(chunk, start + index * kChunk);
    });
    if (error != 0) problem = error;
  });
  if (problem != 0) return problem;
  Header header;
  header.key[0] = key[0];
  header.key[1] = key[1];
  header.total_bytes = buffer.size();
  header.table_hash = base::hash_bytes(std::as_bytes(std::span(hashes)));
  header.header_hash = hash_of(header);
  int error = file.write_at(std::as_bytes(std::span(hashes)), sizeof(Header));
  if (error == 0) error = file.write_at(std::as_bytes(std::span(&header, 1)), 0);
  if (error == 0 && ::fsync(file.fd()) != 0) error = errno;
  return error;
}

/// Whether `path` still names the opened file: another process may have renamed it meanwhile.
bool names(const fs::path& path, const File& file) {
  struct stat by_path {};
  struct stat by_fd {};
  return ::lstat(path.c_str(), &by_path) == 0 && ::fstat(file.fd(), &by_fd) == 0 &&
         by_path.st_ino == by_fd.st_ino && by_path.st_dev == by_fd.st_dev;
}

/// How the name of a rank's file goes on after the model folder's part.
std::string rank_part(const Shard& shard) {
  return fmt::format("{}of{}-", shard.rank, shard.ranks);
}

/// What people call the model of a folder: its last part, or of a Hugging Face cache the part that
/// says ORG--NAME; made fit for a file name.
std::string model_of(const fs::path& folder) {
  constexpr std::string_view kHub = "models--";
  constexpr size_t kMost = 64;
  std::string name;
  for (const fs::path& part : folder) {
    if (!part.empty() && part != "/") name = part.string();
    if (name.starts_with(kHub)) break;
  }
  if (name.starts_with(kHub)) name.erase(0, kHub.size());
  for (char& c : name) {
    const bool plain =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
    if (!plain) c = '_';
  }
  return name.empty() ? "model" : name.substr(0, kMost);
}

/// Whether a file that is being written has lost its writer.
bool is_abandoned(const fs::path& path) {
  const File part(path, O_RDWR);
  return part && ::flock(part.fd(), LOCK_EX | LOCK_NB) == 0;
}

/// Removes the model folder's files, finished or abandoned, but `keep` and those of the ranks that
/// share the model with this one.
void remove_others(const fs::path& folder, const std::string& prefix, const Shard& shard,
                   const fs::path& keep) {
  const auto is_sibling = [&](std::string_view name) {
    name.remove_prefix(prefix.size());
    for (int64_t rank = 0; rank < shard.ranks; ++rank) {
      const Shard other{shard.ranks, rank, shard.expert_parallel};
      if (rank != shard.rank && name.starts_with(rank_part(other))) return true;
    }
    return false;
  };
  std::error_code error;
  std::vector<fs::path> stale;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || name.starts_with(keep.filename().string())) continue;
    if (is_sibling(name)) continue;
    if (name.ends_with(kSuffix)) stale.push_back(entry.path());
    if (name.ends_with(kPartSuffix) && is_abandoned(entry.path())) stale.push_back(entry.path());
  }
  for (const fs::path& path : stale) {
    if (fs::remove(path, error)) spdlog::info("removed the outdated {}", path.string());
  }
}

void sync_folder(const fs::path& folder) {
  const File file(folder, O_RDONLY | O_DIRECTORY);
  if (file) ::fsync(file.fd());
}

}  // namespace

uint64_t layout_digest(const WeightLayout& layout) {
  uint64_t digest = layout.bytes;
  const auto number = [&](int64_t value) {
    digest = base::mix_bits(digest ^ base::mix_bits(static_cast<uint64_t>(value)));
  };
  const auto slices = [&](const std::vector<Slice>& list) {
    number(static_cast<int64_t>(list.size()));
    for (const Slice& slice : list) {
      digest = base::hash_text(slice.name, digest);
      for (int64_t value : {slice.row, slice.rows, slice.col, slice.cols}) number(value);
    }
  };
  const auto format = [&](const tensor::WeightFormat& given) {
    digest = base::hash_text(given.name, digest);
    for (int64_t value : {given.value_bits, given.group_n, given.group_k}) number(value);
  };
  if (layout.stored_as) number(static_cast<int64_t>(layout.stored_as->digest()));
  for (const WeightItem& item : list_items(layout)) {
    number(item.offset);
    if (item.matrix != nullptr) {
      number(item.matrix->desc.n);
      number(item.matrix->desc.k);
      format(item.matrix->desc.format);
      slices(item.matrix->slices);
    } else if (item.experts != nullptr) {
      const backend::ExpertsDesc& desc = item.experts->desc;
      for (int64_t value : {desc.experts, desc.hidden, desc.width}) number(value);
      format(desc.format);
      format(desc.down());
      for (const auto* list : {&item.experts->gate, &item.experts->up, &item.experts->down}) {
        slices(*list);
      }
    } else {
      slices(item.vector->slices);
    }
  }
  return digest;
}

PreparedCache::PreparedCache(fs::path cache_folder, const PreparedKey& key)
    : folder_(std::move(cache_folder)), shard_(key.shard) {
  const std::string text =
      fmt::format("{}\n{}\n{}\n{}", key.folder, key.checkpoint, key.packing, key.layout);
  key_[0] = base::hash_text(text, 0);
  key_[1] = base::hash_text(text, 1);
  prefix_ = fmt::format("{}-{:016x}-", model_of(key.folder), base::hash_text(key.folder));
  path_ = folder_ / fmt::format("{}{}{:016x}{}", prefix_, rank_part(shard_), key_[0], kSuffix);
}

bool PreparedCache::read(const backend::Buffer& buffer, backend::Backend& backend,
                         base::ThreadPool& pool, const LoadProgress& progress) const {
  const File file(path_, O_RDONLY);
  if (!file && errno == ENOENT) return false;
  std::string problem;
  std::vector<uint64_t> hashes;
  if (!file) problem = std::strerror(errno);
  if (problem.empty()) problem = check_head(file, key_, buffer.size(), hashes);
  if (problem.empty()) problem = read_data(file, hashes, buffer, backend, pool, progress);
  if (problem.empty()) {
    spdlog::info("weights come prepared from {}", path_.string());
    return true;
  }
  spdlog::warn("the prepared cache {} cannot be used ({}); converting the checkpoint again",
               path_.string(), problem);
  std::error_code ignored;
  fs::remove(path_, ignored);
  return false;
}

void PreparedCache::write(const backend::Buffer& buffer, backend::Backend& backend,
                          base::ThreadPool& pool) const {
  const auto start = std::chrono::steady_clock::now();
  const auto warn = [&](const std::string& problem) {
    spdlog::warn(
        "the prepared cache {} was not written ({}); the next start converts the "
        "checkpoint again",
        path_.string(), problem);
  };
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return warn(error.message());
  remove_others(folder_, prefix_, shard_, path_);

  const fs::path part = path_.string() + kPartSuffix;
  const File file(part, O_RDWR | O_CREAT);
  if (!file) return warn(std::strerror(errno));
  if (::flock(file.fd(), LOCK_EX | LOCK_NB) != 0 || !names(part, file)) {
    spdlog::info("another process is writing {}", path_.string());
    return;
  }
  if (const File finished(path_, O_RDONLY); finished) {
    // Another process was quicker, with the same bytes.
    std::vector<uint64_t> hashes;
    if (check_head(finished, key_, buffer.size(), hashes).empty()) {
      fs::remove(part, error);
      return;
    }
  }
  const uint64_t needed = data_offset(buffer.size()) + buffer.size();
  const fs::space_info space = fs::space(folder_, error);
  int failure = 0;
  if (!error && static_cast<double>(space.available) < 1.1 * static_cast<double>(needed)) {
    failure = ENOSPC;
  }
  if (failure == 0) failure = write_all(file, key_, buffer, backend, pool);
  if (failure == 0 && ::rename(part.c_str(), path_.c_str()) != 0) failure = errno;
  if (failure != 0) {
    fs::remove(part, error);
    return warn(std::strerror(failure));
  }
  sync_folder(folder_);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  spdlog::info("wrote {} ({:.2f} GiB in {:.1f} s); --prepared-cache off does without",
               path_.string(), static_cast<double>(needed) / (1 << 30), seconds.count());
}

std::vector<PreparedFile> prepared_files(const fs::path& cache_folder) {
  static const std::regex kName(
      R"((?:(.+)-)?[0-9a-f]{16}-\d+of\d+-[0-9a-f]{16}\.moesaic(\.part)?)");
  std::vector<PreparedFile> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(cache_folder, error)) {
    const std::string name = entry.path().filename().string();
    std::smatch parts;
    if (!entry.is_regular_file(error) || !std::regex_match(name, parts, kName)) continue;
    files.push_back({entry.path(), parts[1].str(), entry.file_size(error),
                     entry.last_write_time(error), !parts[2].matched});
  }
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.path < b.path; });
  return files;
}

bool remove_prepared_file(const PreparedFile& file) {
  if (!file.finished && !is_abandoned(file.path)) return false;
  std::error_code error;
  fs::remove(file.path, error);
  return !error;
}

}  // namespace moesaic::model
