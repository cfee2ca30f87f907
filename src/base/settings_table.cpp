#include "base/settings_table.h"

#include <algorithm>
#include <iterator>
#include <vector>

// What the engine does: the model, its device and ranks, its memory and its steps.

namespace moesaic::base {
namespace {

using enum SettingType;
using enum SettingState;
using namespace setting_groups;

// clang-format off
constexpr SettingRow kRows[] = {
    // name, type, default, range, group, other flags, environment, state, help, works, later
    {"model", kString, "", "", kModel, "--model-id", "MODEL_ID", kActive, "Model folder in Hugging Face layout; the positional argument says the same and wins over MODEL_ID."},
    {"tokenizer", kString, "", "", kModel, "", "", kActive, "Folder with tokenizer.json; default is the model's."},
    {"skip-tokenizer-init", kBool, "false", "", kModel, "", "", kActive, "Do not load a tokenizer; prompts must be token ids."},
    {"served-model-name", kStringList, "", "", kModel, "", "", kActive, "Names the API answers to, comma-separated; the first is echoed. Default is the model's path."},
    {"dtype", kString, "auto", "auto|bfloat16|float16|half|float32|float", kModel, "", "DTYPE", kActive, "Type of the weights in memory; auto takes the checkpoint's."},
    {"load-format", kString, "auto", "", kModel, "", "", kActive, "dummy makes random weights of the config's shape; no weight files are needed.", "auto|safetensors|gguf|dummy", "Other checkpoint formats come later."},
    {"max-model-len", kInt, "", "-1..1G", kModel, "--max-total-tokens", "MAX_TOTAL_TOKENS,HF_SEQUENCE_LENGTH", kActive, "Longest prompt plus output in tokens; default is the config's, cut to what the KV cache holds when auto or -1."},
    {"seed", kInt, "0", "", kModel, "", "", kActive, "Seed of dummy weights and of requests that bring none."},
    {"generation-config", kString, "auto", "", kModel, "", "", kActive, "auto takes sampling defaults from generation_config.json; vllm ignores that file; else a folder to read it from."},
    {"override-generation-config", kJson, "", "", kModel, "", "", kActive, "JSON object that replaces single values of generation_config.json."},
    {"hf-overrides", kJson, "", "", kModel, "", "", kActive, "JSON object merged over config.json, for example a rope_scaling."},
    {"prepared-cache", kString, "auto", "", kModel, "", "MOESAIC_PREPARED_CACHE", kActive, "Folder for weights in this machine's layout, so that a warm start does not convert them again; auto is ~/.cache/moesaic, off disables it."},
    {"runner", kString, "auto", "auto|draft|generate|pooling", kModel, "", "", kActive, "What the model is run for.", "auto|generate", "Pooling and draft models come later."},
    {"convert", kString, "auto", "auto|classify|embed|none", kModel, "", "", kActive, "What the model is turned into.", "auto|none", "Embedding and classifying come later."},
    {"rope-scaling", kString, "", "", kModel, "", "ROPE_SCALING", kActive, "Scaling of the rotary positions: a JSON object, or linear or dynamic with --rope-factor."},
    {"rope-factor", kFloat, "", "1..", kModel, "", "ROPE_FACTOR", kActive, "Factor of --rope-scaling."},
    {"rope-theta", kFloat, "", "1..", kModel, "", "", kActive, "Base of the rotary frequencies; replaces the config's."},
    {"allow-long-max-model-len", kBool, "false", "", kModel, "", "VLLM_ALLOW_LONG_MAX_MODEL_LEN", kActive, "Let --max-model-len go past the model's positions, where its answers are not tested."},
    {"quantization", kString, "", "", kModel, "-q,--quantize", "QUANTIZE", kActive, "Makes matrices of 16 bits smaller at load: int8 (or eetq) and int4 in groups of 128 inputs, on a CPU; fp8 with a scale an output, on a card. Folders and files that are quantised need no flag; the name of what they are is taken.", "fp8|int8|eetq|int4|awq|awq_marlin|gptq|gptq_marlin|marlin|compressed-tensors|fbgemm_fp8|modelopt|modelopt_fp4|gguf", "Quantising at load to other formats comes later; folders that are quantised need no flag."},
    {"unpack-weights", kBool, "false", "", kModel, "", "MOESAIC_UNPACK_WEIGHTS", kActive, "Hold quantised weights in --dtype instead of as they are stored: more memory, and activations are not rounded to bytes."},
    {"max-input-tokens", kInt, "", "1..", kModel, "--max-input-length", "MAX_INPUT_TOKENS,MAX_INPUT_LENGTH", kActive, "Longest prompt in tokens; a longer one is 400. Default is what --max-model-len leaves."},
    {"task", kString, "", "auto|generate|embedding|embed|classify|score|reward|transcription", kModel, "", "", kActive, "What the model is run for.", "auto|generate", "Other tasks than generating come later."},

    {"backend", kString, "auto", "auto|cpu|reference|cuda|rocm|neuron|tpu|xpu|hpu|openvino", kCpu, "--device", "MOESAIC_BACKEND", kActive, "cuda is an NVIDIA card, of several the first of CUDA_VISIBLE_DEVICES; auto takes one where there is one, else the CPU. reference is plain loops, for checking.", "auto|cpu|reference|cuda", "Devices other than CPUs and NVIDIA cards come later."},
    {"enforce-eager", kBool, "false", "", kCpu, "", "", kActive, "Start the kernels of a decode step one by one instead of as a graph; a card's only."},
    {"threads", kInt, "0", "0..4096", kCpu, "", "MOESAIC_THREADS", kActive, "Compute threads; 0 is one per physical core this process may use."},
    {"cpu-isa", kString, "auto", "auto|baseline|avx2|avx512vnni|avx512|amx", kCpu, "", "MOESAIC_CPU_ISA", kActive, "Instruction set of the kernels; auto takes the best there is."},
    {"pin-threads", kBool, "true", "", kCpu, "", "", kActive, "Bind each compute thread to its core."},

    {"gpu-memory-utilization", kFloat, "0.9", "0.01..1", kMemory, "--device-memory-utilization,--memory-utilization,--cuda-memory-fraction", "CUDA_MEMORY_FRACTION", kActive, "Share of the card's memory (on the CPU, of the container's) that this instance may use; what others on the card have taken is not to be had."},
    {"kv-cache-memory-bytes", kInt, "", "1..", kMemory, "", "", kActive, "Size of the KV cache; wins over the share."},
    {"num-gpu-blocks-override", kInt, "", "1..", kMemory, "--num-kv-blocks", "", kActive, "Number of KV blocks; wins over both."},
    {"kv-cache-dtype", kString, "auto", "auto|bfloat16|float16|float32|fp8_e4m3fn|fp8|fp8_ds_mla|fp8_e4m3|fp8_e5m2|fp8_inc|fp8_per_token_head|int4_per_token_head|int8_per_token_head|nvfp4|nvfp4_4over6|nvfp4_ds_mla|turboquant_3bit_nc|turboquant_4bit_nc|turboquant_k3v4_nc|turboquant_k8v4|ultraquant_4bit", kMemory, "", "KV_CACHE_DTYPE", kActive, "Type of cached keys and values; auto is the model's.", "auto|bfloat16|float16|float32", "A KV cache of 8 or 4 bits comes later."},
    {"block-size", kInt, "16", "1..256", kMemory, "", "", kActive, "Tokens per KV block."},
    {"enable-prefix-caching", kBool, "true", "", kMemory, "", "PREFIX_CACHING", kActive, "Keep KV blocks of finished requests and reuse them for equal beginnings."},
    {"max-batch-total-tokens", kInt, "", "1..", kMemory, "", "MAX_BATCH_TOTAL_TOKENS", kActive, "Tokens that the KV cache holds, rounded up to blocks; --num-gpu-blocks-override wins."},

    {"max-num-batched-tokens", kInt, "2048", "1..1M", kScheduling, "--max-batch-prefill-tokens", "MAX_BATCH_PREFILL_TOKENS", kActive, "Tokens of one step; long prompts are cut into such chunks between decodes."},
    {"max-num-seqs", kInt, "256", "1..65536", kScheduling, "--max-batch-size", "MAX_BATCH_SIZE,HF_BATCH_SIZE", kActive, "Sequences that run at once."},
    {"scheduling-policy", kString, "fcfs", "fcfs|priority", kScheduling, "", "", kActive, "Order of waiting requests; priority reads the request's field of that name."},
    {"max-num-queued-reqs", kInt, "0", "0..", kScheduling, "", "", kActive, "Requests that may wait; more are answered 503 with Retry-After. 0 is no bound but that of --max-inflight-bytes."},
    {"max-concurrent-requests", kInt, "", "1..", kScheduling, "", "MAX_CONCURRENT_REQUESTS", kActive, "Requests that run or wait; more are answered 503 with Retry-After."},

    {"tensor-parallel-size", kInt, "1", "1..1024", kParallel, "-tp,--num-shard", "NUM_SHARD", kActive, "Ranks that share the model, each with cores of its own; on a machine with NUMA nodes, one per node."},
    {"enable-expert-parallel", kBool, "false", "", kParallel, "-ep", "", kActive, "Whole experts for each rank, instead of a slice of every one."},
};
// clang-format on

}  // namespace

std::span<const SettingRow> engine_rows() { return kRows; }

std::span<const SettingRow> setting_rows() {
  static const std::vector<SettingRow> kAll = [] {
    std::vector<SettingRow> all;
    for (const auto part : {engine_rows(), server_rows(), others_rows()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    const auto place = [](const SettingRow& row) {
      return std::find(std::begin(setting_groups::kAll), std::end(setting_groups::kAll), row.group);
    };
    std::stable_sort(all.begin(), all.end(),
                     [&](const SettingRow& a, const SettingRow& b) { return place(a) < place(b); });
    return all;
  }();
  return kAll;
}

}  // namespace moesaic::base
