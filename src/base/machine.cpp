#include "base/machine.h"

#include <hwloc.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace moesaic::base {
namespace {

namespace fs = std::filesystem;

size_t cache_bytes(hwloc_topology_t topology, hwloc_obj_type_t type) {
  const hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, 0);
  return cache == nullptr ? 0 : static_cast<size_t>(cache->attr->cache.size);
}

/// The first CPU of a core that this process may use; -1 when there is none.
int usable_cpu(hwloc_obj_t core, const cpu_set_t& allowed) {
  unsigned cpu = 0;
  int first = -1;
  hwloc_bitmap_foreach_begin(cpu, core->cpuset) {
    if (first < 0 && cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed)) first = static_cast<int>(cpu);
  }
  hwloc_bitmap_foreach_end();
  return first;
}

int node_of(hwloc_topology_t topology, hwloc_obj_t core) {
  const int count = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
  for (int i = 0; i < count; ++i) {
    const hwloc_obj_t node = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, i);
    if (hwloc_bitmap_isincluded(core->cpuset, node->cpuset) != 0) return i;
  }
  return 0;
}

/// Numbers the nodes that occur from 0 on and groups the cores by them.
void group_by_node(Topology& topology) {
  std::vector<int> present = topology.nodes;
  std::sort(present.begin(), present.end());
  present.erase(std::unique(present.begin(), present.end()), present.end());
  std::vector<int> cores;
  std::vector<int> nodes;
  for (size_t n = 0; n < present.size(); ++n) {
    for (size_t i = 0; i < topology.cores.size(); ++i) {
      if (topology.nodes[i] != present[n]) continue;
      cores.push_back(topology.cores[i]);
      nodes.push_back(static_cast<int>(n));
    }
  }
  topology.cores = std::move(cores);
  topology.nodes = std::move(nodes);
  topology.numa_nodes = std::max<int>(1, static_cast<int>(present.size()));
}

/// One control group that this process is in, as a folder, and whether it has `controller`.
struct Group {
  fs::path root;  ///< of its hierarchy
  fs::path path;  ///< below the root
  bool version2 = false;
};

std::vector<Group> groups_with(std::string_view controller, const CgroupFiles& files) {
  std::vector<Group> groups;
  std::ifstream stream(files.membership);
  std::string line;
  while (std::getline(stream, line)) {
    // hierarchy:controllers:path; version 2 is the line "0::path".
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path path = fs::path(line.substr(second + 1)).relative_path();
    if (controllers.empty()) {
      groups.push_back({files.root, path, true});
      continue;
    }
    std::istringstream names(controllers);
    std::string name;
    while (std::getline(names, name, ',')) {
      // Controllers mounted together ("cpu,cpuacct") have a folder of that name and links to it.
      if (name == controller) groups.push_back({files.root / name, path, false});
    }
  }
  return groups;
}

/// The lowest of read(folder) over the group and its parents up to the root. In a container the
/// path may be the host's and not be there: the root is then the group itself.
template <typename T, typename Read>
std::optional<T> lowest(const Group& group, const Read& read) {
  std::optional<T> result;
  fs::path path = group.path;
  while (true) {
    const std::optional<T> limit = read(group.root / path);
    if (limit && (!result || *limit < *result)) result = limit;
    if (path.empty()) return result;
    path = path.parent_path();
  }
}

template <typename T, typename Read>
std::optional<T> lowest_of_all(std::string_view controller, const CgroupFiles& files,
                               const Read& read) {
  std::optional<T> result;
  for (const Group& group : groups_with(controller, files)) {
    const std::optional<T> limit =
        lowest<T>(group, [&](const fs::path& folder) { return read(folder, group.version2); });
    if (limit && (!result || *limit < *result)) result = limit;
  }
  return result;
}

/// A number alone in a file ("max" or no file: none).
std::optional<uint64_t> read_number(const fs::path& file) {
  std::ifstream stream(file);
  uint64_t value = 0;
  if (!(stream >> value)) return std::nullopt;
  return value;
}

