#pragma once

// Threads for text work (JSON, templates, tokens to text), so that neither the sockets nor the
// engine wait for it.

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace moesaic::server {

/// Text work on so many bytes and more has a lane of its own, so that none on a few waits for it.
constexpr size_t kLargeWork = 256 << 10;

class TextPool {
 public:
  /// `tidy`: after each task, memory that is free goes back to the system; for work that takes
  /// much, now and then.
  explicit TextPool(int threads, bool tidy = false);
  ~TextPool();
  TextPool(const TextPool&) = delete;
  TextPool& operator=(const TextPool&) = delete;

  /// Runs `task` on some thread, in order of posting per thread count of one. What it throws is
  /// logged; whom it was for it must tell itself. Dropped after stop().
  void post(std::function<void()> task);
  /// Drops what waits and joins the threads. Not from a task.
  void stop();

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  bool tidy_;
  std::vector<std::thread> threads_;
};

}  // namespace moesaic::server
