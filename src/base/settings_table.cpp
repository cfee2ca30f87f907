#include "base/settings_table.h"

#include <vector>

// What the engine does: the model, its device, its memory and its steps.

namespace moesaic::base {
namespace {

using enum SettingType;
using enum SettingState;

constexpr std::string_view kModel = "Model";
constexpr std::string_view kCpu = "CPU";
constexpr std::string_view kMemory = "Memory and KV cache";
constexpr std::string_view kScheduling = "Scheduling";

// clang-format off
constexpr SettingRow kRows[] = {
    // name, type, default, range, group, other flags, environment, state, help, works, later
    {"model", kString, "", "", kModel, "--model-id", "MODEL_ID", kActive, "Model folder in Hugging Face layout; the positional argument says the same and wins over MODEL_ID."},
    {"tokenizer", kString, "", "", kModel, "", "", kActive, "Folder with tokenizer.json; default is the model's."},
    {"skip-tokenizer-init", kBool, "false", "", kModel, "", "", kActive, "Do not load a tokenizer; prompts must be token ids."},
    {"served-model-name", kStringList, "", "", kModel, "", "", kActive, "Names the API answers to, comma-separated; the first is echoed. Default is the model's path."},
    {"dtype", kString, "auto", "auto|bfloat16|float16|half|float32|float", kModel, "", "DTYPE", kActive, "Type of the weights in memory; auto takes the checkpoint's."},
    {"load-format", kString, "auto", "", kModel, "", "", kActive, "dummy makes random weights of the config's shape; no weight files are needed.", "auto|safetensors|dummy", "Other checkpoint formats come later."},
    {"max-model-len", kInt, "", "-1..1G", kModel, "--max-total-tokens", "MAX_TOTAL_TOKENS,HF_SEQUENCE_LENGTH", kActive, "Longest prompt plus output in tokens; default is the config's, cut to what the KV cache holds when auto or -1."},
    {"seed", kInt, "0", "", kModel, "", "", kActive, "Seed of dummy weights and of requests that bring none."},
    {"generation-config", kString, "auto", "", kModel, "", "", kActive, "auto takes sampling defaults from generation_config.json; vllm ignores that file; else a folder to read it from."},
    {"override-generation-config", kJson, "", "", kModel, "", "", kActive, "JSON object that replaces single values of generation_config.json."},
    {"hf-overrides", kJson, "", "", kModel, "", "", kActive, "JSON object merged over config.json, for example a rope_scaling."},
    {"prepared-cache", kString, "auto", "", kModel, "", "MOESAIC_PREPARED_CACHE", kActive, "Folder for weights in this machine's layout, so that a warm start does not convert them again; auto is ~/.cache/moesaic, off disables it."},
    {"revision", kString, "", "", kModel, "", "REVISION", kLater, "Downloading comes later, and revisions with it."},
    {"download-dir", kString, "", "", kModel, "--huggingface-hub-cache", "HUGGINGFACE_HUB_CACHE", kNoop, "Nothing is downloaded yet; MODEL is the folder."},
    {"quantization", kString, "", "", kModel, "-q,--quantize", "QUANTIZE", kLater, "Quantised weights come later."},
    {"trust-remote-code", kBool, "false", "", kModel, "", "TRUST_REMOTE_CODE", kNoop, "Checkpoints never execute code here, so there is nothing to trust."},
    {"tokenizer-mode", kString, "auto", "", kModel, "", "", kNoop, "There is one tokenizer implementation."},
    {"config-format", kString, "auto", "", kModel, "", "", kNoop, "config.json in Hugging Face layout is the only format."},
    {"code-revision", kString, "", "", kModel, "", "", kNoop, "Checkpoints never execute code here."},
    {"runner", kString, "auto", "auto|draft|generate|pooling", kModel, "", "", kActive, "What the model is run for.", "auto|generate", "Pooling and draft models come later."},
    {"convert", kString, "auto", "auto|classify|embed|none", kModel, "", "", kActive, "What the model is turned into.", "auto|none", "Embedding and classifying come later."},
    {"hf-config-path", kString, "", "", kModel, "", "", kLater, "A config.json apart from the model's folder comes later."},
    {"tokenizer-revision", kString, "", "", kModel, "", "", kLater, "Downloading comes later, and revisions with it."},
    {"quantization-config", kJson, "", "", kModel, "", "", kLater, "Quantised weights come later."},
    {"allow-deprecated-quantization", kBool, "false", "", kModel, "", "", kNoop, "Quantised weights come later."},
    {"disable-sliding-window", kBool, "false", "", kModel, "", "", kLater, "A model's sliding window cannot be turned off yet."},
    {"hf-token", kString, "", "", kModel, "", "HF_TOKEN,HUGGING_FACE_HUB_TOKEN,HF_API_TOKEN,HUGGINGFACE_HUB_TOKEN", kNoop, "Nothing is downloaded yet, so no token is needed."},
    {"model-class-overrides", kJson, "", "", kModel, "", "", kLater, "Families cannot be replaced from outside."},
    {"pooler-config", kJson, "", "", kModel, "", "", kLater, "Pooling models come later."},
    {"model-impl", kString, "auto", "", kModel, "", "", kNoop, "There is one implementation of each family."},
    {"safetensors-load-strategy", kString, "", "eager|lazy|prefetch|torchao", kModel, "", "", kNoop, "Files are mapped and read once, in parallel."},
    {"safetensors-prefetch-num-threads", kInt, "8", "", kModel, "", "", kNoop, "Files are mapped and read once, in parallel."},
    {"safetensors-prefetch-block-size", kInt, "16777216", "", kModel, "", "", kNoop, "Files are mapped and read once, in parallel."},
    {"model-loader-extra-config", kString, "", "", kModel, "", "", kNoop, "There is one loader."},
    {"ignore-patterns", kStringList, "", "", kModel, "", "", kNoop, "Nothing is downloaded yet."},
    {"use-tqdm-on-load", kBool, "true", "", kModel, "", "", kNoop, "Progress is shown on a terminal and logged elsewhere."},
    {"pt-load-map-location", kString, "cpu", "", kModel, "", "", kNoop, "PyTorch files are never opened, since they can run code."},
    {"diffusion-config", kJson, "", "", kModel, "-dc", "", kLater, "Diffusion models come later."},
    {"engram-config", kJson, "", "", kModel, "", "", kLater, "Families with such layers come later."},
    {"rope-scaling", kString, "", "", kModel, "", "ROPE_SCALING", kActive, "Scaling of the rotary positions: a JSON object, or linear or dynamic with --rope-factor."},
    {"rope-factor", kFloat, "", "1..", kModel, "", "ROPE_FACTOR", kActive, "Factor of --rope-scaling."},
    {"rope-theta", kFloat, "", "1..", kModel, "", "", kActive, "Base of the rotary frequencies; replaces the config's."},
    {"allow-long-max-model-len", kBool, "false", "", kModel, "", "VLLM_ALLOW_LONG_MAX_MODEL_LEN", kActive, "Let --max-model-len go past the model's positions, where its answers are not tested."},
    {"max-input-tokens", kInt, "", "1..", kModel, "--max-input-length", "MAX_INPUT_TOKENS,MAX_INPUT_LENGTH", kActive, "Longest prompt in tokens; a longer one is 400. Default is what --max-model-len leaves."},
    {"task", kString, "", "auto|generate|embedding|embed|classify|score|reward|transcription", kModel, "", "", kActive, "What the model is run for.", "auto|generate", "Other tasks than generating come later."},
    {"qlora-adapter-name-or-path", kString, "", "", kModel, "", "", kLater, "Quantised weights come later."},
    {"weights-cache-override", kString, "", "", kModel, "", "WEIGHTS_CACHE_OVERRIDE", kNoop, "Nothing is downloaded yet; MODEL is the folder."},

    {"backend", kString, "cpu", "auto|cpu|reference|cuda|rocm|neuron|tpu|xpu|hpu|openvino", kCpu, "--device", "MOESAIC_BACKEND", kActive, "cpu is fast, and what auto takes; reference is plain loops, for checking.", "auto|cpu|reference", "Devices other than the CPU come later."},
    {"threads", kInt, "0", "0..4096", kCpu, "", "MOESAIC_THREADS", kActive, "Compute threads; 0 is one per physical core this process may use."},
    {"cpu-isa", kString, "auto", "auto|baseline|avx2|avx512|amx", kCpu, "", "MOESAIC_CPU_ISA", kActive, "Instruction set of the kernels; auto takes the best there is."},
    {"pin-threads", kBool, "true", "", kCpu, "", "", kActive, "Bind each compute thread to its core."},

    {"gpu-memory-utilization", kFloat, "0.9", "0.01..1", kMemory, "--device-memory-utilization,--memory-utilization,--cuda-memory-fraction", "CUDA_MEMORY_FRACTION", kActive, "Share of the device's memory (on CPU, of the container's) that this instance may use."},
    {"kv-cache-memory-bytes", kInt, "", "1..", kMemory, "", "", kActive, "Size of the KV cache; wins over the share."},
    {"num-gpu-blocks-override", kInt, "", "1..", kMemory, "--num-kv-blocks", "", kActive, "Number of KV blocks; wins over both."},
    {"kv-cache-dtype", kString, "auto", "auto|bfloat16|float16|float32|fp8_e4m3fn|fp8|fp8_ds_mla|fp8_e4m3|fp8_e5m2|fp8_inc|fp8_per_token_head|int4_per_token_head|int8_per_token_head|nvfp4|nvfp4_4over6|nvfp4_ds_mla|turboquant_3bit_nc|turboquant_4bit_nc|turboquant_k3v4_nc|turboquant_k8v4|ultraquant_4bit", kMemory, "", "KV_CACHE_DTYPE", kActive, "Type of cached keys and values; auto is the model's.", "auto|bfloat16|float16|float32", "A KV cache of 8 or 4 bits comes later."},
    {"block-size", kInt, "16", "1..256", kMemory, "", "", kActive, "Tokens per KV block."},
    {"enable-prefix-caching", kBool, "true", "", kMemory, "", "PREFIX_CACHING", kActive, "Keep KV blocks of finished requests and reuse them for equal beginnings."},
    {"prefix-caching-hash-algo", kString, "", "sha256|sha256_cbor|xxhash|xxhash_cbor|builtin", kMemory, "", "", kNoop, "Prefix blocks are compared token by token, so the hash cannot matter."},
    {"swap-space", kFloat, "", "", kMemory, "", "", kNoop, "Preempted requests are recomputed, never swapped."},
    {"cpu-offload-gb", kFloat, "0", "0..", kMemory, "", "", kLater, "Keeping part of the weights in host memory comes with the GPU backend."},
    {"enable-sleep-mode", kBool, "false", "", kMemory, "", "", kLater, "Giving memory back while idle comes later."},
    {"sleep-mode-offload-cudagraph", kBool, "false", "", kMemory, "", "", kNoop, "Only with --enable-sleep-mode, which comes later."},
    {"sleep-preserve-parameter-names", kStringList, "", "", kMemory, "", "", kNoop, "Only with --enable-sleep-mode, which comes later."},
    {"enable-cumem-allocator", kBool, "false", "", kMemory, "", "", kNoop, "Means GPU memory, which the CPU backend has none of."},
    {"enable-nccl-comm-suspend", kBool, "false", "", kMemory, "", "", kNoop, "Only with --enable-sleep-mode, which comes later."},
    {"prefix-cache-retention-interval", kFloat, "0", "", kMemory, "", "", kNoop, "Cached blocks stay until their memory is needed."},
    {"kv-cache-dtype-skip-layers", kStringList, "", "", kMemory, "", "", kNoop, "Only with a quantised KV cache, which comes later."},
    {"kv-sharing-fast-prefill", kBool, "false", "", kMemory, "", "", kNoop, "No supported family shares KV between layers."},
    {"swa-bounded-replay", kBool, "true", "", kMemory, "", "", kNoop, "Sliding windows keep their whole KV here."},
    {"prefix-match-unit", kInt, "", "", kMemory, "", "", kNoop, "Prefixes are matched block by block."},
    {"kv-offloading-size", kFloat, "", "", kMemory, "", "", kLater, "A second tier of the KV cache comes later."},
    {"kv-offloading-backend", kString, "native", "lmcache|native", kMemory, "", "", kNoop, "Only with --kv-offloading-size, which comes later."},
    {"offload-backend", kString, "auto", "auto|prefetch|uva", kMemory, "", "", kNoop, "Only with --cpu-offload-gb, which comes later."},
    {"cpu-offload-params", kStringList, "", "", kMemory, "", "", kNoop, "Only with --cpu-offload-gb, which comes later."},
    {"offload-group-size", kInt, "0", "0..", kMemory, "", "", kLater, "Offloading weights comes with the GPU backend."},
    {"offload-num-in-group", kInt, "1", "", kMemory, "", "", kNoop, "Only with --offload-group-size, which comes later."},
    {"offload-prefetch-step", kInt, "1", "", kMemory, "", "", kNoop, "Only with --offload-group-size, which comes later."},
    {"offload-params", kStringList, "", "", kMemory, "", "", kNoop, "Only with --offload-group-size, which comes later."},
    {"disable-hybrid-kv-cache-manager", kBool, "", "", kMemory, "", "", kNoop, "All layers share one kind of block."},
    {"quantization-param-path", kString, "", "", kMemory, "", "", kLater, "FP8 KV caches come later."},
    {"calculate-kv-scales", kBool, "false", "", kMemory, "", "", kNoop, "Only with a quantised KV cache, which comes later."},
    {"max-batch-total-tokens", kInt, "", "1..", kMemory, "", "MAX_BATCH_TOTAL_TOKENS", kActive, "Tokens that the KV cache holds, rounded up to blocks; --num-gpu-blocks-override wins."},

    {"max-num-batched-tokens", kInt, "2048", "1..1M", kScheduling, "--max-batch-prefill-tokens", "MAX_BATCH_PREFILL_TOKENS", kActive, "Tokens of one step; long prompts are cut into such chunks between decodes."},
    {"max-num-seqs", kInt, "256", "1..65536", kScheduling, "--max-batch-size", "MAX_BATCH_SIZE,HF_BATCH_SIZE", kActive, "Sequences that run at once."},
    {"scheduling-policy", kString, "fcfs", "fcfs|priority", kScheduling, "", "", kActive, "Order of waiting requests; priority reads the request's field of that name."},
    {"max-num-queued-reqs", kInt, "0", "0..", kScheduling, "", "", kActive, "Requests that may wait; more are answered 503 with Retry-After. 0 is no bound but that of --max-inflight-bytes."},
    {"enable-chunked-prefill", kBool, "true", "", kScheduling, "", "", kNoop, "Prefill is always chunked."},
    {"async-scheduling", kBool, "true", "", kScheduling, "", "", kNoop, "There is no Python between two steps to hide."},
    {"stream-interval", kInt, "1", "1..1024", kScheduling, "", "", kNoop, "Every token is streamed as it comes."},
    {"enforce-eager", kBool, "false", "", kScheduling, "", "", kNoop, "Means GPU graphs, which the CPU backend has none of."},
    {"max-num-scheduled-tokens", kInt, "", "0..", kScheduling, "", "", kLater, "A second bound beside --max-num-batched-tokens comes later."},
    {"max-num-active-seqs", kInt, "", "0..", kScheduling, "", "", kLater, "A second bound beside --max-num-seqs comes later."},
    {"max-num-queued-tokens", kInt, "", "0..", kScheduling, "", "", kLater, "A bound on waiting tokens comes later."},
    {"long-prefill-token-threshold", kInt, "0", "", kScheduling, "", "", kNoop, "Every prompt is cut so that decodes go on."},
    {"long-prefill-token-threshold-adaptive", kBool, "false", "", kScheduling, "", "", kNoop, "Every prompt is cut so that decodes go on."},
    {"disable-chunked-mm-input", kBool, "false", "", kScheduling, "", "", kNoop, "Only text is served."},
    {"scheduler-cls", kString, "", "", kScheduling, "", "", kLater, "Python plugins cannot run here."},
    {"scheduler-reserve-full-isl", kBool, "true", "", kScheduling, "", "", kNoop, "A prompt gets its blocks chunk by chunk."},
    {"watermark", kFloat, "0.0", "", kScheduling, "", "", kNoop, "Preemption always makes progress, so no blocks are kept back."},
    {"prefill-schedule-interval", kInt, "1", "", kScheduling, "", "", kNoop, "Every step takes prompts and decodes."},
    {"max-concurrent-requests", kInt, "", "1..", kScheduling, "", "MAX_CONCURRENT_REQUESTS", kActive, "Requests that run or wait; more are answered 503 with Retry-After."},
    {"num-scheduler-steps", kInt, "1", "", kScheduling, "", "", kNoop, "There is no Python between two steps to save."},
    {"multi-step-stream-outputs", kBool, "true", "", kScheduling, "", "", kNoop, "Every token is streamed as it comes."},
    {"preemption-mode", kString, "", "", kScheduling, "", "", kNoop, "Preempted requests are recomputed, never swapped."},
    {"scheduler-delay-factor", kFloat, "0", "", kScheduling, "", "", kNoop, "Requests never wait for a fuller batch."},
    {"num-lookahead-slots", kInt, "0", "", kScheduling, "", "", kNoop, "Only with speculation, which comes later."},
    {"use-v2-block-manager", kBool, "true", "", kScheduling, "", "", kNoop, "There is one block manager."},
    {"max-num-partial-prefills", kInt, "1", "", kScheduling, "", "", kNoop, "Prompts share a step's tokens, oldest first."},
    {"max-long-partial-prefills", kInt, "1", "", kScheduling, "", "", kNoop, "Prompts share a step's tokens, oldest first."},
    {"disable-async-output-proc", kBool, "false", "", kScheduling, "", "", kNoop, "There is no Python between two steps to hide."},
    {"waiting-served-ratio", kFloat, "", "", kScheduling, "", "WAITING_SERVED_RATIO", kNoop, "Prompts join the batch at every step."},
    {"max-waiting-tokens", kInt, "", "", kScheduling, "", "MAX_WAITING_TOKENS", kNoop, "Prompts join the batch at every step."},
};
// clang-format on

}  // namespace

std::span<const SettingRow> engine_rows() { return kRows; }

std::span<const SettingRow> setting_rows() {
  static const std::vector<SettingRow> kAll = [] {
    std::vector<SettingRow> all;
    for (const auto part : {engine_rows(), server_rows(), parallel_rows(), device_rows()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return kAll;
}

}  // namespace moesaic::base
