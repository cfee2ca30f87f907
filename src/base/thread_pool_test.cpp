#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace moesaic::base {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(tasks));
      pool.parallel_for(tasks, [&](int64_t task, int worker) {
        EXPECT_GE(worker, 0);
        EXPECT_LT(worker, threads);
        ++hits[static_cast<size_t>(task)];
      });
      for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
    }
  }
}

TEST(ThreadPool, RunOnAllReachesEachWorkerOnce) {
  ThreadPool pool(4);
  for (int round = 0; round < 100; ++round) {
    std::vector<std::atomic<int>> hits(4);
    pool.run_on_all([&](int worker) { ++hits[static_cast<size_t>(worker)]; });
    for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
  }
}

TEST(ThreadPool, SharesWithWhoeverIsThere) {
  ThreadPool pool(4);
  for (int round = 0; round < 2000; ++round) {
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> sum{0};
    std::vector<std::atomic<int>> visits(4);
    pool.share([&](int worker) {
      ++visits[static_cast<size_t>(worker)];
      for (int64_t task = next++; task < 50; task = next++) sum += task;
    });
    EXPECT_EQ(sum.load(), 1225);
    EXPECT_EQ(visits[0].load(), 1);
    for (const auto& visit : visits) EXPECT_LE(visit.load(), 1);
  }
}

TEST(ThreadPool, WakesSleepers) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> sum{0};
    pool.parallel_for(10, [&](int64_t task, int) { sum += static_cast<int>(task); });
    EXPECT_EQ(sum.load(), 45);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace
}  // namespace moesaic::base
