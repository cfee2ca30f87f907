#include "base/memory_claim.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <mutex>
#include <sstream>

#include "base/error.h"
#include "base/machine.h"
#include "base/memory.h"

namespace moesaic::base {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();
constexpr uint64_t kMiB = uint64_t{1} << 20;
/// Claims leave this much to all that claims nothing: connections, small requests, the engine.
constexpr uint64_t kMargin = 32 * kMiB;
/// Work of this size is not worth asking the kernel for.
constexpr uint64_t kSmallClaim = kMiB;

uint64_t page_size() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

uint64_t left(uint64_t limit, uint64_t used) { return limit > used ? limit - used : 0; }

/// Pages of this process, from /proc/self/statm.
struct Pages {
  uint64_t size = 0, resident = 0, shared = 0, text = 0, lib = 0, data = 0;
};

Pages own_pages() {
  // Kept open, so that it can be asked when no descriptor is left.
  static const int file = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  std::array<char, 256> text{};
  Pages pages;
  if (::pread(file, text.data(), text.size() - 1, 0) <= 0) return pages;
  std::istringstream(text.data()) >> pages.size >> pages.resident >> pages.shared >> pages.text >>
      pages.lib >> pages.data;
  return pages;
}

uint64_t process_limit(int which) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(which), &limit) != 0) return kUnlimited;
  return limit.rlim_cur == RLIM_INFINITY ? kUnlimited : limit.rlim_cur;
}

/// Bytes under tags that have no page yet, at least.
uint64_t untouched(const Pages& pages) {
  uint64_t tagged = 0;
  for (int tag = 0; tag < kMemoryTagCount; ++tag) {
    tagged += allocated_bytes(static_cast<MemoryTag>(tag));
  }
  return left(tagged, left(pages.resident, pages.shared) * page_size());
}

std::mutex g_mutex;  // guards what follows
uint64_t g_claimed = 0;
uint64_t g_mapped = 0;

/// Bytes that could still get pages.
uint64_t available_pages(const Pages& pages) {
  const uint64_t machine = machine_memory();
  return left(std::min(machine, cgroup_memory_left().value_or(machine)), untouched(pages));
}

/// Bytes that could still be mapped, touched or not.
uint64_t available_addresses(const Pages& pages) {
  return std::min(left(process_limit(RLIMIT_AS), pages.size * page_size()),
                  left(process_limit(RLIMIT_DATA), pages.data * page_size()));
}

}  // namespace

uint64_t available_memory() {
  const Pages pages = own_pages();
  return std::min(available_pages(pages), available_addresses(pages));
}

MemoryClaim::MemoryClaim(uint64_t least, uint64_t most, uint64_t mapped, const char* work)
    : bytes_(least), mapped_(mapped) {
  /// One claim that could do with more leaves as much for so many others.
  constexpr uint64_t kShare = 8;
  const std::lock_guard lock(g_mutex);
  if (most + mapped > kSmallClaim) {
    const Pages pages = own_pages();
    const uint64_t addresses = left(available_addresses(pages), kMargin + g_claimed + g_mapped);
    const uint64_t free =
        std::min(left(available_pages(pages), kMargin + g_claimed), left(addresses, mapped));
    if (least + mapped > kSmallClaim && (least > free || mapped > addresses)) {
      throw UnavailableError(
          fmt::format("{} may take {} MiB of memory and {} MiB are to be had now; try again later, "
                      "send less, or give the server more memory",
                      work, (least + mapped) / kMiB + 1, (mapped > 0 ? addresses : free) / kMiB));
    }
    bytes_ = std::clamp(free / kShare, least, most);
  }
  g_claimed += bytes_;
  g_mapped += mapped_;
}

MemoryClaim::~MemoryClaim() {
  const std::lock_guard lock(g_mutex);
  g_claimed -= bytes_;
  g_mapped -= mapped_;
}

}  // namespace moesaic::base
