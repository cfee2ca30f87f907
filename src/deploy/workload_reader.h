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
  std::string kind;                                ///< "Deployment", "StatefulSet", ...
  std::string name;                                ///< as the manifest has it
  std::string where;                               ///< "Deployment mixtral, line 12"
  std::string image;                               ///< of the server
  std::vector<std::string> arguments;              ///< of the server, its own name left out
  std::map<std::string, std::string> environment;  ///< values that stand in the manifest
  std::vector<EnvVar> references;                  ///< variables whose values the cluster knows
  Service service;  ///< name, resources, volumes, ports; engine kMoesaic
  /// Where paths lay and where they lie now; longer ones first.
  std::vector<std::pair<std::string, std::string>> moved;
  std::vector<std::string> blockers;  ///< why what is written could not serve as it did
  std::vector<Finding> findings;
};

/// An object of the file that belongs to no workload read.
struct OtherObject {
  std::string kind;
  std::string name;
  std::string name_space;
  std::string why;  ///< why it was not read, where it looks like a server; "" = it is none
};

struct ManifestFile {
  std::vector<Workload> workloads;  ///< one at least
  std::vector<OtherObject> others;
};

/// Every such workload of the documents; Services, claims, autoscalers and routes beside them are
/// joined to it. Throws ModelFileError that says what was looked for when there is none, or when a
/// part has the wrong type.
ManifestFile read_workloads(const std::vector<YamlDocument>& documents, const std::string& file);

/// Whether two objects may be in one namespace: one that names none is where the other is.
bool shares_namespace(std::string_view a, std::string_view b);

/// Bytes of a Kubernetes quantity: "64Gi", "500M", "1e9"; -1 when it is none.
int64_t quantity_bytes(std::string_view text);

}  // namespace moesaic::deploy
