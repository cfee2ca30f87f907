#pragma once

// From a spec to packed weights in memory: plan_weights() lists every packed item with the
// checkpoint tensors it comes from and its place in one region; load_weights() fills the region
// from a checkpoint, from a prepared cache file, or with dummy values.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "base/memory.h"
#include "checkpoint/checkpoint.h"
#include "model/spec.h"

namespace moesaic::model {

/// Checkpoint tensors that make one packed item. For a matrix: names stacked over rows. For
/// experts: either one name per expert, or one fused name.
struct MatrixItem {
  backend::MatrixDesc desc;
  std::vector<std::string> parts;
  std::vector<int64_t> part_rows;  ///< rows of each part; they sum to desc.n
};
struct ExpertsItem {
  backend::ExpertsDesc desc;
  std::vector<std::string> gate, up, down;  ///< [experts]
  /// Spelling of transformers 5 when re-saved fused: [E, 2 width, hidden] (gate rows first) and
  /// [E, hidden, width]; tried when the per-expert tensors are absent. Empty = no such spelling.
  std::string fused_gate_up, fused_down;
};
/// A vector kept as float32 (norm weights, biases); parts are concatenated.
struct VectorItem {
  std::vector<std::string> parts;
  std::vector<int64_t> part_sizes;
  float dummy = 1.0f;  ///< value with --load-format dummy: of a norm, or 0 for biases
};

/// Everything one layer needs; offsets are into the weights region, -1 = absent.
template <typename Item>
struct Placed {
  Item item;
  int64_t offset = -1;
  bool present() const { return offset >= 0; }
};

struct LayerPlan {
  Placed<VectorItem> input_norm, post_attention_norm, q_norm, k_norm, qkv_bias, o_bias;
  Placed<MatrixItem> qkv, o;
  Placed<MatrixItem> router;       ///< float32
  Placed<ExpertsItem> experts;     ///< routed experts, or the dense FFN as one expert
  Placed<MatrixItem> shared_gate;  ///< [1, hidden] float32
  Placed<ExpertsItem> shared;
};

struct WeightPlan {
  Placed<MatrixItem> embed;
  Placed<MatrixItem> lm_head;  ///< absent when tied: embed serves both
  Placed<VectorItem> final_norm;
  std::vector<LayerPlan> layers;
  size_t bytes = 0;                           ///< size of the region
  std::vector<std::string> ignored_suffixes;  ///< tensors that are known and not used
};

/// Pure: the same spec, backend and dtype give the same plan.
WeightPlan plan_weights(const ModelSpec& spec, const backend::Backend& backend,
                        tensor::DType dtype);

/// Bytes of a plan's region by part; they sum to `bytes`. Norms and routers count as attention, the
/// dense FFN as shared.
struct WeightParts {
  uint64_t attention = 0, experts = 0, shared = 0, embeddings = 0;
};
WeightParts weight_parts(const WeightPlan& plan, const ModelSpec& spec);

/// Progress of loading: called often, from one thread at a time.
using LoadProgress = std::function<void(uint64_t bytes_done, uint64_t bytes_total)>;

struct LoadOptions {
  std::filesystem::path cache_folder;  ///< prepared cache; empty = none
  LoadProgress progress;
};

/// How the weights came to be, for the log.
enum class LoadSource { kCheckpoint, kPreparedCache, kDummy };

struct LoadedWeights {
  WeightPlan plan;
  base::Region region;
  LoadSource source = LoadSource::kDummy;
  std::vector<std::string> ignored;  ///< checkpoint tensors that were not used, by rule

  backend::Matrix matrix(const Placed<MatrixItem>& placed) const;
  backend::Experts experts(const Placed<ExpertsItem>& placed) const;
  const float* vector(const Placed<VectorItem>& placed) const;  ///< null when absent
};

/// Throws ModelFileError for a missing, misshapen or unexpected tensor, naming it.
LoadedWeights load_weights(const WeightPlan& plan, backend::Backend& backend,
                           const checkpoint::Checkpoint& checkpoint, const LoadOptions& options);
LoadedWeights make_dummy_weights(const WeightPlan& plan, backend::Backend& backend, uint64_t seed,
                                 const LoadOptions& options);

}  // namespace moesaic::model
