#include "tensor/integers.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tensor/unpack_blocks.h"
#include "tensor/unpack_stored.h"

namespace moesaic::tensor {
namespace {

constexpr size_t kLevels = 16;
/// Bounds of what groups' bytes are made to be when values are quantised here.
constexpr float kMostSigned = 31;
constexpr float kMostUnsigned = 63;

/// What the levels of a format reach, less its zero.
struct Levels {
  float least, most;

  explicit Levels(const IntegerFormat& integers) {
    int low = 0;
    int high = (1 << integers.bits) - 1;
    if (integers.levels != nullptr) {
      const auto [least_level, most_level] =
          std::minmax_element(integers.levels, integers.levels + kLevels);
      low = *least_level;
      high = *most_level;
    }
    least = static_cast<float>(low - integers.zero);
    most = static_cast<float>(high - integers.zero);
  }
};

/// A group's scale and offset as the largest values ask for.
struct GroupScale {
  float scale = 0;
  float offset = 0;
};

GroupScale scale_of(const IntegerFormat& integers, const Levels& levels,
                    std::span<const float> values) {
  float least = 0;
  float most = 0;
  for (const float value : values) {
    if (!std::isfinite(value)) return {value - value, 0};  // NaN: the group's values will be too
    least = std::min(least, value);
    most = std::max(most, value);
  }
  if (integers.offset != OffsetKind::kNone) return {(most - least) / levels.most, -least};
  // Levels reach further down than up, so the largest magnitude goes down, the scale's sign with
  // it; a scale that is an exponent or a byte without a sign has none.
  if (integers.scale == ScaleKind::kExponent || integers.scale == ScaleKind::kUnsigned) {
    return {std::max(most / levels.most, least / levels.least), 0};
  }
  return {(-least > most ? least : most) / levels.least, 0};
}

/// The codes of the levels that are nearest to (value + offset) / scale + zero.
void put_codes(const IntegerFormat& integers, const IntegerScale& of, std::span<const float> values,
               uint8_t* codes) {
  if (!std::isfinite(of.scale)) return;
  const auto zero = static_cast<float>(integers.zero);
  const float inverse = of.scale == 0 ? 0.0f : 1.0f / of.scale;
  if (integers.levels == nullptr) {
    const auto most = static_cast<float>((1 << integers.bits) - 1);
    for (size_t i = 0; i < values.size(); ++i) {
      // No nearbyint, which keeps the loop from being vectors.
      const float level = (values[i] + of.offset) * inverse + zero;
      const float above = std::clamp(level, 0.0f, most) + 0.5f;
      codes[i] = static_cast<uint8_t>(above);
    }
    return;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const float level = values[i] * inverse + zero;
    const auto distance = [&](size_t code) {
      return std::abs(static_cast<float>(integers.levels[code]) - level);
    };
    size_t best = 0;
    for (size_t code = 1; code < kLevels; ++code) {
      if (distance(code) < distance(best)) best = code;
    }
    codes[i] = static_cast<uint8_t>(best);
  }
}

float rounded_to_half(float value) { return to_float(to_f16(value)); }

float byte_of(float value, float unit, float most) {
  return unit == 0 ? 0 : std::nearbyint(std::clamp(value / unit, -most, most));
}

/// Puts the groups' scales and offsets into the block, as far as they can be held.
void hold_scales(const IntegerFormat& integers, std::span<const GroupScale> groups,
                 IntegerBlock& out) {
  GroupScale most;
  for (const GroupScale& group : groups) {
    if (!(std::abs(group.scale) <= std::abs(most.scale))) most.scale = group.scale;  // NaN too
    most.offset = std::max(most.offset, group.offset);
  }
  const bool bytes = integers.scale == ScaleKind::kSigned || integers.scale == ScaleKind::kUnsigned;
  const float most_byte = integers.scale == ScaleKind::kSigned ? kMostSigned : kMostUnsigned;
  out.scale = bytes ? most.scale / most_byte : most.scale;
  out.offset =
      integers.offset == OffsetKind::kUnsigned ? rounded_to_half(most.offset / kMostUnsigned) : 0;
  if (bytes || integers.scale == ScaleKind::kF16) {
    out.scale = rounded_to_half(out.scale / integers.unit) * integers.unit;
  }
  if (integers.offset == OffsetKind::kF16) out.offset = rounded_to_half(most.offset);
  for (size_t g = 0; g < groups.size(); ++g) {
    if (bytes) {
      out.group_scale[g] = static_cast<int16_t>(byte_of(groups[g].scale, out.scale, most_byte));
    }
    if (integers.scale == ScaleKind::kExponent && groups[g].scale > 0) {
      const float exponent = std::ceil(std::log2(groups[g].scale)) + 128;
      out.group_scale[g] = static_cast<int16_t>(std::clamp(exponent, 0.0f, 254.0f));
    }
    if (integers.offset == OffsetKind::kUnsigned) {
      out.group_offset[g] =
          static_cast<int16_t>(byte_of(groups[g].offset, out.offset, kMostUnsigned));
    }
    if (integers.offset == OffsetKind::kZero) {
      const auto most_zero = static_cast<float>((1 << integers.bits) - 1);
      out.group_offset[g] = static_cast<int16_t>(byte_of(groups[g].offset, out.scale, most_zero));
    }
  }
}

}  // namespace

std::optional<IntegerFormat> integers_of(const WeightFormat& format) {
  switch (format.scheme) {
    case Scheme::kBlocks:
      return block_integers(format);
    case Scheme::kAffine:
      return affine_integers(format);
    case Scheme::kPlain:
    case Scheme::kScaled:
    case Scheme::kCoded:
      return std::nullopt;
  }
  base::assertion_failed("a scheme", __FILE__, __LINE__);
}

bool in_order(const WeightFormat& format, const Part& part) {
  return format.scheme != Scheme::kAffine || affine_in_order(format, part);
}

void integer_block(const WeightFormat& format, const IntegerFormat& integers, const Part& part,
                   int64_t row, int64_t col, int64_t end, IntegerBlock& out) {
  end = std::min(end, col + integers.block);
  if (end < col + integers.block) out.codes.fill(0);
  if (format.scheme == Scheme::kBlocks) {
    decode_block(format, part.values.row(row), col / integers.block, out);
  } else {
    affine_block(format, part, row, col, end, out);
  }
}

void quantise_block(const IntegerFormat& integers, std::span<const float> values,
                    IntegerBlock& out) {
  const Levels levels(integers);
  std::array<GroupScale, kMostBlockGroups> groups;
  const auto size = static_cast<size_t>(integers.group);
  for (size_t g = 0; g * size < values.size(); ++g) {
    groups[g] = scale_of(integers, levels,
                         values.subspan(g * size, std::min(size, values.size() - g * size)));
  }
  hold_scales(integers, std::span(groups).first(static_cast<size_t>(integers.groups())), out);
  out.codes.fill(0);
  for (size_t g = 0; g * size < values.size(); ++g) {
    put_codes(integers, integer_scale(integers, out, static_cast<int64_t>(g)),
              values.subspan(g * size, std::min(size, values.size() - g * size)),
              out.codes.data() + g * size);
  }
}

IntegerScale integer_scale(const IntegerFormat& integers, const IntegerBlock& block,
                           int64_t group) {
  const auto g = static_cast<size_t>(group);
  IntegerScale of{block.scale, block.offset};
  switch (integers.scale) {
    case ScaleKind::kF16:
    case ScaleKind::kF32:
      break;
    case ScaleKind::kExponent:
      of.scale = std::ldexp(1.0f, block.group_scale[g] - 128);
      break;
    case ScaleKind::kSigned:
    case ScaleKind::kUnsigned:
      of.scale = block.scale * static_cast<float>(block.group_scale[g]);
      break;
  }
  switch (integers.offset) {
    case OffsetKind::kNone:
      of.offset = 0;
      break;
    case OffsetKind::kF16:
      break;
    case OffsetKind::kZero:
      of.offset = of.scale * static_cast<float>(block.group_offset[g]);
      break;
    case OffsetKind::kUnsigned:
      of.offset = block.offset * static_cast<float>(block.group_offset[g]);
      break;
  }
  return of;
}

void integer_values(const IntegerFormat& integers, const IntegerBlock& block, int64_t first,
                    int64_t count, float* out) {
  const int zero = static_cast<int>(integers.zero);
  const bool offset = integers.offset != OffsetKind::kNone;
  for (const int64_t end = first + count; first < end;) {
    const int64_t group = first / integers.group;
    const int64_t group_end = std::min(end, (group + 1) * integers.group);
    const IntegerScale of = integer_scale(integers, block, group);
    for (; first < group_end; ++first) {
      const uint8_t code = block.codes[static_cast<size_t>(first)];
      const int level = integers.levels != nullptr ? integers.levels[code] : code;
      const float product = of.scale * static_cast<float>(level - zero);
      *out++ = offset ? product - of.offset : product;
    }
  }
}

}  // namespace moesaic::tensor
