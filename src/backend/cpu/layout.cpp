#include "backend/cpu/layout.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "backend/dummy_inl.h"
#include "backend/raw_address.h"
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

/// Calls take(o, part, row of the part) for those of sixteen consecutive rows from `first` on that
/// exist.
template <typename Take>
void for_rows(std::span<const SourcePart> parts, int64_t first, const Take& take) {
  int64_t begin = 0;
  for (const SourcePart& part : parts) {
    for (int64_t o = 0; o < kTileOutputs; ++o) {
      const int64_t row = first + o - begin;
      if (row >= 0 && row < part.rows) take(static_cast<size_t>(o), part, row);
    }
    begin += part.rows;
  }
}

/// Rows that are not stored plain, in the type that they are packed in, for as long as a panel is
/// packed.
class UnpackedRows {
 public:
  UnpackedRows(int64_t inputs, DType type)
      : inputs_(inputs), type_(type), values_(static_cast<size_t>(inputs)) {}

  DType type() const { return type_; }
  const std::byte* add(const SourcePart& part, int64_t row) {
    read_row(part, row, inputs_, values_.data());
    std::vector<std::byte>& stored =
        rows_.emplace_back(static_cast<size_t>(inputs_) * tensor::size_of(type_));
    if (type_ == DType::kBF16) {
      std::transform(values_.begin(), values_.end(), reinterpret_cast<tensor::BF16*>(stored.data()),
                     tensor::to_bf16);
    } else {
      for (int64_t i = 0; i < inputs_; ++i) {
        tensor::store_float(type_, stored.data(), i, values_[static_cast<size_t>(i)]);
      }
    }
    return stored.data();
  }

 private:
  int64_t inputs_;
  DType type_;
  std::vector<float> values_;
  std::vector<std::vector<std::byte>> rows_;
};

TileRows rows_of(std::span<const SourcePart> parts, int64_t first, UnpackedRows& unpacked) {
  TileRows tile;
  for_rows(parts, first, [&](size_t o, const SourcePart& part, int64_t row) {
    const bool plain = part.format == nullptr;
    tile.rows[o] = plain ? part.plain_row(row) : unpacked.add(part, row);
    tile.dtypes[o] = plain ? part.part.values.dtype : unpacked.type();
  });
  return tile;
}

struct DummyRows {
  std::array<uint32_t, kTileOutputs> keys{};
  int64_t outputs = 0;
  int64_t first_col = 0;
};

DummyRows dummy_rows(std::span<const SourcePart> parts, int64_t first) {
  DummyRows rows;
  for_rows(parts, first, [&](size_t o, const SourcePart& part, int64_t row) {
    rows.keys[o] = dummy_row_key(part.seed, part.first_row + row);
    rows.outputs = static_cast<int64_t>(o) + 1;
    rows.first_col = part.first_col;
  });
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

/// The rows of each tile of a panel: parts, and the first row of them.
using PanelRows = std::array<std::pair<std::span<const SourcePart>, int64_t>, kPanelTiles>;

/// The same, output by output.
PanelSources output_sources(const PanelRows& rows) {
  PanelSources sources;
  for (size_t t = 0; t < rows.size(); ++t) {
    for_rows(rows[t].first, rows[t].second, [&](size_t o, const SourcePart& part, int64_t row) {
      sources[t * kTileOutputs + o] = {&part, row};
    });
  }
  return sources;
}

void pack_rows(const KernelTable& kernels, const WeightFormat& format, const PanelShape& shape,
               int64_t panel, int64_t k, const PanelRows& rows, std::byte* destination) {
  if (const auto integers = integer_shape(format)) {
    pack_integer_panel(format, *integers, k, output_sources(rows),
                       destination + panel * shape.panel_bytes());
    return;
  }
  const BlockLayout layout(kernels, weight_type(format));
  if (rows[0].first.front().dummy()) {
    std::array<DummyRows, kPanelTiles> tiles;
    for (size_t t = 0; t < tiles.size(); ++t) tiles[t] = dummy_rows(rows[t].first, rows[t].second);
    pack_panel(layout, shape, panel, k, destination,
               [&](int64_t t, int64_t first_input, int64_t inputs, std::byte* out) {
                 const DummyRows& tile = tiles[static_cast<size_t>(t)];
                 kernels.dummy_tile(layout.type, tile.keys.data(), tile.outputs,
                                    tile.first_col + first_input, inputs, layout.row_step, out);
               });
    return;
  }
  UnpackedRows unpacked(k, format.base);
  std::array<TileRows, kPanelTiles> tiles;
  for (size_t t = 0; t < tiles.size(); ++t) {
    tiles[t] = rows_of(rows[t].first, rows[t].second, unpacked);
  }
  pack_panel(layout, shape, panel, k, destination,
             [&](int64_t t, int64_t first_input, int64_t inputs, std::byte* out) {
               pack_tile(layout, format.base, tiles[static_cast<size_t>(t)], first_input, inputs,
                         out);
             });
}

}  // namespace

