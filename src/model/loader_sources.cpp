#include "model/loader_sources.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <unordered_set>

#include "base/error.h"

namespace moesaic::model {
namespace {

using base::ModelFileError;
using checkpoint::TensorEntry;
using tensor::DType;
using tensor::Shape;
using tensor::View;

constexpr size_t kNamesInMessage = 5;

void add(std::vector<PlanItem>& items, const Placed<MatrixItem>& placed) {
  if (placed.present()) items.push_back({.matrix = &placed.item, .offset = placed.offset});
}
void add(std::vector<PlanItem>& items, const Placed<ExpertsItem>& placed) {
  if (placed.present()) items.push_back({.experts = &placed.item, .offset = placed.offset});
}
void add(std::vector<PlanItem>& items, const Placed<VectorItem>& placed) {
  if (placed.present()) items.push_back({.vector = &placed.item, .offset = placed.offset});
}

/// Part `index` of `count` equal parts of a view along its first dimension, with the first
/// dimension dropped.
View slice(const View& view, int64_t index) {
  View part = view;
  part.shape.erase(part.shape.begin());
  part.data += static_cast<size_t>(index) * part.bytes();
  return part;
}

/// Rows [first, first + count) of a matrix.
View rows(const View& view, int64_t first, int64_t count) {
  View part = view;
  part.shape[0] = count;
  const size_t row_bytes = view.bytes() / static_cast<size_t>(std::max<int64_t>(view.shape[0], 1));
  part.data += static_cast<size_t>(first) * row_bytes;
  return part;
}

/// What a quantised checkpoint has in place of "x.weight"; empty when it has nothing of the kind.
std::string quantised_twin(const checkpoint::Checkpoint& checkpoint, const std::string& name) {
  static constexpr std::string_view kWeight = ".weight";
  if (!name.ends_with(kWeight)) return {};
  const std::string stem = name.substr(0, name.size() - kWeight.size());
  for (const char* suffix :
       {".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight.absmax"}) {
    if (checkpoint.find(stem + suffix) != nullptr) return stem + suffix;
  }
  return {};
}

class Resolver {
 public:
  Resolver(const WeightPlan& plan, const checkpoint::Checkpoint& checkpoint)
      : plan_(plan), checkpoint_(checkpoint) {}

  ResolvedSources run() {
    ResolvedSources resolved;
    for (const PlanItem& item : list_items(plan_)) {
      ItemSource source;
      source.item = item;
      if (item.matrix != nullptr) matrix(*item.matrix, source);
      if (item.experts != nullptr) experts(*item.experts, source);
      if (item.vector != nullptr) vector(*item.vector, source);
      resolved.items.push_back(std::move(source));
    }
    resolved.ignored = account_for_rest();
    return resolved;
  }

 private:
  void matrix(const MatrixItem& item, ItemSource& source) {
    for (size_t i = 0; i < item.parts.size(); ++i) {
      source.matrix.parts.push_back(take(item.parts[i], {item.part_rows[i], item.desc.k}));
    }
  }

  void vector(const VectorItem& item, ItemSource& source) {
    for (size_t i = 0; i < item.parts.size(); ++i) {
      source.vector.push_back(take(item.parts[i], {item.part_sizes[i]}));
    }
  }

  void experts(const ExpertsItem& item, ItemSource& source) {
    const auto& [count, hidden, width, dtype] = item.desc;
    const bool fused = !item.fused_gate_up.empty() &&
                       checkpoint_.find(item.gate.front()) == nullptr &&
                       checkpoint_.find(item.fused_gate_up) != nullptr;
    if (fused) {
      const View gate_up = take(item.fused_gate_up, {count, 2 * width, hidden});
      const View down = take(item.fused_down, {count, hidden, width});
      for (int64_t e = 0; e < count; ++e) {
        const View both = slice(gate_up, e);
        source.experts.gate.push_back(rows(both, 0, width));
        source.experts.up.push_back(rows(both, width, width));
        source.experts.down.push_back(slice(down, e));
      }
      return;
    }
    for (size_t e = 0; e < static_cast<size_t>(count); ++e) {
      source.experts.gate.push_back(take(item.gate[e], {width, hidden}));
      source.experts.up.push_back(take(item.up[e], {width, hidden}));
      source.experts.down.push_back(take(item.down[e], {hidden, width}));
    }
  }

