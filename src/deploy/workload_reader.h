#pragma once

// What a manifest of vLLM, TGI, Neuron or moesaic says: the server's arguments and environment, and
// everything around them that a deploy::Service can carry on.

#include <map>
#include <string>
#include <vector>

#include "deploy/service.h"
#include "deploy/yaml_reader.h"

namespace moesaic::deploy {

/// What became of a part of the manifest.
struct Finding {
  enum class Fate : uint8_t { kKept, kChanged, kLeftOut };
  Fate fate;
  std::string text;  ///< one line
};

/// A workload that runs an inference server.
struct Workload {
  Engine engine = Engine::kMoesaic;                ///< whose container it is
  std::string where;                               ///< "Deployment mixtral, line 12"
  std::vector<std::string> arguments;              ///< of the server, its own name left out
  std::map<std::string, std::string> environment;  ///< values that stand in the manifest
  std::vector<EnvVar> references;                  ///< variables whose values the cluster knows
  Service service;         ///< name, resources, volumes, ports; engine kMoesaic
  std::string moved_from;  ///< the cache was mounted here; "" = it stays
  std::vector<Finding> findings;
};

/// Every such workload of the documents; Services, claims, autoscalers and routes beside them are
/// joined to it. Throws ModelFileError that says what was looked for when there is none, or when a
/// part has the wrong type.
std::vector<Workload> read_workloads(const std::vector<YamlDocument>& documents,
                                     const std::string& file);

/// Bytes of a Kubernetes quantity: "64Gi", "500M", "1e9"; -1 when it is none.
int64_t quantity_bytes(std::string_view text);

}  // namespace moesaic::deploy
