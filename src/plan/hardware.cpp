#include "plan/hardware.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/nearest.h"
#include "plan/shipped.h"
#include "plan/yaml.h"

namespace moesaic::plan {

namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr const char* kEfficiencyFile = "data/efficiency.yaml";

struct Reach {
  double bandwidth = 1, arithmetic = 1;
};

bool same_name(const std::string& a, const std::string& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

template <typename Entry>
const Entry* find(const std::vector<Entry>& entries, const std::string& name) {
  for (const Entry& entry : entries) {
    if (same_name(entry.name, name)) return &entry;
  }
  return nullptr;
}

template <typename Entry>
std::vector<std::string> names_of(const std::vector<Entry>& entries) {
  std::vector<std::string> names(entries.size());
  std::transform(entries.begin(), entries.end(), names.begin(),
                 [](const Entry& entry) { return entry.name; });
  return names;
}

/// Adds `entry`, or puts it in the place of the one of its name.
template <typename Entry>
void put(std::vector<Entry>& entries, Entry entry) {
  for (Entry& known : entries) {
    if (same_name(known.name, entry.name)) {
      known = std::move(entry);
      return;
    }
  }
  entries.push_back(std::move(entry));
}

Reach read_reach() {
  const YAML::Node root = parse_yaml(shipped_efficiency(), kEfficiencyFile);
  YamlReader reach(root["reach"], kEfficiencyFile);
  return {.bandwidth = reach.number("bandwidth", 0.01, 1),
          .arithmetic = reach.number("arithmetic", 0.01, 1)};
}

Accelerator read_accelerator(const YAML::Node& node, const std::string& file, const Reach& reach) {
  constexpr double kMost = 1e6;
  YamlReader reader(node, file);
  Accelerator device;
  device.name = reader.text("name");
  device.vendor = reader.text("vendor", "nvidia");
  constexpr std::array kVendors = {"nvidia", "amd", "aws-neuron"};
  if (std::find(kVendors.begin(), kVendors.end(), device.vendor) == kVendors.end()) {
    throw base::ModelFileError(
        file, fmt::format("accelerator {}: vendor must be one of {}, not {}", device.name,
                          fmt::join(kVendors, ", "), device.vendor));
  }
  device.memory_bytes = static_cast<uint64_t>(reader.number("memory_gib", 0.1, kMost) * kGiB);
  device.bandwidth = reader.number("bandwidth_gbps", 1, kMost) * 1e9 * reach.bandwidth;
  device.bf16_flops = reader.number("bf16_tflops", 0.01, kMost) * 1e12 * reach.arithmetic;
  device.fp8_flops = reader.number("fp8_tflops", 0, kMost, 0.0) * 1e12 * reach.arithmetic;
  device.link_bandwidth = reader.number("link_gbps", 0.1, kMost) * 1e9;
  device.source = reader.text("source", "not given");
  reader.text("memory_source", "not given");
  if (const YAML::Node measured = reader.child("measured"); measured && !measured.IsNull()) {
    YamlReader rates(measured, file);
    device.bandwidth = rates.number("bandwidth_gbps", 1, kMost) * 1e9;
    device.bf16_flops = rates.number("bf16_tflops", 0.01, kMost) * 1e12;
    device.fp8_flops = rates.number("fp8_tflops", 0, kMost, device.fp8_flops / 1e12) * 1e12;
    device.source += "; measured: " + rates.text("source");
    device.measured = true;
    rates.finish();
  }
  reader.finish();
  return device;
}

Instance read_instance(const YAML::Node& node, const std::string& file) {
  constexpr double kMost = 1e6;
  YamlReader reader(node, file);
  Instance instance;
  instance.name = reader.text("name");
  if (same_name(instance.name, kHostInstance)) {
    reader.fail(
        fmt::format("\"{}\" is this machine; an instance needs another name", instance.name));
  }
  instance.cloud = reader.text("cloud", "own");
  instance.accelerator = reader.text("accelerator");
  const double devices = reader.number("devices", 1, 1024);
  if (devices != std::floor(devices)) reader.fail("\"devices\" must be a whole number");
  instance.devices = static_cast<int64_t>(devices);
  instance.host_memory_bytes =
      static_cast<uint64_t>(reader.number("host_memory_gib", 0.1, kMost) * kGiB);
  instance.network_bandwidth = reader.number("network_gbit", 0, kMost, 0.0) * 1e9 / 8;
  instance.usd_per_hour = reader.maybe_number("usd_per_hour", 0, kMost);
  instance.price_date = reader.text("price_date", "not given");
  instance.price_source = reader.text("price_source", "not given");
  reader.finish();
  return instance;
}

void add_file(std::string_view text, const std::string& file, const Reach& reach,
              Catalog& catalog) {
  const YAML::Node root = parse_yaml(text, file);
  YamlReader reader(root, file);
  for (const YAML::Node& node : reader.list("accelerators")) {
    put(catalog.accelerators, read_accelerator(node, file, reach));
  }
  for (const YAML::Node& node : reader.list("instances")) {
    Instance instance = read_instance(node, file);
    if (catalog.find_accelerator(instance.accelerator) == nullptr) {
      const std::vector<std::string> names = names_of(catalog.accelerators);
      throw base::ModelFileError(
          file, fmt::format("instance {}: no accelerator is called \"{}\"; the nearest is {}",
                            instance.name, instance.accelerator,
                            base::nearest(instance.accelerator, names)));
    }
    put(catalog.instances, std::move(instance));
  }
  reader.finish();
}

/// An engine without figures of its own has those of the engine before it that is named instead.
Efficiency read_efficiency(const YAML::Node& node, const std::vector<Efficiency>& before) {
  YamlReader reader(node, kEfficiencyFile);
  Efficiency set;
  set.engine = reader.text("name");
  set.instead = reader.text("instead", "");
  for (const Efficiency& other : before) {
    if (!set.instead.empty() && other.engine == set.instead) {
      const std::string name = set.engine;
      set = other;
      set.engine = name;
      set.instead = other.engine;
    }
  }
  set.vendors.clear();
  for (const YAML::Node& vendor : reader.list("vendors")) {
    set.vendors.push_back(vendor.as<std::string>());
  }
  set.source = reader.text("source");
  if (!set.instead.empty()) {
    reader.finish();
    return set;
  }
  set.bandwidth_share = reader.number("bandwidth_share", 0.01, 1);
  set.bandwidth_share_4bit = reader.number("bandwidth_share_4bit", 0.01, 1);
  set.arithmetic_share = reader.number("arithmetic_share", 0.01, 1);
  set.link_share = reader.number("link_share", 0.01, 1);
  set.layer_seconds = reader.number("layer_us", 0, 1e6) * 1e-6;
  set.quantize_seconds = reader.number("quantize_us", 0, 1e6) * 1e-6;
  set.sequence_seconds = reader.number("sequence_us", 0, 1e6) * 1e-6;
  set.link_seconds = reader.number("link_us", 0, 1e6) * 1e-6;
  set.network_seconds = reader.number("network_us", 0, 1e6) * 1e-6;
  set.request_seconds = reader.number("request_ms", 0, 1e6) * 1e-3;
  set.runtime_bytes = static_cast<uint64_t>(reader.number("runtime_gib", 0, 100) * kGiB);
  set.graphs_bytes = static_cast<uint64_t>(reader.number("graphs_gib", 0, 100) * kGiB);
  set.communication_bytes =
      static_cast<uint64_t>(reader.number("communication_gib", 0, 100) * kGiB);
  set.load_bytes_per_s = reader.number("load_gbps", 0.001, 1e3) * 1e9;
  set.start_seconds = reader.number("start_s", 0, 1e5);
  reader.finish();
  return set;
}

const std::vector<Efficiency>& efficiencies() {
  static const std::vector<Efficiency> all = [] {
    std::vector<Efficiency> sets;
    for (const YAML::Node& node : parse_yaml(shipped_efficiency(), kEfficiencyFile)["engines"]) {
      sets.push_back(read_efficiency(node, sets));
    }
    return sets;
  }();
  return all;
}

}  // namespace

const Instance* Catalog::find_instance(const std::string& name) const {
  return find(instances, name);
}

const Accelerator* Catalog::find_accelerator(const std::string& name) const {
  return find(accelerators, name);
}

std::vector<std::string> Catalog::clouds() const {
  std::vector<std::string> names;
  for (const Instance& instance : instances) {
    if (std::find(names.begin(), names.end(), instance.cloud) == names.end()) {
      names.push_back(instance.cloud);
    }
  }
  return names;
}

bool Efficiency::runs_on(const std::string& vendor) const {
  return std::find(vendors.begin(), vendors.end(), vendor) != vendors.end();
}

Catalog load_catalog(const std::optional<std::filesystem::path>& extra) {
  const Reach reach = read_reach();
  Catalog catalog;
  add_file(shipped_hardware(), "data/hardware.yaml", reach, catalog);
  if (extra) {
    const std::optional<std::string> text = base::read_file(*extra, kMaxYamlBytes);
    if (!text) {
      throw base::ModelFileError(extra->string(),
                                 fmt::format("has more than {} bytes", kMaxYamlBytes));
    }
    add_file(*text, extra->string(), reach, catalog);
  }
  return catalog;
}

std::vector<std::string> engine_names() {
  std::vector<std::string> names;
  for (const Efficiency& set : efficiencies()) names.push_back(set.engine);
  return names;
}

Efficiency find_efficiency(const std::string& engine) {
  for (const Efficiency& set : efficiencies()) {
    if (set.engine == engine) return set;
  }
  throw base::UsageError(
      fmt::format("--engine {}: unknown; the nearest known one is {} (known: {})", engine,
                  base::nearest(engine, engine_names()), fmt::join(engine_names(), ", ")));
}

Efficiency efficiency_on(const std::string& engine, const std::string& vendor) {
  const Efficiency asked = find_efficiency(engine);
  if (asked.runs_on(vendor)) return asked;
  if (!asked.instead.empty() && find_efficiency(asked.instead).runs_on(vendor)) {
    return find_efficiency(asked.instead);
  }
  const auto& sets = efficiencies();
  const auto first = std::find_if(sets.begin(), sets.end(),
                                  [&](const Efficiency& set) { return set.runs_on(vendor); });
  return first == sets.end() ? asked : *first;
}

}  // namespace moesaic::plan
