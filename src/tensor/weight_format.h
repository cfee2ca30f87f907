#pragma once

// How the weights of a matrix are held: one table, read by checkpoints, backends and the planner.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "tensor/dtype.h"
#include "tensor/view.h"

namespace moesaic::tensor {

/// What a stored value means.
enum class Scheme : uint8_t {
  kPlain,   ///< itself
  kScaled,  ///< itself, a small float, times its group's scale
  kAffine,  ///< an integer less its group's zero point (or a fixed one), times its group's scale
  kCoded,   ///< the entry of a code book, times its group's scale
  kBlocks,  ///< one of a block's, which lies with its scales in one run of bytes (GGUF)
};

/// How values that are no kBlocks lie in the tensors of a file; unpack_stored.h says what else
/// does.
enum class Packing : uint8_t {
  kElements,  ///< an element each, [outputs, inputs]
  kWords,     ///< 32-bit words along the inputs of an output, the first value lowest
  kGptq,      ///< words along the inputs too, but [words, outputs]
  kAwqGemm,   ///< words along the outputs, [inputs, words], interleaved
  kAwqGemv,   ///< as kWords, with zero points along the groups
  kNibbles,   ///< bytes of two 4-bit codes along the inputs, the first in the low bits
  kFlat,      ///< bytes of two 4-bit codes along the whole matrix, the first in the high bits
};

/// Values of `value_bits` each, in groups of group_n outputs by group_k inputs that share a scale
/// and, with zero_bits, a zero point; 0 stands for all outputs or inputs of the matrix.
struct WeightFormat {
  std::string_view name = "bf16";  ///< as --quantization takes it where it is not kPlain
  std::string_view label;          ///< for people
  Scheme scheme = Scheme::kPlain;
  DType base = DType::kBF16;  ///< of a value; of integers that share bytes, what they are packed in
  int64_t value_bits = 16;
  int64_t group_n = 0;
  int64_t group_k = 0;
  int64_t scale_bits = 0;
  int64_t zero_bits = 0;
  int64_t block_values = 0;  ///< kBlocks: consecutive inputs of one output that share a block
  int64_t block_bytes = 0;   ///< kBlocks: of one block; blocks follow one another along a row
  int32_t block_type = -1;   ///< kBlocks: the type's number in GGUF files
  Packing packing = Packing::kElements;
  bool zeros_stored = false;    ///< kAffine: groups have a zero point each
  int64_t zero_offset = 0;      ///< kAffine: added to stored zero points (GPTQ's first version)
  float scale_unit = 1.0f;      ///< kAffine: what scales are multiples of
  bool outer_divides = false;   ///< kCoded: scales are divided by the outer one, not multiplied
  int64_t granule = 64;         ///< an expert's width is cut over ranks at multiples of this
  bool experts_only = false;    ///< attention and shared experts stay in 16 bits (gpt-oss)
  bool fp8_arithmetic = false;  ///< activations are quantised too, where the device can

  constexpr WeightFormat() = default;
  /// The plain format of kF32, kBF16 or kF16; another type gives one that no backend supports.
  // NOLINTNEXTLINE(google-explicit-constructor): a type of element is a format
  constexpr WeightFormat(DType plain)
      : name(plain == DType::kF32   ? "f32"
             : plain == DType::kF16 ? "f16"
                                    : "bf16"),
        label(plain == DType::kF32 ? "32-bit" : "16-bit"),
        base(plain),
        value_bits(plain == DType::kF32 ? 32 : 16) {}

  bool plain() const { return scheme == Scheme::kPlain; }
  /// Bits of one weight, its share of scales and zero points included; groups as long as a row of
  /// `inputs` where they are that.
  double bits(int64_t inputs = 4096) const {
    if (scheme == Scheme::kBlocks) {
      return 8 * static_cast<double>(block_bytes) / static_cast<double>(block_values);
    }
    const int64_t n = group_n > 0 ? group_n : 1;
    const int64_t k = group_k > 0 ? group_k : inputs;
    return static_cast<double>(value_bits) +
           static_cast<double>(scale_bits + zero_bits) / static_cast<double>(n * k);
  }
  double bytes_per_weight() const { return bits() / 8; }
  bool operator==(const WeightFormat& other) const = default;
};

/// Every format that can be asked for by name, plain 16 bits first.
std::span<const WeightFormat> weight_formats();
/// The formats of GGUF's block types, which only files have.
std::span<const WeightFormat> block_formats();
/// The format of a GGUF type of blocks; null for another type.
const WeightFormat* find_block_format(uint32_t block_type);
/// Of weight_formats(); null when there is none of that name.
const WeightFormat* find_weight_format(std::string_view name);

/// The tensors that hold one matrix, as they are stored. kPlain formats have `values` alone, and so
/// have kBlocks: kU8 [outputs, bytes of a row]. The others are matrices but `order`.
struct Part {
  View values{}, scales{}, zeros{};
  View order{};            ///< the group of each input where they were reordered (GPTQ's g_idx)
  View outer_scales{};     ///< of the scales
  View codes{};            ///< the code book of values where a file has its own
  View scale_codes{};      ///< the code book of scales that are codes themselves
  float scale_offset = 0;  ///< added to such scales
  int64_t inputs = 0;      ///< kFlat: of the matrix

  std::array<View*, 7> views() {
    return {&values, &scales, &zeros, &order, &outer_scales, &codes, &scale_codes};
  }
};

}  // namespace moesaic::tensor
