#pragma once

// A pool of pinned compute threads for the CPU backend. The caller is worker 0, so a pool of n has
// n - 1 threads of its own. Between two jobs workers spin briefly and then sleep.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace moesaic::base {

class ThreadPool {
 public:
  /// `threads` 0 means usable_cores() of the machine. `pin` binds each worker but the caller to a
  /// core.
  explicit ThreadPool(int threads = 0, bool pin = true);
  /// As many workers as cores are given; with `pin` each but the caller is bound to its own, where
  /// that is not -1.
  ThreadPool(const std::vector<int>& cores, bool pin);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  /// Binds the calling thread, which is to be worker 0, to that worker's core; nothing where
  /// workers are not bound.
  void bind_caller() const;

  /// Runs body(task, worker) for every task in [0, tasks), tasks handed out in ascending order by
  /// one counter; returns when all are done. Not reentrant; the body must not throw.
  void parallel_for(int64_t tasks, const std::function<void(int64_t task, int worker)>& body);

  /// Runs body(worker) on the caller and, at most once each, on the workers that get to run before
  /// the caller is done; for bodies that hand out their work themselves.
  void share(const std::function<void(int worker)>& body);

  /// Runs body(worker) once on every worker.
  void run_on_all(const std::function<void(int worker)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moesaic::base
