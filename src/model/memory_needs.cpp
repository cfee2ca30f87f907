#include "model/memory_needs.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "model/decoder.h"
#include "model/weights.h"

namespace moesaic::model {

namespace {

constexpr uint64_t kRuntimeBase = uint64_t{192} << 20;
/// What a driver takes of a device that is not the host: context, code of kernels, allocator slack.
constexpr uint64_t kDeviceRuntime = uint64_t{768} << 20;
constexpr uint64_t kLeastRequestBytes = uint64_t{64} << 20;
constexpr uint64_t kMostRequestBytes = uint64_t{4} << 30;
/// Token lists, sampler state and connection buffers of one running sequence.
constexpr uint64_t kRuntimePerSequence = uint64_t{64} << 10;

double gib(uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0); }

int64_t blocks_for(int64_t tokens, int64_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

std::string terms(const MemoryNeeds& needs, uint64_t budget) {
  return fmt::format(
      "weights {:.2f} GiB, activations {:.2f} GiB, requests {:.2f} GiB, runtime {:.2f} GiB, of "
      "{:.2f} GiB this instance may use",
      gib(needs.weights), gib(needs.activations), gib(needs.requests), gib(needs.runtime),
      gib(budget));
}

[[noreturn]] void fail_weights(const MemoryNeeds& needs, uint64_t budget,
                               const MemoryInputs& inputs) {
  throw base::UnavailableError(
      fmt::format("the model does not fit into memory: {}. Remedies, in this order: raise "
                  "--gpu-memory-utilization (now {:.2f}); lower --max-num-batched-tokens (now {}); "
                  "use a 16-bit "
                  "--dtype if it is float32; use a smaller model or a machine with more memory",
                  terms(needs, budget), inputs.utilization, inputs.max_rows));
}

[[noreturn]] void fail_kv(const MemoryNeeds& needs, uint64_t budget, const MemoryInputs& inputs,
                          int64_t blocks, int64_t needed, uint64_t block_bytes) {
  throw base::UnavailableError(fmt::format(
      "the KV cache cannot hold one sequence of --max-model-len {} tokens: that takes {} blocks or "
      "{:.2f} GiB, and there are {} blocks or {:.2f} GiB ({}). Remedies, in this order: lower "
      "--max-model-len to {} or less; raise --gpu-memory-utilization (now {:.2f}) or the fixed KV "
      "cache size if one is given; lower --max-num-batched-tokens (now {}); use a machine with "
      "more "
      "memory",
      inputs.max_model_len, needed, gib(static_cast<uint64_t>(needed) * block_bytes), blocks,
      gib(static_cast<uint64_t>(blocks) * block_bytes), terms(needs, budget),
      blocks * inputs.block_size, inputs.utilization, inputs.max_rows));
}

[[noreturn]] void fail_fixed_kv(const MemoryNeeds& needs, uint64_t budget, int64_t blocks,
                                int64_t left, uint64_t block_bytes) {
  throw base::UnavailableError(fmt::format(
      "the KV cache asked for does not fit: {} blocks or {:.2f} GiB, and {} blocks or {:.2f} GiB "
      "are left ({}). Remedies, in this order: ask for a smaller KV cache, or for none, to get "
      "what "
      "fits; raise --gpu-memory-utilization; lower --max-num-batched-tokens; use a machine with "
      "more memory",
      blocks, gib(static_cast<uint64_t>(blocks) * block_bytes), left,
      gib(static_cast<uint64_t>(left) * block_bytes), terms(needs, budget)));
}

/// Blocks that the sequences running at once can fill; more would never be touched.
int64_t useful_blocks(const MemoryInputs& inputs) {
  const int64_t one = blocks_for(inputs.max_model_len, inputs.block_size);
  return one * std::max<int64_t>(1, inputs.max_sequences);
}

}  // namespace

MemoryNeeds memory_needs(const ModelSpec& spec, std::span<const DeviceRank> ranks,
                         const MemoryInputs& inputs) {
  MOESAIC_ASSERT(inputs.block_size > 0 && inputs.max_rows > 0 && inputs.max_model_len > 0);
  MemoryNeeds needs;
  uint64_t block_bytes = 0;
  for (const auto& [backend, shard] : ranks) {
    const WeightLayout layout = lay_out_weights(spec, *backend, inputs.format, shard);
    needs.weights += layout.bytes;
    needs.activations += backend->activation_bytes(Decoder::shape(spec, layout, inputs.max_rows));
    block_bytes += KvCache::block_bytes(spec, shard, *backend, inputs.kv_dtype, inputs.block_size);
  }
  needs.apart = inputs.host_bytes > 0;
  needs.runtime = needs.apart ? kDeviceRuntime
                              : kRuntimeBase + kRuntimePerSequence *
                                                   static_cast<uint64_t>(inputs.max_sequences);
  const auto share = [&](uint64_t bytes) {
    return static_cast<uint64_t>(static_cast<double>(bytes) * inputs.utilization);
  };
  uint64_t budget = share(inputs.device_bytes);
  if (inputs.free_bytes > 0) budget = std::min(budget, inputs.free_bytes);
  const uint64_t host = needs.apart ? share(inputs.host_bytes) : budget;
  needs.requests = inputs.request_bytes > 0
                       ? inputs.request_bytes
                       : std::clamp(host / 16, kLeastRequestBytes, kMostRequestBytes);
  const uint64_t fixed = needs.total();
  if (fixed >= budget) fail_weights(needs, budget, inputs);

  const int64_t needed = blocks_for(inputs.max_model_len, inputs.block_size);
  const auto left = static_cast<int64_t>((budget - fixed) / block_bytes);
  int64_t blocks = std::min(left, useful_blocks(inputs));
  if (inputs.kv_bytes > 0) blocks = static_cast<int64_t>(inputs.kv_bytes / block_bytes);
  if (inputs.kv_blocks > 0) blocks = inputs.kv_blocks;
  if (blocks > left) fail_fixed_kv(needs, budget, blocks, left, block_bytes);
  if (blocks < needed) fail_kv(needs, budget, inputs, blocks, needed, block_bytes);
  needs.kv_blocks = blocks;
  needs.kv_tokens = blocks * inputs.block_size;
  needs.kv_cache = static_cast<uint64_t>(blocks) * block_bytes;
  return needs;
}

}  // namespace moesaic::model
