#pragma once

// The one decoder: every family is this loop over the layers of a ModelSpec.

#include <cstdint>
#include <functional>
#include <memory>

#include "backend/communicator.h"
#include "backend/ops.h"
#include "model/spec.h"
#include "model/weights.h"

namespace moesaic::model {

using backend::StepBatch;

/// The KV cache of all layers of one rank: one buffer, layer after layer.
class KvCache {
 public:
  KvCache(const ModelSpec& spec, const Shard& shard, backend::Backend& backend, tensor::DType dtype,
          int64_t block_size, int64_t num_blocks);
  const backend::KvLayer& layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }
  int64_t block_size() const { return block_size_; }
  int64_t num_blocks() const { return num_blocks_; }
  /// Bytes of one block over all layers.
  static size_t block_bytes(const ModelSpec& spec, const Shard& shard,
                            const backend::Backend& backend, tensor::DType dtype,
                            int64_t block_size);

 private:
  backend::Buffer buffer_;
  std::vector<backend::KvLayer> layers_;
  int64_t block_size_;
  int64_t num_blocks_;
};

/// Called as logits are asked for, in chunks, so that prompt_logprobs of a long prompt stays within
/// the memory it takes: rows first .. first + count - 1 of StepBatch::logit_rows now follow one
/// another in the backend's ActivationKind::kLogits, until the next chunk is asked for.
using LogitsSink = std::function<void(const backend::StepView& step, int64_t first, int64_t count)>;

class Decoder {
 public:
  /// `max_rows` bounds StepBatch::rows(). `spec`, `weights`, `backend` and `ranks` outlive the
  /// decoder.
  Decoder(const ModelSpec& spec, const LoadedWeights& weights, backend::Backend& backend,
          backend::Communicator& ranks, int64_t max_rows);
  ~Decoder();

  /// Asks the backend for one step of at least one row, from begin_step to end_step, appending to
  /// `cache`; calls `sink` for the wanted logits. Returns the step's end.
  backend::Fence forward(const StepBatch& batch, const KvCache& cache, const LogitsSink& sink);

  /// What the backend makes room for: a model's shapes on one rank.
  static backend::ModelShape shape(const ModelSpec& spec, const WeightLayout& layout,
                                   int64_t max_rows);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::model
