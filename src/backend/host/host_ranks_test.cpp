#include "backend/host/host_ranks.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "backend/raw_address.h"

namespace moesaic::backend {
namespace {

void on_every_rank(int64_t ranks, const std::function<void(int64_t)>& body) {
  std::vector<std::jthread> threads;
  for (int64_t rank = 0; rank < ranks; ++rank) threads.emplace_back(body, rank);
}

TEST(HostRanks, AddsUpInRankOrder) {
  // Values whose sum depends on the order in which they are added.
  for (const int64_t ranks : {1, 2, 3, 5}) {
    HostRanks group(ranks);
    for (const int64_t count : {0, 1, 4, 1000, 5000}) {
      std::vector<std::vector<float>> values(static_cast<size_t>(ranks));
      std::vector<float> expected(static_cast<size_t>(count), 0.0f);
      for (size_t r = 0; r < values.size(); ++r) {
        for (int64_t i = 0; i < count; ++i) {
          values[r].push_back((r % 2 == 0 ? 1e8f : -1e8f) + static_cast<float>(i) * 0.37f);
        }
        for (size_t i = 0; i < expected.size(); ++i) {
          expected[i] = r == 0 ? values[0][i] : expected[i] + values[r][i];
        }
      }
      on_every_rank(ranks, [&](int64_t rank) {
        group.communicator(rank).all_reduce(
            RawAddress::of(values[static_cast<size_t>(rank)].data()), count, tensor::DType::kF32);
      });
      for (const std::vector<float>& sums : values) EXPECT_EQ(sums, expected);
    }
  }
}

TEST(HostRanks, WhoWaitsForALostRankIsToldAndTheGroupGoesOn) {
  HostRanks group(3);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> told = 0;
    on_every_rank(3, [&](int64_t rank) {
      std::vector<float> values(10, 1.0f);
      if (rank == round % 3) {
        group.fail();
        return;
      }
      try {
        group.communicator(rank).all_reduce(RawAddress::of(values.data()), 10, tensor::DType::kF32);
      } catch (const RankLost&) {
        ++told;
      }
    });
    EXPECT_EQ(told, 2);
    group.reset();
    on_every_rank(3, [&](int64_t rank) {
      std::vector<float> values(10, 1.0f);
      group.communicator(rank).all_reduce(RawAddress::of(values.data()), 10, tensor::DType::kF32);
      EXPECT_EQ(values, std::vector<float>(10, 3.0f));
    });
  }
}

}  // namespace
}  // namespace moesaic::backend
