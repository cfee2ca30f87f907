#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "deploy/manifests.h"
#include "deploy/server_args.h"

namespace moesaic::deploy {
namespace {

namespace json = boost::json;

constexpr int64_t kMiB = int64_t{1} << 20;
/// EFA's buffers: what its driver sets aside on a node (EKS user guide, "Run machine learning
/// training on Amazon EKS with Elastic Fabric Adapter").
constexpr std::string_view kEfaHugePages = "5120Mi";

/// Volumes that are gone with the pod, and where each is mounted.
constexpr std::pair<std::string_view, std::string_view> kScratch[] = {{"shm", "/dev/shm"},
                                                                      {"tmp", "/tmp"}};

/// The group of volumes that root's own cannot be.
constexpr int64_t kGroup = 10001;

std::string mebibytes(int64_t bytes) { return fmt::format("{}Mi", (bytes + kMiB - 1) / kMiB); }

json::array strings(const std::vector<std::string>& texts) {
  json::array out;
  for (const std::string& text : texts) out.emplace_back(text);
  return out;
}

void append(json::array& to, const json::array& from) {
  for (const json::value& item : from) to.push_back(item);
}

json::array environment(const std::vector<EnvVar>& variables) {
  json::array out;
  for (const EnvVar& variable : variables) {
    json::object entry = {{"name", variable.name}};
    if (variable.from.empty()) {
      entry["value"] = variable.value;
    } else {
      entry["valueFrom"] = variable.from;
    }
    out.push_back(std::move(entry));
  }
  return out;
}

json::object resources(const Service& service) {
  if (service.kept.existing) return service.kept.resources;
  json::object amounts = {{"cpu", fmt::to_string(service.cpus)},
                          {"memory", mebibytes(service.memory_bytes)}};
  if (!service.accelerator.empty() && service.devices_per_node > 0) {
    amounts[service.accelerator] = fmt::to_string(service.devices_per_node);
  }
  if (service.efa_interfaces > 0) {
    amounts["vpc.amazonaws.com/efa"] = fmt::to_string(service.efa_interfaces);
    amounts["hugepages-2Mi"] = kEfaHugePages;
  }
  // Equal, so that the pod is of the Guaranteed class: the last to be evicted, and with whole cores
  // of its own under the static CPU manager.
  return {{"requests", amounts}, {"limits", amounts}};
}

json::object health_probe(const Service& service, int64_t delay, int64_t period, int64_t failures) {
  json::object probe = {
      {"httpGet", json::object{{"path", "/health"}, {"port", service.port_name}}}};
  if (delay > 0) probe["initialDelaySeconds"] = delay;
  probe["periodSeconds"] = period;
  probe["timeoutSeconds"] = 5;
  probe["failureThreshold"] = failures;
  return probe;
}

void add_probes(json::object& container, const Service& service) {
  constexpr int64_t kPeriod = 10;
  // Nothing answers before the weights are loaded: the first question comes after half the
  // expected load time, the last when the budget is spent. The others wait for this one.
  const int64_t half_load = std::clamp<int64_t>(std::llround(service.load_seconds / 2), 5, 600);
  const int64_t delay = service.kept.existing ? 5 : half_load;
  const int64_t left = std::max<int64_t>(startup_budget(service) - delay, 60);
  container["startupProbe"] = health_probe(service, delay, kPeriod, (left + kPeriod - 1) / kPeriod);
  container["readinessProbe"] = health_probe(service, 0, 5, 2);
  container["livenessProbe"] = health_probe(service, 0, kPeriod, 6);
}

/// Whether the pod gets a scratch volume of ours there: not where the old manifest mounts one, as
/// two at one path are refused, and no shared memory where it did without.
bool has_scratch(const Service& service, std::string_view path) {
  if (service.kept.existing && path == "/dev/shm") return false;
  const json::array& mounts = service.kept.volume_mounts;
  return std::none_of(mounts.begin(), mounts.end(), [&](const json::value& mount) {
    const json::value* at = mount.as_object().if_contains("mountPath");
    return at != nullptr && *at == json::value(path);
  });
}

json::array volume_mounts(const Service& service) {
  json::array mounts;
  if (service.has_cache) {
    mounts.push_back(json::object{{"name", "cache"}, {"mountPath", service.cache_path}});
  }
  for (const auto& [name, path] : kScratch) {
    if (has_scratch(service, path)) {
      mounts.push_back(json::object{{"name", name}, {"mountPath", path}});
    }
  }
  append(mounts, service.kept.volume_mounts);
  return mounts;
}

json::array volumes(const Service& service) {
  json::array out;
  if (service.has_cache) {
    out.push_back(
        json::object{{"name", "cache"},
                     {"persistentVolumeClaim", json::object{{"claimName", cache_claim(service)}}}});
  }
  for (const auto& [name, path] : kScratch) {
    if (!has_scratch(service, path)) continue;
    json::object content;
    if (name == "shm")
      content = {{"medium", "Memory"}, {"sizeLimit", mebibytes(service.shm_bytes)}};
    out.push_back(json::object{{"name", name}, {"emptyDir", std::move(content)}});
  }
  append(out, service.kept.volumes);
  return out;
}

json::object container_security(const Service& service) {
  return {
      {"runAsNonRoot", service.run_as > 0},
      {"runAsUser", service.run_as},
      {"runAsGroup", service.run_as_group},
      {"allowPrivilegeEscalation", false},
      // Python's images write caches beside their code; ours writes to its volumes only.
      {"readOnlyRootFilesystem", service.engine == Engine::kMoesaic},
      {"capabilities", json::object{{"drop", json::array{"ALL"}}}},
      {"seccompProfile", json::object{{"type", "RuntimeDefault"}}},
  };
}

json::object container(const Service& service, bool worker) {
  const ServerCommand server = server_command(service, worker);
  json::object body = {{"name", service.kept.container.empty() ? "server" : service.kept.container},
                       {"image", service.image}};
  if (!service.kept.pull_policy.empty()) body["imagePullPolicy"] = service.kept.pull_policy;
  if (!server.command.empty()) body["command"] = strings(server.command);
  body["args"] = strings(server.args);
  body["env"] = environment(server.env);
  if (!service.kept.env_from.empty()) body["envFrom"] = service.kept.env_from;
  if (!worker) {
    body["ports"] =
        json::array{json::object{{"name", service.port_name}, {"containerPort", service.port}}};
  }
  if (json::object amounts = resources(service); !amounts.empty()) body["resources"] = amounts;
  if (!worker) {
    add_probes(body, service);
    body["lifecycle"] = json::object{
        {"preStop",
         json::object{
             {"exec",
              json::object{{"command", json::array{"sleep", fmt::to_string(kPreStopSeconds)}}}}}}};
  }
  body["securityContext"] = container_security(service);
  body["volumeMounts"] = volume_mounts(service);
  return body;
}

json::array tolerations(const Service& service) {
  json::array out = service.kept.tolerations;
  if (service.kept.existing) return out;
  const auto tolerates = [&](const json::value& entry) {
    const json::value* key = entry.as_object().if_contains("key");
    return key != nullptr && *key == json::value(service.accelerator);
  };
  if (!service.accelerator.empty() && std::none_of(out.begin(), out.end(), tolerates)) {
    out.push_back(json::object{
        {"key", service.accelerator}, {"operator", "Exists"}, {"effect", "NoSchedule"}});
  }
  return out;
}

json::object node_selector(const Service& service) {
  json::object out = service.kept.node_selector;
  if (!service.instance.empty()) out["node.kubernetes.io/instance-type"] = service.instance;
  return out;
}

/// What concerns volumes and the network is the pod's; the user is the server's own, so that the
/// containers beside it keep theirs.
json::object pod_security(const Service& service) {
  json::object out = service.kept.pod_security;
  if (!out.contains("fsGroup")) {
    out["fsGroup"] = service.run_as_group > 0 ? service.run_as_group : kGroup;
    // Changing the owner of a cache full of checkpoints takes minutes; once is enough.
    out["fsGroupChangePolicy"] = "OnRootMismatch";
  }
  if (service.port < 1024) {
    json::array& sysctls = out.emplace("sysctls", json::array()).first->value().as_array();
    sysctls.push_back(json::object{{"name", "net.ipv4.ip_unprivileged_port_start"},
                                   {"value", fmt::to_string(service.port)}});
  }
  return out;
}

/// Replicas on several nodes and in several zones, as far as there are such.
json::array spread(const Service& service) {
  json::array out;
  for (const char* key : {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}) {
    out.push_back(
        json::object{{"maxSkew", 1},
                     {"topologyKey", key},
                     {"whenUnsatisfiable", "ScheduleAnyway"},
                     {"labelSelector", json::object{{"matchLabels", answering_pods(service)}}}});
  }
  return out;
}

json::object pod_template(const Service& service, bool worker) {
  json::object labels = selector_labels(service);
  // Of a group, clients look for the leader by them.
  if (!worker) {
    for (const auto& label : service.kept.pod_labels) labels.insert(label);
  }
  labels["inference-engine"] = engine_name(service.engine);
  json::object spec;
  if (!service.kept.service_account.empty()) {
    spec["serviceAccountName"] = service.kept.service_account;
  }
  const std::optional<bool> token =
      service.kept.existing ? service.kept.token : std::optional(false);
  if (token) spec["automountServiceAccountToken"] = *token;
  // A Service named "vllm" would set VLLM_PORT to an address and break vLLM.
  spec["enableServiceLinks"] = false;
  spec["terminationGracePeriodSeconds"] = grace_seconds(service);
  spec["securityContext"] = pod_security(service);
  if (json::object nodes = node_selector(service); !nodes.empty()) spec["nodeSelector"] = nodes;
  if (json::array list = tolerations(service); !list.empty()) spec["tolerations"] = list;
  const Kept& kept = service.kept;
  if (!kept.affinity.empty()) spec["affinity"] = kept.affinity;
  for (const auto& field : kept.pod_fields) spec.insert(field);
  if (!kept.existing && !worker && service.max_replicas > 1) {
    spec["topologySpreadConstraints"] = spread(service);
  }
  if (!service.scheduler.empty()) spec["schedulerName"] = service.scheduler;
  if (!kept.pull_secrets.empty()) spec["imagePullSecrets"] = kept.pull_secrets;
  if (!kept.priority_class.empty()) spec["priorityClassName"] = kept.priority_class;
  if (!kept.runtime_class.empty()) spec["runtimeClassName"] = kept.runtime_class;
  if (!kept.init_containers.empty()) spec["initContainers"] = kept.init_containers;
  json::array containers = {container(service, worker)};
  append(containers, kept.sidecars);
  spec["containers"] = std::move(containers);
  spec["volumes"] = volumes(service);
  json::object metadata = {{"labels", std::move(labels)}};
  if (!kept.pod_annotations.empty()) metadata["annotations"] = kept.pod_annotations;
  return {{"metadata", std::move(metadata)}, {"spec", std::move(spec)}};
}

/// Accelerators are rarely spare, so an update frees a pod's devices before it starts the new one.
json::object rolling_update() {
  return {{"type", "RollingUpdate"},
          {"rollingUpdate", json::object{{"maxSurge", 0}, {"maxUnavailable", 1}}}};
}

}  // namespace

json::object workload_manifest(const Service& service) {
  json::object spec;
  if (writes_replicas(service)) spec["replicas"] = service.replicas;
  const std::string& name = workload_name(service);
  if (service.nodes > 1) {
    if (!service.kept.existing) {
      spec["rolloutStrategy"] = json::object{
          {"type", "RollingUpdate"},
          {"rollingUpdateConfiguration", json::object{{"maxSurge", 0}, {"maxUnavailable", 1}}}};
    }
    spec["leaderWorkerTemplate"] = json::object{
        {"size", service.nodes},
        {"restartPolicy", kGroupRestart},
        {"leaderTemplate", pod_template(service, false)},
        {"workerTemplate", pod_template(service, true)},
    };
    for (const auto& field : service.kept.workload_fields) spec[field.key()] = field.value();
    json::object group =
        kubernetes_object(service, "leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", name);
    keep_metadata(group, service.kept.labels, service.kept.annotations);
    group["spec"] = std::move(spec);
    return group;
  }
  json::object selector = {{"matchLabels", selector_labels(service)}};
  if (!service.kept.selector_expressions.empty()) {
    selector["matchExpressions"] = service.kept.selector_expressions;
  }
  spec["selector"] = std::move(selector);
  if (!service.kept.existing) spec["strategy"] = rolling_update();
  for (const auto& field : service.kept.workload_fields) spec[field.key()] = field.value();
  spec["progressDeadlineSeconds"] = startup_budget(service) + 600;
  spec["template"] = pod_template(service, false);
  json::object deployment = kubernetes_object(service, "apps/v1", "Deployment", name);
  keep_metadata(deployment, service.kept.labels, service.kept.annotations);
  deployment["spec"] = std::move(spec);
  return deployment;
}

json::object cache_manifest(const Service& service) {
  if (!service.kept.claim.empty()) return service.kept.claim;
  json::object spec = {
      // Pods on several nodes read the same files.
      {"accessModes", json::array{shares_cache(service) ? "ReadWriteMany" : "ReadWriteOnce"}}};
  if (!service.storage_class.empty()) spec["storageClassName"] = service.storage_class;
  spec["resources"] = json::object{
      {"requests",
       json::object{
           {"storage", fmt::format("{}Gi", (service.cache_bytes + (1 << 30) - 1) >> 30)}}}};
  json::object claim =
      kubernetes_object(service, "v1", "PersistentVolumeClaim", cache_claim(service));
  claim["spec"] = std::move(spec);
  return claim;
}

}  // namespace moesaic::deploy
