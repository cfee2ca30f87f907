#include "server/byte_budget.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "base/error.h"

namespace moesaic::server {
namespace {

class Budget : public testing::Test {
 protected:
  /// For an answer, which may use all of the budget.
  ByteShare share() { return ByteShare(budget_).for_answer(); }
  int refused_ = 0;
  std::shared_ptr<ByteBudget> budget_ = std::make_shared<ByteBudget>(1200, [this] { ++refused_; });
};

TEST_F(Budget, OneAloneMayHaveHalf) {
  ByteShare one = share();
  EXPECT_TRUE(one.try_resize(600));
  EXPECT_FALSE(one.try_resize(601));
  EXPECT_EQ(one.bytes(), 600u);
  EXPECT_EQ(budget_->used(), 600u);
  EXPECT_EQ(refused_, 1);
}

TEST_F(Budget, SeveralHaveEqualPartsAndLeaveOneFree) {
  std::deque<ByteShare> shares;
  for (size_t count = 1; count <= 5; ++count) {
    shares.push_back(share());
    for (ByteShare& each : shares) each.resize(0);
    for (size_t size = 1; size <= 1200 / (count + 1); ++size) {
      for (ByteShare& each : shares) ASSERT_TRUE(each.try_resize(size)) << count;
    }
    for (ByteShare& each : shares) EXPECT_FALSE(each.try_resize(each.bytes() + 1)) << count;
    EXPECT_TRUE(share().try_resize(1200 / (count + 1) / 2)) << "a small one finds room";
  }
}

TEST_F(Budget, WhatIsGivenBackCanBeHadAgain) {
  ByteShare one = share();
  one.resize(600);
  EXPECT_FALSE(share().try_resize(301));
  one.shrink(300);
  EXPECT_EQ(budget_->used(), 300u);
  EXPECT_TRUE(share().try_resize(400));
  EXPECT_EQ(budget_->used(), 300u) << "the other went back with its end";
  ByteShare moved = std::move(one);
  EXPECT_EQ(moved.bytes(), 300u);
  EXPECT_EQ(one.bytes(), 0u);
  moved = share();
  EXPECT_EQ(budget_->used(), 0u);
  moved.shrink(10000);
  EXPECT_EQ(moved.bytes(), 0u);
}

TEST_F(Budget, SaysWhetherToTryAgain) {
  const auto status = [](ByteShare& share, size_t bytes) {
    try {
      share.resize(bytes);
    } catch (const base::RequestError& error) {
      return error.status();
    }
    return 200;
  };
  ByteShare one = share(), other = share();
  EXPECT_EQ(status(one, 601), 400);
  EXPECT_EQ(status(one, 500), 200);
  EXPECT_EQ(status(other, 400), 503);
  EXPECT_EQ(status(other, 300), 200);
}

TEST_F(Budget, TheSharesOfARequestAreOne) {
  ByteShare one = share();
  one.resize(400);
  {
    ByteShare second = one.another(200);
    EXPECT_FALSE(second.try_resize(201));
    EXPECT_FALSE(one.try_resize(401));
    try {
      second.grow(1);
      ADD_FAILURE();
    } catch (const base::RequestError& error) {
      EXPECT_EQ(error.status(), 400) << "it will never fit, though the share alone is small";
    }
    EXPECT_EQ(budget_->used(), 600u);
  }
  EXPECT_TRUE(one.try_resize(600));
  EXPECT_THROW(one.another(1), base::RequestError);
  EXPECT_EQ(budget_->used(), 600u);
}

TEST_F(Budget, AQuarterIsKeptForAnswers) {
  std::deque<ByteShare> requests;
  for (int i = 0; i < 1000; ++i) requests.emplace_back(budget_).try_resize(1);
  EXPECT_EQ(budget_->used(), 899u) << "however many come in";
  EXPECT_FALSE(ByteShare(budget_).try_resize(1));
  ByteShare answer = requests.front().for_answer();
  EXPECT_TRUE(answer.try_resize(100)) << "those that are in can be answered";
  for (ByteShare& request : requests) request.resize(0);
  EXPECT_EQ(budget_->used(), 100u);
  EXPECT_TRUE(ByteShare(budget_).try_resize(450));
  EXPECT_FALSE(ByteShare(budget_).try_resize(451));
}

/// Takes all it can.
void fill(ByteShare& share) {
  while (share.try_resize(share.bytes() + 1)) {
  }
}

TEST_F(Budget, LargeRequestsLeaveRoomForSmallOnes) {
  std::deque<ByteShare> requests;
  for (int i = 0; i < 9; ++i) fill(requests.emplace_back(budget_));
  EXPECT_TRUE(ByteShare(budget_).try_resize(1));
}

TEST_F(Budget, LargeAnswersLeaveRoomForSmallRequests) {
  std::deque<ByteShare> answers;
  for (int i = 0; i < 9; ++i) {
    answers.push_back(share());
    fill(answers.back());
  }
  EXPECT_TRUE(ByteShare(budget_).try_resize(1));
}

TEST_F(Budget, AShareOfNoBudgetHasAllItWants) {
  ByteShare free;
  free.resize(1 << 30);
  EXPECT_EQ(free.bytes(), size_t{1} << 30);
}

TEST_F(Budget, ManyThreadsNeverHoldMoreThanThereIs) {
  auto budget = std::make_shared<ByteBudget>(10000);
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 4; ++seed) {
    threads.emplace_back([&budget, seed] {
      std::mt19937 random(seed);
      std::vector<ByteShare> shares;
      for (int i = 0; i < 5; ++i) shares.emplace_back(budget);
      for (int i = 0; i < 20000; ++i) {
        shares[random() % 5].try_resize(random() % 3000);
        EXPECT_LE(budget->used(), budget->limit());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(budget->used(), 0u);
}

}  // namespace
}  // namespace moesaic::server
