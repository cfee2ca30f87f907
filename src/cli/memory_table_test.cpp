#include "cli/memory_table.h"

#include <gtest/gtest.h>

namespace moesaic::cli {
namespace {

model::MemoryNeeds sample() {
  model::MemoryNeeds needs;
  needs.weights = uint64_t{281} << 30;
  needs.kv_cache = uint64_t{512} << 20;
  needs.activations = uint64_t{100} << 20;
  needs.requests = uint64_t{64} << 20;
  needs.runtime = uint64_t{192} << 20;
  needs.kv_blocks = 4096;
  needs.kv_tokens = 65536;
  return needs;
}

TEST(MemoryTable, ShowsEveryTermAndFits) {
  const auto lines = memory_table(sample());
  ASSERT_EQ(lines.size(), 8u);
  EXPECT_EQ(lines[1], "weights         281.00 GiB");
  EXPECT_EQ(lines[2], "kv_cache        512.00 MiB");
  EXPECT_EQ(lines[4], "requests         64.00 MiB");
  EXPECT_EQ(lines[6], "total           281.85 GiB");
  for (const std::string& line : lines) EXPECT_LE(line.size(), 60u) << line;
}

TEST(MemoryTable, ShowsWhatDiffers) {
  const model::MemoryNeeds needs = sample();
  const auto lines =
      memory_table(needs, {needs.weights, needs.kv_cache, needs.activations * 103 / 100, 7, 7});
  ASSERT_EQ(lines.size(), 7u);
  EXPECT_TRUE(lines[1].ends_with(" none")) << lines[1];
  EXPECT_TRUE(lines[3].ends_with(" +3.00%")) << lines[3];
  EXPECT_TRUE(lines[4].ends_with("-   a reserve")) << lines[4];
  EXPECT_TRUE(lines[5].ends_with("-   a reserve")) << lines[5];
  EXPECT_TRUE(lines[6].starts_with("compared ")) << lines[6];
  for (const std::string& line : lines) EXPECT_LE(line.size(), 60u) << line;
}

}  // namespace
}  // namespace moesaic::cli
