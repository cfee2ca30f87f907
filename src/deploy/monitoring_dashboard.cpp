#include <fmt/format.h>

#include "deploy/manifests.h"
#include "deploy/monitoring.h"
#include "deploy/yaml_writer.h"

namespace moesaic::deploy {
namespace {

namespace json = boost::json;

// Grafana fills the variables in; $__rate_interval is its own.
constexpr std::string_view kOf = R"({namespace=~"$namespace",job="$job"})";

std::string rate(std::string_view counter, std::string_view by = "") {
  const std::string inner = fmt::format("(rate({}{}[$__rate_interval]))", counter, kOf);
  return by.empty() ? "sum" + inner : fmt::format("sum by ({}) {}", by, inner);
}

std::string gauge(std::string_view metric, std::string_view fold, std::string_view by = "") {
  return by.empty() ? fmt::format("{}({}{})", fold, metric, kOf)
                    : fmt::format("{} by ({}) ({}{})", fold, by, metric, kOf);
}

/// p50, p95 and p99 of a histogram.
Panel quantiles(std::string title, std::string_view histogram) {
  Panel panel{std::move(title), "timeseries", "s", {}};
  for (const char* share : {"0.5", "0.95", "0.99"}) {
    panel.queries.push_back(
        {fmt::format("histogram_quantile({}, sum by (le) (rate({}_bucket{}[$__rate_interval])))",
                     share, histogram, kOf),
         "p" + fmt::format("{:.0f}", 100 * std::stod(share))});
  }
  return panel;
}

std::vector<Panel> tgi_panels() {
  return {
      {"Requests",
       "timeseries",
       "reqps",
       {{rate("tgi_request_count"), "asked"}, {rate("tgi_request_success"), "answered"}}},
      {"Failures", "timeseries", "reqps", {{rate("tgi_request_failure", "err"), "{{err}}"}}},
      {"Queue and batch",
       "timeseries",
       "short",
       {{gauge("tgi_queue_size", "sum"), "waiting"},
        {gauge("tgi_batch_current_size", "sum"), "running"}}},
      {"Tokens held of those that fit",
       "timeseries",
       "percentunit",
       {{fmt::format("sum(tgi_batch_current_max_tokens{0}) / sum(tgi_batch_max_total_tokens{0})",
                     kOf),
         "held"}}},
      quantiles("Request", "tgi_request_duration"),
      quantiles("Time in the queue", "tgi_request_queue_duration"),
      quantiles("Time per token", "tgi_request_mean_time_per_token_duration"),
      {"Tokens generated",
       "timeseries",
       "short",
       {{rate("tgi_request_generated_tokens_sum"), "tokens/s"}}},
  };
}

std::vector<Panel> vllm_panels() {
  return {
      {"Tokens per second",
       "timeseries",
       "short",
       {{rate("vllm:generation_tokens_total"), "generated"},
        {rate("vllm:prompt_tokens_total"), "prompt"}}},
      {"Requests",
       "timeseries",
       "short",
       {{gauge("vllm:num_requests_running", "sum"), "running"},
        {gauge("vllm:num_requests_waiting", "sum"), "waiting"}}},
      {"Requests ended",
       "timeseries",
       "reqps",
       {{rate("vllm:request_success_total", "finished_reason"), "{{finished_reason}}"}}},
      {"KV cache held",
       "timeseries",
       "percentunit",
       {{gauge("vllm:kv_cache_usage_perc", "max"), "fullest replica"},
        {gauge("vllm:kv_cache_usage_perc", "avg"), "mean"}}},
      quantiles("Time to the first token", "vllm:time_to_first_token_seconds"),
      quantiles("Time between tokens", "vllm:inter_token_latency_seconds"),
      quantiles("Request, from arrival to the end", "vllm:e2e_request_latency_seconds"),
      quantiles("Time in the queue", "vllm:request_queue_time_seconds"),
      {"Preemptions", "timeseries", "short", {{rate("vllm:num_preemptions_total"), "per second"}}},
      {"Prompt tokens found in the prefix cache",
       "timeseries",
       "percentunit",
       {{rate("vllm:prefix_cache_hits_total") + " / " + rate("vllm:prefix_cache_queries_total"),
         "share"}}},
  };
}

/// What only moesaic measures.
void add_moesaic_panels(std::vector<Panel>& list) {
  const std::string rows = rate("moesaic:expert_tokens_total", "layer, expert");
  list.push_back(
      {"Expert imbalance: busiest over mean, by layer",
       "timeseries",
       "short",
       {{fmt::format("max by (layer) ({0}) / avg by (layer) ({0})", rows), "layer {{layer}}"}}});
  list.push_back({"Rows per expert, all layers",
                  "timeseries",
                  "short",
                  {{rate("moesaic:expert_tokens_total", "expert"), "expert {{expert}}"}}});
  list.push_back({"Memory: planned and actual",
                  "timeseries",
                  "bytes",
                  {{gauge("moesaic:memory_planned_bytes", "max", "term"), "{{term}} planned"},
                   {gauge("moesaic:memory_actual_bytes", "max", "term"), "{{term}} actual"}}});
  list.push_back({"Seconds since progress",
                  "timeseries",
                  "s",
                  {{gauge("moesaic:seconds_since_progress", "max"), "longest"}}});
  list.push_back({"Turned away",
                  "timeseries",
                  "reqps",
                  {{rate("vllm:admission_rejections_total", "reason"), "engine: {{reason}}"},
                   {rate("moesaic:http_rejections_total", "reason"), "HTTP: {{reason}}"}}});
  list.push_back({"Clients that left, and those too slow",
                  "timeseries",
                  "short",
                  {{rate("moesaic:client_disconnects_total"), "left"},
                   {rate("moesaic:slow_readers_total"), "too slow"}}});
}

json::object variable(std::string_view name, std::string_view query, const std::string& value) {
  return {{"name", name},
          {"type", "query"},
          {"datasource", json::object{{"type", "prometheus"}, {"uid", "${datasource}"}}},
          {"query", query},
          {"refresh", 2},
          {"current", json::object{{"text", value}, {"value", value}}}};
}

json::object panel_json(const Panel& panel, int64_t number) {
  const json::object source = {{"type", "prometheus"}, {"uid", "${datasource}"}};
  json::array targets;
  for (const Panel::Query& query : panel.queries) {
    targets.push_back(
        json::object{{"refId", std::string(1, static_cast<char>('A' + targets.size()))},
                     {"datasource", source},
                     {"expr", query.expr},
                     {"legendFormat", query.legend}});
  }
  // Two columns of Grafana's 24.
  return {
      {"id", number + 1},
      {"title", panel.title},
      {"type", panel.type},
      {"datasource", source},
      {"gridPos", json::object{{"x", number % 2 * 12}, {"y", number / 2 * 8}, {"w", 12}, {"h", 8}}},
      {"fieldConfig", json::object{{"defaults", json::object{{"unit", panel.unit}, {"min", 0}}},
                                   {"overrides", json::array{}}}},
      {"targets", std::move(targets)}};
}

}  // namespace

std::vector<Panel> panels(Engine engine) {
  if (engine == Engine::kTgi) return tgi_panels();
  std::vector<Panel> list = vllm_panels();
  if (engine == Engine::kMoesaic) add_moesaic_panels(list);
  return list;
}

json::object dashboard(const Service& service) {
  json::array list;
  for (const Panel& panel : panels(service.engine)) {
    list.push_back(panel_json(panel, static_cast<int64_t>(list.size())));
  }
  const std::string up = R"(label_values(up{namespace=~"$namespace"}, job))";
  const std::string space = service.name_space.empty() ? ".*" : service.name_space;
  return {{"uid", service.name.substr(0, 40)},
          {"title", "Inference: " + service.name},
          {"tags", json::array{"inference", engine_name(service.engine)}},
          {"schemaVersion", 39},
          {"editable", true},
          {"refresh", "30s"},
          {"time", json::object{{"from", "now-1h"}, {"to", "now"}}},
          {"templating",
           json::object{
               {"list", json::array{json::object{{"name", "datasource"},
                                                 {"type", "datasource"},
                                                 {"query", "prometheus"}},
                                    variable("namespace", "label_values(up, namespace)", space),
                                    variable("job", up, service_name(service))}}}},
          {"panels", std::move(list)}};
}

json::object dashboard_manifest(const Service& service) {
  json::object body = kubernetes_object(service, "v1", "ConfigMap", service.name + "-dashboard");
  // What Grafana's sidecar looks for.
  body["metadata"].as_object()["labels"].as_object()["grafana_dashboard"] = "1";
  body["data"] = json::object{{service.name + ".json", pretty_json(dashboard(service))}};
  return body;
}

}  // namespace moesaic::deploy
