#pragma once

namespace moesaic::checkpoint {

/// While one exists, reading a mapped file that was cut short meanwhile ends the process with a
/// message and exit code 70 rather than by an unexplained SIGBUS. Nests; not thread-safe to create.
class TruncationGuard {
 public:
  TruncationGuard();
  ~TruncationGuard();
  TruncationGuard(const TruncationGuard&) = delete;
  TruncationGuard& operator=(const TruncationGuard&) = delete;
};

}  // namespace moesaic::checkpoint
