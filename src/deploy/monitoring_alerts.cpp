#include <fmt/format.h>

#include "deploy/manifests.h"
#include "deploy/monitoring.h"

namespace moesaic::deploy {
namespace {

namespace json = boost::json;

/// Matches this service's series only: ServiceMonitor names the job after the Service.
std::string matcher(const Service& service) {
  std::string text = "{job=\"" + service_name(service) + "\"";
  if (!service.name_space.empty()) text += ",namespace=\"" + service.name_space + "\"";
  return text + "}";
}

std::string number(double value) { return fmt::format("{:.6g}", value); }

/// p95 of a histogram over five minutes. Idle gives no value, so the alert clears.
std::string p95(std::string_view histogram, const std::string& of) {
  return fmt::format("histogram_quantile(0.95, sum by (le) (rate({}_bucket{}[5m])))", histogram,
                     of);
}

Alert latency(std::string name, const std::string& value, double limit, const std::string& what) {
  return {std::move(name),
          fmt::format("{} > {}", value, number(limit)),
          "5m",
          "warning",
          fmt::format("{}: p95 is above {} s.", what, number(limit)),
          "Look at the queue and the KV cache first: too many requests for the replicas there are, "
          "or prompts longer than planned."};
}

std::vector<Alert> tgi_alerts(const Service& service) {
  const std::string of = matcher(service);
  const AlertLimits& limit = service.alerts;
  std::vector<Alert> list;
  // TGI measures no first token: the queue and the mean time per token stand for it.
  list.push_back(latency("InferenceQueueTimeHigh", p95("tgi_request_queue_duration", of),
                         limit.first_token_seconds, "Time in the queue"));
  list.push_back(latency("InferenceTokenLatencyHigh",
                         p95("tgi_request_mean_time_per_token_duration", of),
                         limit.inter_token_seconds, "Time per token"));
  list.push_back(
      {"InferenceKvCacheFull",
       fmt::format("tgi_batch_current_max_tokens{0} / tgi_batch_max_total_tokens{0} > {1}", of,
                   number(limit.kv_share)),
       "10m", "warning", "The batch holds nearly all tokens that memory allows.",
       "More replicas, shorter contexts, or an FP8 KV cache."});
  list.push_back({"InferenceQueueBacklog",
                  fmt::format("avg(tgi_queue_size{}) > {}", of, limit.waiting), "5m", "warning",
                  "Requests wait in every replica.",
                  "The autoscaler should have acted: look at its events and at maxReplicas."});
  list.push_back({"InferenceEngineStalled",
                  fmt::format("tgi_batch_current_size{0} > 0 unless on (instance) "
                              "sum by (instance) (rate(tgi_batch_inference_count{0}[5m])) > 0",
                              of),
                  "2m", "critical", "The engine has work and runs no batch.",
                  "Look at the pod's log; deleting the pod starts it again."});
  return list;
}

Alert stalled(const Service& service) {
  const std::string of = matcher(service);
  Alert alert{"InferenceEngineStalled",
              "",
              "1m",
              "critical",
              "The engine has work and makes no step.",
              "Look at the pod's log; the liveness probe restarts a pod that stays so."};
  if (service.engine == Engine::kMoesaic) {
    alert.expr =
        fmt::format("moesaic:seconds_since_progress{} > {}", of, service.alerts.stalled_seconds);
  } else {
    alert.wait = "2m";
    alert.expr = fmt::format(
        "vllm:num_requests_running{0} > 0 unless on (instance) "
        "sum by (instance) (rate(vllm:iteration_tokens_total_sum{0}[5m])) > 0",
        of);
  }
  return alert;
}

/// The busiest expert of a layer over the layer's mean, in the worst layer. From rates, not from
/// the gauge since start, so that it clears. An idle server is never uneven.
Alert imbalance(const Service& service) {
  const std::string of = matcher(service);
  const std::string rows =
      fmt::format("sum by (layer, expert) (rate(moesaic:expert_tokens_total{}[15m]))", of);
  return {"InferenceExpertImbalance",
          fmt::format("max(max by (layer) ({0}) / avg by (layer) ({0})) > {1} and "
                      "sum(rate(vllm:generation_tokens_total{2}[15m])) > 1",
                      rows, number(service.alerts.imbalance), of),
          "15m",
          "warning",
          "One expert gets far more rows than its layer's mean; with expert parallelism its rank "
          "holds up all others.",
          "The dashboard shows which. Traffic of one kind does this; so does a broken router."};
}

std::vector<Alert> vllm_alerts(const Service& service) {
  const std::string of = matcher(service);
  const AlertLimits& limit = service.alerts;
  std::vector<Alert> list;
  list.push_back(latency("InferenceFirstTokenLatencyHigh",
                         p95("vllm:time_to_first_token_seconds", of), limit.first_token_seconds,
                         "Time to the first token"));
  list.push_back(latency("InferenceTokenLatencyHigh", p95("vllm:inter_token_latency_seconds", of),
                         limit.inter_token_seconds, "Time between tokens"));
  list.push_back({"InferenceKvCacheFull",
                  fmt::format("vllm:kv_cache_usage_perc{} > {}", of, number(limit.kv_share)), "10m",
                  "warning", "Running requests hold nearly all of the KV cache.",
                  "Preemptions come next. More replicas, a shorter --max-model-len, fewer "
                  "--max-num-seqs, or an FP8 KV cache."});
  list.push_back({"InferenceQueueBacklog",
                  fmt::format("avg(vllm:num_requests_waiting{}) > {}", of, limit.waiting), "5m",
                  "warning", "Requests wait in every replica.",
                  "The autoscaler should have acted: look at its events and at maxReplicas."});
  if (service.engine == Engine::kMoesaic) list.push_back(imbalance(service));
  list.push_back(stalled(service));
  return list;
}

}  // namespace

std::string_view queue_metric(Engine engine) {
  return engine == Engine::kTgi ? "tgi_queue_size" : "vllm:num_requests_waiting";
}

std::vector<Alert> alerts(const Service& service) {
  std::vector<Alert> list =
      service.engine == Engine::kTgi ? tgi_alerts(service) : vllm_alerts(service);
  const std::string of = matcher(service);
  list.push_back({"InferenceDown", fmt::format("sum(up{0}) == 0 or absent(up{0})", of), "5m",
                  "critical", "No replica answers Prometheus.",
                  "kubectl describe the pods: they may wait for a node, an image or the volume."});
  return list;
}

json::object rules_manifest(const Service& service) {
  json::array rules;
  for (const Alert& alert : alerts(service)) {
    rules.push_back(json::object{
        {"alert", alert.name},
        {"expr", alert.expr},
        {"for", alert.wait},
        {"labels", json::object{{"severity", alert.severity}, {"service", service_name(service)}}},
        {"annotations", json::object{{"summary", alert.summary}, {"description", alert.remedy}}}});
  }
  json::object body =
      kubernetes_object(service, "monitoring.coreos.com/v1", "PrometheusRule", service.name);
  if (!service.monitor_label.empty()) {
    body["metadata"].as_object()["labels"].as_object()["release"] = service.monitor_label;
  }
  body["spec"] = json::object{
      {"groups",
       json::array{json::object{{"name", service.name + ".inference"}, {"rules", rules}}}}};
  return body;
}

}  // namespace moesaic::deploy
