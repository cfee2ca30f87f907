#pragma once

// Where the values of each item of a weight layout come from: every tensor of the checkpoint is
// matched with an item or with a rule that ignores it, before anything is packed.

#include <cstdint>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "checkpoint/checkpoint.h"
#include "model/stored_weights.h"
#include "model/weights.h"

namespace moesaic::model {

/// One present item of a layout; exactly one of the pointers is set. They point into the layout.
struct WeightItem {
  const MatrixItem* matrix = nullptr;
  const ExpertsItem* experts = nullptr;
  const VectorItem* vector = nullptr;
  int64_t offset = 0;
  size_t index = 0;  ///< of for_each_item
};

/// The present items in the order of for_each_item.
std::vector<WeightItem> list_items(const WeightLayout& layout);

/// An item and its values; the member that fits the item's kind is filled.
struct ItemSource {
  WeightItem item;
  backend::MatrixSource matrix;
  backend::ExpertsSource experts;
  std::vector<tensor::View> vector;  ///< slices, concatenated; none: dummy

  /// All views, to read ahead, drop or replace them.
  std::vector<tensor::View*> views();
};

struct ResolvedSources {
  std::vector<ItemSource> items;     ///< in the order of list_items
  std::vector<std::string> ignored;  ///< tensors not used, by rule
  std::vector<StoredCheck> checks;   ///< to be made before the items are packed
};

/// Matches layout and checkpoint. Throws ModelFileError, naming it, for a tensor that is missing,
/// has another shape than planned, is neither in floats nor stored as the layout's rules of
/// quantisation say, or is known to neither layout nor rules.
ResolvedSources resolve_sources(const WeightLayout& layout,
                                const checkpoint::Checkpoint& checkpoint);

/// Dummy values for every item, from a seed.
std::vector<ItemSource> dummy_sources(const WeightLayout& layout, uint64_t seed);

}  // namespace moesaic::model
