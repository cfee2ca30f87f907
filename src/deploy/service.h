#pragma once

// What is to run on Kubernetes, as plain data: filled from a plan (cli/deploy.cpp) or from
// somebody's Deployment (deploy/workload_reader.h), read by the manifests (deploy/manifests.h).

#include <boost/json.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::deploy {

/// Whose container serves the model.
enum class Engine : uint8_t { kMoesaic, kVllm, kTgi, kNeuron };

/// "moesaic", "vllm", "tgi", "neuron".
std::string_view engine_name(Engine engine);
/// The engine of that name; throws UsageError with the nearest one.
Engine engine_from(std::string_view name);
/// Whether a resource of a node is an NVIDIA card, or a part or a share of one.
bool is_nvidia(std::string_view resource);

/// An entry of a container's environment: a value, or where Kubernetes takes it from.
struct EnvVar {
  std::string name;
  std::string value;
  boost::json::object from;  ///< valueFrom; wins over `value` when not empty
};

/// Where a warning starts. Starting points to be tuned, not measurements.
struct AlertLimits {
  double first_token_seconds = 5;    ///< p95 from arrival to the first token
  double inter_token_seconds = 0.5;  ///< p95 between two tokens
  double kv_share = 0.95;            ///< of the KV cache
  int64_t waiting = 16;              ///< requests waiting per pod
  double imbalance = 3;              ///< busiest expert's rows over its layer's mean
  int64_t stalled_seconds = 60;      ///< with work and without a step
};

/// What an existing Deployment has beyond our own fields, taken over as it stands.
struct Kept {
  bool existing = false;                ///< it runs already: what it does without is not added
  std::string workload;                 ///< its name where that is no label of ours; "" = name
  bool replicas = false;                ///< its manifest says how many; no autoscaler's to decide
  int64_t start_seconds = 0;            ///< what a start may take; 0 = startup_budget derives it
  boost::json::object workload_fields;  ///< of its spec: strategy, history
  boost::json::object selector;         ///< labels; a Deployment's cannot be changed later
  boost::json::array selector_expressions;  ///< beside those labels
  boost::json::object labels;               ///< of the Deployment itself
  boost::json::object annotations;          ///< of the Deployment itself
  boost::json::object pod_labels;           ///< beside the selector; of a group, the leader's
  boost::json::object pod_annotations;      ///< of the pod template
  boost::json::object node_selector;
  boost::json::array tolerations;
  boost::json::object affinity;
  boost::json::object pod_fields;    ///< of the pod's spec: DNS, scheduler, spreading
  boost::json::object pod_security;  ///< securityContext of the pod, for the other containers too
  boost::json::object resources;     ///< requests and limits; wins over cpus, memory and devices
  std::optional<bool> token;         ///< automountServiceAccountToken; none = it does not say
  boost::json::array pull_secrets;
  boost::json::array volumes;        ///< beside the cache, /dev/shm and /tmp
  boost::json::array volume_mounts;  ///< of those volumes
  boost::json::array init_containers;
  boost::json::array env_from;
  boost::json::array service_ports;  ///< of the Service; empty = service_port
  boost::json::object service_selector;
  boost::json::object service_labels;
  boost::json::object service_annotations;
  boost::json::object service_fields;  ///< of its spec, beside type, selector and ports
  boost::json::array sidecars;         ///< containers beside the server
  boost::json::object claim;           ///< the cache's PersistentVolumeClaim, when the file had it
  boost::json::object route;           ///< the HTTPRoute, when the file had it
  boost::json::object autoscaler;      ///< the HorizontalPodAutoscaler, when the file had it
  boost::json::object budget;          ///< the PodDisruptionBudget, when the file had it
  std::string pull_policy;             ///< imagePullPolicy; "" = the cluster's default
  std::string container;               ///< the server's container's name; "" = server
  std::string service_account;
  std::string service_name;  ///< of the Service that clients already use; "" = name
  std::string service_type;  ///< "" = ClusterIP
  std::string priority_class;
  std::string runtime_class;
};

/// All that the manifests need. Sizes are bytes, times are seconds, per pod unless said otherwise.
struct Service {
  std::string name;        ///< DNS label, at most kMaxNameLength
  std::string name_space;  ///< "" = the namespace kubectl is set to
  std::string model;       ///< Hub name, or a folder inside the cache volume
  std::string served_name;
  std::string image;  ///< "" = the engine's, for the accelerator
  Engine engine = Engine::kMoesaic;
  int64_t replicas = 1;
  int64_t max_replicas = 2;

