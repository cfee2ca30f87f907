#include "model/loader_sources.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <unordered_set>

#include "base/error.h"
#include "base/hash.h"

namespace moesaic::model {
namespace {

using base::ModelFileError;
using checkpoint::TensorEntry;
using tensor::DType;
using tensor::Shape;
using tensor::View;

constexpr size_t kNamesInMessage = 5;

void set(WeightItem& item, const MatrixItem& matrix) { item.matrix = &matrix; }
void set(WeightItem& item, const ExpertsItem& experts) { item.experts = &experts; }
void set(WeightItem& item, const VectorItem& vector) { item.vector = &vector; }

/// A tensor of the checkpoint, or a matrix of one.
struct Stored {
  View view;
  const tensor::WeightFormat* format = nullptr;
};

/// Matrix `index` of a tensor of matrices.
Stored matrix_of(const Stored& stored, int64_t index) {
  Stored matrix = stored;
  matrix.view.shape.erase(matrix.view.shape.begin());
  matrix.view.data += static_cast<size_t>(index) * matrix.view.bytes();
  return matrix;
}

/// What a slice takes of a matrix whose first row of the slice's tensor is `first_row`. Of what is
/// stored plain nothing else is looked at.
backend::SourcePart cut(const Stored& matrix, const Slice& slice, int64_t first_row = 0) {
  backend::SourcePart part;
  part.format = matrix.format;
  part.rows = slice.rows;
  part.paired_rows = slice.paired_rows;
  View& view = part.part.values;
  view = matrix.view;
  if (matrix.format != nullptr) {
    part.first_row = first_row + slice.row;
    part.first_col = slice.col;
    return part;
  }
  view.data = matrix.view.row(first_row + slice.row) +
              static_cast<size_t>(slice.col) * tensor::size_of(view.dtype);
  view.shape = {slice.rows, slice.cols};
  if (slice.cols < matrix.view.shape[1]) view.row_stride = matrix.view.shape[1];
  return part;
}

/// Dimensions of 1 before the others say nothing, and GGUF files leave them out.
Shape without_ones(Shape shape) {
  while (shape.size() > 1 && shape.front() == 1) shape.erase(shape.begin());
  return shape;
}

backend::SourcePart dummy_part(const Slice& slice, uint64_t seed) {
  backend::SourcePart part;
  part.rows = slice.rows;
  part.seed = seed;
  part.first_row = slice.stacked_at + slice.row;
  part.first_col = slice.col;
  return part;
}

class Resolver {
 public:
  Resolver(const WeightLayout& layout, const checkpoint::Checkpoint& checkpoint)
      : layout_(layout), checkpoint_(checkpoint), stored_(checkpoint, layout.stored_as.get()) {}

  ResolvedSources run() {
    ResolvedSources resolved;
    for (const WeightItem& item : list_items(layout_)) {
      ItemSource source;
      source.item = item;
      if (item.matrix != nullptr) matrix(*item.matrix, source);
      if (item.experts != nullptr) experts(*item.experts, source);
      if (item.vector != nullptr) vector(*item.vector, source);
      resolved.items.push_back(std::move(source));
    }
    resolved.ignored = account_for_rest();
    resolved.checks = std::move(checks_);
    return resolved;
  }

 private:
  void matrix(const MatrixItem& item, ItemSource& source) {
    for (const Slice& slice : item.slices) source.matrix.parts.push_back(part(slice));
  }

  void vector(const VectorItem& item, ItemSource& source) {
    for (const Slice& slice : item.slices) {
      const Stored stored = take(slice.name, {slice.tensor_rows});
      if (stored.format != nullptr) {
        throw ModelFileError(
            checkpoint_.find(slice.name)->file,
            fmt::format("is {}; a vector must be F32, BF16 or F16", stored.format->label),
            slice.name);
      }
      View view = stored.view;
      view.data += static_cast<size_t>(slice.row) * tensor::size_of(view.dtype);
      view.shape = {slice.rows};
      source.vector.push_back(view);
    }
  }