  /// The tensor of that name, checked and marked as used.
  View take(const std::string& name, const Shape& shape) {
    const TensorEntry* entry = checkpoint_.find(name);
    if (entry == nullptr) refuse_missing(name);
    used_.insert(entry->name);
    const DType dtype = entry->view.dtype;
    if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16) {
      throw ModelFileError(entry->file,
                           fmt::format("is {}, but weights are read as F32, BF16 or F16 only; use "
                                       "the model's unquantised version",
                                       tensor::to_string(dtype)),
                           name, entry->offset);
    }
    if (entry->view.shape != shape) {
      throw ModelFileError(entry->file,
                           fmt::format("has shape [{}], but config.json asks for [{}]",
                                       fmt::join(entry->view.shape, ", "), fmt::join(shape, ", ")),
                           name, entry->offset);
    }
    return entry->view;
  }

  [[noreturn]] void refuse_missing(const std::string& name) const {
    const std::string twin = quantised_twin(checkpoint_, name);
    throw ModelFileError(
        checkpoint_.folder().string(),
        twin.empty() ? "is missing from the checkpoint, though config.json asks for it"
                     : fmt::format("is missing; there is '{}' instead, of a quantised checkpoint, "
                                   "which is not read yet: use the model's unquantised version",
                                   twin),
        name);
  }

  /// Checks that every tensor is used or ignored by rule; returns the ignored.
  std::vector<std::string> account_for_rest() const {
    std::vector<std::string> ignored;
    std::vector<const TensorEntry*> unexpected;
    for (const TensorEntry& entry : checkpoint_.tensors()) {
      if (used_.contains(entry.name)) continue;
      if (ignored_by_rule(entry.name)) {
        ignored.push_back(entry.name);
      } else {
        unexpected.push_back(&entry);
      }
    }
    if (unexpected.empty()) return ignored;
    std::vector<std::string_view> names;
    for (size_t i = 1; i < std::min(unexpected.size(), kNamesInMessage); ++i) {
      names.push_back(unexpected[i]->name);
    }
    std::string problem = "unexpected tensor: the architecture in config.json has no place for it";
    if (unexpected.size() > 1) {
      problem += fmt::format(" (nor for {}{}; {} in all)", fmt::join(names, ", "),
                             unexpected.size() > kNamesInMessage ? ", ..." : "", unexpected.size());
    }
    throw ModelFileError(unexpected.front()->file, problem, unexpected.front()->name,
                         unexpected.front()->offset);
  }

  bool ignored_by_rule(std::string_view name) const {
    for (const std::string& suffix : plan_.ignored_suffixes) {
      if (name.ends_with(suffix)) return true;
    }
    return layer_index(name) >= static_cast<int64_t>(plan_.layers.size());
  }

  /// The N of a name that starts as layers' names do, "model.layers.N."; -1 for others. Layers
  /// beyond the last are heads that predict further tokens.
  int64_t layer_index(std::string_view name) const {
    if (plan_.layers.empty() || plan_.layers[0].input_norm.item.parts.empty()) return -1;
    const std::string& first = plan_.layers[0].input_norm.item.parts[0];
    const size_t digit = first.find(".0.");
    if (digit == std::string::npos || name.substr(0, digit + 1) != first.substr(0, digit + 1)) {
      return -1;
    }
    int64_t index = -1;
    const auto [end, error] =
        std::from_chars(name.data() + digit + 1, name.data() + name.size(), index);
    const bool whole = error == std::errc() && end != name.data() + name.size() && *end == '.';
    return whole ? index : -1;
  }

  const WeightPlan& plan_;
  const checkpoint::Checkpoint& checkpoint_;
  std::unordered_set<std::string_view> used_;
};

}  // namespace

std::vector<PlanItem> list_items(const WeightPlan& plan) {
  std::vector<PlanItem> items;
  add(items, plan.embed);
  for (const LayerPlan& layer : plan.layers) {
    for (const auto* vector : {&layer.input_norm, &layer.post_attention_norm, &layer.q_norm,
                               &layer.k_norm, &layer.qkv_bias, &layer.o_bias}) {
      add(items, *vector);
    }
    for (const auto* matrix : {&layer.qkv, &layer.o, &layer.router}) add(items, *matrix);
    add(items, layer.experts);
    add(items, layer.shared_gate);
    add(items, layer.shared);
  }
  add(items, plan.final_norm);
  add(items, plan.lm_head);
  return items;
}

std::vector<View*> ItemSource::views() {
  std::vector<View*> all;
  for (auto* list : {&matrix.parts, &experts.gate, &experts.up, &experts.down, &vector}) {
    for (View& view : *list) all.push_back(&view);
  }
  return all;
}

const std::string& ItemSource::name() const {
  if (item.matrix != nullptr) return item.matrix->parts.front();
  if (item.experts != nullptr) return item.experts->gate.front();
  return item.vector->parts.front();
}

ResolvedSources resolve_sources(const WeightPlan& plan, const checkpoint::Checkpoint& checkpoint) {
  return Resolver(plan, checkpoint).run();
}

}  // namespace moesaic::model
