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

class TextPool {
 public:
  explicit TextPool(int threads);
  ~TextPool();
  TextPool(const TextPool&) = delete;
  TextPool& operator=(const TextPool&) = delete;

  /// Runs `task` on some thread, in order of posting per thread count of one. The task must not
  /// throw. Dropped after stop().
  void post(std::function<void()> task);
  /// Drops what waits and joins the threads. Not from a task.
  void stop();

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace moesaic::server