  std::string instance;     ///< node.kubernetes.io/instance-type; "" = any node
  std::string accelerator;  ///< resource: "nvidia.com/gpu", "aws.amazon.com/neuron" or ""
  int64_t devices_per_node = 0;
  int64_t nodes = 1;           ///< of one replica
  int64_t efa_interfaces = 0;  ///< Elastic Fabric Adapters of a pod; 0 = none
  std::string scheduler;       ///< schedulerName; "" = the cluster's default
  // As plan::Layout has it: a pipeline stage is tp x ep devices, over all of which attention is
  // cut; the experts are dealt out over ep groups of them.
  int64_t tp = 1, ep = 1, pp = 1;
  bool whole_experts = false;  ///< dealt out over the ranks, though ep says that they are cut

  std::string dtype;
  std::string kv_cache_dtype;
  std::string quantization;
  int64_t max_model_len = 0;  ///< 0 = not given
  int64_t max_num_seqs = 0;
  double gpu_memory_utilization = 0;

  int64_t cpus = 8;
  int64_t memory_bytes = 0;  ///< host memory of one pod, request and limit
  int64_t shm_bytes = 0;
  int64_t cache_bytes = 0;
  int64_t weights_bytes = 0;  ///< of the checkpoint; 0 = not known
  double load_seconds = 120;  ///< from the checkpoint on the volume to ready

  int64_t port = 8000;  ///< of the container
  std::string port_name = "http";
  int64_t service_port = 80;            ///< of the Service
  std::string path_prefix;              ///< "/mixtral"; "" = a route for every path
  std::string hostname;                 ///< of the route; "" = any
  std::string gateway;                  ///< the Gateway the route belongs to
  std::string gateway_space;            ///< its namespace; "" = ours
  std::string endpoint_picker;          ///< Service of the InferencePool's; "" = no such pool
  std::vector<std::string> allow_from;  ///< namespaces and address ranges of more clients
  std::string monitor_space;            ///< namespace Prometheus scrapes from
  std::string monitor_label;     ///< value of the `release` label Prometheus selects; "" = none
  std::string hf_secret;         ///< Secret with the Hub token; "" = none
  std::string hf_secret_key;     ///< its key
  std::string storage_class;     ///< "" = the cluster's default
  bool has_cache = true;         ///< a volume for checkpoint and prepared weights
  std::string cache_claim;       ///< PVC that exists already; "" = ours, name-cache
  std::string cache_claim_name;  ///< of the claim written; "" = name-cache
  std::string cache_path;        ///< where it is mounted
  int64_t run_as = 10001;        ///< user of the container
  int64_t run_as_group = 10001;
  int64_t drain_seconds = 60;  ///< running requests may take after SIGTERM
  int64_t queue_target = 4;    ///< waiting requests per pod that the autoscaler aims at

  AlertLimits alerts;
  std::vector<std::string> without;     ///< optional_parts() that are not written
  std::vector<std::string> extra_args;  ///< after ours
  bool ranks_in_args =
      false;                ///< extra_args say how many ranks there are; tp, ep, pp are not checked
  std::vector<EnvVar> env;  ///< before ours
  Kept kept;
};

/// The objects a service can do without, by the names of their files: "httproute", ...
std::span<const std::string_view> optional_parts();
/// Throws UsageError for a word that is none of them.
void check_parts(const std::vector<std::string>& without);
/// Whether the object of that file is written.
bool has_part(const Service& service, std::string_view part);

/// Longest name: room for "-dashboard" and for the numbers a LeaderWorkerSet adds to pods.
constexpr size_t kMaxNameLength = 48;

/// A DNS-1035 label made of any text: the last part of a path, lower case, "-" for the rest.
std::string dns_label(std::string_view text);
/// Whether `text` is a DNS-1035 label of at most `longest` characters.
bool is_dns_label(std::string_view text, size_t longest);

/// Whether `text` is a name as Secrets, claims and most other objects have it: DNS-1123 labels,
/// dots between them.
bool is_dns_subdomain(std::string_view text);

/// Whether `path` is `folder` or lies in it.
bool is_below(const std::string& path, const std::string& folder);

/// Fills what is empty and can be derived (image, shm, memory, cache size, gateway), then checks:
/// UsageError for a bad name, path or count, ConfigError for what an engine cannot do.
void complete(Service& service);

/// Whether a pod may move to another node, or several pods share the cache.
bool shares_cache(const Service& service);
/// Seconds a pod may take from its start to ready: download, load, and as much again for luck; or
/// what it might take before.
int64_t startup_budget(const Service& service);
/// terminationGracePeriodSeconds: seconds between the announcement of SIGTERM and SIGTERM, as
/// endpoints and gateways hear of it first; --drain-seconds; and the server's own end.
constexpr int64_t kPreStopSeconds = 10;
constexpr int64_t kEndSeconds = 20;
int64_t grace_seconds(const Service& service);
std::string cache_claim(const Service& service);
std::string service_name(const Service& service);
/// Name of the Deployment or LeaderWorkerSet.
const std::string& workload_name(const Service& service);
/// Whether the workload says how many replicas: not where an autoscaler does, as every new apply
/// would set it back.
bool writes_replicas(const Service& service);

}  // namespace moesaic::deploy
