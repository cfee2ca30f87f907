#include "base/memory.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "base/error.h"

namespace moesaic::base {
namespace {

TEST(Region, IsCountedUnderItsTagAndZeroed) {
  const size_t before = allocated_bytes(MemoryTag::kKvCache);
  {
    Region region(MemoryTag::kKvCache, 5000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(region.data()) % (2u << 20), 0u);
    EXPECT_EQ(allocated_bytes(MemoryTag::kKvCache), before + 5000);
    for (size_t i = 0; i < region.size(); ++i) ASSERT_EQ(region.data()[i], std::byte{0});
    Region moved = std::move(region);
    EXPECT_EQ(region.data(), nullptr);
    EXPECT_EQ(moved.size(), 5000u);
    EXPECT_EQ(allocated_bytes(MemoryTag::kKvCache), before + 5000);
  }
  EXPECT_EQ(allocated_bytes(MemoryTag::kKvCache), before);
}

TEST(Region, NamesTheTermThatDoesNotFit) {
  try {
    Region region(MemoryTag::kWeights, size_t{1} << 62);
    FAIL() << "an absurd allocation was granted";
  } catch (const UnavailableError& error) {
    EXPECT_NE(std::string(error.what()).find("weights"), std::string::npos);
    EXPECT_EQ(error.exit_code(), ExitCode::kUnavailable);
  }
}

}  // namespace
}  // namespace moesaic::base
