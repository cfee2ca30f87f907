#include "base/machine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace moesaic::base {
namespace {

/// A made-up /proc/self/cgroup and /sys/fs/cgroup.
class Cgroup : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / ("cgroup" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    files_ = {folder_ / "membership", folder_ / "root"};
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void membership(const std::string& text) { std::ofstream(files_.membership) << text; }
  void put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((files_.root / path).parent_path());
    std::ofstream(files_.root / path) << text;
  }
  std::filesystem::path folder_;
  CgroupFiles files_;
};

TEST_F(Cgroup, NoGroupIsNoLimit) {
  EXPECT_FALSE(cgroup_memory_limit(files_));
  EXPECT_FALSE(cgroup_cpu_quota(files_));
  membership("0::/\nrubbish\n1:name=systemd:/x\n");
  EXPECT_FALSE(cgroup_memory_limit(files_));
  EXPECT_FALSE(cgroup_cpu_quota(files_));
}

TEST_F(Cgroup, Version2TakesTheLowestOfTheGroupAndItsParents) {
  membership("0::/kubepods/pod/container\n");
  put("kubepods/pod/container/memory.max", "max\n");
  put("kubepods/pod/memory.max", "1000000\n");
  put("kubepods/memory.max", "5000000\n");
  put("kubepods/pod/container/cpu.max", "400000 100000\n");
  put("kubepods/pod/cpu.max", "150000 100000\n");
  put("kubepods/cpu.max", "max 100000\n");
  EXPECT_EQ(cgroup_memory_limit(files_), 1000000u);
  EXPECT_DOUBLE_EQ(cgroup_cpu_quota(files_).value_or(0), 1.5);
}

TEST_F(Cgroup, Version2InAContainerThatSeesItsGroupAsTheRoot) {
  membership("0::/of/the/host\n");
  put("memory.max", "777\n");
  put("cpu.max", "50000 100000\n");
  EXPECT_EQ(cgroup_memory_limit(files_), 777u);
  EXPECT_DOUBLE_EQ(cgroup_cpu_quota(files_).value_or(0), 0.5);
}

TEST_F(Cgroup, Version1ReadsEachControllersHierarchy) {
  membership("5:memory:/a/b\n4:cpu,cpuacct:/a\n3:cpuset:/\n");
  put("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
  put("memory/a/memory.limit_in_bytes", "4096\n");
  put("cpu/a/cpu.cfs_quota_us", "-1\n");
  put("cpu/a/cpu.cfs_period_us", "100000\n");
  put("cpu/cpu.cfs_quota_us", "250000\n");
  put("cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cgroup_memory_limit(files_), 4096u);
  EXPECT_DOUBLE_EQ(cgroup_cpu_quota(files_).value_or(0), 2.5);
}

TEST_F(Cgroup, WhatIsLeftCountsFilesThatCanGo) {
  EXPECT_FALSE(cgroup_memory_left(files_));
  membership("0::/pod/container\n");
  put("pod/container/memory.max", "max\n");
  put("pod/container/memory.current", "300\n");
  put("pod/memory.max", "1000\n");
  put("pod/memory.current", "700\n");
  put("pod/memory.stat", "anon 400\ninactive_file 250\nactive_file 50\n");
  EXPECT_EQ(cgroup_memory_left(files_), 550u);
  put("pod/memory.current", "1300\n");
  EXPECT_EQ(cgroup_memory_left(files_), 0u);
  membership("5:memory:/a\n");
  put("memory/a/memory.limit_in_bytes", "4096\n");
  put("memory/a/memory.usage_in_bytes", "96\n");
  EXPECT_EQ(cgroup_memory_left(files_), 4000u);
}

TEST(Machine, RanksGetCoresOfTheirOwnNode) {
  Topology topology;
  topology.cores = {0, 2, 4, 6, 1, 3, 5, 7};
  topology.nodes = {0, 0, 0, 0, 1, 1, 1, 1};
  using Shares = std::vector<std::vector<int>>;
  EXPECT_EQ(share_cores(topology, 8, 2), (Shares{{0, 2, 4, 6}, {1, 3, 5, 7}}));
  EXPECT_EQ(share_cores(topology, 5, 2), (Shares{{0, 2, 4}, {1, 3}}));
  EXPECT_EQ(share_cores(topology, 8, 3), (Shares{{0, 2, 4}, {6, 1, 3}, {5, 7}}));
  EXPECT_EQ(share_cores(topology, 1, 2), (Shares{{0}, {1}}));
  EXPECT_EQ(share_cores(topology, 3, 1), (Shares{{0, 2, 4}}));
  EXPECT_EQ(share_cores(topology, 9, 2), (Shares{{-1, -1, -1, -1, -1}, {-1, -1, -1, -1}}));
  topology.cores = {0};
  EXPECT_EQ(share_cores(topology, 1, 3), (Shares{{-1}, {-1}, {-1}}));
}

TEST(Machine, HasCoresGroupedByNodeAndMemory) {
  const Topology topology = discover_topology();
  ASSERT_FALSE(topology.cores.empty());
  ASSERT_EQ(topology.cores.size(), topology.nodes.size());
  EXPECT_EQ(topology.nodes.front(), 0);
  EXPECT_EQ(topology.nodes.back(), topology.numa_nodes - 1);
  EXPECT_TRUE(std::is_sorted(topology.nodes.begin(), topology.nodes.end()));
  EXPECT_GE(usable_cores(topology), 1);
  EXPECT_LE(usable_cores(topology), static_cast<int>(topology.cores.size()));
  EXPECT_GT(memory_limit(), uint64_t{1} << 20);
}

}  // namespace
}  // namespace moesaic::base
