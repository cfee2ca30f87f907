#pragma once

// Memory set aside before it is used, against what the machine, the control groups and the limits
// of the process (ulimit -v, ulimit -d) leave.

#include <cstdint>

namespace moesaic::base {

/// Bytes this process could still allocate and touch now without meeting one of the limits. Memory
/// that is allocated under a MemoryTag and not touched yet counts as taken.
uint64_t available_memory();

/// Memory set aside for a piece of work whose allocations cannot be stopped halfway: code that
/// cannot be told that there is no memory, or a control group that ends the process instead of
/// refusing. It allocates nothing; it makes sure that all claims together fit what is available.
/// Those who ask for less than a MiB are not refused.
class MemoryClaim {
 public:
  /// Claims `bytes`. Throws UnavailableError, which names `work`, when there is not as much.
  MemoryClaim(uint64_t bytes, const char* work) : MemoryClaim(bytes, bytes, 0, work) {}
  /// Claims `least` bytes, and up to `most` where that leaves enough for others. `mapped` bytes are
  /// address space beyond that, for a stack of which little is touched.
  MemoryClaim(uint64_t least, uint64_t most, uint64_t mapped, const char* work);
  ~MemoryClaim();
  MemoryClaim(const MemoryClaim&) = delete;
  MemoryClaim& operator=(const MemoryClaim&) = delete;

  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_ = 0;
  uint64_t mapped_ = 0;
};

}  // namespace moesaic::base
