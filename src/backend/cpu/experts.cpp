#include <algorithm>
#include <cstring>

#include "backend/cpu/layout.h"
#include "backend/cpu/products.h"
#include "backend/raw_address.h"
#include "base/error.h"

namespace moesaic::backend::cpu {
namespace {

constexpr int64_t kRowGroup = 16;
/// Rows times experts per row up to which a call is as good as bound by memory; it then wants many
/// small tasks.
constexpr int64_t kFewSlots = 128;

int64_t slots_of(int64_t experts, int64_t top_k, int64_t rows) {
  // Every expert's slots start on a group of 16 rows, so that tiles never mix experts.
  const int64_t used = rows * top_k;
  return round_up(used + std::min(experts, used) * (kRowGroup - 1), kRowGroup);
}

}  // namespace

ExpertScratch::ExpertScratch(const KernelTable& kernels, const ExpertsDesc& desc, int64_t top_k,
                             int64_t rows)
    : gate_up(kernels, desc.format), down(kernels, desc.down()) {
  MOESAIC_ASSERT(gate_up.integers.has_value() == down.integers.has_value());
  const int64_t slots = slots_of(desc.experts, top_k, rows);
  auto place = [this](size_t size) {
    const size_t at = bytes;
    bytes += (size + 63) / 64 * 64;
    return at;
  };
  if (gate_up.converts()) {
    // Row-major kernels gather through an index; tiles must hold each expert's rows together.
    x_layout = activation_layout(kernels, gate_up, desc.hidden);
    x = place(activation_bytes(x_layout, gate_up.tiles(kernels) ? slots : rows));
  } else {
    x_layout = {
        .group = kRowGroup * desc.hidden * 4, .row = desc.hidden * 4, .block = kTileInputs * 4};
  }
  h_layout = activation_layout(kernels, down, desc.width);
  h = place(activation_bytes(h_layout, slots));
  index = place(static_cast<size_t>(slots) * sizeof(int32_t));
  scale = place(static_cast<size_t>(slots) * sizeof(float));
  offsets = place(static_cast<size_t>(desc.experts + 1) * sizeof(int32_t));
  order = place(static_cast<size_t>(2 * desc.experts) * sizeof(int32_t));
}

size_t Products::scratch_bytes(const ExpertsDesc& largest, int64_t top_k, int64_t max_rows) const {
  return ExpertScratch(kernels_, largest, top_k, max_rows).bytes;
}

namespace {

/// The lists of one call, in the scratch region.
struct Slots {
  int32_t* index;      ///< [slots] input row, or -1 between experts
  float* scale;        ///< [slots]
  int32_t* offsets;    ///< [experts + 1]
  int32_t* by_rows;    ///< [active] experts, most rows first
  int32_t* ascending;  ///< [active] experts

