#include "backend/cpu/layout.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "backend/dummy_inl.h"
#include "base/error.h"

namespace moesaic::backend::cpu {
namespace {

/// Where the four tiles of a block and their rows (inputs, in bf16 pairs) lie, in bytes.
struct BlockLayout {
  WeightType type;
  int64_t row_step;
  int64_t tile_step;

  BlockLayout(const KernelTable& kernels, WeightType weight) : type(weight) {
    const int64_t tile_row = kTileOutputs * (type == WeightType::kF16 ? 2 : 4);
    const bool tiles = type == WeightType::kBF16 && kernels.row_tiles;
    row_step = tiles ? tile_row : kPanelTiles * tile_row;
    tile_step = tiles ? kTileInputs / 2 * tile_row : tile_row;
  }
  int64_t rows() const { return type == WeightType::kBF16 ? kTileInputs / 2 : kTileInputs; }
  /// Position of (output, input) from its tile's first element on, in elements.
  int64_t element(int64_t output, int64_t input) const {
    if (type == WeightType::kF32) return input * row_step / 4 + output;
    if (type == WeightType::kF16) return input * row_step / 2 + output;
    return input / 2 * row_step / 2 + output * 2 + input % 2;
  }
};

/// Sixteen rows of one tile, as far as they exist.
struct TileRows {
  std::array<const std::byte*, kTileOutputs> rows{};  ///< null: a row of zeros
  std::array<DType, kTileOutputs> dtypes{};

  bool all_exist() const {
    return std::none_of(rows.begin(), rows.end(), [](auto* row) { return row == nullptr; });
  }
  bool all_are(DType dtype) const {
    for (size_t o = 0; o < rows.size(); ++o) {
      if (rows[o] != nullptr && dtypes[o] != dtype) return false;
    }
    return true;
  }
};

/// Same bits, reordered: rows of T to [row of the block][output].
template <typename T>
void copy_tile(const BlockLayout& layout, const TileRows& from, int64_t first_row, int64_t rows,
               std::byte* out) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  for (int64_t o = 0; o < kTileOutputs; ++o) {
    const std::byte* row = from.rows[static_cast<size_t>(o)];
    if (row == nullptr) continue;
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(out + i * layout.row_step + o * kSize, row + (first_row + i) * kSize, sizeof(T));
    }
  }
}

void clear_tile(const BlockLayout& layout, std::byte* out) {
  const auto bytes = static_cast<size_t>(kTileOutputs * (layout.type == WeightType::kF16 ? 2 : 4));
  for (int64_t row = 0; row < layout.rows(); ++row) {
    std::memset(out + row * layout.row_step, 0, bytes);
  }
}

void pack_tile(const BlockLayout& layout, DType to, const TileRows& from, int64_t first_input,
               int64_t inputs, std::byte* out) {
  if (inputs < kTileInputs || !from.all_exist()) clear_tile(layout, out);
  const bool same = from.all_are(to);
  if (same && layout.type == WeightType::kBF16 && inputs % 2 == 0) {
    copy_tile<std::array<uint16_t, 2>>(layout, from, first_input / 2, inputs / 2, out);
    return;
  }
  if (same && layout.type == WeightType::kF16) {
    copy_tile<uint16_t>(layout, from, first_input, inputs, out);
    return;
  }
  if (same && layout.type == WeightType::kF32) {
    copy_tile<float>(layout, from, first_input, inputs, out);
    return;
  }
  for (int64_t o = 0; o < kTileOutputs; ++o) {
    const std::byte* row = from.rows[static_cast<size_t>(o)];
    if (row == nullptr) continue;
    for (int64_t i = 0; i < inputs; ++i) {
      tensor::store_float(
          to, out, layout.element(o, i),
          tensor::load_float(from.dtypes[static_cast<size_t>(o)], row, first_input + i));
    }
  }
}

