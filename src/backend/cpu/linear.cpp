#include <algorithm>

#include "backend/cpu/layout.h"
#include "backend/cpu/products.h"
#include "backend/raw_address.h"

namespace moesaic::backend::cpu {
namespace {

constexpr int64_t kRowGroup = 16;
/// Rows of one task where rows are what is split: two of an AMX kernel's steps of 32.
constexpr int64_t kTaskRows = 64;
/// Rows rounded by one task.
constexpr int64_t kRoundRows = 16;
/// What of the activations may stay in a second level cache of 2 MiB, as processors with AMX have,
/// beside two panels of weights and the outputs.
constexpr int64_t kCachedRowBytes = int64_t{1} << 20;

/// How the tasks of a product share its rows and tiles.
struct RowSplit {
  int64_t rows = 0;        ///< of one part, a multiple of 32 but for a single part
  int64_t parts = 1;       ///< of the rows
  int64_t tile_parts = 1;  ///< of a panel's tiles

  RowSplit(bool tiles, int64_t all_rows, int64_t panels, int64_t threads,
           const ActivationLayout& layout)
      : rows(all_rows) {
    if (panels < 4 * threads) {
      // Few panels: split their rows, or else their tiles, so that every thread has something to
      // do.
      parts = ceil_div(all_rows, kTaskRows);
      rows = std::min(all_rows, kTaskRows);
      tile_parts = parts < threads ? 2 : 1;
    } else if (tiles) {
      // Tiles are loaded faster than the last level cache delivers.
      parts = ceil_div(all_rows / kRowGroup * layout.group, kCachedRowBytes);
      parts = std::max<int64_t>(1, parts);
      rows = parts == 1 ? all_rows : round_up(ceil_div(all_rows, parts), 2 * kRowGroup);
      parts = ceil_div(all_rows, rows);
    }
  }
};

}  // namespace

ActivationLayout activation_layout(const KernelTable& kernels, const ProductFormat& format,
                                   int64_t k) {
  int64_t blocks = ceil_div(k, kTileInputs);
  if (format.tiles(kernels)) {
    constexpr int64_t kTileBytes = kRowGroup * kTileInputs * 2;
    return {.group = blocks * kTileBytes, .row = kTileInputs * 2, .block = kTileBytes};
  }
  // Rows start an odd number of cache lines apart: at a multiple of 4 KiB all rows of a step would
  // fall into the same few sets of the first level cache.
  int64_t block = kTileInputs * (format.rounded ? 2 : 4);
  if (format.integers) {
    blocks = integer_units(*format.integers, k);
    block = activation_unit(format.integers->halves);
  }
  const int64_t lines = ceil_div(blocks * block, 64) | 1;
  return {.group = kRowGroup * lines * 64, .row = lines * 64, .block = block};
}

size_t activation_bytes(const ActivationLayout& layout, int64_t rows) {
  return static_cast<size_t>(ceil_div(rows, kRowGroup) * layout.group);
}

void Products::round_rows(const ProductFormat& format, const float* x, const int32_t* index,
                          int64_t rows, int64_t k, std::byte* out, const ActivationLayout& layout) {
  const auto round = [&](int64_t first, int64_t count) {
    if (format.integers) {
      kernels_.integers->round_rows(*format.integers, x, index, first, count, k,
                                    integer_units(*format.integers, k), out, layout);
    } else {
      kernels_.round_rows(x, index, first, count, k, out, layout);
    }
  };
  if (rows <= kRoundRows) {
    round(0, rows);
    return;
  }
  run(ceil_div(rows, kRoundRows), [&](int64_t task, int64_t) {
    const int64_t first = task * kRoundRows;
    round(first, std::min(kRoundRows, rows - first));
  });
}

void Products::multiply(const ProductFormat& format, const ProductFormat* then,
                        const Gemm& task) const {
  if (!format.integers) {
    kernels_.gemm(format.type, task);
    return;
  }
  const bool handed_on = then != nullptr && then->integers;
  kernels_.integers->gemm(*format.integers, handed_on ? &*then->integers : nullptr, task);
}

void Products::linear(const Matrix& w, const float* bias, const float* x, int64_t rows, float* y,
                      int64_t stride) {
  if (rows == 0) return;
  int64_t at_once = rows;
  const ProductFormat format(kernels_, w.desc.format);
  if (format.converts()) {
    // The scratch is planned for the experts and nearly always holds all rows of a projection too;
    // where it does not, fewer at a time do as well.
    const ActivationLayout layout = activation_layout(kernels_, format, w.desc.k);
    const auto fit = static_cast<int64_t>(scratch_.size()) / layout.group * kRowGroup;
    if (fit < std::min(rows, kTaskRows)) {
      reserve(activation_bytes(layout, std::min(rows, kTaskRows)));
    } else {
      at_once = std::min(rows, fit);
    }
    at_once = std::min(at_once, static_cast<int64_t>(scratch_.size()) / layout.group * kRowGroup);
  }
  for (int64_t row = 0; row < rows; row += at_once) {
    linear_rows(format, w, bias, x + row * w.desc.k, std::min(at_once, rows - row),
                y + row * stride, stride);
  }
}

void Products::linear_rows(const ProductFormat& format, const Matrix& w, const float* bias,
                           const float* x, int64_t rows, float* y, int64_t stride) {
  const PanelShape shape = matrix_shape(w.desc);
  const std::byte* weights = RawAddress::pointer(w.packed);
  Gemm base;
  base.k = w.desc.k;
  base.y_stride = stride;
  if (format.converts()) {
    base.x_layout = activation_layout(kernels_, format, w.desc.k);
    base.x = scratch_.data();
    round_rows(format, x, nullptr, rows, w.desc.k, scratch_.data(), base.x_layout);
  } else {
    const int64_t bytes = w.desc.k * 4;
    base.x_layout = {.group = kRowGroup * bytes, .row = bytes, .block = kTileInputs * 4};
    base.x = reinterpret_cast<const std::byte*>(x);
  }

  const RowSplit split(format.tiles(kernels_), rows, shape.panels, pool_.size(), base.x_layout);
  // A part of the rows meets all panels before the next part comes.
  run(split.parts * shape.panels * split.tile_parts, [&](int64_t task, int64_t next) {
    const int64_t panel_of_part = task % (shape.panels * split.tile_parts);
    const int64_t panel = panel_of_part / split.tile_parts;
    const int64_t row = task / (shape.panels * split.tile_parts) * split.rows;
    const int64_t tile = task % split.tile_parts * (kPanelTiles / split.tile_parts);
    const int64_t column = panel * kPanelOutputs;
    if (column + tile * kTileOutputs >= w.desc.n) return;
    Gemm gemm = base;
    gemm.weights = weights + panel * shape.panel_bytes();
    gemm.panels = 1;
    gemm.first_tile = tile;
    gemm.tiles = kPanelTiles / split.tile_parts;
    gemm.x = base.x + row / kRowGroup * base.x_layout.group;
    gemm.rows = std::min(split.rows, rows - row);
    if (next >= 0) {
      const int64_t then = next / split.tile_parts % shape.panels;
      if (then != panel) gemm.next = weights + then * shape.panel_bytes();
    }
    gemm.y = y + row * stride + column;
    gemm.n = w.desc.n - column;
    gemm.bias = bias == nullptr ? nullptr : bias + column;
    multiply(format, nullptr, gemm);
  });
}

}  // namespace moesaic::backend::cpu
