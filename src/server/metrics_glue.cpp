#include "server/metrics_glue.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "base/log.h"
#include "base/memory.h"
#include "server/expert_load.h"
#include "server/server.h"

namespace moesaic::server {
namespace {

/// Histograms of requests and tokens. Runs on the engine thread.
class MetricsObserver : public engine::EngineObserver {
 public:
  explicit MetricsObserver(std::shared_ptr<base::Metrics> metrics)
      : metrics_(std::move(metrics)),
        rows_(metrics_->histogram("vllm:iteration_tokens_total")),
        first_token_(metrics_->histogram("vllm:time_to_first_token_seconds")),
        next_token_(metrics_->histogram("vllm:inter_token_latency_seconds")) {}

  void on_step(const StepNews& news) override {
    rows_.observe(static_cast<double>(news.prompt_rows + news.decode_rows));
    first_token_.observe_all(news.first_tokens);
    next_token_.observe_all(news.next_tokens);
  }
  void on_finished(const Finished& finished) override;

 private:
  std::shared_ptr<base::Metrics> metrics_;
  base::Metrics::Histogram rows_, first_token_, next_token_;
};

void MetricsObserver::on_finished(const Finished& finished) {
  const auto observe = [&](const char* name, double value) { metrics_->observe(name, value); };
  const auto generated = static_cast<double>(finished.generated_tokens);
  const auto n = static_cast<double>(std::max<int64_t>(finished.n, 1));
  observe("vllm:request_prompt_tokens", static_cast<double>(finished.prompt_tokens));
  observe("vllm:request_generation_tokens", generated);
  // The engine counts a request's sequences together; of several this is their mean.
  observe("vllm:request_max_num_generation_tokens", generated / n);
  observe("vllm:request_params_max_tokens", static_cast<double>(finished.max_tokens));
  observe("vllm:request_params_n", n);
  observe(
      "vllm:request_prefill_kv_computed_tokens",
      static_cast<double>(std::max<int64_t>(finished.prompt_tokens - finished.cached_tokens, 0)));
  observe("vllm:e2e_request_latency_seconds", finished.e2e_seconds);
  observe("vllm:request_queue_time_seconds", finished.queue_seconds);
  observe("vllm:request_inference_time_seconds",
          finished.prefill_seconds + finished.decode_seconds);
  observe("vllm:request_prefill_time_seconds", finished.prefill_seconds);
  observe("vllm:request_decode_time_seconds", finished.decode_seconds);
  if (generated / n > 1) {
    observe("vllm:request_time_per_output_token_seconds",
            finished.decode_seconds / (generated / n - 1));
  }
}

void publish_experts(base::Metrics& metrics, const engine::EngineStats& stats,
                     const model::ModelSpec& spec) {
  const auto experts = static_cast<size_t>(stats.experts);
  const uint64_t* counts = stats.expert_tokens.data();
  for (const int64_t layer : moe_layer_numbers(spec)) {
    if (counts == stats.expert_tokens.data() + stats.expert_tokens.size()) break;
    uint64_t sum = 0, busiest = 0;
    for (size_t expert = 0; expert < experts; ++expert) {
      metrics.raise_to("moesaic:expert_tokens_total", static_cast<double>(counts[expert]),
                       {{"layer", std::to_string(layer)}, {"expert", std::to_string(expert)}});
      sum += counts[expert];
      busiest = std::max(busiest, counts[expert]);
    }
    counts += experts;
    if (sum == 0) continue;
    metrics.set(
        "moesaic:expert_imbalance",
        static_cast<double>(busiest) * static_cast<double>(experts) / static_cast<double>(sum),
        {{"layer", std::to_string(layer)}});
  }
}

void publish_tokens(base::Metrics& metrics, const engine::EngineStats& stats) {
  const auto prompt = static_cast<double>(stats.prompt_tokens);
  const auto hits = static_cast<double>(stats.prefix_hits);
  metrics.raise_to("vllm:prompt_tokens_total", prompt);
  metrics.raise_to("vllm:prompt_tokens_cached_total", hits);
  const std::string source = "vllm:prompt_tokens_by_source_total";
  metrics.raise_to(source, std::max(prompt - hits, 0.0), {{"source", "local_compute"}});
  metrics.raise_to(source, hits, {{"source", "local_cache_hit"}});
  metrics.raise_to(source, 0, {{"source", "external_kv_transfer"}});
  metrics.raise_to("vllm:prefix_cache_queries_total", static_cast<double>(stats.prefix_queries));
  metrics.raise_to("vllm:prefix_cache_hits_total", hits);
  metrics.raise_to("vllm:generation_tokens_total", static_cast<double>(stats.generated_tokens));
}

}  // namespace

std::shared_ptr<engine::EngineObserver> make_observer(std::shared_ptr<base::Metrics> metrics) {
  return std::make_shared<MetricsObserver>(std::move(metrics));
}

void publish_stats(base::Metrics& metrics, const engine::EngineStats& stats,
                   const model::ModelSpec& spec) {
  metrics.set("vllm:num_requests_running", static_cast<double>(stats.running));
  metrics.set("vllm:num_requests_waiting", static_cast<double>(stats.waiting));
  metrics.set("vllm:num_requests_waiting_by_reason", static_cast<double>(stats.waiting),
              {{"reason", "capacity"}});
  metrics.set("vllm:num_requests_waiting_by_reason", 0, {{"reason", "deferred"}});
  const double usage = stats.blocks_total == 0 ? 0
                                               : static_cast<double>(stats.blocks_held) /
                                                     static_cast<double>(stats.blocks_total);
  metrics.set("vllm:kv_cache_usage_perc", usage);
  metrics.set("vllm:gpu_cache_usage_perc", usage);
  metrics.raise_to("vllm:num_preemptions_total", static_cast<double>(stats.preemptions));
  publish_tokens(metrics, stats);
  using engine::FinishReason;
  const std::pair<const char*, FinishReason> reasons[] = {{"stop", FinishReason::kStop},
                                                          {"length", FinishReason::kLength},
                                                          {"abort", FinishReason::kAbort},
                                                          {"error", FinishReason::kError}};
  for (const auto& [name, reason] : reasons) {
    metrics.raise_to("vllm:request_success_total",
                     static_cast<double>(stats.finished[static_cast<size_t>(reason)]),
                     {{"finished_reason", name}});
  }
  metrics.raise_to("vllm:request_success_total", 0, {{"finished_reason", "repetition"}});
  metrics.set("moesaic:kv_blocks", static_cast<double>(stats.blocks_free), {{"state", "free"}});
  metrics.set("moesaic:kv_blocks", static_cast<double>(stats.blocks_cached), {{"state", "cached"}});
  metrics.set("moesaic:kv_blocks", static_cast<double>(stats.blocks_held), {{"state", "held"}});
  metrics.raise_to("moesaic:steps_total", static_cast<double>(stats.steps));
  metrics.set("moesaic:seconds_since_progress", stats.seconds_since_progress);
  metrics.raise_to("moesaic:log_lines_dropped_total",
                   static_cast<double>(base::dropped_log_lines()));
  for (const base::MemoryTag tag : {base::MemoryTag::kWeights, base::MemoryTag::kKvCache,
                                    base::MemoryTag::kActivations, base::MemoryTag::kRuntime}) {
    metrics.set("moesaic:memory_actual_bytes", static_cast<double>(base::allocated_bytes(tag)),
                {{"term", std::string(base::to_string(tag))}});
  }
  publish_experts(metrics, stats, spec);
}

void publish_facts(base::Metrics& metrics, const base::Settings& settings,
                   const engine::EngineStats& stats, int64_t sliding_window) {
  metrics.set(
      "vllm:cache_config_info", 1,
      {{"block_size", std::to_string(settings.get_int("block-size"))},
       {"cache_dtype", settings.get_string("kv-cache-dtype")},
       {"enable_prefix_caching", settings.get_bool("enable-prefix-caching") ? "True" : "False"},
       {"gpu_memory_utilization", fmt::format("{}", settings.get_float("gpu-memory-utilization"))},
       {"num_gpu_blocks", std::to_string(stats.blocks_total)},
       {"num_cpu_blocks", "0"},
       {"sliding_window", sliding_window > 0 ? std::to_string(sliding_window) : "None"}});
  metrics.set("vllm:engine_sleep_state", 1, {{"sleep_state", "awake"}});
  metrics.set("vllm:engine_sleep_state", 0, {{"sleep_state", "weights_offloaded"}});
  metrics.set("vllm:engine_sleep_state", 0, {{"sleep_state", "discard_all"}});
  for (const char* reason : {"queue_full", "draining", "too_long"}) {
    metrics.raise_to("vllm:admission_rejections_total", 0, {{"reason", reason}});
  }
  for (const char* reason :
       {"header", "body", "json", "timeout", "auth", "media", "memory", "connections"}) {
    metrics.raise_to("moesaic:http_rejections_total", 0, {{"reason", reason}});
  }
}

}  // namespace moesaic::server
