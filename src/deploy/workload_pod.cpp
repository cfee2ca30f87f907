#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "deploy/workload_parts.h"

namespace moesaic::deploy {

namespace json = boost::json;

namespace {

/// Fields of a pod that mean the same for any container.
constexpr std::array<const char*, 5> kPodFields = {"topologySpreadConstraints", "dnsPolicy",
                                                   "dnsConfig", "hostAliases", "schedulerName"};

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
  const std::string name = object_.name.empty() ? "server" : object_.name;
  service.name = is_dns_label(name, kMaxNameLength) ? name : dns_label(name);
  if (service.name == name) {
    kept(fmt::format("name {}", name));
  } else {
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
  // A LeaderWorkerSet has no selector of its own.
  if (!selector.empty()) {
    keep.selector = selector;
    kept(
        fmt::format("the selector, which cannot be changed in place ({} labels)", selector.size()));
  }
  for (const auto& label : object_at(*pod_, "metadata.labels", place_)) {
    if (!selector.contains(label.key())) keep.pod_labels.insert(label);
  }
  if (!keep.pod_labels.empty()) kept("labels of the pods");
  for (const auto& note : own_annotations(object_at(*pod_, "metadata.annotations", place_))) {
    const std::string_view key = note.key();
    // Ours are found by ServiceMonitor.
    if (key.starts_with("prometheus.io/")) {
      left_out(fmt::format("annotation {}: Prometheus comes by servicemonitor.yaml", key));
    } else {
      keep.pod_annotations.insert(note);
      kept(fmt::format("annotation {}", key));
    }
  }
}

void WorkloadReader::read_image() {
  Kept& keep = out_.service.kept;
  const std::string image = text_at(*container_, "image", place_);
  if (out_.engine == Engine::kMoesaic) {
    out_.service.image = image;
    kept(fmt::format("image {}", image));
  } else {
    changed(fmt::format("image {} -> {}", image.empty() ? "(none)" : image.substr(0, 120),
                        default_image(Engine::kMoesaic)));
  }
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
  changed("the server runs as user 10001, without privileges");
  if (!keep.sidecars.empty() || !keep.init_containers.empty()) {
    changed("the other containers run as user 10001 too, unless they name a user of their own");
  }
  keep.open = true;
  changed(
      "networkpolicy.yaml lets anybody reach the server's port, and no other; name the clients");
}

void WorkloadReader::read_grace() {
  if (find_path(*spec_, "terminationGracePeriodSeconds", place_) == nullptr) return;
  const int64_t grace = integer_at(*spec_, "terminationGracePeriodSeconds", 30, place_);
  out_.service.drain_seconds = std::max<int64_t>(1, grace - 30);
  changed(
      fmt::format("terminationGracePeriodSeconds {}: 10 s for the endpoints, {} s for "
                  "running requests, 20 s to end",
                  grace, out_.service.drain_seconds));
}

void WorkloadReader::read_replicas() {
  Service& service = out_.service;
  const int64_t replicas = integer_at(*object_.body, "spec.replicas", 1, place_);
  service.replicas = std::clamp<int64_t>(replicas, 1, 10000);
  service.max_replicas = service.replicas;
  if (replicas == service.replicas) {
    kept(fmt::format("replicas {}", replicas));
  } else {
    changed(fmt::format("replicas {} -> {}", replicas, service.replicas));
  }
  if (object_.kind == "LeaderWorkerSet") {
    service.nodes = std::clamp<int64_t>(
        integer_at(*object_.body, "spec.leaderWorkerTemplate.size", 1, place_), 1, 1024);
    kept(fmt::format("{} nodes a replica", service.nodes));
    changed("the workers' template: they run what the leader runs");
  } else if (object_.kind != "Deployment") {
    changed(fmt::format("{} -> Deployment", object_.kind));
  }
}

/// What has no place in ours is said, so that nobody misses it later.
void WorkloadReader::read_rest() {
  report_rest(object_at(*object_.body, "metadata", place_), "metadata.",
              {"name", "namespace", "labels", "annotations", "creationTimestamp", "generation",
               "resourceVersion", "uid", "managedFields", "selfLink"});
  if (pod_ != object_.body) {
    report_rest(
        object_at(*object_.body, "spec", place_), "spec.",
        {"replicas", "selector", "template", "volumeClaimTemplates", "leaderWorkerTemplate"});
    report_rest(object_at(*object_.body, "spec.selector", place_), "selector.", {"matchLabels"});
    report_rest(object_at(*pod_, "metadata", place_), "the pods' metadata.",
                {"labels", "annotations", "name", "creationTimestamp"});
  }
  report_rest(*spec_, "the pods' ",
              {"containers", "initContainers", "volumes", "nodeSelector", "tolerations", "affinity",
               "imagePullSecrets", "serviceAccountName", "serviceAccount", "priorityClassName",
               "runtimeClassName", "dnsPolicy", "dnsConfig", "hostAliases", "schedulerName",
               "topologySpreadConstraints", "terminationGracePeriodSeconds"});
  report_rest(*container_, "the container's ",
              {"name", "image", "imagePullPolicy", "command", "args", "env", "envFrom", "ports",
               "resources", "volumeMounts", "startupProbe", "readinessProbe", "livenessProbe"});
}

}  // namespace moesaic::deploy