  Slots(const ExpertScratch& scratch, std::byte* base, int64_t experts)
      : index(reinterpret_cast<int32_t*>(base + scratch.index)),
        scale(reinterpret_cast<float*>(base + scratch.scale)),
        offsets(reinterpret_cast<int32_t*>(base + scratch.offsets)),
        by_rows(reinterpret_cast<int32_t*>(base + scratch.order)),
        ascending(by_rows + experts) {}
};

/// Sorts the routed rows by expert, rows ascending within each; counts[e] is left with the rows of
/// expert e. Returns the number of experts with rows.
int64_t assign(const Routing& routing, int64_t rows, int64_t experts, const Slots& slots,
               std::vector<int32_t>& counts) {
  counts.assign(static_cast<size_t>(experts), 0);
  const auto entries = static_cast<size_t>(rows * routing.top_k);
  for (size_t i = 0; i < entries; ++i) {
    const int32_t expert = routing.experts[i];
    MOESAIC_ASSERT(expert < experts);
    if (expert >= 0) ++counts[static_cast<size_t>(expert)];
  }
  int32_t offset = 0;
  int64_t active = 0;
  for (int64_t e = 0; e < experts; ++e) {
    slots.offsets[e] = offset;
    const int32_t count = counts[static_cast<size_t>(e)];
    if (count > 0)
      slots.by_rows[active] = slots.ascending[active] = static_cast<int32_t>(e), ++active;
    offset += static_cast<int32_t>(round_up(count, kRowGroup));
  }
  slots.offsets[experts] = offset;
  std::fill(slots.index, slots.index + offset, -1);
  std::vector<int32_t>& filled = counts;
  std::fill(filled.begin(), filled.end(), 0);
  for (size_t i = 0; i < entries; ++i) {
    const int32_t expert = routing.experts[i];
    if (expert < 0) continue;
    const int32_t slot = slots.offsets[expert] + filled[static_cast<size_t>(expert)]++;
    slots.index[slot] = static_cast<int32_t>(static_cast<int64_t>(i) / routing.top_k);
    slots.scale[slot] = routing.weights[i];
  }
  std::stable_sort(slots.by_rows, slots.by_rows + active, [&](int32_t a, int32_t b) {
    return counts[static_cast<size_t>(a)] > counts[static_cast<size_t>(b)];
  });
  return active;
}

}  // namespace

void Products::reserve(size_t bytes) {
  if (bytes <= scratch_.size()) return;
  scratch_ = base::Region();  // give back first: both at once were not planned
  scratch_ = base::Region(base::MemoryTag::kActivations, bytes);
}

void Products::experts(const Experts& w, const Routing& routing, const float* x, int64_t rows,
                       bool accumulate, float* y) {
  if (rows == 0) return;
  const ExpertScratch scratch(kernels_, w.desc, routing.top_k, rows);
  reserve(scratch.bytes);
  const Slots slots(scratch, scratch_.data(), w.desc.experts);
  active_ = assign(routing, rows, w.desc.experts, slots, counts_);

  const std::byte* inputs = reinterpret_cast<const std::byte*>(x);
  if (scratch.gate_up.converts()) {
    const bool gather = scratch.gate_up.tiles(kernels_);
    round_rows(scratch.gate_up, x, gather ? slots.index : nullptr,
               gather ? slots.offsets[w.desc.experts] : rows, w.desc.hidden,
               scratch_.data() + scratch.x, scratch.x_layout);
    inputs = scratch_.data() + scratch.x;
  }
  gate_up(w, scratch, inputs);
  down(w, scratch, rows, accumulate, y);
}

namespace {

/// Zeros in the units that the last block of down's weights has beyond the width.
void clear_rest(const ExpertScratch& scratch, int64_t width, int64_t slot, int64_t rows,
                std::byte* h) {
  const int64_t from = ceil_div(width, kUnitInputs);
  const int64_t units = integer_units(*scratch.down.integers, width);
  if (from == units) return;
  const ActivationLayout& layout = scratch.h_layout;
  for (int64_t row = slot; row < slot + rows; ++row) {
    std::memset(
        h + row / kRowGroup * layout.group + row % kRowGroup * layout.row + from * layout.block, 0,
        static_cast<size_t>((units - from) * layout.block));
  }
}

}  // namespace

void Products::gate_up(const Experts& w, const ExpertScratch& scratch, const std::byte* x) {
  const ExpertShape shape(w.desc);
  const Slots slots(scratch, scratch_.data(), w.desc.experts);
  const bool gathered = scratch.gate_up.tiles(kernels_);
  const int64_t panels = shape.gate_up.panels;
  auto panel_at = [&](int64_t task) {
    return RawAddress::pointer(w.packed) + slots.by_rows[task / panels] * shape.bytes() +
           task % panels * shape.gate_up.panel_bytes();
  };
  run(active_ * panels, [&](int64_t task, int64_t next) {
    const int32_t expert = slots.by_rows[task / panels];
    const int64_t panel = task % panels;
    const int64_t first = slots.offsets[expert];
    Gemm gemm;
    gemm.weights = panel_at(task);
    gemm.next = next >= 0 ? panel_at(next) : nullptr;
    gemm.panels = 1;
    gemm.k = w.desc.hidden;
    gemm.x_layout = scratch.x_layout;
    gemm.x = gathered ? x + first / kRowGroup * scratch.x_layout.group : x;
    gemm.x_index = gathered ? nullptr : slots.index + first;
    gemm.rows = counts_[static_cast<size_t>(expert)];
    gemm.epilogue = Epilogue::kSwiGlu;
    gemm.h_layout = scratch.h_layout;
    gemm.h = scratch_.data() + scratch.h + first / kRowGroup * scratch.h_layout.group +
             panel * scratch.h_layout.block;
    multiply(scratch.gate_up, &scratch.down, gemm);
    if (scratch.down.integers && panel == panels - 1) {
      clear_rest(scratch, w.desc.width, first, gemm.rows, scratch_.data() + scratch.h);
    }
  });
}

void Products::down(const Experts& w, const ExpertScratch& scratch, int64_t rows, bool accumulate,
                    float* y) {
  const ExpertShape shape(w.desc);
  const Slots slots(scratch, scratch_.data(), w.desc.experts);
  const int64_t hidden = w.desc.hidden;
  const int64_t all_panels = shape.down.panels;
  // A task reads all rows of h; more panels per task read them less often.
  const bool many = rows * active_ > kFewSlots && all_panels >= 16 * pool_.size();
  const int64_t panels = many ? 4 : 1;
  run(ceil_div(all_panels, panels), [&](int64_t task, int64_t next) {
    const int64_t panel = task * panels;
    const int64_t column = panel * kPanelOutputs;
    const int64_t columns = std::min(panels * kPanelOutputs, hidden - column);
    if (!accumulate) {
      for (int64_t row = 0; row < rows; ++row) {
        std::memset(y + row * hidden + column, 0, static_cast<size_t>(columns) * sizeof(float));
      }
    }
    auto weights_of = [&](int64_t i, int64_t first_panel) {
      return RawAddress::pointer(w.packed) + slots.ascending[i] * shape.bytes() +
             shape.gate_up.bytes() + first_panel * shape.down.panel_bytes();
    };
    for (int64_t i = 0; i < active_; ++i) {
      const int32_t expert = slots.ascending[i];
      const int64_t first = slots.offsets[expert];
      Gemm gemm;
      gemm.weights = weights_of(i, panel);
      if (i + 1 < active_) {
        gemm.next = weights_of(i + 1, panel);
      } else if (next >= 0) {
        gemm.next = weights_of(0, next * panels);
      }
      gemm.panels = std::min(panels, all_panels - panel);
      gemm.k = w.desc.width;
      gemm.x_layout = scratch.h_layout;
      gemm.x = scratch_.data() + scratch.h + first / kRowGroup * scratch.h_layout.group;
      gemm.rows = counts_[static_cast<size_t>(expert)];
      gemm.epilogue = Epilogue::kScatter;
      gemm.y = y + column;
      gemm.y_stride = hidden;
      gemm.n = columns;
      gemm.target = slots.index + first;
      gemm.scale = slots.scale + first;
      multiply(scratch.down, nullptr, gemm);
    }
  });
}

}  // namespace moesaic::backend::cpu
