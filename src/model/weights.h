#pragma once

// From a spec to packed weights in memory: lay_out_weights() lists every packed item of one rank
// with the slices of checkpoint tensors it comes from and its place in one buffer; load_weights()
// fills the buffer from a checkpoint, from a prepared cache file, or with dummy values.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "backend/ops.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "model/shard.h"
#include "model/spec.h"

namespace moesaic::model {

/// Rows [row, row + rows) and columns [col, col + cols) of a checkpoint tensor of `tensor_rows` x
/// `tensor_cols`; of a vector, elements as rows.
struct Slice {
  std::string name;
  int64_t tensor_rows = 0, tensor_cols = 1;
  int64_t row = 0, rows = 0;
  int64_t col = 0, cols = 1;
  int64_t stacked_at = 0;   ///< where the tensor begins in the whole matrix that ranks share
  int64_t paired_rows = 0;  ///< rows of a head, where they are stored as rope's pairs
};

/// Slices that make one packed item. For a matrix, stacked over rows.
struct MatrixItem {
  backend::MatrixDesc desc;
  std::vector<Slice> slices;
};
struct ExpertsItem {
  backend::ExpertsDesc desc;          ///< of this rank's part
  std::vector<Slice> gate, up, down;  ///< [desc.experts]
  int64_t first_expert = 0;           ///< in the checkpoint
  int64_t tensor_experts = 0;         ///< there
  /// Other spellings, tried when the per-expert tensors are absent; empty = there is none such.
  /// Tensors of all experts: [E, 2 width, hidden] (gate rows first) and [E, hidden, width].
  std::string fused_gate_up, fused_down;
  /// And [E, width, hidden], the same, [E, hidden, width].
  std::string stacked_gate, stacked_up, stacked_down;
};
/// A vector kept as float32 (norm weights, biases); slices are concatenated.
struct VectorItem {
  std::vector<Slice> slices;
  float dummy = 1.0f;  ///< value with --load-format dummy: of a norm, or 0 for biases

