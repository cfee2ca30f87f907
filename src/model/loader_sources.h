#pragma once

// Where the values of each item of a weight plan come from: every tensor of the checkpoint is
// matched with an item or with a rule that ignores it, before anything is packed.

#include <cstdint>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "checkpoint/checkpoint.h"
#include "model/weights.h"

namespace moesaic::model {

/// One present item of a plan; exactly one of the pointers is set. They point into the plan.
struct PlanItem {
  const MatrixItem* matrix = nullptr;
  const ExpertsItem* experts = nullptr;
  const VectorItem* vector = nullptr;
  int64_t offset = 0;
  size_t index = 0;  ///< of for_each_item
};

/// The present items in the order of for_each_item.
std::vector<PlanItem> list_items(const WeightPlan& plan);

/// An item and its values; the member that fits the item's kind is filled.
struct ItemSource {
  PlanItem item;
  backend::MatrixSource matrix;
  backend::ExpertsSource experts;
  std::vector<tensor::View> vector;  ///< slices, concatenated; none: dummy

  /// All views, to read ahead, drop or replace them.
  std::vector<tensor::View*> views();
};

struct ResolvedSources {
  std::vector<ItemSource> items;     ///< in the order of list_items
  std::vector<std::string> ignored;  ///< tensors not used, by rule
};

/// Matches plan and checkpoint. Throws ModelFileError, naming it, for a tensor that is missing, has
/// another shape than planned, is not F32, BF16 or F16, or is known to neither plan nor rules.
ResolvedSources resolve_sources(const WeightPlan& plan, const checkpoint::Checkpoint& checkpoint);

/// Dummy values for every item, from a seed.
std::vector<ItemSource> dummy_sources(const WeightPlan& plan, uint64_t seed);

}  // namespace moesaic::model
