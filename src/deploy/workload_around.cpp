#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "deploy/monitoring.h"
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
  read_ports();
  const Object* found = other("Service", [&](const Object& object) {
    return selects(object_at(*object.body, "spec.selector", object.place), labels);
  });
  if (found == nullptr) {
    without_service();
    return;
  }
  take(*found);
  Kept& keep = service.kept;
  keep.service_name = found->name;
  keep.service_selector = object_at(*found->body, "spec.selector", found->place);
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
  kept(fmt::format("Service {}, with all its fields; its labels are found by servicemonitor.yaml",
                   found->name));
}

/// The server's first port keeps its number and, where no other container has it too, its name.
void WorkloadReader::read_ports() {
  Service& service = out_.service;
  std::set<std::string> names;
  for (const json::object* container : objects_at(*spec_, "containers", place_)) {
    if (container == container_) continue;
    for (const json::object* port : objects_at(*container, "ports", place_)) {
      names.insert(text_at(*port, "name", place_));
    }
  }
  bool first = true;
  for (const json::object* port : objects_at(*container_, "ports", place_)) {
    const int64_t number = integer_at(*port, "containerPort", 0, place_);
    if (number < 1 || number > 65535) wrong(place_, "ports: containerPort is no port");
    if (!first) {
      left_out(fmt::format("containerPort {}: the server has one port", number));
      continue;
    }
    first = false;
    service.port = number;
    const std::string name = text_at(*port, "name", place_);
    if (!name.empty()) service.port_name = name;
    report_rest(*port, "the port's ", {"name", "containerPort", "protocol"});
  }
  if (names.contains(service.port_name)) {
    changed(fmt::format("the server's port is named moesaic, as another container's is {}",
                        service.port_name));
    service.port_name = "moesaic";
  }
}

/// What the file does not have may stand in another one: a new Service of the same name would take
/// its place.
void WorkloadReader::without_service() {
  Service& service = out_.service;
  if (object_.made) {
    service.kept.service_name = service.name + "-server";
    changed(
        fmt::format("Service {}-server is new: point the clients to its port 80", service.name));
    return;
  }
  for (const char* part : {"service", "servicemonitor", "rules", "dashboard"}) {
    service.without.emplace_back(part);
  }
  left_out(
      "no Service is written, as the file has none, nor what scrapes it; yours goes on finding "
      "the pods by their labels. Put it into the file for alerts and dashboard");
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
    entry["targetPort"] = out_.service.port_name;
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
  take(*found);
  service.kept.claim = portable(*found);
  kept(fmt::format("PersistentVolumeClaim {}, as it stands", found->name));
}

/// An autoscaler of the file goes on as it stands; without one there is none. KEDA's makes one of
/// its own.
void WorkloadReader::read_autoscaler() {
  Service& service = out_.service;
  const auto targets = [&](const Object& object) {
    return text_at(*object.body, "spec.scaleTargetRef.name", object.place) == object_.name;
  };
  if (const Object* scaled = other("ScaledObject", targets)) {
    take(*scaled);
    kept(fmt::format("{}: keep applying it; no other autoscaler is written", scaled->place.object));
    if (service.kept.workload != object_.name || out_.kind != "Deployment") {
      changed(fmt::format("{}: its scaleTargetRef has to name Deployment {} now",
                          scaled->place.object, service.kept.workload));
    }
  }
  const Object* found = other("HorizontalPodAutoscaler", targets);
  if (found == nullptr) {
    service.without.emplace_back("autoscaler");
    return;
  }
  take(*found);
  service.max_replicas = std::clamp<int64_t>(
      integer_at(*found->body, "spec.maxReplicas", service.replicas, found->place),
      service.replicas, 10000);
  service.kept.autoscaler = portable(*found);
  json::object& spec = service.kept.autoscaler["spec"].as_object();
  const bool group = service.nodes > 1;
  spec["scaleTargetRef"] =
      json::object{{"apiVersion", group ? "leaderworkerset.x-k8s.io/v1" : "apps/v1"},
                   {"kind", group ? "LeaderWorkerSet" : "Deployment"},
                   {"name", service.kept.workload}};
  kept(fmt::format("{}, as it stands", found->place.object));
  if (json::serialize(spec).find("tgi_") != std::string::npos) {
    changed(fmt::format("{}: it reads a metric of TGI; here the queue is {}", found->place.object,
                        queue_metric(Engine::kMoesaic)));
    out_.blockers.push_back(
        fmt::format("{} scales by a metric that the server does not have; change it to {}",
                    found->place.object, queue_metric(Engine::kMoesaic)));
  }
}

void WorkloadReader::read_budget() {
  const json::object& labels = object_at(*pod_, "metadata.labels", place_);
  const Object* found = other("PodDisruptionBudget", [&](const Object& object) {
    return selects(object_at(*object.body, "spec.selector.matchLabels", object.place), labels);
  });
  if (found == nullptr) {
    out_.service.without.emplace_back("disruptionbudget");
    return;
  }
  take(*found);
  out_.service.kept.budget = portable(*found);
  kept(fmt::format("{}, as it stands", found->place.object));
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
    // A new way in from outside is nobody's wish.
    service.without.emplace_back("httproute");
    return;
  }
  take(*found);
  service.kept.route = portable(*found);
  kept(fmt::format("HTTPRoute {}, as it stands", found->name));
}

/// Where the file has who scrapes the pods already, nobody else is sent.
void WorkloadReader::read_monitors() {
  Service& service = out_.service;
  const json::object& labels = object_at(*pod_, "metadata.labels", place_);
  const auto selects_from = [](const json::object& from) {
    return [&from](const Object& object) {
      return selects(object_at(*object.body, "spec.selector.matchLabels", object.place), from);
    };
  };
  if (const Object* found = other("ServiceMonitor", selects_from(service.kept.service_labels))) {
    take(*found);
    service.without.emplace_back("servicemonitor");
    kept(fmt::format("{}: keep applying it", found->place.object));
  }
  for (const char* kind : {"PodMonitor", "PodMonitoring"}) {
    const Object* found = other(kind, selects_from(labels));
    if (found == nullptr) continue;
    take(*found);
    // Alerts and dashboard look for the Service's name as the job.
    for (const char* part : {"servicemonitor", "rules", "dashboard"}) {
      service.without.emplace_back(part);
    }
    kept(fmt::format("{}: keep applying it", found->place.object));
  }
}

}  // namespace moesaic::deploy
