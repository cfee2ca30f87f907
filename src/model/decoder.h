#pragma once

// The one decoder: every family is this loop over the layers of a ModelSpec.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/ops.h"
#include "model/spec.h"
#include "model/weights.h"

namespace moesaic::model {

/// One forward pass, flat arrays only; the same batch is sent to every rank. Rows (tokens) of one
/// sequence are consecutive; S sequences, T rows.
struct StepBatch {
  std::vector<int32_t> token_ids;     ///< [T]
  std::vector<int32_t> positions;     ///< [T]
  std::vector<int64_t> slots;         ///< [T] block * block_size + offset for the row's K and V
  std::vector<int32_t> seq_starts;    ///< [S + 1]
  std::vector<int32_t> context_lens;  ///< [S] positions in the cache once this step has run
  std::vector<int32_t> block_tables;  ///< [S, max_blocks]
  int64_t max_blocks = 0;
  std::vector<int32_t> logit_rows;  ///< rows whose logits are wanted, ascending

  int64_t rows() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t sequences() const { return static_cast<int64_t>(context_lens.size()); }
};

/// The KV cache of all layers: one region, layer after layer.
class KvCache {
 public:
  KvCache(const ModelSpec& spec, const backend::Backend& backend, tensor::DType dtype,
          int64_t block_size, int64_t num_blocks);
  const backend::KvLayer& layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }
  int64_t block_size() const { return block_size_; }
  int64_t num_blocks() const { return num_blocks_; }
  /// Bytes of one block over all layers.
  static size_t block_bytes(const ModelSpec& spec, const backend::Backend& backend,
                            tensor::DType dtype, int64_t block_size);

 private:
  base::Region region_;
  std::vector<backend::KvLayer> layers_;
  int64_t block_size_;
  int64_t num_blocks_;
};

/// Receives logits in chunks, so that prompt_logprobs of a long prompt stays within the memory
/// plan: rows first .. first + count - 1 of StepBatch::logit_rows, float32 [count, vocab],
/// host-readable until the call returns, writable in place.
using LogitsSink = std::function<void(int64_t first, int64_t count, float* logits)>;

/// Rows routed to each expert of each MoE layer during one step: [moe_layers, max_experts].
struct ExpertCounts {
  int64_t layers = 0;
  int64_t experts = 0;
  std::vector<int32_t> counts;
};

class Decoder {
 public:
  /// `max_rows` bounds StepBatch::rows(). `spec`, `weights` and `backend` outlive the decoder.
  Decoder(const ModelSpec& spec, const LoadedWeights& weights, backend::Backend& backend,
          int64_t max_rows);
  ~Decoder();

  /// Runs one step, appending to `cache`; calls `sink` for the wanted logits; overwrites `counts`.
  void forward(const StepBatch& batch, KvCache& cache, const LogitsSink& sink,
               ExpertCounts& counts);

  /// Bytes of activations a decoder for `max_rows` allocates (backend scratch included).
  static size_t activation_bytes(const ModelSpec& spec, const backend::Backend& backend,
                                 tensor::DType dtype, int64_t max_rows);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::model
