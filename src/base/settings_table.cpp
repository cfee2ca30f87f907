#include <array>

#include "base/settings.h"

namespace moesaic::base {
namespace {

using enum SettingType;
using enum SettingState;

constexpr std::string_view kModel = "Model";
constexpr std::string_view kCpu = "CPU";
constexpr std::string_view kMemory = "Memory and KV cache";
constexpr std::string_view kScheduling = "Scheduling";
constexpr std::string_view kServer = "Server";
constexpr std::string_view kLimits = "Limits and deadlines";
constexpr std::string_view kProtocol = "Protocol";
constexpr std::string_view kLogging = "Logging";
constexpr std::string_view kParallel = "Parallel ranks";
constexpr std::string_view kLora = "LoRA";
constexpr std::string_view kSpeculation = "Speculation and structured output";
constexpr std::string_view kGpu = "GPU runtime";

// clang-format off
constexpr SettingRow kRows[] = {
    // name, type, default, range, group, other flags, environment, state, help
    {"model", kString, "", "", kModel, "", "MODEL_ID", kActive, "Model folder in Hugging Face layout; the positional argument says the same."},
    {"tokenizer", kString, "", "", kModel, "", "", kActive, "Folder with tokenizer.json; default is the model's."},
    {"skip-tokenizer-init", kBool, "false", "", kModel, "", "", kActive, "Do not load a tokenizer; prompts must be token ids."},
    {"served-model-name", kStringList, "", "", kModel, "", "", kActive, "Names the API answers to, comma-separated; the first is echoed. Default is the model's path."},
    {"dtype", kString, "auto", "auto|bfloat16|float16|half|float32|float", kModel, "", "DTYPE", kActive, "Type of the weights in memory; auto takes the checkpoint's."},
    {"load-format", kString, "auto", "auto|safetensors|dummy", kModel, "", "", kActive, "dummy makes random weights of the config's shape; no weight files are needed."},
    {"max-model-len", kInt, "", "-1..", kModel, "", "MAX_TOTAL_TOKENS", kActive, "Longest prompt plus output in tokens; default is the config's, cut to what the KV cache holds when auto or -1."},
    {"seed", kInt, "0", "", kModel, "", "", kActive, "Seed of dummy weights and of requests that bring none."},
    {"generation-config", kString, "auto", "", kModel, "", "", kActive, "auto takes sampling defaults from generation_config.json; vllm ignores that file; else a folder to read it from."},
    {"override-generation-config", kJson, "", "", kModel, "", "", kActive, "JSON object that replaces single values of generation_config.json."},
    {"hf-overrides", kJson, "", "", kModel, "", "", kActive, "JSON object merged over config.json, for example a rope_scaling."},
    {"prepared-cache", kString, "auto", "", kModel, "", "MOESAIC_PREPARED_CACHE", kActive, "Folder for weights in this machine's layout, so that a warm start does not convert them again; auto is ~/.cache/moesaic, off disables it."},
    {"revision", kString, "", "", kModel, "", "REVISION", kLater, "Branch, tag or commit on the Hub; needs downloading, which comes later."},
    {"download-dir", kString, "", "", kModel, "", "HUGGINGFACE_HUB_CACHE", kLater, "Where downloads go; needs downloading, which comes later."},
    {"quantization", kString, "", "", kModel, "-q", "QUANTIZE", kLater, "Quantised weights come later."},
    {"trust-remote-code", kBool, "false", "", kModel, "", "TRUST_REMOTE_CODE", kNoop, "Checkpoints never execute code here, so there is nothing to trust."},
    {"tokenizer-mode", kString, "auto", "", kModel, "", "", kNoop, "There is one tokenizer implementation."},
    {"config-format", kString, "auto", "", kModel, "", "", kNoop, "config.json in Hugging Face layout is the only format."},
    {"code-revision", kString, "", "", kModel, "", "", kNoop, "Checkpoints never execute code here."},

    {"backend", kString, "cpu", "cpu|reference", kCpu, "--device", "MOESAIC_BACKEND", kActive, "cpu is fast; reference is plain loops, for checking."},
    {"threads", kInt, "0", "0..4096", kCpu, "", "MOESAIC_THREADS", kActive, "Compute threads; 0 is one per physical core this process may use."},
    {"cpu-isa", kString, "auto", "auto|baseline|avx2|avx512|amx", kCpu, "", "MOESAIC_CPU_ISA", kActive, "Instruction set of the kernels; auto takes the best there is."},
    {"pin-threads", kBool, "true", "", kCpu, "", "", kActive, "Bind each compute thread to its core."},

    {"gpu-memory-utilization", kFloat, "0.9", "0.01..1", kMemory, "--device-memory-utilization,--memory-utilization", "CUDA_MEMORY_FRACTION", kActive, "Share of the device's memory (on CPU, of the container's) that this instance may use."},
    {"kv-cache-memory-bytes", kInt, "", "1..", kMemory, "", "", kActive, "Size of the KV cache; wins over the share."},
    {"num-gpu-blocks-override", kInt, "", "1..", kMemory, "--num-kv-blocks", "", kActive, "Number of KV blocks; wins over both."},
    {"kv-cache-dtype", kString, "auto", "auto|bfloat16|float16|float32", kMemory, "", "KV_CACHE_DTYPE", kActive, "Type of cached keys and values; auto is the model's. FP8 comes later."},
    {"block-size", kInt, "16", "1..256", kMemory, "", "", kActive, "Tokens per KV block."},
    {"enable-prefix-caching", kBool, "true", "", kMemory, "", "PREFIX_CACHING", kActive, "Keep KV blocks of finished requests and reuse them for equal beginnings."},
    {"prefix-caching-hash-algo", kString, "", "", kMemory, "", "", kNoop, "Prefix blocks are compared token by token, so the hash cannot matter."},
    {"swap-space", kFloat, "", "", kMemory, "", "", kNoop, "Preempted requests are recomputed, never swapped."},
    {"cpu-offload-gb", kFloat, "0", "0..", kMemory, "", "", kLater, "Keeping part of the weights in host memory comes with the GPU backend."},

    {"max-num-batched-tokens", kInt, "2048", "1..65536", kScheduling, "", "MAX_BATCH_PREFILL_TOKENS", kActive, "Tokens of one step; long prompts are cut into such chunks between decodes."},
    {"max-num-seqs", kInt, "256", "1..65536", kScheduling, "", "MAX_BATCH_SIZE", kActive, "Sequences that run at once."},
    {"scheduling-policy", kString, "fcfs", "fcfs|priority", kScheduling, "", "", kActive, "Order of waiting requests; priority reads the request's field of that name."},
    {"max-num-queued-reqs", kInt, "1024", "0..", kScheduling, "", "", kActive, "Requests that may wait; more are answered 503 with Retry-After. 0 is no bound."},
    {"enable-chunked-prefill", kBool, "true", "", kScheduling, "", "", kNoop, "Prefill is always chunked."},
    {"async-scheduling", kBool, "true", "", kScheduling, "", "", kNoop, "There is no Python between two steps to hide."},
    {"stream-interval", kInt, "1", "1..1024", kScheduling, "", "", kNoop, "Every token is streamed as it comes."},
    {"enforce-eager", kBool, "false", "", kScheduling, "", "", kNoop, "Means GPU graphs, which the CPU backend has none of."},

    {"host", kString, "", "", kServer, "", "HOST", kActive, "Address to bind. Default is 127.0.0.1, or 0.0.0.0 inside a Kubernetes pod."},
    {"port", kInt, "8000", "0..65535", kServer, "", "PORT", kActive, "Port to bind; 0 picks a free one."},
    {"api-key", kStringList, "", "", kServer, "", "VLLM_API_KEY,API_KEY", kActive, "Bearer keys, comma-separated; with one set, /v1 needs it."},
    {"root-path", kString, "", "", kServer, "", "", kActive, "Path prefix that a proxy in front leaves on requests."},
    {"allowed-origins", kJson, "[\"*\"]", "", kServer, "", "CORS_ALLOW_ORIGIN", kActive, "CORS origins as a JSON list."},
    {"allowed-methods", kJson, "[\"*\"]", "", kServer, "", "", kActive, "CORS methods as a JSON list."},
    {"allowed-headers", kJson, "[\"*\"]", "", kServer, "", "", kActive, "CORS headers as a JSON list."},
    {"allow-credentials", kBool, "false", "", kServer, "", "", kActive, "CORS credentials."},
    {"io-threads", kInt, "1", "1..64", kServer, "", "", kActive, "Threads that move bytes of all connections."},
    {"text-threads", kInt, "1", "1..64", kServer, "--validation-workers,--renderer-num-workers", "VALIDATION_WORKERS", kActive, "Threads that tokenise, render templates and turn tokens into text."},
    {"enable-request-id-headers", kBool, "false", "", kServer, "", "", kActive, "Echo X-Request-Id."},
    {"shutdown-timeout", kInt, "30", "0..86400", kServer, "", "GRACEFUL_TERMINATION_TIMEOUT", kActive, "Seconds that running requests may take to end after SIGTERM; 0 aborts them."},
    {"stall-timeout", kFloat, "120", "0.1..", kServer, "", "", kActive, "Seconds without progress, while there is work, after which /health answers 503."},
    {"disable-log-stats", kBool, "false", "", kServer, "", "", kActive, "No line of statistics in the log every ten seconds."},
    {"ssl-keyfile", kString, "", "", kServer, "", "", kLater, "TLS comes later; put a proxy in front."},
    {"ssl-certfile", kString, "", "", kServer, "", "", kLater, "TLS comes later; put a proxy in front."},
    {"uvicorn-log-level", kString, "", "", kServer, "", "", kNoop, "There is no uvicorn; see --log-level."},
    {"disable-uvicorn-access-log", kBool, "false", "", kServer, "", "", kNoop, "There is no access log."},
    {"disable-frontend-multiprocessing", kBool, "false", "", kServer, "", "", kNoop, "There is one process."},
    {"api-server-count", kInt, "1", "", kServer, "-asc", "", kNoop, "One process serves all connections."},
    {"disable-fastapi-docs", kBool, "false", "", kServer, "", "", kNoop, "There is no FastAPI."},
    {"middleware", kString, "", "", kServer, "", "", kLater, "Python middleware cannot run here."},

    {"max-header-bytes", kInt, "64K", "1024..1M", kLimits, "", "", kActive, "All header lines of a request together; more is 431."},
    {"max-header-count", kInt, "100", "1..10000", kLimits, "--h11-max-header-count", "", kActive, "Header lines of a request; more is 431."},
    {"max-header-line", kInt, "8K", "256..64K", kLimits, "", "", kActive, "One header line, and the request line (more is 414)."},
    {"max-body-bytes", kInt, "16M", "1024..1G", kLimits, "", "PAYLOAD_LIMIT", kActive, "A request's body; more is 413."},
    {"header-timeout", kFloat, "60", "0.05..3600", kLimits, "", "", kActive, "Seconds until the whole header must have come; 408 after."},
    {"body-idle-timeout", kFloat, "30", "0.05..3600", kLimits, "", "", kActive, "Seconds a body may stand still; 408 after."},
    {"body-timeout", kFloat, "300", "0.05..86400", kLimits, "", "", kActive, "Seconds until the whole body must have come; 408 after."},
    {"keep-alive-timeout", kFloat, "75", "0.05..3600", kLimits, "", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", kActive, "Seconds an idle connection is kept."},
    {"write-timeout", kFloat, "60", "0.05..3600", kLimits, "", "", kActive, "Seconds a client may leave its answer unread before it counts as gone."},
    {"max-connections", kInt, "16384", "1..1000000", kLimits, "", "", kActive, "Open connections; more wait in the listen queue."},
    {"max-stream-bytes", kInt, "1M", "1024..1G", kLimits, "", "", kActive, "Unread bytes of one stream; a reader slower than that is cut off and its request aborted."},
    {"max-json-depth", kInt, "64", "4..1024", kLimits, "", "", kActive, "Nesting of a JSON body; more is 400."},
    {"max-json-nodes", kInt, "250000", "100..100000000", kLimits, "", "", kActive, "Values in a JSON body outside token id lists; more is 400."},
    {"max-prompt-bytes", kInt, "8M", "1..1G", kLimits, "", "", kActive, "Text of one prompt, checked before it is tokenised."},
    {"max-prompts", kInt, "256", "1..65536", kLimits, "", "MAX_CLIENT_BATCH_SIZE", kActive, "Prompts of one /v1/completions request."},
    {"max-n", kInt, "128", "1..16384", kLimits, "", "VLLM_MAX_N_SEQUENCES,MAX_BEST_OF", kActive, "Largest n of a request."},
    {"max-stop-sequences", kInt, "4", "1..1024", kLimits, "", "MAX_STOP_SEQUENCES", kActive, "Stop strings of a request."},
    {"max-stop-bytes", kInt, "4K", "1..1M", kLimits, "", "", kActive, "Length of one stop string."},
    {"max-logit-bias", kInt, "300", "1..1000000", kLimits, "", "", kActive, "Entries of logit_bias."},
    {"max-logprobs", kInt, "20", "0..1000", kLimits, "", "MAX_TOP_N_TOKENS", kActive, "Largest logprobs, top_logprobs and prompt_logprobs."},

    {"chat-template", kString, "", "", kProtocol, "", "", kActive, "Chat template as a file or as Jinja text; default is the model's."},
    {"default-chat-template-kwargs", kJson, "", "", kProtocol, "", "", kActive, "JSON object given to every chat template."},
    {"response-role", kString, "assistant", "", kProtocol, "", "", kActive, "Role of answers."},
    {"return-tokens-as-token-ids", kBool, "false", "", kProtocol, "", "", kActive, "Token strings of logprobs become token_id:N."},
    {"enable-prompt-tokens-details", kBool, "false", "", kProtocol, "", "", kActive, "usage says how many prompt tokens came from the prefix cache."},
    {"enable-force-include-usage", kBool, "false", "", kProtocol, "", "", kActive, "Every stream ends with usage."},
    {"enable-server-load-tracking", kBool, "true", "", kProtocol, "", "", kNoop, "/load always answers."},
    {"enable-auto-tool-choice", kBool, "true", "", kProtocol, "", "", kNoop, "tool_choice auto always works, through the chat template."},
    {"tool-call-parser", kString, "hermes", "hermes", kProtocol, "", "", kActive, "How tool calls are read from the model's text; other parsers come later."},
    {"chat-template-content-format", kString, "auto", "auto|string|openai", kProtocol, "", "", kActive, "Whether templates see message content as a string or as parts; auto gives a string."},
    {"reasoning-parser", kString, "", "", kProtocol, "", "", kLater, "Splitting off a model's reasoning comes later."},
    {"fingerprint-mode", kString, "", "", kProtocol, "", "", kNoop, "system_fingerprint names the program's version."},

    {"log-level", kString, "info", "", kLogging, "", "VLLM_LOGGING_LEVEL,LOG_LEVEL", kActive, "trace, debug, info, warning, error, critical or off."},
    {"enable-log-requests", kBool, "false", "", kLogging, "", "", kActive, "One line per request: id, sizes, timing. Never its text."},
    {"disable-log-requests", kBool, "false", "", kLogging, "", "", kNoop, "Requests are not logged unless --enable-log-requests."},
    {"otlp-traces-endpoint", kString, "", "", kLogging, "", "OTLP_ENDPOINT", kLater, "Traces come later."},

    {"tensor-parallel-size", kInt, "1", "1..", kParallel, "-tp", "NUM_SHARD", kLater, "More than one rank comes later."},
    {"pipeline-parallel-size", kInt, "1", "1..", kParallel, "-pp", "", kLater, "More than one rank comes later."},
    {"data-parallel-size", kInt, "1", "1..", kParallel, "-dp", "", kLater, "More than one rank comes later."},
    {"enable-expert-parallel", kBool, "false", "", kParallel, "-ep", "", kLater, "More than one rank comes later."},
    {"enable-eplb", kBool, "false", "", kParallel, "", "", kLater, "Moving experts between ranks comes later."},
    {"distributed-executor-backend", kString, "", "", kParallel, "", "", kNoop, "One rank needs no launcher."},
    {"disable-custom-all-reduce", kBool, "false", "", kParallel, "", "", kNoop, "One rank reduces nothing."},

    {"enable-lora", kBool, "false", "", kLora, "", "", kLater, "LoRA adapters come later."},
    {"lora-modules", kStringList, "", "", kLora, "", "LORA_ADAPTERS", kLater, "LoRA adapters come later."},
    {"max-loras", kInt, "1", "1..", kLora, "", "", kNoop, "LoRA adapters come later; without --enable-lora this means nothing."},
    {"max-lora-rank", kInt, "16", "1..", kLora, "", "", kNoop, "LoRA adapters come later; without --enable-lora this means nothing."},

    {"speculative-config", kJson, "", "", kSpeculation, "-sc", "", kLater, "Speculative decoding comes later."},
    {"speculative-model", kString, "", "", kSpeculation, "", "", kLater, "Speculative decoding comes later."},
    {"num-speculative-tokens", kInt, "", "", kSpeculation, "", "SPECULATE", kLater, "Speculative decoding comes later."},
    {"guided-decoding-backend", kString, "", "", kSpeculation, "", "", kNoop, "Structured output comes later; requests that ask for it are refused."},
    {"structured-outputs-config", kJson, "", "", kSpeculation, "", "", kNoop, "Structured output comes later; requests that ask for it are refused."},

    {"attention-backend", kString, "", "", kGpu, "", "VLLM_ATTENTION_BACKEND", kNoop, "Each backend has one attention."},
    {"compilation-config", kJson, "", "", kGpu, "-cc", "", kNoop, "Nothing is compiled at start."},
    {"max-seq-len-to-capture", kInt, "", "", kGpu, "", "", kNoop, "Means GPU graphs, which the CPU backend has none of."},
    {"moe-backend", kString, "auto", "", kGpu, "", "", kNoop, "Each backend has one grouped expert kernel."},
};
// clang-format on

}  // namespace

std::span<const SettingRow> setting_rows() { return kRows; }

}  // namespace moesaic::base
