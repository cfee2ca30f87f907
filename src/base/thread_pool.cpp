#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/error.h"
#include "base/machine.h"

namespace moesaic::base {
namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Between two operators of a forward pass the pool is idle for some microseconds only; waking a
// sleeper costs more than that, so workers spin this many pauses (about 50-100 us) first.
constexpr int kSpins = 2000;

}  // namespace

struct ThreadPool::State {
  using TaskBody = std::function<void(int64_t, int)>;

  // The ticket is all that joins caller and workers: the job's number, whether it is closed, and
  // how many workers are inside. A worker enters a job that is open; the caller closes it when no
  // task is left and waits for those inside only. A worker that the machine keeps from running,
  // because others want its core, then costs its share of the work and never a wait.
  static constexpr uint64_t kJob = uint64_t{1} << 32;
  static constexpr uint64_t kClosed = uint64_t{1} << 31;
  static constexpr uint64_t kInside = 0xffff;

  std::vector<std::thread> threads;
  int caller_core = -1;
  alignas(64) std::atomic<uint64_t> ticket{kClosed};
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<int> visits{0};  ///< workers that have been in the job
  std::atomic<bool> stopping{false};
  const TaskBody* body = nullptr;
  int64_t tasks = 0;
  bool by_worker = false;  ///< each worker runs the body once, with task = worker

  void run_tasks(int worker) {
    if (by_worker) {
      (*body)(worker, worker);
      return;
    }
    for (int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1)) {
      (*body)(task, worker);
    }
  }

  /// The ticket of a job after number `seen`.
  uint64_t wait_for_job(uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      const uint64_t now = ticket.load(std::memory_order_acquire);
      if (now / kJob != seen) return now;
      relax();
    }
    sleepers.fetch_add(1);
    uint64_t now = ticket.load(std::memory_order_acquire);
    while (now / kJob == seen) {
      ticket.wait(now);
      now = ticket.load(std::memory_order_acquire);
    }
    sleepers.fetch_sub(1);
    return now;
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      uint64_t now = wait_for_job(seen);
      if (stopping.load()) return;
      // Entering fails when the job closes or another begins meanwhile; then look again.
      while ((now & kClosed) == 0 && !ticket.compare_exchange_weak(now, now + 1)) {
      }
      seen = now / kJob;
      if ((now & kClosed) != 0) continue;
      run_tasks(worker);
      visits.fetch_add(1);
      ticket.fetch_sub(1, std::memory_order_release);
    }
  }

  template <typename Condition>
  static void spin_until(const Condition& holds) {
    for (int spins = 0; !holds(); ++spins) {
      if (spins < kSpins) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
  }

  void announce() {
    ticket.store((ticket.load() / kJob + 1) * kJob);
    if (sleepers.load() > 0) ticket.notify_all();
  }

  /// `everyone`: wait until each worker has been in the job.
  void run(int64_t count, const TaskBody& job, bool each, bool everyone) {
    body = &job;
    tasks = count;
    by_worker = each;
    visits.store(0);
    next.store(0);
    announce();
    run_tasks(0);
    if (everyone) spin_until([&] { return visits.load() == static_cast<int>(threads.size()); });
    ticket.fetch_or(kClosed);
    spin_until([&] { return (ticket.load(std::memory_order_acquire) & kInside) == 0; });
  }

  void stop() {
    stopping = true;
    announce();
    ticket.notify_all();
    for (std::thread& thread : threads) thread.join();
  }
};

namespace {

std::vector<int> cores_for(int threads) {
  const Topology topology = discover_topology();
  return share_cores(topology, threads > 0 ? threads : usable_cores(topology), 1)[0];
}

void bind_to(int core, pthread_t thread) {
  if (core < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  // A refusal (some containers) costs speed only.
  pthread_setaffinity_np(thread, sizeof(set), &set);
}

}  // namespace

ThreadPool::ThreadPool(int threads, bool pin) : ThreadPool(cores_for(threads), pin) {}

ThreadPool::ThreadPool(const std::vector<int>& cores, bool pin)
    : state_(std::make_unique<State>()) {
  state_->caller_core = pin && !cores.empty() ? cores[0] : -1;
  try {
    for (size_t worker = 1; worker < cores.size(); ++worker) {
      state_->threads.emplace_back([this, worker] { state_->work(static_cast<int>(worker)); });
      if (pin) bind_to(cores[worker], state_->threads.back().native_handle());
    }
  } catch (const std::system_error& error) {
    state_->stop();
    throw OsError("cannot start a compute thread", error.code().value());
  }
}

ThreadPool::~ThreadPool() { state_->stop(); }

void ThreadPool::bind_caller() const { bind_to(state_->caller_core, pthread_self()); }

int ThreadPool::size() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::parallel_for(int64_t tasks, const std::function<void(int64_t, int)>& body) {
  if (tasks <= 0) return;
  if (tasks == 1 || state_->threads.empty()) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  state_->run(tasks, body, /*each=*/false, /*everyone=*/false);
}

void ThreadPool::share(const std::function<void(int)>& body) {
  const State::TaskBody each = [&body](int64_t, int worker) { body(worker); };
  state_->run(size(), each, /*each=*/true, /*everyone=*/false);
}

void ThreadPool::run_on_all(const std::function<void(int)>& body) {
  const State::TaskBody each = [&body](int64_t, int worker) { body(worker); };
  state_->run(size(), each, /*each=*/true, /*everyone=*/true);
}

}  // namespace moesaic::base
