#include <fmt/format.h>

#include <algorithm>

#include "deploy/workload_parts.h"

namespace moesaic::deploy {

namespace json = boost::json;

void WorkloadReader::read_service() {
  Service& service = out_.service;
  json::object labels = object_at(*pod_, "metadata.labels", place_);
  if (object_.kind == "LeaderWorkerSet") {
    // Its controller's own, on the pod that answers.
    labels["leaderworkerset.sigs.k8s.io/name"] = object_.name;
    labels["leaderworkerset.sigs.k8s.io/worker-index"] = "0";
  }
  bool first = true;
  for (const json::object* port : objects_at(*container_, "ports", place_)) {
    const int64_t number = integer_at(*port, "containerPort", 0, place_);
    if (first && number >= 1024) service.port = number;
    if (!first) left_out(fmt::format("containerPort {}: the server has one port", number));
    first = false;
  }
  const Object* found = other("Service", [&](const Object& object) {
    return selects(object_at(*object.body, "spec.selector", object.place), labels);
  });
  if (found == nullptr) return;
  found->used = true;
  Kept& keep = service.kept;
  keep.service_name = found->name;
  keep.service_type = text_at(*found->body, "spec.type", found->place);
  keep.service_labels = object_at(*found->body, "metadata.labels", found->place);
  keep.service_annotations =
      own_annotations(object_at(*found->body, "metadata.annotations", found->place));
  for (const auto& field : object_at(*found->body, "spec", found->place)) {
    const std::string_view name = field.key();
    if (name != "type" && name != "selector" && name != "ports") keep.service_fields.insert(field);
  }
  for (const json::object* port : objects_at(*found->body, "spec.ports", found->place)) {
    read_service_port(*port, found->place);
  }
  kept(fmt::format("Service {}: its type, ports, annotations and other fields", found->name));
}

/// Ports that lead to another container stay; the others lead to the server.
void WorkloadReader::read_service_port(const json::object& port, const Place& place) {
  json::object entry = port;
  const int64_t number = integer_at(entry, "port", 0, place);
  if (number < 1 || number > 65535) wrong(place, "spec.ports: port is no port");
  std::string target = text_at(entry, "targetPort", place);
  if (target.empty()) target = fmt::to_string(number);
  const auto listens = [&](const json::object* container) {
    const auto ports = objects_at(*container, "ports", place_);
    return std::any_of(ports.begin(), ports.end(), [&](const json::object* theirs) {
      return text_at(*theirs, "containerPort", place_) == target ||
             text_at(*theirs, "name", place_) == target;
    });
  };
  const auto containers = objects_at(*spec_, "containers", place_);
  const bool of_another =
      !listens(container_) && std::any_of(containers.begin(), containers.end(), listens);
  if (of_another) {
    kept(fmt::format("port {} of the Service, which leads to a side container", number));
  } else {
    entry["targetPort"] = "http";
  }
  out_.service.kept.service_ports.push_back(std::move(entry));
}

void WorkloadReader::read_claim() {
  Service& service = out_.service;
  if (service.cache_claim.empty()) return;
  const Object* found = other("PersistentVolumeClaim", [&](const Object& object) {
    return object.name == service.cache_claim;
  });
  if (found == nullptr) return;
  found->used = true;
  service.kept.claim = portable(*found);
  kept(fmt::format("PersistentVolumeClaim {}, as it stands", found->name));
}

void WorkloadReader::read_autoscaler() {
  Service& service = out_.service;
  const Object* found = other("HorizontalPodAutoscaler", [&](const Object& object) {
    return text_at(*object.body, "spec.scaleTargetRef.name", object.place) == object_.name;
  });
  if (found == nullptr) return;
  found->used = true;
  service.replicas = std::clamp<int64_t>(
      integer_at(*found->body, "spec.minReplicas", service.replicas, found->place), 1, 10000);
  service.max_replicas = std::clamp<int64_t>(
      integer_at(*found->body, "spec.maxReplicas", service.replicas, found->place),
      service.replicas, 10000);
  changed(fmt::format("HorizontalPodAutoscaler {}: {} to {} replicas as before, now by the queue{}",
                      found->name, service.replicas, service.max_replicas,
                      found->name == service.name ? "" : "; delete the old one"));
}

void WorkloadReader::read_budget() {
  const json::object& labels = object_at(*pod_, "metadata.labels", place_);
  const Object* found = other("PodDisruptionBudget", [&](const Object& object) {
    return selects(object_at(*object.body, "spec.selector.matchLabels", object.place), labels);
  });
  if (found == nullptr) return;
  found->used = true;
  changed(fmt::format("PodDisruptionBudget {}: one pod at a time{}", found->name,
                      found->name == out_.service.name
                          ? ""
                          : "; delete the old one, as pods with two budgets are never evicted"));
}

void WorkloadReader::read_route() {
  Service& service = out_.service;
  const Object* found = other("HTTPRoute", [&](const Object& object) {
    for (const json::object* rule : objects_at(*object.body, "spec.rules", object.place)) {
      for (const json::object* to : objects_at(*rule, "backendRefs", object.place)) {
        if (text_at(*to, "name", object.place) == service_name(service)) return true;
      }
    }
    return false;
  });
  if (found == nullptr) {
    // Every path would take another service's requests where they share a Gateway.
    service.path_prefix = "/" + service.name;
    changed(fmt::format("httproute.yaml is new: {} on the Gateway 'gateway'", service.path_prefix));
    return;
  }
  found->used = true;
  service.kept.route = portable(*found);
  kept(fmt::format("HTTPRoute {}, as it stands", found->name));
}

}  // namespace moesaic::deploy