/// Sixteen consecutive rows of a matrix given in parts, from `first` on.
TileRows rows_of(const std::vector<tensor::View>& parts, int64_t first, int64_t k) {
  TileRows tile;
  int64_t begin = 0;
  for (const tensor::View& part : parts) {
    const int64_t count = part.shape.front();
    for (int64_t o = 0; o < kTileOutputs; ++o) {
      const int64_t row = first + o - begin;
      if (row < 0 || row >= count) continue;
      tile.rows[static_cast<size_t>(o)] =
          part.data + row * k * static_cast<int64_t>(tensor::size_of(part.dtype));
      tile.dtypes[static_cast<size_t>(o)] = part.dtype;
    }
    begin += count;
  }
  return tile;
}

struct DummyRows {
  std::array<uint32_t, kTileOutputs> keys{};
  int64_t outputs = 0;
};

DummyRows dummy_rows(uint64_t seed, int64_t first, int64_t n) {
  DummyRows rows;
  rows.outputs = std::clamp<int64_t>(n - first, 0, kTileOutputs);
  for (int64_t o = 0; o < rows.outputs; ++o) {
    rows.keys[static_cast<size_t>(o)] = dummy_row_key(seed, first + o);
  }
  return rows;
}

/// Writes one panel, tile by tile: tile(t, first_input, inputs, out).
template <typename Tile>
void pack_panel(const BlockLayout& layout, const PanelShape& shape, int64_t panel, int64_t k,
                std::byte* destination, const Tile& tile) {
  std::byte* out = destination + panel * shape.panel_bytes();
  for (int64_t block = 0; block < shape.blocks; ++block, out += shape.block_bytes) {
    const int64_t first_input = block * kTileInputs;
    const int64_t inputs = std::min(kTileInputs, k - first_input);
    for (int64_t t = 0; t < kPanelTiles; ++t) {
      tile(t, first_input, inputs, out + t * layout.tile_step);
    }
  }
}

void pack_dummy_panel(const KernelTable& kernels, const BlockLayout& layout,
                      const PanelShape& shape, int64_t panel, int64_t k, std::byte* destination,
                      const std::array<DummyRows, kPanelTiles>& rows) {
  pack_panel(layout, shape, panel, k, destination,
             [&](int64_t t, int64_t first_input, int64_t inputs, std::byte* out) {
               const DummyRows& tile = rows[static_cast<size_t>(t)];
               kernels.dummy_tile(layout.type, tile.keys.data(), tile.outputs, first_input, inputs,
                                  layout.row_step, out);
             });
}

void pack_view_panel(const BlockLayout& layout, DType dtype, const PanelShape& shape, int64_t panel,
                     int64_t k, std::byte* destination,
                     const std::array<TileRows, kPanelTiles>& rows) {
  pack_panel(layout, shape, panel, k, destination,
             [&](int64_t t, int64_t first_input, int64_t inputs, std::byte* out) {
               pack_tile(layout, dtype, rows[static_cast<size_t>(t)], first_input, inputs, out);
             });
}

}  // namespace

WeightType weight_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return WeightType::kF32;
    case DType::kBF16:
      return WeightType::kBF16;
    case DType::kF16:
      return WeightType::kF16;
    default:
      break;
  }
  base::assertion_failed("weights are f32, bf16 or f16", __FILE__, __LINE__);
}

PanelShape::PanelShape(int64_t outputs, int64_t outputs_per_panel, int64_t k, DType dtype)
    : panels(ceil_div(outputs, outputs_per_panel)),
      blocks(ceil_div(k, kTileInputs)),
      block_bytes(kPanelOutputs * kTileInputs * static_cast<int64_t>(tensor::size_of(dtype))) {}

PanelShape matrix_shape(const MatrixDesc& desc) {
  return {desc.n, kPanelOutputs, desc.k, desc.dtype};
}

ExpertShape::ExpertShape(const ExpertsDesc& desc)
    : gate_up(desc.width, kGatedOutputs, desc.hidden, desc.dtype),
      down(desc.hidden, kPanelOutputs, desc.width, desc.dtype) {}

