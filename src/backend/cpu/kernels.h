#pragma once

// What each instruction set offers: a table of plain functions, filled by gemm_<isa>.cpp from the
// one source gemm_inl.h. Only plain data here: these headers are compiled with each set's flags,
// and an inline function that the linker shared between them could run AVX-512 on a machine that
// lacks it.
//
// Packed weights are panels of 64 outputs, in blocks of 32 inputs one after the other:
//   [panel][block of 32 inputs][...]
// A block is [16 input pairs][64 outputs][2] in bf16, [32 inputs][64 outputs] in f32 and f16: the
// order in which vectors read it, to the byte, which is what hardware prefetchers follow (a thread
// that reads four tiles side by side gets half the bandwidth on Zen 4). Where bf16 products run on
// AMX tiles a block is instead [tile 0..3][16 input pairs][16 outputs][2], each an AMX B tile: tile
// loads want their 16 lines in a row (a stride costs them a tenth of the bandwidth). No kernel
// needs a horizontal sum.

#include <cstddef>
#include <cstdint>

namespace moesaic::backend::cpu {

enum class WeightType : int { kF32, kBF16, kF16 };

constexpr int64_t kTileOutputs = 16;
constexpr int64_t kTileInputs = 32;
constexpr int64_t kPanelTiles = 4;
constexpr int64_t kPanelOutputs = kTileOutputs * kPanelTiles;

/// Where element [row, block of 32 inputs] of an activation matrix is, in bytes from its base:
/// (row / 16) * group + (row % 16) * row + block * block. Row-major matrices have group = 16 row.
struct ActivationLayout {
  int64_t group = 0;
  int64_t row = 0;
  int64_t block = 0;
};

/// What happens to the sums of a product.
enum class Epilogue : int {
  kStore,    ///< y[row, n] = sum + bias[n]
  kSwiGlu,   ///< tiles alternate gate, up: h[row, .] = silu(gate) * up
  kScatter,  ///< y[target[row], n] += scale[row] * sum
};

/// One task: `rows` activations times `panels` consecutive panels. Each output is the sum over the
/// inputs in ascending order, whatever the rows and panels of the task are.
struct Gemm {
  const std::byte* weights = nullptr;  ///< first panel
  int64_t panels = 0;
  int64_t first_tile = 0;  ///< the tiles of each panel that are computed
  int64_t tiles = kPanelTiles;
  int64_t k = 0;  ///< inputs

  /// Activations: bf16 with zeros up to a multiple of 32 inputs, or f32 (KernelTable::bf16_rows).
  const std::byte* x = nullptr;
  ActivationLayout x_layout;
  const int32_t* x_index = nullptr;  ///< row r is row x_index[r] of x; null: row r. Not with tiles.
  int64_t rows = 0;

  /// What this thread will read next, to be prefetched; may be null.
  const std::byte* next = nullptr;

  Epilogue epilogue = Epilogue::kStore;
  float* y = nullptr;               ///< kStore, kScatter: row-major
  int64_t y_stride = 0;             ///< floats between rows
  int64_t n = 0;                    ///< outputs that exist from the first panel's first output on
  const float* bias = nullptr;      ///< kStore: of the first panel's first output, may be null
  std::byte* h = nullptr;           ///< kSwiGlu: same type as x; row 0, first panel's first output
  ActivationLayout h_layout;        ///< kSwiGlu; a panel makes one block of 32
  const int32_t* target = nullptr;  ///< kScatter
  const float* scale = nullptr;     ///< kScatter
};

/// How a thread walks through memory that it only reads; which way is fastest is the machine's to
/// show.
struct ReadPattern {
  int streams = 1;    ///< 1, 2 or 4 equal parts, read side by side
  int64_t ahead = 0;  ///< bytes by which each is prefetched; 0 = the hardware's to do
};

struct IntegerTable;

struct KernelTable {
  /// Whether products with bf16 weights take activations rounded to bf16, and whether those are
  /// stored as tiles of 16 rows x 32 inputs (AMX) instead of row-major.
  bool bf16_rows = false;
  bool row_tiles = false;

  void (*gemm)(WeightType type, const Gemm& task) = nullptr;

  /// Rounds rows x[index[i]] (or x[i]) for i in [first, first + rows) to bf16, zero filled to a
  /// multiple of 32 inputs, into rows `first`.. of `out`; a negative index leaves its row alone.
  void (*round_rows)(const float* x, const int32_t* index, int64_t first, int64_t rows, int64_t k,
                     std::byte* out, const ActivationLayout& layout) = nullptr;

  /// Writes 16 outputs of a block of dummy weights, its rows (inputs, in bf16 pairs) `row_step`
  /// bytes apart: output o has row key keys[o] (dummy_inl.h); outputs from `outputs` and inputs
  /// from `inputs` on are zero.
  void (*dummy_tile)(WeightType type, const uint32_t* keys, int64_t outputs, int64_t first_input,
                     int64_t inputs, int64_t row_step, std::byte* out) = nullptr;

  /// Runs the best arithmetic loop there is for `type` and returns the operations done (a
  /// multiply-add counts as two).
  double (*peak)(WeightType type, int64_t iterations) = nullptr;

  /// Reads `bytes` (a multiple of 1024) in that way; the result keeps the loads alive.
  uint64_t (*read)(const std::byte* data, int64_t bytes, const ReadPattern& pattern) = nullptr;

  /// Products with weights in integers (kernels_integers.h).
  const IntegerTable* integers = nullptr;
};

extern const KernelTable kKernelsBaseline;
extern const KernelTable kKernelsAvx2;
extern const KernelTable kKernelsVnni;
extern const KernelTable kKernelsAvx512;
extern const KernelTable kKernelsAmx;

}  // namespace moesaic::backend::cpu
