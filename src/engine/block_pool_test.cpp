#include "engine/block_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace moesaic::engine {
namespace {

using Tokens = std::vector<int32_t>;

/// A pool of blocks of two, and the chains of a test.
class BlockPoolTest : public testing::Test {
 protected:
  explicit BlockPoolTest() : pool_(4, 2) {}
  ~BlockPoolTest() override { pool_.check_invariants(); }

  static BlockKey key(const Tokens& all) {
    BlockKey result;
    for (size_t i = 0; i + 2 <= all.size(); i += 2) result = chain_key(result, all.data() + i, 2);
    return result;
  }
  /// Publishes the last two of `all` in `block`.
  std::optional<Content> publish(BlockId block, const Tokens& all, const Content& parent = {}) {
    return pool_.publish(block, key(all), parent, all.data() + all.size() - 2);
  }
  std::optional<Content> find(const Tokens& all, const Content& parent = {}) {
    return pool_.find(key(all), parent, all.data() + all.size() - 2);
  }
  BlockPool pool_;
};

TEST_F(BlockPoolTest, CountsFreeCachedAndHeld) {
  const BlockId a = pool_.take();
  const BlockId b = pool_.take();
  EXPECT_NE(a, b);
  EXPECT_EQ(pool_.held(), 2);
  ASSERT_TRUE(publish(a, {1, 2}));
  pool_.retain(a);
  EXPECT_EQ(pool_.references(a), 2);
  pool_.release(a);
  EXPECT_EQ(pool_.held(), 2);
  pool_.release(a);
  pool_.release(b);
  EXPECT_EQ(pool_.held(), 0);
  EXPECT_EQ(pool_.cached(), 1);
  EXPECT_EQ(pool_.free(), 3);
  EXPECT_EQ(pool_.available(), 4);
}

TEST_F(BlockPoolTest, FindsWhatWasPublishedUntilItIsEvicted) {
  const BlockId a = pool_.take();
  publish(a, {1, 2});
  pool_.release(a);
  const auto found = find({1, 2});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->block, a);
  EXPECT_FALSE(find({1, 3}));
  pool_.retain(a);  // out of the cached ones and back
  EXPECT_EQ(pool_.cached(), 0);
  pool_.release(a);
  for (int i = 0; i < 3; ++i) EXPECT_NE(pool_.take(), a);  // free ones go first
  EXPECT_EQ(pool_.take(), a);
  EXPECT_FALSE(find({1, 2}));
}

TEST_F(BlockPoolTest, EvictsTheLeastRecentlyUsed) {
  std::vector<BlockId> blocks;
  for (int32_t i = 0; i < 4; ++i) {
    blocks.push_back(pool_.take());
    publish(blocks.back(), {i, i});
  }
  for (int i : {2, 0, 3, 1}) pool_.release(blocks[static_cast<size_t>(i)]);
  pool_.retain(blocks[0]);
  pool_.release(blocks[0]);
  for (int i : {2, 3, 1, 0}) EXPECT_EQ(pool_.take(), blocks[static_cast<size_t>(i)]);
}

TEST_F(BlockPoolTest, EqualTokensAfterOtherContentAreOtherContent) {
  const BlockId a = pool_.take(), b = pool_.take(), c = pool_.take();
  const auto first = publish(a, {1, 2});
  const auto other = publish(b, {3, 4});
  const auto second = publish(c, {1, 2, 5, 6}, *first);
  ASSERT_TRUE(second);
  EXPECT_EQ(find({1, 2, 5, 6}, *first), second);
  EXPECT_FALSE(find({3, 4, 5, 6}, *other));
  EXPECT_FALSE(find({1, 2, 5, 6}));
}

TEST_F(BlockPoolTest, EqualContentStandsOnce) {
  const BlockId a = pool_.take(), b = pool_.take();
  const auto first = publish(a, {1, 2});
  EXPECT_EQ(publish(b, {1, 2}), first);
  pool_.release(b);
  EXPECT_EQ(pool_.cached(), 0);  // b itself was not published
  EXPECT_EQ(pool_.free(), 3);
}

TEST_F(BlockPoolTest, ACollisionOfKeysServesNobodyElsesContent) {
  // The same key given to different tokens, as a collision would.
  const BlockKey same{7, 7};
  const BlockId a = pool_.take(), b = pool_.take();
  const Tokens mine = {1, 2}, theirs = {3, 4};
  const auto first = pool_.publish(a, same, {}, mine.data());
  ASSERT_TRUE(first);
  EXPECT_FALSE(pool_.find(same, {}, theirs.data()));
  const auto second = pool_.publish(b, same, {}, theirs.data());
  ASSERT_TRUE(second);
  EXPECT_EQ(second->block, b);
  EXPECT_FALSE(pool_.find(same, {}, mine.data()));
  EXPECT_EQ(pool_.find(same, {}, theirs.data()), second);
  // And under equal tokens whose parents collide.
  const BlockId c = pool_.take();
  EXPECT_FALSE(pool_.publish(c, {8, 8}, *first, mine.data())) << "its parent's content is gone";
  ASSERT_TRUE(pool_.publish(c, {8, 8}, *second, mine.data()));
  EXPECT_FALSE(pool_.find({8, 8}, *first, mine.data()));
}