  void experts(const ExpertsItem& item, ItemSource& source) {
    const bool fused = !item.fused_gate_up.empty() &&
                       checkpoint_.find(item.gate.front().name) == nullptr &&
                       checkpoint_.find(item.fused_gate_up) != nullptr;
    if (fused) {
      fused_experts(item, source);
      return;
    }
    if (!item.stacked_gate.empty() && checkpoint_.find(item.gate.front().name) == nullptr) {
      stacked_experts(item, source);
      return;
    }
    for (size_t e = 0; e < item.gate.size(); ++e) {
      source.experts.gate.push_back(part(item.gate[e]));
      source.experts.up.push_back(part(item.up[e]));
      source.experts.down.push_back(part(item.down[e]));
    }
  }

  void stacked_experts(const ExpertsItem& item, ItemSource& source) {
    stacked(item, item.stacked_gate, item.gate, source.experts.gate);
    stacked(item, item.stacked_up, item.up, source.experts.up);
    stacked(item, item.stacked_down, item.down, source.experts.down);
  }

  void stacked(const ExpertsItem& item, const std::string& name, const std::vector<Slice>& slices,
               std::vector<backend::SourcePart>& parts) {
    const Slice& first = slices.front();
    const Stored all = take(name, {item.tensor_experts, first.tensor_rows, first.tensor_cols});
    for (size_t e = 0; e < slices.size(); ++e) {
      parts.push_back(cut(matrix_of(all, item.first_expert + static_cast<int64_t>(e)), slices[e]));
    }
  }

  void fused_experts(const ExpertsItem& item, ItemSource& source) {
    const int64_t count = item.tensor_experts;
    const int64_t width = item.gate.front().tensor_rows;
    const int64_t hidden = item.gate.front().tensor_cols;
    const Stored gate_up = take(item.fused_gate_up, {count, 2 * width, hidden});
    const Stored down = take(item.fused_down, {count, hidden, width});
    for (size_t e = 0; e < item.gate.size(); ++e) {
      const int64_t expert = item.first_expert + static_cast<int64_t>(e);
      const Stored both = matrix_of(gate_up, expert);
      source.experts.gate.push_back(cut(both, item.gate[e]));
      source.experts.up.push_back(cut(both, item.up[e], width));
      source.experts.down.push_back(cut(matrix_of(down, expert), item.down[e]));
    }
  }

  backend::SourcePart part(const Slice& slice) {
    if (auto stored = stored_.find(slice.name, slice.tensor_rows, slice.tensor_cols)) {
      return stored_part(*stored, slice);
    }
    return cut(take(slice.name, {slice.tensor_rows, slice.tensor_cols}), slice);
  }

  /// A slice of a quantised matrix, all of whose tensors count as used.
  backend::SourcePart stored_part(const StoredMatrix& stored, const Slice& slice) {
    used_.insert(stored.names.begin(), stored.names.end());
    checks_.insert(checks_.end(), stored.checks.begin(), stored.checks.end());
    return {.part = stored.part,
            .format = stored.format,
            .rows = slice.rows,
            .first_row = slice.row,
            .first_col = slice.col};
  }

  /// The tensor of that name, checked and marked as used.
  Stored take(const std::string& name, const Shape& shape) {
    const TensorEntry* entry = checkpoint_.find(name);
    if (entry == nullptr) refuse_missing(name);
    used_.insert(entry->name);
    const DType dtype = entry->view.dtype;
    if (entry->format == nullptr && dtype != DType::kF32 && dtype != DType::kBF16 &&
        dtype != DType::kF16) {
      throw ModelFileError(entry->file,
                           fmt::format("is {}, but weights are read as F32, BF16 or F16 only; use "
                                       "the model's unquantised version",
                                       tensor::to_string(dtype)),
                           name, entry->offset);
    }
    const Shape found = entry->shape();
    const bool gguf = checkpoint_.metadata() != nullptr;
    if (found != shape && !(gguf && without_ones(found) == without_ones(shape))) {
      throw ModelFileError(entry->file,
                           fmt::format("has shape [{}], but {} asks for [{}]",
                                       fmt::join(found, ", "), config(), fmt::join(shape, ", ")),
                           name, entry->offset);
    }
    Stored stored{entry->view, entry->format};
    stored.view.shape = shape;
    if (stored.format != nullptr) stored.view.shape.back() = entry->view.shape.back();
    return stored;
  }

  [[noreturn]] void refuse_missing(const std::string& name) const {
    throw ModelFileError(
        checkpoint_.path().string(),
        fmt::format("is missing from the checkpoint, though {} asks for it", config()), name);
  }

