#pragma once

// Bytes per device of a model divided over devices, term by term. The formulas are in
// docs/planning.md.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/spec.h"
#include "model/tensor_list.h"
#include "plan/formats.h"
#include "plan/hardware.h"

namespace moesaic::plan {

/// How a model lies on devices. A pipeline stage has tp x ep of them: attention, dense parts,
/// shared experts and the vocabulary are cut over all of these; the routed experts are dealt out
/// over ep groups, and each expert is cut tp ways inside its group.
struct Layout {
  int64_t tp = 1, ep = 1, pp = 1;
  int64_t stage_devices() const { return tp * ep; }
  int64_t devices() const { return tp * ep * pp; }
};

/// Bytes per device. Weights are those of the fullest pipeline stage.
struct MemoryTerms {
  uint64_t attention = 0;       ///< projections, norms and routers
  uint64_t experts = 0;         ///< routed experts
  uint64_t shared_experts = 0;  ///< shared experts and dense feed-forward layers
  uint64_t embeddings = 0;      ///< embedding and head
  uint64_t encoder = 0;         ///< encoders of images or sound
  uint64_t kv_cache = 0;
  uint64_t activations = 0;    ///< of one step
  uint64_t graphs = 0;         ///< captured graphs
  uint64_t communication = 0;  ///< buffers of the collectives
  uint64_t runtime = 0;        ///< driver context, libraries, workspaces
  uint64_t margin = 0;         ///< what the memory utilisation leaves free
  uint64_t weights() const { return attention + experts + shared_experts + embeddings + encoder; }
  uint64_t total() const {
    return weights() + kv_cache + activations + graphs + communication + runtime + margin;
  }
};

/// Why `layout` cannot be used for the model; empty when it can.
std::string check_layout(const model::ModelSpec& spec, const Layout& layout);

/// Width of an expert on one device: width / tp, rounded up to a multiple of the format's granule
/// where that does not divide it.
int64_t expert_share(int64_t width, const Layout& layout, const WeightFormat& format);
/// The tensor-parallel cut leaves expert widths as they are.
bool expert_widths_divide(const model::ModelSpec& spec, const Layout& layout,
                          const WeightFormat& format);

/// Bytes of `tensor` on one device, padding included. `experts` is how many copies of an expert's
/// matrices to count; none: those that the device holds.
double tensor_bytes(const model::SpecTensor& tensor, const Layout& layout,
                    const WeightFormat& format, std::optional<double> experts = std::nullopt);

/// The weight terms of the fullest stage; the other terms are left 0.
MemoryTerms weight_terms(const model::ModelSpec& spec, const Layout& layout,
                         const WeightFormat& format);
/// All weights on one device, in bytes: what a checkpoint takes.
uint64_t weight_bytes(const model::ModelSpec& spec, const WeightFormat& format);

/// Bytes that a token caches in a layer on one device. Key-value heads are repeated where a stage
/// has more devices than heads; a latent, and its indexer's key, is whole on every device.
double cached_bytes(const model::AttentionSpec& attention, const Layout& layout,
                    double kv_element_bytes);
/// Bytes of a recurrent layer's state of one sequence on one device; 0 for other layers.
double state_bytes(const model::AttentionSpec& attention, const Layout& layout);

/// Bytes that one sequence of `length` tokens keeps on one device, in the stage with the most.
/// Layers with a window hold at most that many tokens; recurrent ones a state of fixed size.
double sequence_bytes(const model::ModelSpec& spec, const Layout& layout, double kv_element_bytes,
                      double length);

/// The largest buffers alive together in a step of `rows` tokens, `sequences` of which want logits.
uint64_t activation_bytes(const model::ModelSpec& spec, const Layout& layout, int64_t rows,
                          int64_t sequences);

/// Layers of stage `stage`, as [first, last).
std::pair<size_t, size_t> stage_layers(size_t layers, const Layout& layout, int64_t stage);

}  // namespace moesaic::plan
