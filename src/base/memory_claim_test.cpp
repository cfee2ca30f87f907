#include "base/memory_claim.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/memory.h"

namespace moesaic::base {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

uint64_t physical() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

/// Lets the address space of this process grow by so much until the end of the scope.
class AddressLimit {
 public:
  explicit AddressLimit(uint64_t bytes) {
    getrlimit(RLIMIT_AS, &before_);
    std::FILE* statm = std::fopen("/proc/self/statm", "r");
    unsigned long pages = 0;
    EXPECT_EQ(std::fscanf(statm, "%lu", &pages), 1);
    std::fclose(statm);
    const rlimit limit{pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) + bytes,
                       before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
  }
  ~AddressLimit() { setrlimit(RLIMIT_AS, &before_); }
  AddressLimit(const AddressLimit&) = delete;
  AddressLimit& operator=(const AddressLimit&) = delete;

 private:
  rlimit before_{};
};

TEST(AvailableMemory, IsAtMostTheMachines) {
  EXPECT_LE(available_memory(), physical());
  EXPECT_GT(available_memory(), 0u);
}

TEST(AvailableMemory, WhatIsAllocatedAndNotTouchedIsTaken) {
  const uint64_t before = available_memory();
  if (before < 2048 * kMiB) GTEST_SKIP() << "too little memory is free here";
  const Region region(MemoryTag::kKvCache, 1024 * kMiB);
  EXPECT_LT(available_memory(), before - 700 * kMiB);
}

#if !defined(MOESAIC_SANITIZE)  // whose own mappings are larger than any limit
TEST(AvailableMemory, AvailableFollowsTheAddressSpaceLimit) {
  const AddressLimit limit(500 * kMiB);
  EXPECT_LE(available_memory(), 500 * kMiB);
  EXPECT_GT(available_memory(), 400 * kMiB);
  void* taken = mmap(nullptr, 200 * kMiB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(taken, MAP_FAILED);
  EXPECT_LE(available_memory(), 300 * kMiB);
  munmap(taken, 200 * kMiB);
}

TEST(MemoryClaim, ClaimsTogetherFitWhatIsThere) {
  const AddressLimit limit(500 * kMiB);
  const MemoryClaim first(200 * kMiB, "a first work");
  EXPECT_EQ(first.bytes(), 200 * kMiB);
  {
    const MemoryClaim second(200 * kMiB, "a second");
    try {
      const MemoryClaim third(200 * kMiB, "tokenising");
      FAIL() << "granted";
    } catch (const UnavailableError& error) {
      EXPECT_NE(std::string(error.what()).find("tokenising may take 201 MiB"), std::string::npos)
          << error.what();
    }
    // What is small is not refused: who would be helped?
    const MemoryClaim small(kMiB, "a small one");
  }
  const MemoryClaim again(200 * kMiB, "a second");
  EXPECT_THROW(MemoryClaim(UINT64_MAX, "too much"), UnavailableError);
  EXPECT_EQ(MemoryClaim(10 * kMiB, "after a refusal").bytes(), 10 * kMiB);
}

TEST(MemoryClaim, CountsAddressSpaceWhereThatIsLimited) {
  const uint64_t stack = uint64_t{1} << 40;
  const MemoryClaim unlimited(2 * kMiB, 2 * kMiB, stack, "a stack");
  const AddressLimit limit(500 * kMiB);
  EXPECT_THROW(MemoryClaim(2 * kMiB, "beside that stack"), UnavailableError);
  EXPECT_THROW(MemoryClaim(0, 0, stack, "a stack"), UnavailableError);
}

TEST(MemoryClaim, GrowsToAShareOfWhatIsThere) {
  const AddressLimit limit(1000 * kMiB);
  EXPECT_EQ(MemoryClaim(kMiB, 20 * kMiB, 0, "work").bytes(), 20 * kMiB);
  const uint64_t granted = MemoryClaim(kMiB, 800 * kMiB, 0, "work").bytes();
  EXPECT_GT(granted, 100 * kMiB);
  EXPECT_LT(granted, 125 * kMiB);
  EXPECT_EQ(MemoryClaim(300 * kMiB, 800 * kMiB, 0, "work").bytes(), 300 * kMiB);
}
#endif

}  // namespace
}  // namespace moesaic::base