  /// Checks that every tensor is used or ignored by rule; returns the ignored.
  std::vector<std::string> account_for_rest() const {
    std::vector<std::string> ignored;
    std::vector<const TensorEntry*> unexpected;
    for (const TensorEntry& entry : checkpoint_.tensors()) {
      if (used_.contains(entry.name) || held_elsewhere(entry.name)) continue;
      if (ignored_by_rule(entry.name) || stored_.unneeded(entry)) {
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
    std::string problem =
        fmt::format("unexpected tensor: the architecture in {} has no place for it", config());
    if (unexpected.size() > 1) {
      problem += fmt::format(" (nor for {}{}; {} in all)", fmt::join(names, ", "),
                             unexpected.size() > kNamesInMessage ? ", ..." : "", unexpected.size());
    }
    throw ModelFileError(unexpected.front()->file, problem, unexpected.front()->name,
                         unexpected.front()->offset);
  }

  /// Other ranks hold it alone, or the matrix that it is stored for.
  bool held_elsewhere(const std::string& name) const {
    return layout_.elsewhere.contains(name) ||
           (!layout_.elsewhere.empty() && layout_.elsewhere.contains(stored_.weight_of(name)));
  }

  bool ignored_by_rule(std::string_view name) const {
    for (const std::string& suffix : layout_.ignored_suffixes) {
      if (name.ends_with(suffix)) return true;
    }
    return layer_index(name) >= static_cast<int64_t>(layout_.layers.size());
  }

  /// The N of a name that starts as layers' names do, "model.layers.N."; -1 for others. Layers
  /// beyond the last are heads that predict further tokens.
  int64_t layer_index(std::string_view name) const {
    if (layout_.layers.empty() || layout_.layers[0].input_norm.item.slices.empty()) return -1;
    const std::string& first = layout_.layers[0].input_norm.item.slices[0].name;
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

  /// What says which tensors there should be.
  const char* config() const {
    return checkpoint_.metadata() != nullptr ? "its metadata" : "config.json";
  }

  const WeightLayout& layout_;
  const checkpoint::Checkpoint& checkpoint_;
  StoredWeights stored_;
  std::unordered_set<std::string_view> used_;
  std::vector<StoredCheck> checks_;
};

}  // namespace

std::vector<WeightItem> list_items(const WeightLayout& layout) {
  std::vector<WeightItem> items;
  for_each_item(layout, [&](const auto& placed, WeightPart, size_t index) {
    if (!placed.present()) return;
    WeightItem item;
    set(item, placed.item);
    item.offset = placed.offset;
    item.index = index;
    items.push_back(item);
  });
  return items;
}

std::vector<View*> ItemSource::views() {
  std::vector<View*> all;
  for (auto* list : {&matrix.parts, &experts.gate, &experts.up, &experts.down}) {
    for (backend::SourcePart& part : *list) {
      for (View* view : part.part.views()) {
        if (view->data != nullptr) all.push_back(view);
      }
    }
  }
  for (View& view : vector) all.push_back(&view);
  return all;
}

ResolvedSources resolve_sources(const WeightLayout& layout,
                                const checkpoint::Checkpoint& checkpoint) {
  return Resolver(layout, checkpoint).run();
}

std::vector<ItemSource> dummy_sources(const WeightLayout& layout, uint64_t seed) {
  std::vector<ItemSource> sources;
  for (const WeightItem& item : list_items(layout)) {
    ItemSource source;
    source.item = item;
    const uint64_t item_seed = base::mix_bits(base::mix_bits(seed) + item.index);
    if (item.matrix != nullptr) {
      for (const Slice& slice : item.matrix->slices) {
        source.matrix.parts.push_back(dummy_part(slice, item_seed));
      }
    }
    if (item.experts != nullptr) {
      const ExpertsItem& experts = *item.experts;
      uint64_t expert_seed = item_seed + 3 * static_cast<uint64_t>(experts.first_expert);
      for (size_t e = 0; e < experts.gate.size(); ++e, expert_seed += 3) {
        source.experts.gate.push_back(dummy_part(experts.gate[e], expert_seed));
        source.experts.up.push_back(dummy_part(experts.up[e], expert_seed + 1));
        source.experts.down.push_back(dummy_part(experts.down[e], expert_seed + 2));
      }
    }
    sources.push_back(std::move(source));
  }
  return sources;
}

}  // namespace moesaic::model
