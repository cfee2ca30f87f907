#pragma once

// Packed weights: sizes, and packing from row-major views or dummy values. kernels.h draws the
// layout. A matrix is its panels; the experts follow one another, each with its gate/up panels
// (tiles gate, up, gate, up: 32 of the width per panel) and then its down panels. A unit of packing
// is one panel.

#include <cstdint>
#include <optional>
#include <string_view>

#include "backend/cpu/integer_layout.h"
#include "backend/cpu/kernels.h"
#include "backend/weights.h"

namespace moesaic::backend::cpu {

/// Names the layout that an instruction set reads.
inline std::string_view layout_id(const KernelTable& kernels) {
  return kernels.row_tiles ? "cpu-tiles-3" : "cpu-rows-3";
}

/// Columns of the width that one gate/up panel covers.
inline constexpr int64_t kGatedOutputs = kPanelOutputs / 2;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// Asserts that the format is plain f32, bf16 or f16.
WeightType weight_type(const WeightFormat& format);

/// How products with weights of a format go.
struct ProductFormat {
  WeightType type = WeightType::kF32;    ///< of plain weights
  bool rounded = false;                  ///< plain weights that take activations in bf16
  std::optional<IntegerShape> integers;  ///< of weights in integers

  ProductFormat(const KernelTable& kernels, const WeightFormat& format);
  /// Whether activations are stored otherwise than they come.
  bool converts() const { return rounded || integers.has_value(); }
  /// Whether activations are stored as tiles of 16 rows.
  bool tiles(const KernelTable& kernels) const { return rounded && kernels.row_tiles; }
};

/// Panels and bytes of one matrix [n, k].
struct PanelShape {
  int64_t panels = 0;
  int64_t blocks = 0;  ///< of 32 inputs, or as many as a block of integers has
  int64_t block_bytes = 0;

  PanelShape(int64_t outputs, int64_t outputs_per_panel, int64_t k, const WeightFormat& format);
  int64_t panel_bytes() const { return blocks * block_bytes; }
  int64_t bytes() const { return panels * panel_bytes(); }
};

PanelShape matrix_shape(const MatrixDesc& desc);

struct ExpertShape {
  PanelShape gate_up;
  PanelShape down;

  explicit ExpertShape(const ExpertsDesc& desc);
  int64_t bytes() const { return gate_up.bytes() + down.bytes(); }  ///< of one expert
  int64_t units() const { return gate_up.panels + down.panels; }    ///< of one expert
};

/// What one unit of packing experts is.
struct ExpertPanel {
  int64_t expert;
  int64_t panel;  ///< of its gate/up panels, or of its down panels
  bool gated = false;

  ExpertPanel(const ExpertShape& shape, int64_t unit);
};

PackUnit matrix_unit(const MatrixDesc& desc, int64_t unit);
PackUnit experts_unit(const ExpertsDesc& desc, int64_t unit);

void pack_matrix(const KernelTable& kernels, const MatrixDesc& desc, const MatrixSource& source,
                 int64_t unit, std::byte* destination);
void pack_experts(const KernelTable& kernels, const ExpertsDesc& desc, const ExpertsSource& source,
                  int64_t unit, std::byte* destination);

/// out [k] = row `row` of a packed matrix.
void unpack_row(const KernelTable& kernels, const Matrix& matrix, int64_t row, float* out);

}  // namespace moesaic::backend::cpu
