#include "base/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace moesaic::base {
namespace {

// Cache files of one build are read by the next: the values must not drift.
TEST(Hash, IsFixed) {
  EXPECT_EQ(hash_text(""), 7298377151912340797u);
  EXPECT_EQ(hash_text("moesaic"), 15282180509367532480u);
  EXPECT_EQ(hash_text(std::string(1000, 'x'), 5), 13968106499029648526u);
}

TEST(Hash, EverySingleBitCounts) {
  std::string text(200, 'a');
  std::set<uint64_t> seen = {hash_text(text)};
  for (size_t bit = 0; bit < text.size() * 8; ++bit) {
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_TRUE(seen.insert(hash_text(text)).second) << bit;
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
  }
}

TEST(Hash, LengthSeedAndOrderCount) {
  std::set<uint64_t> seen;
  for (size_t n = 0; n < 300; ++n) EXPECT_TRUE(seen.insert(hash_text(std::string(n, '\0'))).second);
  for (uint64_t seed = 1; seed < 300; ++seed) {
    EXPECT_TRUE(seen.insert(hash_text("text", seed)).second);
  }
  const std::string a(64, 'a');
  const std::string b(64, 'b');
  EXPECT_NE(hash_text(a + b), hash_text(b + a));
}

TEST(Hash, AddressDoesNotCount) {
  std::vector<std::byte> buffer(600);
  const std::string text(500, 'q');
  for (size_t shift = 0; shift < 16; ++shift) {
    std::copy_n(reinterpret_cast<const std::byte*>(text.data()), 500, buffer.data() + shift);
    EXPECT_EQ(hash_bytes(std::span(buffer).subspan(shift, 500)), hash_text(text));
  }
}

// Flipping any input bit changes about half of the output bits.
TEST(Hash, Spreads) {
  std::mt19937_64 random(1);
  double flipped = 0;
  constexpr int kRounds = 4000;
  for (int i = 0; i < kRounds; ++i) {
    std::string text(1 + random() % 150, '\0');
    for (char& c : text) c = static_cast<char>(random());
    const uint64_t before = hash_text(text);
    const size_t bit = random() % (text.size() * 8);
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    flipped += std::popcount(before ^ hash_text(text));
  }
  EXPECT_NEAR(flipped / kRounds, 32, 0.5);
}

TEST(MixBits, NeighboursAreUnrelated) {
  double flipped = 0;
  for (uint64_t i = 0; i < 4000; ++i) flipped += std::popcount(mix_bits(i) ^ mix_bits(i + 1));
  EXPECT_NEAR(flipped / 4000, 32, 0.5);
}

}  // namespace
}  // namespace moesaic::base