  int64_t size() const;
};

/// Everything one layer needs; offsets are into the weights' buffer, -1 = absent.
template <typename Item>
struct Placed {
  Item item;
  int64_t offset = -1;
  bool present() const { return offset >= 0; }
};

/// A rank that holds no heads of a layer has neither qkv nor o, one without experts no experts.
struct LayerLayout {
  Placed<VectorItem> input_norm, post_attention_norm, q_norm, k_norm, qkv_bias, o_bias;
  Placed<MatrixItem> qkv, o;
  Placed<MatrixItem> v;  ///< where v has a format of its own: qkv ends before it
  bool moe = false;
  Placed<MatrixItem> router;       ///< float32
  Placed<ExpertsItem> experts;     ///< routed experts, or the dense FFN as one expert
  Placed<MatrixItem> shared_gate;  ///< [1, hidden] float32
  Placed<ExpertsItem> shared;
};

struct WeightLayout {
  Shard shard;
  tensor::WeightFormat format;  ///< of the layers' matrices that are not kept as they are stored
  Placed<MatrixItem> embed;
  Placed<MatrixItem> lm_head;  ///< absent when tied: embed serves both
  Placed<VectorItem> final_norm;
  std::vector<LayerLayout> layers;
  size_t bytes = 0;                                    ///< size of the buffer
  std::vector<std::string> ignored_suffixes;           ///< tensors that are known and not used
  std::unordered_set<std::string> elsewhere;           ///< tensors that other ranks hold alone
  std::shared_ptr<const QuantizationRules> stored_as;  ///< of quantised checkpoints; else null
};

/// The parts that weights are counted by.
enum class WeightPart : uint8_t {
  kAttention,  ///< norms and routers too
  kExperts,
  kShared,  ///< shared experts and dense feed-forward layers
  kEmbeddings,
};

/// Calls visit(placed, part, index) for every item that a layout has a place for, absent ones too,
/// in the order in which they lie in the buffer: embedding, layers, final norm, head. `index` is
/// the same on every rank. Layout is WeightLayout or const WeightLayout.
template <typename Layout, typename Visit>
void for_each_item(Layout& layout, const Visit& visit) {
  size_t index = 0;
  const auto give = [&](auto& placed, WeightPart part) { visit(placed, part, index++); };
  // What may be cut off an item has that one's index.
  const auto give_rest = [&](auto& placed, WeightPart part) { visit(placed, part, index - 1); };
  give(layout.embed, WeightPart::kEmbeddings);
  for (auto& layer : layout.layers) {
    give(layer.input_norm, WeightPart::kAttention);
    give(layer.qkv, WeightPart::kAttention);
    give_rest(layer.v, WeightPart::kAttention);
    give(layer.qkv_bias, WeightPart::kAttention);
    give(layer.q_norm, WeightPart::kAttention);
    give(layer.k_norm, WeightPart::kAttention);
    give(layer.o, WeightPart::kAttention);
    give(layer.o_bias, WeightPart::kAttention);
    give(layer.post_attention_norm, WeightPart::kAttention);
    give(layer.router, WeightPart::kAttention);
    give(layer.experts, layer.moe ? WeightPart::kExperts : WeightPart::kShared);
    give(layer.shared, WeightPart::kShared);
    give(layer.shared_gate, WeightPart::kShared);
  }
  give(layout.final_norm, WeightPart::kAttention);
  give(layout.lm_head, WeightPart::kEmbeddings);
}

/// Bytes of an item in a backend's layout.
size_t packed_bytes(const backend::Backend& backend, const MatrixItem& item);
size_t packed_bytes(const backend::Backend& backend, const ExpertsItem& item);
size_t packed_bytes(const backend::Backend& backend, const VectorItem& item);

/// Pure: the same spec, backend, format and shard give the same layout.
WeightLayout lay_out_weights(const ModelSpec& spec, const backend::Backend& backend,
                             const tensor::WeightFormat& format, const Shard& shard = {});

/// The names of the formats that a layout's matrices are held in, and the bytes of each, most
/// first.
std::vector<std::pair<std::string, uint64_t>> format_bytes(const WeightLayout& layout,
                                                           const backend::Backend& backend);

/// Bytes of a layout's buffer by part; they sum to `bytes`.
struct WeightParts {
  uint64_t attention = 0, experts = 0, shared = 0, embeddings = 0;
};
WeightParts weight_parts(const WeightLayout& layout);

/// Progress of loading: called often, from one thread at a time.
using LoadProgress = std::function<void(uint64_t bytes_done, uint64_t bytes_total)>;

struct LoadOptions {
  std::filesystem::path cache_folder;  ///< prepared cache; empty = none
  LoadProgress progress;
};

/// How the weights came to be, for the log.
enum class LoadSource { kCheckpoint, kPreparedCache, kDummy };

struct LoadedWeights {
  WeightLayout layout;
  backend::Buffer buffer;
  LoadSource source = LoadSource::kDummy;
  std::vector<std::string> ignored;  ///< checkpoint tensors that were not used, by rule

  /// Handles; of what is absent they are empty.
  backend::Matrix matrix(const Placed<MatrixItem>& placed) const;
  backend::Experts experts(const Placed<ExpertsItem>& placed) const;
  backend::Address vector(const Placed<VectorItem>& placed) const;
};

/// Packs on the threads of `pool`. Throws ModelFileError for a missing, misshapen or unexpected
/// tensor, naming it.
LoadedWeights load_weights(const WeightLayout& layout, backend::Backend& backend,
                           base::ThreadPool& pool, const checkpoint::Checkpoint& checkpoint,
                           const LoadOptions& options);
/// Every shard of a model gets its part of the same values.
LoadedWeights make_dummy_weights(const WeightLayout& layout, backend::Backend& backend,
                                 base::ThreadPool& pool, uint64_t seed, const LoadOptions& options);

}  // namespace moesaic::model
