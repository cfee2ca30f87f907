#pragma once

// A model's weights as shapes, from the spec alone: what counts parameters and what the planner
// divides over devices. Names and packing are weight_layout.cpp's business.

#include <cstdint>
#include <vector>

#include "model/spec.h"

namespace moesaic::model {

enum class Part : uint8_t {
  kEmbedding,
  kAttention,
  kNorm,
  kRouter,
  kDenseFfn,
  kSharedExpert,
  kExpert,
  kEncoder,
};

/// How a tensor is divided when several devices hold one layer (tensor parallelism as in
/// https://arxiv.org/abs/1909.08053).
enum class Cut : uint8_t {
  kNone,     ///< every device holds all of it
  kHeads,    ///< by query head
  kKvHeads,  ///< by key-value head; repeated when there are more devices than heads
  kWidth,    ///< by the width of a feed-forward part
  kVocab,    ///< by vocabulary row
};

/// `copies` matrices of `rows` x `columns`; a vector has one column.
struct SpecTensor {
  Part part;
  Cut cut;
  int64_t rows = 0;
  int64_t columns = 1;
  int64_t copies = 1;   ///< routed experts of the layer; 1 for everything else
  int64_t units = 1;    ///< what `cut` deals out: heads, width or vocabulary rows
  bool linear = false;  ///< a projection, which quantisation formats cover
  int64_t elements() const { return rows * columns * copies; }
};

/// The tensors of one layer.
std::vector<SpecTensor> layer_tensors(const ModelSpec& spec, const LayerSpec& layer);
SpecTensor embedding_tensor(const ModelSpec& spec);
/// What stands before the layers: the embedding, and encoders as one tensor.
std::vector<SpecTensor> input_tensors(const ModelSpec& spec);
/// What stands after them: final norm and head (absent when tied).
std::vector<SpecTensor> output_tensors(const ModelSpec& spec);

}  // namespace moesaic::model