/// The number after `name` in a file of such lines.
std::optional<uint64_t> read_entry(const fs::path& file, std::string_view name) {
  std::ifstream stream(file);
  std::string word;
  while (stream >> word) {
    uint64_t value = 0;
    if (word == name) return stream >> value ? std::optional(value) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<uint64_t> read_memory_left(const fs::path& folder, bool version2) {
  const auto limit = read_number(folder / (version2 ? "memory.max" : "memory.limit_in_bytes"));
  const auto usage = read_number(folder / (version2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!limit || !usage) return std::nullopt;
  const uint64_t files =
      read_entry(folder / "memory.stat", version2 ? "inactive_file" : "total_inactive_file")
          .value_or(0);
  const uint64_t used = *usage > files ? *usage - files : 0;
  return *limit > used ? *limit - used : 0;
}

std::optional<double> read_quota(const fs::path& folder, bool version2) {
  double quota = 0;
  double period = 0;
  if (version2) {
    std::ifstream stream(folder / "cpu.max");  // "max 100000" or "150000 100000"
    if (!(stream >> quota >> period)) return std::nullopt;
  } else {
    std::ifstream first(folder / "cpu.cfs_quota_us");  // -1 = none
    std::ifstream second(folder / "cpu.cfs_period_us");
    if (!(first >> quota) || !(second >> period)) return std::nullopt;
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

}  // namespace

Topology discover_topology() {
  Topology result;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const bool known = sched_getaffinity(0, sizeof(allowed), &allowed) == 0;
  result.cpus = known ? CPU_COUNT(&allowed)
                      : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) == 0 && hwloc_topology_load(topology) == 0) {
    const int cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
    for (int i = 0; i < cores; ++i) {
      const hwloc_obj_t core = hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, i);
      const int cpu = usable_cpu(core, allowed);
      if (cpu < 0) continue;
      result.cores.push_back(cpu);
      result.nodes.push_back(node_of(topology, core));
    }
    result.l1d_bytes = cache_bytes(topology, HWLOC_OBJ_L1CACHE);
    result.l2_bytes = cache_bytes(topology, HWLOC_OBJ_L2CACHE);
    result.l3_bytes = cache_bytes(topology, HWLOC_OBJ_L3CACHE);
    result.all_l3_bytes =
        result.l3_bytes *
        static_cast<size_t>(std::max(0, hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_L3CACHE)));
  }
  if (topology != nullptr) hwloc_topology_destroy(topology);
  if (result.cores.empty()) {
    for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
      result.cores.push_back(static_cast<int>(i));
      result.nodes.push_back(0);
    }
  }
  group_by_node(result);
  return result;
}

std::vector<std::vector<int>> share_cores(const Topology& topology, int threads, int ranks) {
  const auto share = [ranks](int total, int rank) {
    return std::pair{rank * (total / ranks) + std::min(rank, total % ranks),
                     total / ranks + (rank < total % ranks ? 1 : 0)};
  };
  const auto cores = static_cast<int>(topology.cores.size());
  std::vector<std::vector<int>> shares;
  for (int rank = 0; rank < ranks; ++rank) {
    const int count = std::max(1, share(threads, rank).second);
    const int first = share(cores, rank).first;
    const auto begin = topology.cores.begin() + first;
    shares.push_back(std::max(threads, ranks) <= cores
                         ? std::vector<int>(begin, begin + count)
                         : std::vector<int>(static_cast<size_t>(count), -1));
  }
  return shares;
}

int usable_cores(const Topology& topology) {
  const int cores = static_cast<int>(topology.cores.size());
  const std::optional<double> quota = cgroup_cpu_quota();
  if (!quota) return cores;
  return std::clamp(static_cast<int>(std::ceil(*quota)), 1, cores);
}

/// What the kernel believes a new workload can have; the machine's total where it does not say.
uint64_t machine_memory() {
  if (const auto kib = read_entry("/proc/meminfo", "MemAvailable:")) return *kib * 1024;
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t memory_limit() {
  const uint64_t machine = machine_memory();
  return std::min(machine, cgroup_memory_limit().value_or(machine));
}

std::optional<uint64_t> cgroup_memory_limit(const CgroupFiles& files) {
  return lowest_of_all<uint64_t>("memory", files, [](const fs::path& folder, bool version2) {
    return read_number(folder / (version2 ? "memory.max" : "memory.limit_in_bytes"));
  });
}

std::optional<uint64_t> cgroup_memory_left(const CgroupFiles& files) {
  return lowest_of_all<uint64_t>("memory", files, read_memory_left);
}

std::optional<double> cgroup_cpu_quota(const CgroupFiles& files) {
  return lowest_of_all<double>("cpu", files, read_quota);
}

}  // namespace moesaic::base