TEST_F(BlockPoolTest, AChildOfEvictedContentIsNotFoundAndGivesWay) {
  const BlockId a = pool_.take(), b = pool_.take();
  const auto first = publish(a, {1, 2});
  ASSERT_TRUE(publish(b, {1, 2, 3, 4}, *first));
  pool_.release(a);
  pool_.release(b);
  pool_.take(), pool_.take();
  ASSERT_EQ(pool_.take(), a);  // evicts the parent only
  EXPECT_EQ(pool_.cached(), 1);
  const auto again = publish(a, {1, 2});  // the same tokens in the same block, computed anew
  ASSERT_TRUE(again);
  EXPECT_NE(again, first);
  EXPECT_FALSE(find({1, 2, 3, 4}, *again));
  EXPECT_FALSE(find({1, 2, 3, 4}, *first));
  const BlockId c = pool_.take();
  EXPECT_EQ(c, b);
  EXPECT_TRUE(publish(c, {1, 2, 3, 4}, *again));
}

TEST_F(BlockPoolTest, AStaleChildInTheCacheBecomesFreeWhenItsKeyIsTaken) {
  const BlockId a = pool_.take(), b = pool_.take();
  const auto first = publish(a, {1, 2});
  publish(b, {1, 2, 3, 4}, *first);
  pool_.release(a);
  const BlockId c = pool_.take(), d = pool_.take();
  ASSERT_EQ(pool_.take(), a);
  const auto again = publish(c, {1, 2});
  pool_.release(b);
  EXPECT_EQ(pool_.cached(), 1);
  const auto child = publish(d, {1, 2, 3, 4}, *again);
  ASSERT_TRUE(child);
  EXPECT_EQ(child->block, d);
  EXPECT_EQ(pool_.cached(), 0);
  EXPECT_EQ(pool_.free(), 1);
}

TEST(ChainKey, DependsOnEveryTokenAndOnTheirOrder) {
  std::set<std::pair<uint64_t, uint64_t>> seen;
  std::mt19937 random(1);
  Tokens tokens(16);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 100);
  const auto add = [&](const BlockKey& parent) {
    const BlockKey key = chain_key(parent, tokens.data(), 16);
    return seen.insert({key.high, key.low}).second;
  };
  EXPECT_TRUE(add({}));
  EXPECT_TRUE(add({1, 0}));
  EXPECT_TRUE(add({0, 1}));
  for (size_t i = 0; i < 16; ++i) {
    for (int32_t other : {100, 101, 1 << 30, -1}) {
      const int32_t kept = tokens[i];
      tokens[i] = other;
      EXPECT_TRUE(add({}));
      tokens[i] = kept;
    }
    if (i > 0 && tokens[i] != tokens[i - 1]) {
      std::swap(tokens[i], tokens[i - 1]);
      EXPECT_TRUE(add({}));
      std::swap(tokens[i], tokens[i - 1]);
    }
  }
  EXPECT_FALSE(add({}));
}

TEST(BlockPool, KeepsItsInvariantsUnderRandomUse) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    BlockPool pool(1 + static_cast<int64_t>(random() % 12), 1);
    std::vector<BlockId> holds;
    std::vector<Content> contents = {{}};
    for (int step = 0; step < 200; ++step) {
      const auto what = random() % 4;
      if (what == 0 && pool.available() > 0) {
        holds.push_back(pool.take());
        const auto token = static_cast<int32_t>(random() % 3);
        const Content parent = contents[random() % contents.size()];
        const BlockKey key{static_cast<uint64_t>(token), random() % 5};  // collides often
        if (const auto content = pool.publish(holds.back(), key, parent, &token)) {
          contents.push_back(*content);
        }
      } else if (what == 1 && !holds.empty()) {
        const size_t i = random() % holds.size();
        pool.release(holds[i]);
        holds.erase(holds.begin() + static_cast<ptrdiff_t>(i));
      } else if (what == 2) {
        const auto token = static_cast<int32_t>(random() % 3);
        const BlockKey key{static_cast<uint64_t>(token), random() % 5};
        const auto found = pool.find(key, contents[random() % contents.size()], &token);
        if (found) {
          pool.retain(found->block);
          holds.push_back(found->block);
        }
      }
      pool.check_invariants();
      ASSERT_EQ(pool.held(),
                static_cast<int64_t>(std::set<BlockId>(holds.begin(), holds.end()).size()));
    }
  }
}

}  // namespace
}  // namespace moesaic::engine
