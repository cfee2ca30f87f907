#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "deploy/manifests.h"
#include "deploy/workload_parts.h"

namespace moesaic::deploy {

namespace json = boost::json;

namespace {

/// Fields of a pod that mean the same for any container.
constexpr std::array<const char*, 11> kPodFields = {"topologySpreadConstraints",
                                                    "dnsPolicy",
                                                    "dnsConfig",
                                                    "hostAliases",
                                                    "schedulerName",
                                                    "resourceClaims",
                                                    "shareProcessNamespace",
                                                    "hostname",
                                                    "subdomain",
                                                    "readinessGates",
                                                    "preemptionPolicy"};
/// Fields of a workload that concern its pods' coming and going, and whether they are a
/// LeaderWorkerSet's.
constexpr std::pair<std::string_view, bool> kWorkloadFields[] = {
    {"strategy", false},    {"minReadySeconds", false}, {"revisionHistoryLimit", false},
    {"paused", false},      {"rolloutStrategy", true},  {"startupPolicy", true},
    {"networkConfig", true}};

/// Values that are the same as none.
bool is_default(std::string_view field, const json::value& value) {
  if (value.is_null() || (value.is_object() && value.get_object().empty())) return true;
  if (value.is_array() && value.get_array().empty()) return true;
  if (field == "restartPolicy") return value == json::value("Always");
  return field.starts_with("terminationMessage");
}

}  // namespace

void WorkloadReader::report_rest(const json::object& object, std::string_view where, Names known) {
  for (const auto& field : object) {
    const std::string_view name = field.key();
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    if (!is_default(name, field.value())) {
      left_out(fmt::format("{}{}", where, name.substr(0, 80)));
    }
  }
}

void WorkloadReader::read_names() {
  Service& service = out_.service;
  Kept& keep = service.kept;
  const std::string name = object_.name.empty() ? "server" : object_.name;
  if (name.find_first_of("<{$") != std::string::npos) {
    out_.blockers.push_back(fmt::format("The name '{}' is a placeholder.", name.substr(0, 80)));
  }
  service.name = is_dns_label(name, kMaxNameLength) ? name : dns_label(name);
  keep.workload = name;
  const bool taken = std::any_of(all_.begin(), all_.end(), [&](const Object& object) {
    return &object != &object_ && !object.made && object.kind == "Deployment" &&
           object.name == name && shares_namespace(object.name_space, object_.name_space);
  });
  if (taken && object_.kind != "LeaderWorkerSet") {
    keep.workload = service.name + "-server";
    changed(fmt::format("name {} -> {}, as the file has a Deployment of that name",
                        name.substr(0, 80), keep.workload));
  } else if (is_dns_subdomain(name)) {
    kept(fmt::format("name {}", name));
  } else {
    keep.workload = service.name;
    changed(fmt::format("name {} -> {}", name.substr(0, 80), service.name));
  }
  service.name_space = object_.name_space;
  if (!service.name_space.empty()) kept(fmt::format("namespace {}", service.name_space));
}

void WorkloadReader::read_labels() {
  Kept& keep = out_.service.kept;
  keep.labels = object_at(*object_.body, "metadata.labels", place_);
  if (!keep.labels.empty()) kept(fmt::format("labels of the {}", object_.kind));
  keep.annotations = own_annotations(object_at(*object_.body, "metadata.annotations", place_));
  if (!keep.annotations.empty()) kept(fmt::format("annotations of the {}", object_.kind));
  const json::object& selector = object_at(*object_.body, "spec.selector.matchLabels", place_);
  keep.selector_expressions = array_at(*object_.body, "spec.selector.matchExpressions", place_);
  // A LeaderWorkerSet has no selector of its own.
  if (!selector.empty()) {
    keep.selector = selector;
    kept(
        fmt::format("the selector, which cannot be changed in place ({} labels)", selector.size()));
  }
  const json::object& pod_labels = object_at(*pod_, "metadata.labels", place_);
  if (selector.empty()) {
    // Ours, with the values that the pods have: Services look for those.
    keep.selector = selector_labels(out_.service);
    for (auto& label : keep.selector) {
      if (const json::value* value = pod_labels.if_contains(label.key())) label.value() = *value;
    }
  }
  for (const auto& label : pod_labels) {
    if (!keep.selector.contains(label.key())) keep.pod_labels.insert(label);
  }
  if (!keep.pod_labels.empty()) kept("labels of the pods");
  keep.pod_annotations = own_annotations(object_at(*pod_, "metadata.annotations", place_));
  for (const auto& note : keep.pod_annotations) {
    kept(fmt::format("annotation {}", std::string_view(note.key())));
  }
}

void WorkloadReader::read_image() {
  Kept& keep = out_.service.kept;
  out_.image = text_at(*container_, "image", place_);
  if (out_.engine == Engine::kMoesaic) out_.service.image = out_.image;
  keep.pull_policy = text_at(*container_, "imagePullPolicy", place_);
  if (!keep.pull_policy.empty()) kept(fmt::format("imagePullPolicy {}", keep.pull_policy));
  if (!keep.env_from.empty()) kept("envFrom, as it stands");
  if (array_at(*container_, "envFrom", place_).size() > keep.env_from.size()) {
    changed("envFrom: the ConfigMaps of this file are settings and variables now");
  }
  keep.container = text_at(*container_, "name", place_);
}

void WorkloadReader::read_pod() {
  Kept& keep = out_.service.kept;
  for (const auto& label : object_at(*spec_, "nodeSelector", place_)) {
    keep.node_selector.insert(label);
    kept(fmt::format("nodeSelector {}", std::string_view(label.key())));
  }
  keep.tolerations = array_at(*spec_, "tolerations", place_);
  for (const json::value& item : keep.tolerations) {
    if (!item.is_object()) wrong(place_, "tolerations must be a list of mappings");
  }
  keep.affinity = object_at(*spec_, "affinity", place_);
  keep.pull_secrets = array_at(*spec_, "imagePullSecrets", place_);
  keep.service_account = text_at(*spec_, "serviceAccountName", place_);
  if (keep.service_account.empty()) {
    keep.service_account = text_at(*spec_, "serviceAccount", place_);
  }
  if (const json::value* token = find_path(*spec_, "automountServiceAccountToken", place_)) {
    if (!token->is_bool()) wrong(place_, "automountServiceAccountToken must be true or false");
    keep.token = token->get_bool();
    kept(fmt::format("automountServiceAccountToken {}", *keep.token));
  }
  const json::value* links = find_path(*spec_, "enableServiceLinks", place_);
  if (links == nullptr || *links != json::value(false)) {
    changed(
        "enableServiceLinks false: a Service's address in a variable such as VLLM_PORT is no "
        "setting");
  }
  keep.priority_class = text_at(*spec_, "priorityClassName", place_);
  keep.runtime_class = text_at(*spec_, "runtimeClassName", place_);
  for (const char* name : kPodFields) {
    if (const json::value* value = find_path(*spec_, name, place_)) {
      keep.pod_fields[name] = *value;
      kept(name);
    }
  }
  for (const char* name : {"tolerations", "affinity", "imagePullSecrets", "serviceAccountName",
                           "priorityClassName", "runtimeClassName"}) {
    const json::value* value = find_path(*spec_, name, place_);
    if (value != nullptr && !is_default(name, *value)) kept(name);
  }
}

/// The user that the server runs as: the old one, unless that was root.
void WorkloadReader::read_security() {
  Service& service = out_.service;
  const json::object& own = object_at(*container_, "securityContext", place_);
  const json::object& pod = object_at(*spec_, "securityContext", place_);
  service.kept.pod_security = pod;
  (void)array_at(pod, "sysctls", place_);
  const auto id = [&](const char* name) {
    return integer_at(own, name, integer_at(pod, name, 0, place_), place_);
  };
  if (const int64_t user = id("runAsUser"); user > 0) {
    service.run_as = user;
    service.run_as_group = id("runAsGroup") > 0 ? id("runAsGroup") : user;
    kept(fmt::format("user {}, group {}", user, service.run_as_group));
  } else {
    changed(fmt::format("the server runs as user {}, no longer as root", service.run_as));
  }
  changed("the server has no privileges, and writes to its volumes alone");
  report_rest(own, "the container's securityContext.",
              {"runAsUser", "runAsGroup", "runAsNonRoot", "allowPrivilegeEscalation",
               "readOnlyRootFilesystem", "seccompProfile"});
  if (!pod.empty()) kept("securityContext of the pod");
  if (!pod.contains("fsGroup")) {
    changed(fmt::format("fsGroup {}, so that the server can write to the volumes",
                        service.run_as_group));
  }
}

/// The containers beside the server.
void WorkloadReader::read_neighbours() {
  Kept& keep = out_.service.kept;
  for (const json::object* container : objects_at(*spec_, "initContainers", place_)) {
    keep.init_containers.push_back(*container);
    kept(fmt::format("init container {}, as it stands", text_at(*container, "name", place_)));
  }
  for (const json::object* container : objects_at(*spec_, "containers", place_)) {
    if (container == container_) continue;
    keep.sidecars.push_back(*container);
    kept(fmt::format("container {}, as it stands", text_at(*container, "name", place_)));
  }
}

void WorkloadReader::read_grace() {
  if (find_path(*spec_, "terminationGracePeriodSeconds", place_) == nullptr) return;
  const int64_t grace = integer_at(*spec_, "terminationGracePeriodSeconds", 30, place_);
  out_.service.drain_seconds = std::max<int64_t>(1, grace - 30);
}

void WorkloadReader::read_replicas() {
  Service& service = out_.service;
  Kept& keep = service.kept;
  keep.replicas = find_path(*object_.body, "spec.replicas", place_) != nullptr;
  service.replicas =
      std::min<int64_t>(10000, integer_at(*object_.body, "spec.replicas", 1, place_));
  service.max_replicas = service.replicas;
  if (keep.replicas) kept(fmt::format("replicas {}", service.replicas));
  if (object_.kind == "LeaderWorkerSet") {
    service.nodes = std::clamp<int64_t>(
        integer_at(*object_.body, "spec.leaderWorkerTemplate.size", 1, place_), 1, 1024);
    kept(fmt::format("{} nodes a replica", service.nodes));
    changed("the workers' template: they run what the leader runs");
    const char* policy = "spec.leaderWorkerTemplate.restartPolicy";
    const std::string restart = text_at(*object_.body, policy, place_);
    if (!restart.empty() && restart != kGroupRestart) {
      changed(fmt::format("restartPolicy {} -> {}: ranks that have lost one of theirs cannot go on",
                          restart.substr(0, 40), kGroupRestart));
    }
    report_rest(object_at(*object_.body, "spec.leaderWorkerTemplate", place_),
                "spec.leaderWorkerTemplate.",
                {"size", "leaderTemplate", "workerTemplate", "restartPolicy"});
  }
  const bool group = service.nodes > 1;
  if (!group && object_.kind != "Deployment") {
    changed(fmt::format("{} -> Deployment; the old one has to be deleted", object_.kind));
  }
  for (const auto& [name, of_group] : kWorkloadFields) {
    const json::value* value = find_path(*object_.body, fmt::format("spec.{}", name), place_);
    if (value == nullptr) continue;
    if (of_group == group) {
      keep.workload_fields[name] = *value;
      kept(fmt::format("spec.{}", name));
    } else {
      left_out(fmt::format("spec.{}", name));
    }
  }
}

/// What has no place in ours is said, so that nobody misses it later.
void WorkloadReader::read_rest() {
  report_rest(object_at(*object_.body, "metadata", place_), "metadata.",
              {"name", "namespace", "labels", "annotations", "creationTimestamp", "generation",
               "resourceVersion", "uid", "managedFields", "selfLink"});
  if (pod_ != object_.body) {
    report_rest(object_at(*object_.body, "spec", place_), "spec.",
                {"replicas", "selector", "template", "volumeClaimTemplates", "leaderWorkerTemplate",
                 "strategy", "minReadySeconds", "revisionHistoryLimit", "paused", "rolloutStrategy",
                 "startupPolicy", "networkConfig"});
    report_rest(object_at(*pod_, "metadata", place_), "the pods' metadata.",
                {"labels", "annotations", "name", "creationTimestamp"});
  }
  report_rest(*spec_, "the pods' ",
              {"containers",
               "initContainers",
               "volumes",
               "nodeSelector",
               "tolerations",
               "affinity",
               "imagePullSecrets",
               "serviceAccountName",
               "serviceAccount",
               "priorityClassName",
               "runtimeClassName",
               "dnsPolicy",
               "dnsConfig",
               "hostAliases",
               "schedulerName",
               "topologySpreadConstraints",
               "terminationGracePeriodSeconds",
               "resourceClaims",
               "shareProcessNamespace",
               "hostname",
               "subdomain",
               "readinessGates",
               "preemptionPolicy",
               "securityContext",
               "automountServiceAccountToken",
               "enableServiceLinks"});
  report_rest(*container_, "the container's ",
              {"name", "image", "imagePullPolicy", "command", "args", "env", "envFrom", "ports",
               "resources", "volumeMounts", "startupProbe", "readinessProbe", "livenessProbe",
               "securityContext"});
}

}  // namespace moesaic::deploy
