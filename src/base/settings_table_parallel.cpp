#include "base/settings_table.h"

// Several ranks, adapters and speculation.

namespace moesaic::base {
namespace {

using enum SettingType;
using enum SettingState;

constexpr std::string_view kParallel = "Parallel ranks";
constexpr std::string_view kLora = "LoRA";
constexpr std::string_view kSpeculation = "Speculation and structured output";

// clang-format off
constexpr SettingRow kRows[] = {
    // name, type, default, range, group, other flags, environment, state, help, works, later
    {"tensor-parallel-size", kInt, "1", "1..1024", kParallel, "-tp,--num-shard", "NUM_SHARD", kActive, "Ranks that share the model, each with cores of its own; on a machine with NUMA nodes, one per node."},
    {"pipeline-parallel-size", kInt, "1", "1..", kParallel, "-pp", "", kLater, "Pipeline stages come later."},
    {"data-parallel-size", kInt, "1", "1..", kParallel, "-dp", "", kLater, "Data parallelism comes later."},
    {"enable-expert-parallel", kBool, "false", "", kParallel, "-ep", "", kActive, "Whole experts for each rank, instead of a slice of every one."},
    {"enable-eplb", kBool, "false", "", kParallel, "", "", kLater, "Moving experts between ranks comes later."},
    {"distributed-executor-backend", kString, "", "", kParallel, "", "", kNoop, "Ranks are threads of this process; nothing launches them."},
    {"disable-custom-all-reduce", kBool, "false", "", kParallel, "", "", kNoop, "Ranks of one process add up in shared memory."},
    {"headless", kBool, "false", "", kParallel, "", "", kLater, "Worker processes of further nodes come later."},
    {"enable-scale-out", kBool, "false", "", kParallel, "", "", kLater, "Data parallelism comes later."},
    {"data-parallel-supervisor-port", kInt, "9256", "", kParallel, "", "", kNoop, "Only with data parallelism, which comes later."},
    {"dp-supervisor-probe-interval-s", kFloat, "5.0", "", kParallel, "", "", kNoop, "Only with data parallelism, which comes later."},
    {"dp-supervisor-probe-timeout-s", kFloat, "5.0", "", kParallel, "", "", kNoop, "Only with data parallelism, which comes later."},
    {"dp-supervisor-probe-failure-threshold", kInt, "3", "", kParallel, "", "", kNoop, "Only with data parallelism, which comes later."},
    {"master-addr", kString, "127.0.0.1", "", kParallel, "", "MASTER_ADDR", kNoop, "Only with several nodes, which come later."},
    {"master-port", kInt, "29501", "", kParallel, "", "MASTER_PORT", kNoop, "Only with several nodes, which come later."},
    {"nnodes", kInt, "1", "1..", kParallel, "-n", "", kLater, "More than one node comes later."},
    {"node-rank", kInt, "0", "0..", kParallel, "-r", "", kLater, "More than one node comes later."},
    {"distributed-timeout-seconds", kInt, "", "", kParallel, "", "", kNoop, "A rank that fails ends the step at once."},
    {"cpu-distributed-timeout-seconds", kInt, "", "", kParallel, "", "", kNoop, "A rank that fails ends the step at once."},
    {"numa-bind", kBool, "false", "", kParallel, "", "", kNoop, "Threads are bound to cores by --pin-threads."},
    {"numa-bind-nodes", kStringList, "", "", kParallel, "", "", kLater, "Choosing NUMA nodes comes later; numactl does it."},
    {"numa-bind-cpus", kStringList, "", "", kParallel, "", "", kLater, "Choosing cores comes later; taskset does it."},
    {"device-ids", kString, "", "", kParallel, "", "", kLater, "Choosing devices comes with the GPU backend."},
    {"decode-context-parallel-size", kInt, "1", "1..", kParallel, "-dcp", "", kLater, "Sharing contexts between ranks comes later."},
    {"dcp-comm-backend", kString, "", "a2a|ag_rs", kParallel, "", "", kNoop, "Only with shared contexts, which come later."},
    {"dcp-q-replicate", kBool, "", "", kParallel, "", "", kNoop, "Only with shared contexts, which come later."},
    {"dcp-kv-cache-interleave-size", kInt, "1", "", kParallel, "", "", kNoop, "Only with shared contexts, which come later."},
    {"cp-kv-cache-interleave-size", kInt, "", "", kParallel, "", "", kNoop, "Only with shared contexts, which come later."},
    {"prefill-context-parallel-size", kInt, "1", "1..", kParallel, "-pcp", "", kLater, "Sharing contexts between ranks comes later."},
    {"data-parallel-rank", kInt, "", "0..", kParallel, "-dpn", "", kLater, "Data parallelism comes later."},
    {"data-parallel-start-rank", kInt, "", "0..", kParallel, "-dpr", "", kLater, "Data parallelism comes later."},
    {"data-parallel-size-local", kInt, "", "0..", kParallel, "-dpl", "", kLater, "Data parallelism comes later."},
    {"data-parallel-address", kString, "", "", kParallel, "-dpa", "", kNoop, "Only with data parallelism, which comes later."},
    {"data-parallel-rpc-port", kInt, "", "", kParallel, "-dpp", "", kNoop, "Only with data parallelism, which comes later."},
    {"data-parallel-backend", kString, "mp", "", kParallel, "-dpb", "", kNoop, "Only with data parallelism, which comes later."},
    {"data-parallel-hybrid-lb", kBool, "false", "", kParallel, "-dph", "", kLater, "Data parallelism comes later."},
    {"data-parallel-external-lb", kBool, "false", "", kParallel, "-dpe", "", kLater, "Data parallelism comes later."},
    {"data-parallel-multi-port-external-lb", kBool, "false", "", kParallel, "-dpm", "", kLater, "Data parallelism comes later."},
    {"enable-hc-sp", kBool, "false", "", kParallel, "", "", kNoop, "Ranks of one process share memory."},
    {"enable-batch-sharded-sampling", kBool, "", "", kParallel, "", "", kNoop, "The first rank chooses for all."},
    {"enable-ep-weight-filter", kBool, "false", "", kParallel, "", "", kNoop, "A rank reads nothing but its own experts anyway."},
    {"all2all-backend", kString, "allgather_reducescatter", "allgather_reducescatter|deepep_high_throughput|deepep_low_latency|deepep_v2|flashinfer_all2allv|flashinfer_nvlink_one_sided|flashinfer_nvlink_two_sided|moonep|mori_high_throughput|mori_low_latency|naive|nixl_ep|pplx", kParallel, "", "", kNoop, "Ranks of one process share memory."},
    {"enable-dbo", kBool, "false", "", kParallel, "", "", kNoop, "Nothing to overlap on one machine."},
    {"enable-shm-tensor-arena", kBool, "false", "", kParallel, "", "", kNoop, "Ranks of one process share memory."},
    {"ubatch-size", kInt, "0", "", kParallel, "", "", kNoop, "Nothing to overlap on one machine."},
    {"enable-elastic-ep", kBool, "false", "", kParallel, "", "", kLater, "Ranks that come and go come later."},
    {"elastic-ep-max-dp-size", kInt, "", "", kParallel, "", "", kNoop, "Only with data parallelism, which comes later."},
    {"dbo-decode-token-threshold", kInt, "32", "", kParallel, "", "", kNoop, "Nothing to overlap on one machine."},
    {"dp-sync-interval", kInt, "16", "", kParallel, "", "", kNoop, "Only with data parallelism, which comes later."},
    {"dbo-prefill-token-threshold", kInt, "512", "", kParallel, "", "", kNoop, "Nothing to overlap on one machine."},
    {"disable-nccl-for-dp-synchronization", kBool, "", "", kParallel, "", "", kNoop, "Only with data parallelism, which comes later."},
    {"eplb-config", kJson, "", "", kParallel, "", "", kNoop, "Only with --enable-eplb, which comes later."},
    {"expert-placement-strategy", kString, "linear", "linear|round_robin", kParallel, "", "", kNoop, "Experts are dealt out in their order."},
    {"max-parallel-loading-workers", kInt, "", "", kParallel, "", "", kNoop, "One process loads, with all its threads."},
    {"ray-workers-use-nsight", kBool, "false", "", kParallel, "", "", kNoop, "There is no Ray here."},
    {"worker-cls", kString, "auto", "", kParallel, "", "", kNoop, "Python classes cannot be loaded here."},
    {"worker-extension-cls", kString, "", "", kParallel, "", "", kLater, "Python plugins cannot run here."},
    {"enable-fault-tolerance", kBool, "false", "", kParallel, "", "", kLater, "Ranks that come and go come later."},
    {"fault-tolerance-config", kJson, "", "", kParallel, "", "", kNoop, "Only with --enable-fault-tolerance, which comes later."},
    {"worker-use-ray", kBool, "false", "", kParallel, "", "", kNoop, "Ranks are threads of this process; nothing launches them."},
    {"engine-use-ray", kBool, "false", "", kParallel, "", "", kNoop, "Ranks are threads of this process; nothing launches them."},
    {"sharded", kBool, "false", "", kParallel, "", "SHARDED", kNoop, "Ranks are counted by --num-shard."},
    {"num-redundant-experts", kInt, "0", "", kParallel, "", "", kNoop, "Only with --enable-eplb, which comes later."},
    {"eplb-window-size", kInt, "", "", kParallel, "", "", kNoop, "Only with --enable-eplb, which comes later."},
    {"eplb-step-interval", kInt, "", "", kParallel, "", "", kNoop, "Only with --enable-eplb, which comes later."},
    {"eplb-log-balancedness", kBool, "false", "", kParallel, "", "", kNoop, "moesaic:expert_imbalance in /metrics always says it."},

    {"enable-lora", kBool, "false", "", kLora, "", "", kLater, "LoRA adapters come later."},
    {"lora-modules", kStringList, "", "", kLora, "--lora-adapters", "LORA_ADAPTERS", kLater, "LoRA adapters come later."},
    {"max-loras", kInt, "1", "1..", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"max-lora-rank", kInt, "16", "1|8|16|32|64|128|256|320|512", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"lora-dtype", kString, "auto", "auto|bfloat16|float16", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"enable-tower-connector-lora", kBool, "false", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"max-cpu-loras", kInt, "", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"fully-sharded-loras", kBool, "false", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"lora-target-modules", kStringList, "", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"default-mm-loras", kString, "", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"specialize-active-lora", kBool, "false", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"enable-mixed-moe-lora-format", kBool, "false", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"enable-moe-shared-loras", kBool, "false", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"max-lora-cls-labels", kInt, "", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"lora-extra-vocab-size", kInt, "", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"long-lora-scaling-factors", kString, "", "", kLora, "", "", kNoop, "Only with --enable-lora, which comes later."},
    {"allow-runtime-lora-updating", kBool, "false", "", kLora, "", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", kLater, "LoRA adapters come later."},
    {"enable-prompt-adapter", kBool, "false", "", kLora, "", "", kLater, "Prompt adapters come later."},
    {"prompt-adapters", kStringList, "", "", kLora, "", "", kLater, "Prompt adapters come later."},
    {"max-prompt-adapters", kInt, "", "", kLora, "", "", kNoop, "Only with --enable-prompt-adapter, which comes later."},
    {"max-prompt-adapter-token", kInt, "", "", kLora, "", "", kNoop, "Only with --enable-prompt-adapter, which comes later."},

    {"speculative-config", kJson, "", "", kSpeculation, "-sc", "", kLater, "Speculative decoding comes later."},
    {"speculative-model", kString, "", "", kSpeculation, "", "", kLater, "Speculative decoding comes later."},
    {"num-speculative-tokens", kInt, "", "", kSpeculation, "--speculate", "SPECULATE", kLater, "Speculative decoding comes later."},
    {"guided-decoding-backend", kString, "", "", kSpeculation, "", "", kNoop, "Structured output comes later; requests that ask for it are refused."},
    {"structured-outputs-config", kJson, "", "", kSpeculation, "", "", kNoop, "Structured output comes later; requests that ask for it are refused."},
    {"per-request-spec-decode-metrics", kString, "none", "detailed|none|summary", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"spec-method", kString, "", "bailing_hybrid_mtp|bailing_hybrid_v3_mtp|custom_class|deepseek_mtp|dflash|dots3_note_mtp|draft_model|dspark|eagle|eagle3|ernie_mtp|exaone4_5_mtp|exaone_moe_mtp|extract_hidden_states|gemma4_mtp|glm4_moe_lite_mtp|glm4_moe_mtp|glm5_next_mtp|glm_ocr_mtp|hy_v3_mtp|hy_v4_mtp|inkling_mtp|kimi_k3_mtp|longcat_flash_mtp|medusa|mimo_mtp|mimo_v2_mtp|minimax_m3_mtp|mlp_speculator|mtp|nemotron_h_mtp|ngram|ngram_gpu|pangu_ultra_moe_mtp|qwen3_5_mtp|qwen3_next_mtp|qwen4_exp_mtp|step3p5_mtp|suffix", kSpeculation, "", "", kLater, "Speculative decoding comes later."},
    {"spec-model", kString, "", "", kSpeculation, "", "", kLater, "Speculative decoding comes later."},
    {"spec-tokens", kInt, "", "0..", kSpeculation, "", "", kLater, "Speculative decoding comes later."},
    {"speculative-draft-tensor-parallel-size", kInt, "", "", kSpeculation, "-spec-draft-tp", "", kNoop, "Only with speculation, which comes later."},
    {"speculative-max-model-len", kInt, "", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"speculative-disable-by-batch-size", kInt, "", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"speculative-model-quantization", kString, "", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"speculative-disable-mqa-scorer", kBool, "false", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"ngram-prompt-lookup-max", kInt, "", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"ngram-prompt-lookup-min", kInt, "", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"spec-decoding-acceptance-method", kString, "", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"typical-acceptance-sampler-posterior-threshold", kFloat, "", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"typical-acceptance-sampler-posterior-alpha", kFloat, "", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"disable-logprobs-during-spec-decoding", kBool, "true", "", kSpeculation, "", "", kNoop, "Only with speculation, which comes later."},
    {"guided-decoding-disable-fallback", kBool, "false", "", kSpeculation, "", "", kNoop, "Structured output comes later; requests that ask for it are refused."},
    {"guided-decoding-disable-any-whitespace", kBool, "false", "", kSpeculation, "", "", kNoop, "Structured output comes later; requests that ask for it are refused."},
    {"guided-decoding-disable-additional-properties", kBool, "false", "", kSpeculation, "", "", kNoop, "Structured output comes later; requests that ask for it are refused."},
};
// clang-format on

}  // namespace

std::span<const SettingRow> parallel_rows() { return kRows; }

}  // namespace moesaic::base
