#include "base/settings_table.h"

// What belongs to devices, media and layers that this program has none of.

namespace moesaic::base {
namespace {

using enum SettingType;
using enum SettingState;

constexpr std::string_view kGpu = "GPU runtime";
constexpr std::string_view kMedia = "Images, audio and video";
constexpr std::string_view kMamba = "Mamba layers";
constexpr std::string_view kTransfer = "Transfer between instances";
constexpr std::string_view kNeuron = "Neuron";

// clang-format off
constexpr SettingRow kRows[] = {
    // name, type, default, range, group, other flags, environment, state, help, works, later
    {"attention-backend", kString, "", "", kGpu, "", "VLLM_ATTENTION_BACKEND", kNoop, "Each backend has one attention."},
    {"compilation-config", kJson, "", "", kGpu, "-cc", "", kNoop, "Nothing is compiled at start."},
    {"max-seq-len-to-capture", kInt, "", "", kGpu, "", "", kNoop, "Means GPU graphs, which the CPU backend has none of."},
    {"moe-backend", kString, "auto", "aiter|aiter_mega_moe|aiter_triton_mxfp4_bf16|auto|b12x|batched_triton|cutlass|deep_gemm|deep_gemm_mega_moe|emulation|flashinfer_b12x|flashinfer_cutedsl|flashinfer_cutlass|flashinfer_moe_ep_cutedsl|flashinfer_moe_ep_mega_deep_gemm|flashinfer_trtllm|flydsl|hpc|humming|marlin|rdna3|triton|triton_unfused", kGpu, "", "", kNoop, "Each backend has one grouped expert kernel."},
    {"gdn-prefill-backend", kString, "", "flashinfer|triton|cutedsl|aiter_flydsl", kGpu, "", "", kNoop, "No supported family has such layers."},
    {"kda-prefill-backend", kString, "", "auto|triton|flashkda|flashinfer|fused", kGpu, "", "", kNoop, "No supported family has such layers."},
    {"kda-decode-backend", kString, "", "auto|native|flashinfer|triton", kGpu, "", "", kNoop, "No supported family has such layers."},
    {"disable-cascade-attn", kBool, "", "", kGpu, "", "", kNoop, "Each backend has one attention."},
    {"jit-monitor-mode", kString, "warn", "error|warn", kGpu, "", "", kNoop, "Nothing is compiled while serving."},
    {"jit-monitor-verbose", kBool, "false", "", kGpu, "", "", kNoop, "Nothing is compiled while serving."},
    {"cudagraph-capture-sizes", kStringList, "", "", kGpu, "", "", kNoop, "Means GPU graphs, which the CPU backend has none of."},
    {"max-cudagraph-capture-size", kInt, "", "", kGpu, "", "", kNoop, "Means GPU graphs, which the CPU backend has none of."},
    {"ir-op-priority", kJson, "", "", kGpu, "", "", kNoop, "Nothing is compiled at start."},
    {"enable-flashinfer-autotune", kBool, "", "", kGpu, "", "", kNoop, "Kernels are chosen by instruction set alone."},
    {"linear-backend", kString, "auto", "aiter|auto|b12x|conch|cutlass|deep_gemm|emulation|exllama|fbgemm|flashinfer_b12x|flashinfer_cudnn|flashinfer_cutedsl|flashinfer_cutlass|flashinfer_trtllm|humming|machete|marlin|torch|triton|xpu|xpu_woq", kGpu, "", "", kNoop, "Each backend has one matrix product."},
    {"sparse-indexer-topk-backend", kString, "auto", "aiter|auto|cooperative|deep_select|flashinfer|per_row|persistent|torch", kGpu, "", "", kNoop, "No supported family has sparse attention."},
    {"attention-config", kJson, "", "", kGpu, "-ac", "", kNoop, "Each backend has one attention."},
    {"kernel-config", kJson, "", "", kGpu, "", "", kNoop, "Kernels are chosen by instruction set alone."},
    {"additional-config", kString, "", "", kGpu, "", "", kNoop, "Settings of vLLM's platform plugins, which do not exist here."},
    {"optimization-level", kString, "2", "", kGpu, "-O", "", kNoop, "Nothing is compiled at start."},
    {"performance-mode", kString, "balanced", "balanced|interactivity|throughput", kGpu, "", "", kNoop, "One schedule serves both throughput and latency."},
    {"max-context-len-to-capture", kInt, "", "", kGpu, "", "", kNoop, "Means GPU graphs, which the CPU backend has none of."},
    {"cuda-graph-sizes", kStringList, "", "", kGpu, "", "CUDA_GRAPHS", kNoop, "Means GPU graphs, which the CPU backend has none of."},
    {"disable-custom-kernels", kBool, "false", "", kGpu, "", "DISABLE_CUSTOM_KERNELS", kNoop, "Each backend has one set of kernels."},

    {"trust-request-mm-kwargs", kBool, "false", "", kMedia, "", "", kNoop, "Only text is served."},
    {"allowed-local-media-path", kString, "", "", kMedia, "", "", kNoop, "Only text is served; no file is opened for a request."},
    {"allowed-media-domains", kStringList, "", "", kMedia, "", "", kNoop, "Only text is served; nothing is fetched for a request."},
    {"language-model-only", kBool, "false", "", kMedia, "", "", kNoop, "Only text is served."},
    {"limit-mm-per-prompt", kString, "", "", kMedia, "", "", kNoop, "Only text is served; requests with media are refused."},
    {"enable-mm-embeds", kBool, "false", "", kMedia, "", "", kLater, "Only text is served; media come later."},
    {"media-io-kwargs", kString, "", "", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-processor-kwargs", kString, "", "", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-processor-cache-gb", kFloat, "4", "", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-processor-cache-type", kString, "lru", "lru|shm", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-hasher-algorithm", kString, "blake3", "blake3|sha256|sha512", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-shm-cache-max-object-size-mb", kInt, "128", "", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-encoder-only", kBool, "false", "", kMedia, "", "", kLater, "Only text is served; media come later."},
    {"mm-encoder-tp-mode", kString, "weights", "data|weights", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-encoder-attn-backend", kString, "", "", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-encoder-attn-dtype", kString, "", "fp8", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-encoder-fp8-scale-path", kString, "", "", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-encoder-fp8-scale-save-path", kString, "", "", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-encoder-fp8-scale-save-margin", kFloat, "1.5", "", kMedia, "", "", kNoop, "Only text is served."},
    {"interleave-mm-strings", kBool, "false", "", kMedia, "", "", kNoop, "Only text is served."},
    {"skip-mm-profiling", kBool, "false", "", kMedia, "", "", kNoop, "Only text is served."},
    {"video-pruning-rate", kFloat, "", "", kMedia, "", "", kNoop, "Only text is served."},
    {"video-pruning-method", kString, "evs", "evs|vidcom2", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-tensor-ipc", kString, "direct_rpc", "direct_rpc|torch_shm", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-processor-device", kString, "auto", "auto|cpu", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-ipc-gpu-memory-gb", kFloat, "0", "", kMedia, "", "", kNoop, "Only text is served."},
    {"mm-device-do-normalize", kBool, "", "", kMedia, "", "", kNoop, "Only text is served."},
    {"disable-mm-preprocessor-cache", kBool, "false", "", kMedia, "", "", kNoop, "Only text is served."},
    {"enable-multimodal-encoder-data-parallel", kBool, "false", "", kMedia, "", "", kNoop, "Only text is served."},

    {"mamba-backend", kString, "", "", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"mamba-ssu-algorithm", kString, "", "auto|horizontal|simple|vertical", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"enable-mamba-cache-stochastic-rounding", kBool, "false", "", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"mamba-cache-philox-rounds", kInt, "0", "", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"mamba-cache-dtype", kString, "auto", "auto|bfloat16|float16|float32", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"mamba-ssm-cache-dtype", kString, "auto", "auto|bfloat16|float16|float32", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"mamba-block-size", kInt, "", "", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"mamba-cache-mode", kString, "none", "align|none", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"enable-mamba-shared-prefix-checkpoint", kBool, "false", "", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"replayssm-buffer-len", kInt, "16", "", kMamba, "", "", kNoop, "No supported family has Mamba layers."},
    {"use-replayssm", kBool, "false", "", kMamba, "", "", kNoop, "No supported family has Mamba layers."},

    {"kv-transfer-config", kJson, "", "", kTransfer, "", "", kLater, "Passing KV blocks between instances comes later."},
    {"kv-events-config", kJson, "", "", kTransfer, "", "", kLater, "Publishing KV cache events comes later."},
    {"ec-transfer-config", kJson, "", "", kTransfer, "", "", kLater, "Only text is served; media come later."},
    {"ec-manager-config", kJson, "", "", kTransfer, "", "", kNoop, "Only text is served."},
    {"weight-transfer-config", kJson, "", "", kTransfer, "", "", kLater, "Replacing weights while serving comes later."},

    {"override-neuron-config", kString, "", "", kNeuron, "", "", kNoop, "Settings of the Neuron compiler, which this backend has none of."},
    {"num-cores", kInt, "", "1..", kNeuron, "", "HF_NUM_CORES", kLater, "Ranks on NeuronCores come with that backend."},
    {"neuron-cores", kInt, "", "", kNeuron, "", "NEURON_RT_NUM_CORES", kNoop, "Means the NeuronCores a process sees; ranks are --tensor-parallel-size."},
    {"neuron-visible-cores", kString, "", "", kNeuron, "", "NEURON_RT_VISIBLE_CORES", kNoop, "Means the NeuronCores a process sees; ranks are --tensor-parallel-size."},
    {"neuron-cc-flags", kString, "", "", kNeuron, "", "NEURON_CC_FLAGS", kNoop, "Settings of the Neuron compiler, which this backend has none of."},
    {"neuron-compile-cache", kString, "", "", kNeuron, "", "NEURON_COMPILE_CACHE_URL,NEURON_COMPILED_ARTIFACTS", kNoop, "Nothing is compiled at start."},
    {"neuron-framework", kString, "", "", kNeuron, "", "VLLM_NEURON_FRAMEWORK", kNoop, "There is one implementation of each family."},
    {"auto-cast-type", kString, "", "", kNeuron, "", "HF_AUTO_CAST_TYPE", kNoop, "The type of the weights is --dtype."},
};
// clang-format on

}  // namespace

std::span<const SettingRow> device_rows() { return kRows; }

}  // namespace moesaic::base
