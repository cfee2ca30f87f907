#pragma once

// What can be rented and what engines make of it: the contents of data/hardware.yaml and
// data/efficiency.yaml, with a user's own file over them.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::plan {

/// The name that asks for this machine as a candidate; no instance may have it.
constexpr const char* kHostInstance = "host";

/// A device. Rates are what it can reach: measured, or its data sheet times the usual shortfall.
struct Accelerator {
  std::string name;
  std::string vendor;         ///< "nvidia", "amd" or "aws-neuron"
  uint64_t memory_bytes = 0;  ///< as the driver offers it to a process
  double bandwidth = 0;       ///< bytes/s
  double bf16_flops = 0;      ///< dense, 1/s
  double fp8_flops = 0;       ///< dense, 1/s; 0 = no fp8 arithmetic
  double link_bandwidth = 0;  ///< bytes/s to the other devices of the node, one direction
  bool measured = false;      ///< the rates were measured on a device of the kind
  std::string source;
};

struct Instance {
  std::string name;
  std::string cloud;  ///< who rents it out; "own" for a machine that is not rented
  std::string accelerator;
  int64_t devices = 0;
  uint64_t host_memory_bytes = 0;
  double network_bandwidth = 0;  ///< bytes/s of the whole instance, one way; 0 = stays alone
  std::optional<double> usd_per_hour;
  std::string price_date;
  std::string price_source;
};

struct Catalog {
  std::vector<Accelerator> accelerators;
  std::vector<Instance> instances;

  /// Null when there is none of that name (letter case aside).
  const Instance* find_instance(const std::string& name) const;
  const Accelerator* find_accelerator(const std::string& name) const;
  /// Who rents instances out, in the catalogue's order.
  std::vector<std::string> clouds() const;
};

/// What an engine makes of the hardware; data/efficiency.yaml says what each figure is.
struct Efficiency {
  std::string engine;
  std::vector<std::string> vendors;  ///< of the devices it runs on
  std::string instead;  ///< the engine whose figures stand for it on other devices; may be empty
  std::string source;
  double bandwidth_share = 1, bandwidth_share_4bit = 1, arithmetic_share = 1, link_share = 1;
  double layer_seconds = 0, quantize_seconds = 0, sequence_seconds = 0;
  double link_seconds = 0, network_seconds = 0, request_seconds = 0;
  uint64_t runtime_bytes = 0, graphs_bytes = 0, communication_bytes = 0;
  double load_bytes_per_s = 1e9, start_seconds = 0;
  bool runs_on(const std::string& vendor) const;
};

/// The shipped catalogue, with the entries of `extra` added or, where a name is known, replaced.
/// Throws MissingFileError, or ModelFileError naming file, line and key.
Catalog load_catalog(const std::optional<std::filesystem::path>& extra = std::nullopt);

/// The set of `engine` ("moesaic", "vllm", "tgi", "neuron"). Throws UsageError with the nearest.
Efficiency find_efficiency(const std::string& engine);
/// The set to reckon `vendor`'s devices with when `engine` is asked for: its own where it runs on
/// them, else that of the engine named instead, else that of the first engine that does run there.
Efficiency efficiency_on(const std::string& engine, const std::string& vendor);
std::vector<std::string> engine_names();

}  // namespace moesaic::plan
