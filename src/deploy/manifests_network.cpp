#include <fmt/format.h>

#include <algorithm>

#include "deploy/manifests.h"
#include "deploy/monitoring.h"

namespace moesaic::deploy {
namespace {

namespace json = boost::json;

/// Where the Gateway API's inference extension has its endpoint pickers listen.
constexpr int64_t kPickerPort = 9002;

/// The Service's port that leads to the server and to no side container; null = there is no such.
const json::object* server_port(const Service& service) {
  for (const json::value& port : service.kept.service_ports) {
    const json::value* target = port.as_object().if_contains("targetPort");
    if (target != nullptr && *target == json::value(service.port_name)) return &port.as_object();
  }
  return nullptr;
}

int64_t route_port(const Service& service) {
  const json::object* kept = server_port(service);
  const json::value* port = kept == nullptr ? nullptr : kept->if_contains("port");
  return port != nullptr && port->is_int64() ? port->as_int64() : service.service_port;
}

json::object namespace_peer(const std::string& name) {
  return {{"namespaceSelector",
           json::object{{"matchLabels", json::object{{"kubernetes.io/metadata.name", name}}}}}};
}

json::object port(std::string_view protocol, json::value number) {
  return {{"protocol", protocol}, {"port", std::move(number)}};
}

}  // namespace

json::object answering_pods(const Service& service) {
  json::object labels = selector_labels(service);
  if (service.nodes > 1) labels["leaderworkerset.sigs.k8s.io/worker-index"] = "0";
  return labels;
}

json::object service_manifest(const Service& service) {
  json::array ports = service.kept.service_ports;
  if (ports.empty()) {
    ports.push_back(json::object{
        {"name", "http"}, {"port", service.service_port}, {"targetPort", service.port_name}});
  }
  json::object body = kubernetes_object(service, "v1", "Service", service_name(service));
  keep_metadata(body, service.kept.service_labels, service.kept.service_annotations);
  json::object spec = {
      {"type", service.kept.service_type.empty() ? "ClusterIP" : service.kept.service_type},
      {"selector", service.kept.service_selector.empty() ? answering_pods(service)
                                                         : service.kept.service_selector},
      {"ports", std::move(ports)}};
  for (const auto& field : service.kept.service_fields) spec.insert(field);
  body["spec"] = std::move(spec);
  return body;
}

json::object route_manifest(const Service& service) {
  if (!service.kept.route.empty()) return service.kept.route;
  json::object parent = {{"name", service.gateway}};
  if (!service.gateway_space.empty()) parent["namespace"] = service.gateway_space;
  json::object spec = {{"parentRefs", json::array{std::move(parent)}}};
  if (!service.hostname.empty()) spec["hostnames"] = json::array{service.hostname};
  const std::string prefix = service.path_prefix.empty() ? "/" : service.path_prefix;
  json::object rule = {
      {"matches", json::array{json::object{
                      {"path", json::object{{"type", "PathPrefix"}, {"value", prefix}}}}}}};
  if (prefix != "/") {
    rule["filters"] = json::array{json::object{
        {"type", "URLRewrite"},
        {"urlRewrite", json::object{{"path", json::object{{"type", "ReplacePrefixMatch"},
                                                          {"replacePrefixMatch", "/"}}}}}}};
  }
  json::object backend = {{"name", service_name(service)}, {"port", route_port(service)}};
  if (has_part(service, "inferencepool")) {
    backend = {{"group", "inference.networking.k8s.io"},
               {"kind", "InferencePool"},
               {"name", service.name}};
  }
  rule["backendRefs"] = json::array{std::move(backend)};
  // A stream lasts as long as its answer; the server has deadlines of its own.
  rule["timeouts"] = json::object{{"request", "0s"}};
  spec["rules"] = json::array{std::move(rule)};
  json::object body =
      kubernetes_object(service, "gateway.networking.k8s.io/v1", "HTTPRoute", service.name);
  body["spec"] = std::move(spec);
  return body;
}

json::object pool_manifest(const Service& service) {
  json::object body =
      kubernetes_object(service, "inference.networking.k8s.io/v1", "InferencePool", service.name);
  body["spec"] = json::object{
      {"selector", json::object{{"matchLabels", answering_pods(service)}}},
      {"targetPorts", json::array{json::object{{"number", service.port}}}},
      {"endpointPickerRef", json::object{{"name", service.endpoint_picker},
                                         {"port", json::object{{"number", kPickerPort}}},
                                         // Without its picker the Gateway still finds a pod.
                                         {"failureMode", "FailOpen"}}}};
  return body;
}

json::object network_policy_manifest(const Service& service) {
  const json::object pods = {
      {"podSelector", json::object{{"matchLabels", selector_labels(service)}}}};
  json::array clients = {json::object{{"podSelector", json::object{}}},
                         namespace_peer(service.monitor_space)};
  if (!service.gateway_space.empty()) clients.push_back(namespace_peer(service.gateway_space));
  for (const std::string& client : service.allow_from) {
    clients.push_back(client.find('/') == std::string::npos
                          ? namespace_peer(client)
                          : json::object{{"ipBlock", json::object{{"cidr", client}}}});
  }
  json::array ingress = {
      json::object{{"from", std::move(clients)},
                   {"ports", json::array{port("TCP", json::value(service.port_name))}}}};
  json::array egress = {json::object{{"ports", json::array{port("UDP", 53), port("TCP", 53)}}},
                        // The Hub and what it redirects to have no fixed addresses.
                        json::object{{"ports", json::array{port("TCP", 443)}}}};
  if (service.nodes > 1) {
    // Collectives choose their ports as they go.
    ingress.push_back(json::object{{"from", json::array{pods}}});
    egress.push_back(json::object{{"to", json::array{pods}}});
  }
  json::object body =
      kubernetes_object(service, "networking.k8s.io/v1", "NetworkPolicy", service.name);
  body["spec"] =
      json::object{{"podSelector", json::object{{"matchLabels", selector_labels(service)}}},
                   {"policyTypes", json::array{"Ingress", "Egress"}},
                   {"ingress", std::move(ingress)},
                   {"egress", std::move(egress)}};
  return body;
}

json::object autoscaler_manifest(const Service& service) {
  if (!service.kept.autoscaler.empty()) return service.kept.autoscaler;
  const bool group = service.nodes > 1;
  const int64_t budget = startup_budget(service);
  json::object spec = {
      {"scaleTargetRef",
       json::object{{"apiVersion", group ? "leaderworkerset.x-k8s.io/v1" : "apps/v1"},
                    {"kind", group ? "LeaderWorkerSet" : "Deployment"},
                    {"name", workload_name(service)}}},
      {"minReplicas", std::max<int64_t>(1, service.replicas)},
      {"maxReplicas", service.max_replicas},
      {"metrics",
       json::array{json::object{
           {"type", "Pods"},
           {"pods",
            json::object{{"metric", json::object{{"name", queue_metric(service.engine)}}},
                         {"target", json::object{{"type", "AverageValue"},
                                                 {"averageValue",
                                                  fmt::to_string(service.queue_target)}}}}}}}},
  };
  // A new pod takes its load time to help: one at a time, and no second one before the first could
  // have done anything. It is given back only after it has been idle for longer than it took.
  spec["behavior"] = json::object{
      {"scaleUp",
       json::object{{"stabilizationWindowSeconds", 30},
                    {"policies", json::array{json::object{
                                     {"type", "Pods"},
                                     {"value", 1},
                                     {"periodSeconds", std::clamp<int64_t>(budget, 60, 1800)}}}}}},
      {"scaleDown",
       json::object{{"stabilizationWindowSeconds", std::clamp<int64_t>(2 * budget, 300, 3600)},
                    {"policies", json::array{json::object{
                                     {"type", "Pods"}, {"value", 1}, {"periodSeconds", 300}}}}}},
  };
  json::object body =
      kubernetes_object(service, "autoscaling/v2", "HorizontalPodAutoscaler", service.name);
  body["spec"] = std::move(spec);
  return body;
}

json::object budget_manifest(const Service& service) {
  if (!service.kept.budget.empty()) return service.kept.budget;
  json::object body = kubernetes_object(service, "policy/v1", "PodDisruptionBudget", service.name);
  // maxUnavailable, so that the only pod of a single replica does not block its node's drain.
  body["spec"] = json::object{
      {"maxUnavailable", 1}, {"selector", json::object{{"matchLabels", selector_labels(service)}}}};
  return body;
}

json::object service_monitor_manifest(const Service& service) {
  json::object body =
      kubernetes_object(service, "monitoring.coreos.com/v1", "ServiceMonitor", service.name);
  if (!service.monitor_label.empty()) {
    body["metadata"].as_object()["labels"].as_object()["release"] = service.monitor_label;
  }
  const json::object* port = server_port(service);
  const json::value* named = port == nullptr ? nullptr : port->if_contains("name");
  json::object endpoint = {{"path", "/metrics"}, {"interval", "15s"}};
  if (service.kept.service_ports.empty() || named != nullptr) {
    endpoint["port"] = named == nullptr ? json::value("http") : *named;
  } else {
    endpoint["targetPort"] = service.port_name;
  }
  json::object labels = {{"app.kubernetes.io/name", service.name},
                         {"app.kubernetes.io/component", "inference"}};
  for (auto& label : labels) {
    const json::value* before = service.kept.service_labels.if_contains(label.key());
    if (before != nullptr) label.value() = *before;
  }
  body["spec"] = json::object{{"selector", json::object{{"matchLabels", std::move(labels)}}},
                              {"endpoints", json::array{std::move(endpoint)}}};
  return body;
}

}  // namespace moesaic::deploy
