#pragma once

// The one memory function: `serve` sizes the KV pool with it and `plan` prints it.

#include <cstdint>
#include <span>
#include <string>

#include "backend/ops.h"
#include "model/shard.h"
#include "model/spec.h"

namespace moesaic::model {

/// What a configuration needs, per device, in bytes.
struct MemoryNeeds {
  uint64_t weights = 0;
  uint64_t kv_cache = 0;
  uint64_t activations = 0;  ///< of one step, logits and backend scratch included
  uint64_t requests = 0;     ///< requests and answers in flight (--max-inflight-bytes)
  uint64_t runtime = 0;      ///< tokenizer, connections, sampler, allocator slack
  bool apart = false;        ///< requests are in the host's memory, and the device is another
  uint64_t total() const {
    return weights + kv_cache + activations + (apart ? 0 : requests) + runtime;
  }
  int64_t kv_blocks = 0;
  int64_t kv_tokens = 0;
};

struct MemoryInputs {
  tensor::WeightFormat format;
  tensor::DType kv_dtype = tensor::DType::kBF16;
  int64_t block_size = 16;
  int64_t max_rows = 2048;      ///< --max-num-batched-tokens
  int64_t max_sequences = 256;  ///< --max-num-seqs
  int64_t max_model_len = 0;
  uint64_t device_bytes = 0;   ///< memory of the device (host memory limit on CPU)
  uint64_t host_bytes = 0;     ///< memory of the host, where that is not the device's; else 0
  uint64_t free_bytes = 0;     ///< what others leave of the device's; 0 = not known
  double utilization = 0.9;    ///< share of the memory this instance may use
  uint64_t request_bytes = 0;  ///< fixed MemoryNeeds::requests; 0 = a sixteenth, within bounds
  uint64_t kv_bytes = 0;       ///< fixed KV size; 0 = what is left, at most what can be used
  int64_t kv_blocks = 0;       ///< fixed block count; wins over kv_bytes
};

/// A rank whose memory is the device's that is planned.
struct DeviceRank {
  const backend::Backend* backend = nullptr;
  Shard shard;
};

/// The terms are those of all ranks together, on one device: on the CPU all ranks of a model share
/// the host's memory. Each has the same number of blocks.
///
/// Throws UnavailableError, naming each term and the remedies in order, when the weights do not fit
/// or the KV cache left cannot hold one sequence of max_model_len.
MemoryNeeds memory_needs(const ModelSpec& spec, std::span<const DeviceRank> ranks,
                         const MemoryInputs& inputs);
/// Of one rank alone.
inline MemoryNeeds memory_needs(const ModelSpec& spec, const backend::Backend& backend,
                                const MemoryInputs& inputs) {
  const DeviceRank solo{&backend, {}};
  return memory_needs(spec, std::span(&solo, 1), inputs);
}

}  // namespace moesaic::model