WeightType weight_type(const WeightFormat& format) {
  switch (format.base) {
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

ProductFormat::ProductFormat(const KernelTable& kernels, const WeightFormat& format)
    : integers(integer_shape(format)) {
  if (integers) return;
  type = weight_type(format);
  rounded = kernels.bf16_rows && type == WeightType::kBF16;
}

PanelShape::PanelShape(int64_t outputs, int64_t outputs_per_panel, int64_t k,
                       const WeightFormat& format)
    : panels(ceil_div(outputs, outputs_per_panel)) {
  if (const auto integers = integer_shape(format)) {
    blocks = integer_units(*integers, k) / integers->units;
    block_bytes = integers->block_bytes;
    return;
  }
  blocks = ceil_div(k, kTileInputs);
  block_bytes = kPanelOutputs * kTileInputs * static_cast<int64_t>(tensor::size_of(format.base));
}

PanelShape matrix_shape(const MatrixDesc& desc) {
  return {desc.n, kPanelOutputs, desc.k, desc.format};
}

ExpertShape::ExpertShape(const ExpertsDesc& desc)
    : gate_up(desc.width, kGatedOutputs, desc.hidden, desc.format),
      down(desc.hidden, kPanelOutputs, desc.width, desc.down()) {}

void pack_matrix(const KernelTable& kernels, const MatrixDesc& desc, const MatrixSource& source,
                 int64_t unit, std::byte* destination) {
  PanelRows rows;
  for (int64_t t = 0; t < kPanelTiles; ++t) {
    rows[static_cast<size_t>(t)] = {source.parts, unit * kPanelOutputs + t * kTileOutputs};
  }
  pack_rows(kernels, desc.format, matrix_shape(desc), unit, desc.k, rows, destination);
}

ExpertPanel::ExpertPanel(const ExpertShape& shape, int64_t unit)
    : expert(unit / shape.units()), panel(unit % shape.units()) {
  gated = panel < shape.gate_up.panels;
  if (!gated) panel -= shape.gate_up.panels;
}

void pack_experts(const KernelTable& kernels, const ExpertsDesc& desc, const ExpertsSource& source,
                  int64_t unit, std::byte* destination) {
  const ExpertShape shape(desc);
  const ExpertPanel at(shape, unit);
  const auto expert = static_cast<size_t>(at.expert);
  PanelRows rows;
  for (int64_t t = 0; t < kPanelTiles; ++t) {
    // Gate/up panels alternate tiles of the two.
    const auto& list = !at.gated ? source.down : t % 2 == 0 ? source.gate : source.up;
    const int64_t first = at.gated ? at.panel * kGatedOutputs + t / 2 * kTileOutputs
                                   : at.panel * kPanelOutputs + t * kTileOutputs;
    rows[static_cast<size_t>(t)] = {std::span(&list[expert], 1), first};
  }
  destination += at.expert * shape.bytes() + (at.gated ? 0 : shape.gate_up.bytes());
  pack_rows(kernels, at.gated ? desc.format : desc.down(), at.gated ? shape.gate_up : shape.down,
            at.panel, at.gated ? desc.hidden : desc.width, rows, destination);
}

PackUnit matrix_unit(const MatrixDesc& desc, int64_t unit) {
  const auto bytes = static_cast<size_t>(matrix_shape(desc).panel_bytes());
  return {bytes * static_cast<size_t>(unit), bytes};
}

PackUnit experts_unit(const ExpertsDesc& desc, int64_t unit) {
  const ExpertShape shape(desc);
  const ExpertPanel at(shape, unit);
  const PanelShape& part = at.gated ? shape.gate_up : shape.down;
  const int64_t offset = at.expert * shape.bytes() + (at.gated ? 0 : shape.gate_up.bytes()) +
                         at.panel * part.panel_bytes();
  return {static_cast<size_t>(offset), static_cast<size_t>(part.panel_bytes())};
}

void unpack_row(const KernelTable& kernels, const Matrix& matrix, int64_t row, float* out) {
  const PanelShape shape = matrix_shape(matrix.desc);
  if (const auto integers = integer_shape(matrix.desc.format)) {
    const std::byte* panel =
        RawAddress::pointer(matrix.packed) + row / kPanelOutputs * shape.panel_bytes();
    unpack_integer_output(matrix.desc.format, *integers, panel, row % kPanelOutputs, matrix.desc.k,
                          out);
    return;
  }
  const BlockLayout layout(kernels, weight_type(matrix.desc.format));
  const int64_t tile = row % kPanelOutputs / kTileOutputs;
  const std::byte* at = RawAddress::pointer(matrix.packed) +
                        row / kPanelOutputs * shape.panel_bytes() + tile * layout.tile_step;
  for (int64_t k = 0; k < matrix.desc.k; k += kTileInputs) {
    const int64_t inputs = std::min(kTileInputs, matrix.desc.k - k);
    for (int64_t i = 0; i < inputs; ++i) {
      out[k + i] =
          tensor::load_float(matrix.desc.format.base, at, layout.element(row % kTileOutputs, i));
    }
    at += shape.block_bytes;
  }
}

}  // namespace moesaic::backend::cpu
