#pragma once

// What this process may use of the machine: one place that asks, container limits included.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace moesaic::base {

/// What hwloc says of this machine, restricted to the CPUs this process may use.
struct Topology {
  std::vector<int> cores;   ///< one logical CPU per physical core, grouped by NUMA node
  std::vector<int> nodes;   ///< the NUMA node of each of them, counted from 0
  int cpus = 1;             ///< logical CPUs that this process may use
  int numa_nodes = 1;       ///< that have one of the cores
  size_t l1d_bytes = 0;     ///< per core
  size_t l2_bytes = 0;      ///< per core
  size_t l3_bytes = 0;      ///< per cache
  size_t all_l3_bytes = 0;  ///< of all caches together
};
Topology discover_topology();

/// The cores of `threads` compute threads, dealt out over `ranks` so that ranks lie on as few nodes
/// each as they can: by rank, one for each of its threads, of which it has at least one. Where
/// there are fewer cores than threads, all are -1: any core.
std::vector<std::vector<int>> share_cores(const Topology& topology, int threads, int ranks);

/// Compute threads that pay: one per physical core of the topology, at most what the CPU quota of
/// the container grants.
int usable_cores(const Topology& topology);

/// Memory this process may use: what the machine has to give without swapping, or the lowest limit
/// of the container's groups, whichever is smaller.
uint64_t memory_limit();

/// Where the kernel tells of this process's groups; tests give folders of their own.
struct CgroupFiles {
  std::filesystem::path membership = "/proc/self/cgroup";
  std::filesystem::path root = "/sys/fs/cgroup";
};

/// The lowest memory limit (bytes) and CPU quota (CPUs' worth of time) of this process's control
/// groups and all their parents, versions 1 and 2; none where there is no limit.
std::optional<uint64_t> cgroup_memory_limit(const CgroupFiles& files = {});
std::optional<double> cgroup_cpu_quota(const CgroupFiles& files = {});
/// What the memory limits of the groups leave now; pages of files that a group can drop do not
/// count as used.
std::optional<uint64_t> cgroup_memory_left(const CgroupFiles& files = {});
/// Memory that the machine has to give now without swapping.
uint64_t machine_memory();

}  // namespace moesaic::base