void pack_matrix(const KernelTable& kernels, const MatrixDesc& desc, const MatrixSource& source,
                 int64_t unit, std::byte* destination) {
  const PanelShape shape = matrix_shape(desc);
  const BlockLayout layout(kernels, weight_type(desc.dtype));
  const int64_t first = unit * kPanelOutputs;
  if (source.dummy) {
    std::array<DummyRows, kPanelTiles> rows;
    for (int64_t t = 0; t < kPanelTiles; ++t) {
      rows[static_cast<size_t>(t)] = dummy_rows(source.seed, first + t * kTileOutputs, desc.n);
    }
    pack_dummy_panel(kernels, layout, shape, unit, desc.k, destination, rows);
    return;
  }
  std::array<TileRows, kPanelTiles> rows;
  for (int64_t t = 0; t < kPanelTiles; ++t) {
    rows[static_cast<size_t>(t)] = rows_of(source.parts, first + t * kTileOutputs, desc.k);
  }
  pack_view_panel(layout, desc.dtype, shape, unit, desc.k, destination, rows);
}

void pack_experts(const KernelTable& kernels, const ExpertsDesc& desc, const ExpertsSource& source,
                  int64_t unit, std::byte* destination) {
  const ExpertShape shape(desc);
  const BlockLayout layout(kernels, weight_type(desc.dtype));
  const int64_t expert = unit / shape.units();
  int64_t panel = unit % shape.units();
  const bool gated = panel < shape.gate_up.panels;
  if (!gated) panel -= shape.gate_up.panels;
  const PanelShape& part = gated ? shape.gate_up : shape.down;
  const int64_t k = gated ? desc.hidden : desc.width;
  const int64_t n = gated ? desc.width : desc.hidden;
  destination += expert * shape.bytes() + (gated ? 0 : shape.gate_up.bytes());

  // Tile t of the panel holds these rows of this matrix: 0 gate, 1 up, 2 down.
  auto matrix_of = [&](int64_t t) { return gated ? t % 2 : 2; };
  auto first_of = [&](int64_t t) {
    return gated ? panel * kGatedOutputs + t / 2 * kTileOutputs
                 : panel * kPanelOutputs + t * kTileOutputs;
  };
  if (source.dummy) {
    std::array<DummyRows, kPanelTiles> rows;
    for (int64_t t = 0; t < kPanelTiles; ++t) {
      const auto seed = source.seed + static_cast<uint64_t>(3 * expert + matrix_of(t));
      rows[static_cast<size_t>(t)] = dummy_rows(seed, first_of(t), n);
    }
    pack_dummy_panel(kernels, layout, part, panel, k, destination, rows);
    return;
  }
  const std::array<const std::vector<tensor::View>*, 3> matrices = {&source.gate, &source.up,
                                                                    &source.down};
  std::array<TileRows, kPanelTiles> rows;
  for (int64_t t = 0; t < kPanelTiles; ++t) {
    const auto& views = *matrices[static_cast<size_t>(matrix_of(t))];
    rows[static_cast<size_t>(t)] = rows_of({views[static_cast<size_t>(expert)]}, first_of(t), k);
  }
  pack_view_panel(layout, desc.dtype, part, panel, k, destination, rows);
}

void unpack_row(const KernelTable& kernels, const Matrix& matrix, int64_t row, float* out) {
  const PanelShape shape = matrix_shape(matrix.desc);
  const BlockLayout layout(kernels, weight_type(matrix.desc.dtype));
  const int64_t tile = row % kPanelOutputs / kTileOutputs;
  const std::byte* at =
      matrix.packed + row / kPanelOutputs * shape.panel_bytes() + tile * layout.tile_step;
  for (int64_t k = 0; k < matrix.desc.k; k += kTileInputs) {
    const int64_t inputs = std::min(kTileInputs, matrix.desc.k - k);
    for (int64_t i = 0; i < inputs; ++i) {
      out[k + i] = tensor::load_float(matrix.desc.dtype, at, layout.element(row % kTileOutputs, i));
    }
    at += shape.block_bytes;
  }
}

}  // namespace moesaic::backend::cpu
