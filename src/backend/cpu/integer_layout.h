#pragma once

// Weights in integers: the shape of their blocks (kernels_integers.h), packing and reading back.

#include <array>
#include <cstdint>
#include <optional>

#include "backend/cpu/kernels_integers.h"
#include "backend/weights.h"
#include "tensor/integers.h"

namespace moesaic::backend::cpu {

/// The shape of a format's blocks; nothing where its values are no integers.
std::optional<IntegerShape> integer_shape(const WeightFormat& format);

/// Units of a row of `k` inputs, those of the last block included.
int64_t integer_units(const IntegerShape& shape, int64_t k);

/// Where each output of a panel comes from: a part and its row; null: zeros.
struct OutputSource {
  const SourcePart* part = nullptr;
  int64_t row = 0;
};
using PanelSources = std::array<OutputSource, kPanelOutputs>;

/// Writes one panel of `k` inputs. Parts that are stored in `format` are taken as they are, others
/// quantised.
void pack_integer_panel(const WeightFormat& format, const IntegerShape& shape, int64_t k,
                        const PanelSources& sources, std::byte* panel);

/// The values of one output of a panel.
void unpack_integer_output(const WeightFormat& format, const IntegerShape& shape,
                           const std::byte* panel, int64_t output, int64_t k, float* out);

}  // namespace moesaic::backend::cpu
