#include "base/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdint>
#include <utility>

#include "base/error.h"

namespace moesaic::base {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

std::array<std::atomic<size_t>, kMemoryTagCount> g_allocated{};

}  // namespace

std::string_view to_string(MemoryTag tag) {
  static constexpr std::array<std::string_view, kMemoryTagCount> kNames = {
      "weights", "kv_cache", "activations", "graphs", "communication", "runtime"};
  return kNames[static_cast<size_t>(tag)];
}

size_t allocated_bytes(MemoryTag tag) { return g_allocated[static_cast<size_t>(tag)].load(); }

CountedBytes::CountedBytes(MemoryTag tag, size_t bytes) : tag_(tag), bytes_(bytes) {
  g_allocated[static_cast<size_t>(tag_)] += bytes_;
}

CountedBytes::~CountedBytes() { g_allocated[static_cast<size_t>(tag_)] -= bytes_; }

Region::Region(MemoryTag tag, size_t bytes) : size_(bytes), tag_(tag) {
  if (bytes == 0) return;
  auto refuse = [&] {
    throw UnavailableError(
        fmt::format("cannot allocate {:.1f} MiB for {}; use a smaller model, "
                    "context or KV cache, or a machine with more memory",
                    static_cast<double>(bytes) / (1 << 20), to_string(tag)));
  };
  if (bytes > SIZE_MAX / 2) refuse();
  // Over-map so that the usable part starts on a huge page, then give the ends back.
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  const size_t wanted = rounded + kHugePage;
  void* raw = ::mmap(nullptr, wanted, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) refuse();
  auto* const start = static_cast<std::byte*>(raw);
  const size_t over = reinterpret_cast<uintptr_t>(raw) % kHugePage;
  const size_t head = over == 0 ? 0 : kHugePage - over;
  if (head > 0) ::munmap(start, head);
  if (head < kHugePage) ::munmap(start + head + rounded, kHugePage - head);
  data_ = start + head;
  mapped_ = rounded;
  ::madvise(data_, mapped_, MADV_HUGEPAGE);
  g_allocated[static_cast<size_t>(tag_)] += size_;
}

void Region::release() {
  if (data_ == nullptr) return;
  ::munmap(data_, mapped_);
  g_allocated[static_cast<size_t>(tag_)] -= size_;
  data_ = nullptr;
  size_ = mapped_ = 0;
}

Region::~Region() { release(); }

Region::Region(Region&& other) noexcept { *this = std::move(other); }

Region& Region::operator=(Region&& other) noexcept {
  if (this != &other) {
    release();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    mapped_ = std::exchange(other.mapped_, 0);
    tag_ = other.tag_;
  }
  return *this;
}

}  // namespace moesaic::base
