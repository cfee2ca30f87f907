#include "backend/cpu/integer_layout.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/dummy_inl.h"
#include "base/error.h"

namespace moesaic::backend::cpu {
namespace {

using tensor::IntegerBlock;
using tensor::IntegerFormat;

IntegerFormat sure_integers(const WeightFormat& format) {
  const std::optional<IntegerFormat> integers = tensor::integers_of(format);
  MOESAIC_ASSERT(integers.has_value());
  return *integers;
}

int64_t scale_bytes(ScaleKind kind) {
  switch (kind) {
    case ScaleKind::kF32:
      return 4;
    case ScaleKind::kExponent:
      return 1;
    case ScaleKind::kF16:
    case ScaleKind::kSigned:
    case ScaleKind::kUnsigned:
      break;
  }
  return 2;
}

int64_t offset_bytes(OffsetKind kind, int64_t bits) {
  switch (kind) {
    case OffsetKind::kNone:
      return 0;
    case OffsetKind::kZero:
      return bits == 8 ? 2 : 1;
    case OffsetKind::kF16:
    case OffsetKind::kUnsigned:
      break;
  }
  return 2;
}

bool own_bytes(ScaleKind kind) {
  return kind == ScaleKind::kSigned || kind == ScaleKind::kUnsigned;
}

/// Where a code is among a unit's: quad of inputs, output, input.
int64_t code_index(int64_t output, int64_t input) {
  return input / 4 * (kPanelOutputs * 4) + output * 4 + input % 4;
}

/// Writes a plane of the bits [first, first + bits) of a unit's codes.
void pack_plane(const uint8_t* codes, int first, int bits, std::byte* out) {
  const int64_t bytes = kUnitBitBytes * bits;
  const auto mask = static_cast<uint8_t>((1 << bits) - 1);
  uint8_t plane[kUnitCodes] = {};
  for (int m = 0; m < 8 / bits; ++m) {
    for (int64_t j = 0; j < bytes; ++j) {
      const auto code = static_cast<uint8_t>(codes[j + bytes * m] >> first & mask);
      plane[j] = static_cast<uint8_t>(plane[j] | code << (bits * m));
    }
  }
  std::memcpy(out, plane, static_cast<size_t>(bytes));
}

int plane_code(const std::byte* plane, int bits, int64_t index) {
  const int64_t bytes = kUnitBitBytes * bits;
  const int shift = static_cast<int>(index / bytes) * bits;
  return std::to_integer<int>(plane[index % bytes]) >> shift & ((1 << bits) - 1);
}

void pack_unit(const IntegerShape& shape, const uint8_t* codes, std::byte* out) {
  const int low = low_plane(shape.bits);
  pack_plane(codes, 0, low, out);
  if (low < shape.bits) pack_plane(codes, low, shape.bits - low, out + kUnitBitBytes * low);
}

uint8_t unit_code(const IntegerShape& shape, const std::byte* unit, int64_t index) {
  const int low = low_plane(shape.bits);
  int code = plane_code(unit, low, index);
  if (low < shape.bits) {
    code |= plane_code(unit + kUnitBitBytes * low, shape.bits - low, index) << low;
  }
  return static_cast<uint8_t>(code);
}

template <typename T>
void put(std::byte* at, int64_t index, T value) {
  std::memcpy(at + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}
template <typename T>
T get(const std::byte* at, int64_t index) {
  T value;
  std::memcpy(&value, at + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

/// Writes the scales and offsets of one output of a block.
void put_scales(const IntegerFormat& integers, const IntegerShape& shape, const IntegerBlock& from,
                int64_t output, std::byte* block) {
  std::byte* offsets = block + shape.offsets_at;
  switch (shape.scale) {
    case ScaleKind::kF32:
      put(block, output, from.scale);
      break;
    case ScaleKind::kExponent:
      put(block, output, static_cast<uint8_t>(from.group_scale[0]));
      break;
    case ScaleKind::kF16:
    case ScaleKind::kSigned:
    case ScaleKind::kUnsigned:
      put(block, output, tensor::to_f16(from.scale / shape.unit));
      break;
  }
  switch (shape.offset) {
    case OffsetKind::kNone:
      break;
    case OffsetKind::kZero:
      if (shape.bits == 8) {
        put(offsets, output, static_cast<uint16_t>(from.group_offset[0]));
      } else {
        put(offsets, output, static_cast<uint8_t>(from.group_offset[0]));
      }
      break;
    case OffsetKind::kF16:
    case OffsetKind::kUnsigned:
      put(offsets, output, tensor::to_f16(from.offset));
      break;
  }
  for (int64_t g = 0; g < integers.groups(); ++g) {
    const int64_t at = g * kPanelOutputs + output;
    const auto group = static_cast<size_t>(g);
    if (own_bytes(shape.scale)) {
      put(block + shape.group_scales_at, at, static_cast<uint8_t>(from.group_scale[group]));
    }
    if (shape.offset == OffsetKind::kUnsigned) {
      put(block + shape.group_offsets_at, at, static_cast<uint8_t>(from.group_offset[group]));
    }
  }
}

void get_scales(const IntegerFormat& integers, const IntegerShape& shape, const std::byte* block,
                int64_t output, IntegerBlock& to) {
  const std::byte* offsets = block + shape.offsets_at;
  switch (shape.scale) {
    case ScaleKind::kF32:
      to.scale = get<float>(block, output);
      break;
    case ScaleKind::kExponent:
      to.group_scale[0] = get<uint8_t>(block, output);
      break;
    case ScaleKind::kF16:
    case ScaleKind::kSigned:
    case ScaleKind::kUnsigned:
      to.scale = tensor::to_float(get<tensor::F16>(block, output)) * shape.unit;
      break;
  }
  switch (shape.offset) {
    case OffsetKind::kNone:
      break;
    case OffsetKind::kZero:
      to.group_offset[0] = static_cast<int16_t>(shape.bits == 8 ? get<uint16_t>(offsets, output)
                                                                : get<uint8_t>(offsets, output));
      break;
    case OffsetKind::kF16:
    case OffsetKind::kUnsigned:
      to.offset = tensor::to_float(get<tensor::F16>(offsets, output));
      break;
  }
  for (int64_t g = 0; g < integers.groups(); ++g) {
    const int64_t at = g * kPanelOutputs + output;
    const auto group = static_cast<size_t>(g);
    if (shape.scale == ScaleKind::kSigned) {
      const auto byte = get<uint8_t>(block + shape.group_scales_at, at);
      to.group_scale[group] = static_cast<int16_t>(byte < 128 ? byte : byte - 256);
    } else if (shape.scale == ScaleKind::kUnsigned) {
      to.group_scale[group] = get<uint8_t>(block + shape.group_scales_at, at);
    }
    if (shape.offset == OffsetKind::kUnsigned) {
      to.group_offset[group] = get<uint8_t>(block + shape.group_offsets_at, at);
    }
  }
}

/// Reads one output's inputs block by block: as they are stored, or quantised.
class BlockReader {
 public:
  BlockReader(const WeightFormat& format, const IntegerFormat& integers, int64_t k)
      : format_(format), integers_(integers), k_(k) {}

  void begin(const OutputSource& source) {
    source_ = source;
    const SourcePart& part = *source.part;
    as_stored_ = part.format != nullptr && *part.format == format_;
    MOESAIC_ASSERT(!as_stored_ || part.first_col % integers_.block == 0);
    if (as_stored_) return;
    values_.resize(static_cast<size_t>(k_));
    if (part.dummy()) {
      const uint32_t key = dummy_row_key(part.seed, part.first_row + source.row);
      for (int64_t i = 0; i < k_; ++i) {
        values_[static_cast<size_t>(i)] =
            dummy_from_key(key, static_cast<uint32_t>(part.first_col + i));
      }
    } else {
      read_row(part, source.row, k_, values_.data());
    }
  }

  void read(int64_t index, IntegerBlock& out) const {
    const int64_t col = index * integers_.block;
    if (as_stored_) {
      const SourcePart& part = *source_.part;
      tensor::integer_block(format_, integers_, part.part, part.stored_row(source_.row),
                            part.first_col + col, part.first_col + k_, out);
    } else {
      const int64_t count = std::min(integers_.block, k_ - col);
      tensor::quantise_block(
          integers_,
          std::span(values_).subspan(static_cast<size_t>(col), static_cast<size_t>(count)), out);
    }
  }

 private:
  const WeightFormat& format_;
  const IntegerFormat& integers_;
  int64_t k_;
  OutputSource source_;
  bool as_stored_ = false;
  std::vector<float> values_;
};

}  // namespace

std::optional<IntegerShape> integer_shape(const WeightFormat& format) {
  const std::optional<IntegerFormat> integers = tensor::integers_of(format);
  if (!integers) return std::nullopt;
  IntegerShape shape;
  shape.bits = static_cast<int>(integers->bits);
  shape.zero = static_cast<int>(integers->zero);
  shape.scale = integers->scale;
  shape.offset = integers->offset;
  shape.levels = integers->levels;
  shape.unit = integers->unit;
  shape.halves = integers->group < kUnitInputs;
  shape.units = integers->block / kUnitInputs;
  int64_t at = kPanelOutputs * scale_bytes(shape.scale);
  shape.offsets_at = at;
  at += kPanelOutputs * offset_bytes(shape.offset, shape.bits);
  shape.group_scales_at = at;
  if (own_bytes(shape.scale)) at += kPanelOutputs * integers->groups();
  shape.group_offsets_at = at;
  if (shape.offset == OffsetKind::kUnsigned) at += kPanelOutputs * integers->groups();
  shape.codes_at = at;
  shape.block_bytes = at + shape.units * unit_bytes(shape);
  return shape;
}

int64_t integer_units(const IntegerShape& shape, int64_t k) {
  const int64_t inputs = shape.units * kUnitInputs;
  return (k + inputs - 1) / inputs * shape.units;
}

void pack_integer_panel(const WeightFormat& format, const IntegerShape& shape, int64_t k,
                        const PanelSources& sources, std::byte* panel) {
  const IntegerFormat integers = sure_integers(format);
  const int64_t units = integer_units(shape, k);
  const int64_t blocks = units / shape.units;
  std::vector<uint8_t> codes(static_cast<size_t>(units * kUnitCodes));
  BlockReader reader(format, integers, k);
  IntegerBlock block;
  for (int64_t output = 0; output < kPanelOutputs; ++output) {
    const OutputSource& source = sources[static_cast<size_t>(output)];
    if (source.part != nullptr) reader.begin(source);
    for (int64_t b = 0; b < blocks; ++b) {
      if (source.part != nullptr) {
        reader.read(b, block);
      } else {
        block = {};
      }
      put_scales(integers, shape, block, output, panel + b * shape.block_bytes);
      uint8_t* to = codes.data() + b * shape.units * kUnitCodes + code_index(output, 0);
      for (int64_t quad = 0; quad < integers.block / 4; ++quad) {
        std::memcpy(to + quad * kPanelOutputs * 4, block.codes.data() + quad * 4, 4);
      }
    }
  }
  for (int64_t unit = 0; unit < units; ++unit) {
    pack_unit(shape, codes.data() + unit * kUnitCodes,
              panel + unit / shape.units * shape.block_bytes + shape.codes_at +
                  unit % shape.units * unit_bytes(shape));
  }
}

void unpack_integer_output(const WeightFormat& format, const IntegerShape& shape,
                           const std::byte* panel, int64_t output, int64_t k, float* out) {
  const IntegerFormat integers = sure_integers(format);
  IntegerBlock block;
  for (int64_t col = 0; col < k; col += integers.block, panel += shape.block_bytes) {
    get_scales(integers, shape, panel, output, block);
    for (int64_t i = 0; i < integers.block; ++i) {
      const std::byte* unit = panel + shape.codes_at + i / kUnitInputs * unit_bytes(shape);
      block.codes[static_cast<size_t>(i)] =
          unit_code(shape, unit, code_index(output, i % kUnitInputs));
    }
    const int64_t count = std::min(integers.block, k - col);
    tensor::integer_values(integers, block, 0, count, out + col);
  }
}

}  // namespace moesaic::backend::cpu
