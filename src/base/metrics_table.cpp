#include "base/metrics.h"

namespace moesaic::base {
namespace {

using enum MetricKind;

constexpr std::string_view kFirstToken =
    "0.001,0.005,0.01,0.02,0.04,0.06,0.08,0.1,0.25,0.5,0.75,1,2.5,5,7.5,10,20,40,80,160,640,2560";
constexpr std::string_view kPerToken =
    "0.01,0.025,0.05,0.075,0.1,0.15,0.2,0.3,0.4,0.5,0.75,1,2.5,5,7.5,10,20,40,80";
constexpr std::string_view kRequest =
    "0.3,0.5,0.8,1,1.5,2,2.5,5,10,15,20,30,40,50,60,120,240,480,960,1920,7680";

// clang-format off
constexpr MetricRow kRows[] = {
    // name, kind, labels, buckets, help
    {"vllm:num_requests_running", kGauge, "", "", "Requests in the running batch."},
    {"vllm:num_requests_waiting", kGauge, "", "", "Requests waiting for their first step or for blocks."},
    {"vllm:num_requests_waiting_by_reason", kGauge, "reason", "", "Waiting requests by reason: capacity, or deferred by the scheduler."},
    {"vllm:engine_sleep_state", kGauge, "sleep_state", "", "1 for the engine's state: awake; the others never hold here."},
    {"vllm:kv_cache_usage_perc", kGauge, "", "", "Share of KV blocks held by requests, 0 to 1."},
    {"vllm:gpu_cache_usage_perc", kGauge, "", "", "The same as vllm:kv_cache_usage_perc under the name that older gateways read."},
    {"vllm:cache_config_info", kGauge, "block_size,cache_dtype,enable_prefix_caching,gpu_memory_utilization,num_gpu_blocks,num_cpu_blocks,sliding_window", "", "1; its labels say how the KV cache is set up."},
    {"vllm:num_preemptions_total", kCounter, "", "", "Requests whose blocks were taken for an older one; they are recomputed."},
    {"vllm:prefix_cache_queries_total", kCounter, "", "", "Prompt tokens looked up in the prefix cache."},
    {"vllm:prefix_cache_hits_total", kCounter, "", "", "Prompt tokens found in the prefix cache."},
    {"vllm:prompt_tokens_total", kCounter, "", "", "Prompt tokens of started requests."},
    {"vllm:prompt_tokens_by_source_total", kCounter, "source", "", "Prompt tokens by source: local_compute, local_cache_hit, external_kv_transfer."},
    {"vllm:prompt_tokens_cached_total", kCounter, "", "", "Prompt tokens that came from the prefix cache."},
    {"vllm:generation_tokens_total", kCounter, "", "", "Tokens generated."},
    {"vllm:request_success_total", kCounter, "finished_reason", "", "Ended requests by reason: stop, length, abort, error, repetition."},
    {"vllm:admission_rejections_total", kCounter, "reason", "", "Requests turned away before they ran: queue_full, draining, too_long."},
    {"vllm:request_prompt_tokens", kHistogram, "", "lengths", "Prompt length of ended requests."},
    {"vllm:request_generation_tokens", kHistogram, "", "lengths", "Output length of ended requests."},
    {"vllm:request_max_num_generation_tokens", kHistogram, "", "lengths", "Longest output of an ended request's sequences."},
    {"vllm:request_params_max_tokens", kHistogram, "", "lengths", "max_tokens of ended requests."},
    {"vllm:request_params_n", kHistogram, "", "1,2,5,10,20", "n of ended requests."},
    {"vllm:request_prefill_kv_computed_tokens", kHistogram, "", "lengths", "Prompt tokens computed, not cached, per ended request."},
    {"vllm:iteration_tokens_total", kHistogram, "", "1,8,16,32,64,128,256,512,1024,2048,4096,8192,16384", "Tokens of one step."},
    {"vllm:time_to_first_token_seconds", kHistogram, "", kFirstToken, "From arrival to the first token."},
    {"vllm:inter_token_latency_seconds", kHistogram, "", kPerToken, "Between two tokens of a sequence."},
    {"vllm:request_time_per_output_token_seconds", kHistogram, "", kPerToken, "Mean time per token after the first, per ended request."},
    {"vllm:e2e_request_latency_seconds", kHistogram, "", kRequest, "From arrival to the end."},
    {"vllm:request_queue_time_seconds", kHistogram, "", kRequest, "From arrival to the first step."},
    {"vllm:request_inference_time_seconds", kHistogram, "", kRequest, "From the first step to the end."},
    {"vllm:request_prefill_time_seconds", kHistogram, "", kRequest, "From the first step to the first token."},
    {"vllm:request_decode_time_seconds", kHistogram, "", kRequest, "From the first token to the end."},
    {"http_requests_total", kCounter, "method,status,handler", "", "HTTP requests by method, status class and route."},

    {"moesaic:expert_tokens_total", kCounter, "layer,expert", "", "Rows routed to an expert; layers are numbered as in the model."},
    {"moesaic:expert_imbalance", kGauge, "layer", "", "Busiest expert's rows over the layer's mean, since start; 1 is even."},
    {"moesaic:memory_planned_bytes", kGauge, "term", "", "Bytes counted for a term before it is allocated: weights, kv_cache, activations, requests, runtime."},
    {"moesaic:memory_actual_bytes", kGauge, "term", "", "Bytes now held under that term; runtime is a reserve that nothing counts."},
    {"moesaic:kv_blocks", kGauge, "state", "", "KV blocks by state: free, cached, held."},
    {"moesaic:steps_total", kCounter, "", "", "Forward passes."},
    {"moesaic:seconds_since_progress", kGauge, "", "", "Seconds since the last step while there is work; 0 when idle."},
    {"moesaic:slow_readers_total", kCounter, "", "", "Streams cut off because their client did not read."},
    {"moesaic:client_disconnects_total", kCounter, "", "", "Requests aborted because their client went away before the answer was whole."},
    {"moesaic:http_connections", kGauge, "", "", "Open HTTP connections."},
    {"moesaic:http_rejections_total", kCounter, "reason", "", "Requests refused by the HTTP side: header, body, json, timeout, auth, media, memory (--max-inflight-bytes), connections."},
    {"moesaic:log_lines_dropped_total", kCounter, "", "", "Lines missing in the log: nobody read it, or it could not be written."},
};
// clang-format on

}  // namespace

std::span<const MetricRow> metric_rows() { return kRows; }

}  // namespace moesaic::base
