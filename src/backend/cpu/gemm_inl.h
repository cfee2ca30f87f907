// The matrix product kernels, compiled once per instruction set (gemm_<isa>.cpp). Everything is in
// an anonymous namespace; the including file exports one KernelTable.
//
// Order of summation: an output has one accumulator (the AMX tile adds pairwise sums of 32 inputs
// to it), inputs ascending, whatever rows and panels share the call. Splitting the inputs into
// chunks keeps that: the accumulator goes to memory and comes back unrounded.

#pragma once

#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/vec_inl.h"
#include "backend/dummy_inl.h"

namespace moesaic::backend::cpu {
namespace {

constexpr int kTileVecs = static_cast<int>(kTileOutputs) / kLanes;
/// Rows of sums that a task keeps at a time; with 64 outputs each they take 24 KiB.
constexpr int64_t kSumRows = 96;
constexpr int64_t kCacheLine = 64;

/// How weights get into the caches before they are wanted.
enum class Streaming {
  kHardware,  ///< each weight is used once, by loads in ascending order: hardware foresees them
  kAhead,     ///< used once, but by tile loads, which run ahead of nothing
  kPanel,     ///< used several times: memory would idle after the first
};

/// Prefetches lines of weights, a few per block of inputs: kPanel the next panel spread over this
/// one, kAhead the block after the next; all a start on the next panel, for the hardware knows
/// nothing of the next task.
struct Prefetcher {
  const std::byte* at;
  const std::byte* end;
  const std::byte* then;
  int64_t then_bytes;
  int64_t lines;  ///< per block of inputs

  /// `visits`: how often each block of inputs of a panel is gone through.
  MOESAIC_INLINE Prefetcher(Streaming streaming, const std::byte* panel, const std::byte* next,
                            int64_t panel_bytes, int64_t block_bytes, int64_t visits)
      : at(next), end(next), then(nullptr), then_bytes(0), lines(block_bytes / kCacheLine) {
    const int64_t start = block_bytes < panel_bytes ? block_bytes : panel_bytes;
    if (streaming == Streaming::kAhead) {
      at = panel + start;
      end = panel + panel_bytes;
      then = next;
      then_bytes = start;
    } else if (next != nullptr) {
      const bool whole = streaming == Streaming::kPanel;
      end = next + (whole ? panel_bytes : start);
      if (whole) lines = (lines + visits - 1) / visits;
    }
  }

  MOESAIC_INLINE void step() { take(lines); }

  /// A quarter of a step, rounded up.
  MOESAIC_INLINE void quarter() { take((lines + 3) / 4); }

  MOESAIC_INLINE void take(int64_t count) {
    if (at >= end) {
      if (then == nullptr) return;
      at = then;
      end = then + then_bytes;
      then = nullptr;
    }
    for (int64_t i = 0; i < count; ++i) __builtin_prefetch(at + i * kCacheLine, 0, 2);
    at += count * kCacheLine;
  }
};

MOESAIC_INLINE uint32_t bits_at(const std::byte* p) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}
MOESAIC_INLINE float float_at(const std::byte* p) {
  float value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

// --- One tile's worth of products for one or two inputs. `inputs(w, x, kk, ...)` adds input kk
// (or the pair kk, kk + 1) of a block to the sums of R rows x T tiles.

/// Weights that are widened to f32 before the product, one input at a time. kOutputBytes: of one
/// output in a row of a block, where a row is an input or, in bf16, a pair.
struct WeightF32 {
  static constexpr int64_t kBytes = 4;
  static constexpr int64_t kOutputBytes = 4;
  static constexpr bool kBf16Rows = false;
  static constexpr int kStep = 1;
  MOESAIC_INLINE static Vec load_input(const std::byte* tile, int kk, int v) {
    return load(reinterpret_cast<const float*>(tile) + kk * kPanelOutputs + v * kLanes);
  }
};
struct WeightF16 {
  static constexpr int64_t kBytes = 2;
  static constexpr int64_t kOutputBytes = 2;
  static constexpr bool kBf16Rows = false;
  static constexpr int kStep = 1;
  MOESAIC_INLINE static Vec load_input(const std::byte* tile, int kk, int v) {
    return load_f16(reinterpret_cast<const uint16_t*>(tile) + kk * kPanelOutputs + v * kLanes);
  }
};
/// Without a bf16 dot product, bf16 weights are exact in f32 and activations stay unrounded.
struct WeightBF16 {
  static constexpr int64_t kBytes = 2;
  static constexpr int64_t kOutputBytes = 4;
  static constexpr bool kBf16Rows = false;
  static constexpr int kStep = 1;
  MOESAIC_INLINE static Vec load_input(const std::byte* tile, int kk, int v) {
    const uint16_t* pairs =
        reinterpret_cast<const uint16_t*>(tile) + (kk / 2) * 2 * kPanelOutputs + v * 2 * kLanes;
    return kk % 2 == 0 ? load_bf16_even(pairs) : load_bf16_odd(pairs);
  }
};
#if defined(__AVX512BF16__)
/// VDPBF16PS takes a pair of inputs at a time.
struct WeightBF16Dot {
  static constexpr int64_t kBytes = 2;
  static constexpr int64_t kOutputBytes = 4;
  static constexpr bool kBf16Rows = true;
  static constexpr int kStep = 2;
};
#endif

template <class W>
constexpr int64_t kBlockBytes = kPanelOutputs * kTileInputs * W::kBytes;
/// From one tile of a block to the next, and from one row of a block (an input or a pair) to the
/// next.
template <class W>
constexpr int64_t kTileStep = kTileOutputs * W::kOutputBytes;
template <class W>
constexpr int64_t kRowStep = kPanelOutputs * W::kOutputBytes;

template <class W, int R, int T>
MOESAIC_INLINE void multiply(const std::byte* tiles, const std::byte* const (&x)[R], int kk,
                             Vec (&sums)[R][T * kTileVecs]) {
#if defined(__AVX512BF16__)
  if constexpr (W::kBf16Rows) {
    __m512bh weights[T];
    _Pragma("GCC unroll 8") for (int t = 0; t < T; ++t) {
      weights[t] = as_pairs(_mm512_loadu_si512(tiles + t * kTileStep<W> + kk / 2 * kRowStep<W>));
    }
    _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
      const __m512bh pair = as_pairs(_mm512_set1_epi32(static_cast<int>(bits_at(x[r] + kk * 2))));
      _Pragma("GCC unroll 8") for (int t = 0; t < T; ++t) {
        sums[r][t] = _mm512_dpbf16_ps(sums[r][t], weights[t], pair);
      }
    }
    return;
  } else
#endif
  {
    Vec weights[T * kTileVecs];
    _Pragma("GCC unroll 16") for (int t = 0; t < T; ++t) {
      _Pragma("GCC unroll 8") for (int v = 0; v < kTileVecs; ++v) {
        weights[t * kTileVecs + v] = W::load_input(tiles + t * kTileStep<W>, kk, v);
      }
    }
    _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
      const Vec input = set1(float_at(x[r] + kk * 4));
      _Pragma("GCC unroll 16") for (int v = 0; v < T * kTileVecs; ++v) {
        sums[r][v] = fma(weights[v], input, sums[r][v]);
      }
    }
  }
}

/// A stretch of the inputs: whole blocks of 32, and `rest` more.
struct Inputs {
  int64_t blocks = 0;
  int rest = 0;
};

/// sums[r * 64 ..] (+)= R rows x T tiles over the given inputs.
template <class W, int R, int T>
void micro(const std::byte* tiles, const std::byte* x_base, const ActivationLayout& layout,
           const int32_t* index, int64_t row, Inputs inputs, bool first, float* sums_at,
           Prefetcher& prefetch) {
  const std::byte* x[R];
  _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
    const int64_t source = index == nullptr ? row + r : index[row + r];
    x[r] = x_base + source / 16 * layout.group + source % 16 * layout.row;
  }
  Vec sums[R][T * kTileVecs];
  _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
    _Pragma("GCC unroll 16") for (int v = 0; v < T * kTileVecs; ++v) {
      sums[r][v] = first ? zero() : load(sums_at + r * kPanelOutputs + v * kLanes);
    }
  }
  const int64_t x_step = layout.block;
  for (int64_t block = 0; block < inputs.blocks; ++block) {
    prefetch.step();
    _Pragma("GCC unroll 4") for (int kk = 0; kk < kTileInputs; kk += W::kStep) {
      multiply<W, R, T>(tiles, x, kk, sums);
    }
    tiles += kBlockBytes<W>;
    _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) x[r] += x_step;
  }
  for (int kk = 0; kk < inputs.rest; kk += W::kStep) multiply<W, R, T>(tiles, x, kk, sums);
  _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) {
    _Pragma("GCC unroll 16") for (int v = 0; v < T * kTileVecs; ++v) {
      store(sums_at + r * kPanelOutputs + v * kLanes, sums[r][v]);
    }
  }
}

/// Rows whose sums fit the registers beside the weights of T tiles and one input; at most 6.
constexpr int rows_that_fit(int vectors_per_row) {
  const int sums = kLanes == 16 ? 24 : kLanes == 8 ? 12 : 8;
  const int rows = sums / vectors_per_row;
  return rows < 1 ? 1 : rows > 6 ? 6 : rows;
}
template <int T>
constexpr int kMaxRows = rows_that_fit(T * kTileVecs);

/// Calls micro with the number of rows as a constant.
template <class W, int T, int R = kMaxRows<T>>
void micro_rows(int64_t rows, const std::byte* tiles, const std::byte* x,
                const ActivationLayout& layout, const int32_t* index, int64_t row, Inputs inputs,
                bool first, float* sums, Prefetcher& prefetch) {
  if constexpr (R > 1) {
    if (rows < R) {
      micro_rows<W, T, R - 1>(rows, tiles, x, layout, index, row, inputs, first, sums, prefetch);
      return;
    }
  }
  micro<W, R, T>(tiles, x, layout, index, row, inputs, first, sums, prefetch);
}

/// All rows of a stretch [row, row + rows), T tiles at a time over `tiles` tiles.
template <class W, int T>
void sweep(const Gemm& task, const std::byte* block, int64_t x_block, int64_t row, int64_t rows,
           Inputs inputs, bool first, float* sums, Prefetcher& prefetch) {
  const std::byte* x = task.x + x_block * task.x_layout.block;
  // Equal shares: 7 rows go as 4 + 3, not 6 + 1.
  const int64_t shares = (rows + kMaxRows<T> - 1) / kMaxRows<T>;
  for (int64_t t = 0; t < task.tiles; t += T) {
    const std::byte* tiles = block + (task.first_tile + t) * kTileStep<W>;
    for (int64_t share = 0; share < shares; ++share) {
      const int64_t begin = rows * share / shares;
      const int64_t end = rows * (share + 1) / shares;
      micro_rows<W, T>(end - begin, tiles, x, task.x_layout, task.x_index, row + begin, inputs,
                       first, sums + begin * kPanelOutputs + t * kTileOutputs, prefetch);
    }
  }
}

/// Tiles to take at once: as many as there are for one row, fewer for more rows where registers
/// are few.
MOESAIC_INLINE int64_t tiles_at_once(int64_t tiles, int64_t rows) {
  int64_t wanted = 4;
  if (kLanes == 8) wanted = rows == 1 ? 4 : rows <= 3 ? 2 : 1;
  if (kLanes == 4) wanted = rows == 1 ? 2 : 1;
  while (tiles % wanted != 0) wanted /= 2;
  return wanted;
}

// --- Epilogues. Sums are [rows][64], of which the task's tiles are filled in from column 0.

/// Columns [0, count) of y (+)= scale * sums, whole vectors first.
MOESAIC_INLINE void store_row(const Gemm& task, int64_t row, int64_t column, int64_t count,
                              const float* sums) {
  float* y = task.y + row * task.y_stride + column;
  const float* bias = task.bias == nullptr ? nullptr : task.bias + column;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec sum = load(sums + i);
    store(y + i, bias == nullptr ? sum : add(sum, load(bias + i)));
  }
  for (; i < count; ++i) y[i] = bias == nullptr ? sums[i] : sums[i] + bias[i];
}

MOESAIC_INLINE void scatter_row(const Gemm& task, int64_t row, int64_t column, int64_t count,
                                const float* sums) {
  float* y = task.y + task.target[row] * task.y_stride + column;
  const float scale = task.scale[row];
  const Vec scales = set1(scale);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, fma(load(sums + i), scales, load(y + i)));
  for (; i < count; ++i) {
    if constexpr (kLanes == 4) {
      y[i] += scale * sums[i];
    } else {
      y[i] = __builtin_fmaf(sums[i], scale, y[i]);
    }
  }
}

/// 32 gated values from sums laid out gate, up, gate, up.
template <class W>
MOESAIC_INLINE void swiglu_row(const Gemm& task, int64_t row, int64_t panel, const float* sums) {
  std::byte* h = task.h + row / 16 * task.h_layout.group + row % 16 * task.h_layout.row +
                 panel * task.h_layout.block;
  for (int half = 0; half < 2; ++half) {
    for (int v = 0; v < kTileVecs; ++v) {
      const float* gate = sums + half * 2 * kTileOutputs + v * kLanes;
      const Vec value = mul(silu(load(gate)), load(gate + kTileOutputs));
      const int64_t at = half * kTileOutputs + v * kLanes;
#if defined(__AVX512BF16__)
      if constexpr (W::kBf16Rows) {
        store_bf16(h + at * 2, value);
        continue;
      }
#endif
      store(reinterpret_cast<float*>(h) + at, value);
    }
  }
}

/// Hands the sums of rows [row, row + rows) of one panel on.
template <class W>
void finish(const Gemm& task, int64_t panel, int64_t row, int64_t rows, const float* sums) {
  const int64_t column = panel * kPanelOutputs + task.first_tile * kTileOutputs;
  const int64_t exist = task.n - column;
  const int64_t computed = task.tiles * kTileOutputs;
  const int64_t count = exist < computed ? exist : computed;
  for (int64_t r = 0; r < rows; ++r, sums += kPanelOutputs) {
    switch (task.epilogue) {
      case Epilogue::kStore:
        store_row(task, row + r, column, count, sums);
        break;
      case Epilogue::kSwiGlu:
        swiglu_row<W>(task, row + r, panel, sums);
        break;
      case Epilogue::kScatter:
        scatter_row(task, row + r, column, count, sums);
        break;
    }
  }
}

// --- The loop nest: panels, groups of rows whose sums fit, chunks of inputs that fit the first
// level cache together with the rows.

#ifndef MOESAIC_CHUNK_BYTES
#define MOESAIC_CHUNK_BYTES 32768
#endif

template <class W>
void gemm_of(const Gemm& task) {
  constexpr int64_t kChunkBlocks = MOESAIC_CHUNK_BYTES / kBlockBytes<W>;
  const int64_t all_blocks = (task.k + kTileInputs - 1) / kTileInputs;
  // bf16 rows are padded with zeros; f32 rows end where they end.
  const int64_t whole_blocks = W::kBf16Rows ? all_blocks : task.k / kTileInputs;
  const int rest = static_cast<int>(W::kBf16Rows ? 0 : task.k % kTileInputs);
  const int64_t panel_bytes = all_blocks * kBlockBytes<W>;
  alignas(64) float sums[kSumRows * kPanelOutputs];

  for (int64_t panel = 0; panel < task.panels; ++panel) {
    const std::byte* weights = task.weights + panel * panel_bytes;
    const int64_t first_rows = task.rows < kSumRows ? task.rows : kSumRows;
    const int64_t at_once = tiles_at_once(task.tiles, first_rows);
    const int64_t shares = (task.rows + 5) / 6;
    const int64_t visits = shares * (task.tiles / at_once);
    Prefetcher prefetch(visits > 1 ? Streaming::kPanel : Streaming::kHardware, weights,
                        panel + 1 < task.panels ? weights + panel_bytes : task.next, panel_bytes,
                        kBlockBytes<W>, visits);
    for (int64_t row = 0; row < task.rows; row += kSumRows) {
      const int64_t rows = task.rows - row < kSumRows ? task.rows - row : kSumRows;
      int64_t block = 0;
      do {
        const int64_t left = whole_blocks - block;
        const bool last = left <= kChunkBlocks;
        const Inputs inputs{last ? left : kChunkBlocks, last ? rest : 0};
        const std::byte* at = weights + block * kBlockBytes<W>;
        const bool first = block == 0;
        if (at_once == 4) {
          sweep<W, 4>(task, at, block, row, rows, inputs, first, sums, prefetch);
        } else if (at_once == 2) {
          sweep<W, 2>(task, at, block, row, rows, inputs, first, sums, prefetch);
        } else {
          sweep<W, 1>(task, at, block, row, rows, inputs, first, sums, prefetch);
        }
        block += kChunkBlocks;
      } while (block < whole_blocks);
      finish<W>(task, panel, row, rows, sums);
    }
  }
}

void gemm(WeightType type, const Gemm& task) {
  switch (type) {
    case WeightType::kF32:
      gemm_of<WeightF32>(task);
      break;
    case WeightType::kF16:
      gemm_of<WeightF16>(task);
      break;
    case WeightType::kBF16:
#if defined(__AVX512BF16__)
      gemm_of<WeightBF16Dot>(task);
#else
      gemm_of<WeightBF16>(task);
#endif
      break;
  }
}

// --- Activations and dummy weights.

#if defined(__AVX512BF16__)
void round_rows(const float* x, const int32_t* index, int64_t first, int64_t rows, int64_t k,
                std::byte* out, const ActivationLayout& layout) {
  for (int64_t row = first; row < first + rows; ++row) {
    const int64_t source = index == nullptr ? row : index[row];
    if (source < 0) continue;
    const float* from = x + source * k;
    std::byte* to = out + row / 16 * layout.group + row % 16 * layout.row;
    int64_t at = 0;
    for (; at + kTileInputs <= k; at += kTileInputs, to += layout.block) {
      store_bf16(to, load(from + at));
      store_bf16(to + 32, load(from + at + 16));
    }
    if (at == k) continue;
    for (int half = 0; half < 2; ++half) {
      const int64_t left = k - at - half * 16;
      const auto mask = static_cast<__mmask16>(left >= 16  ? 0xffff
                                               : left <= 0 ? 0
                                                           : (1 << left) - 1);
      store_bf16(to + half * 32, _mm512_maskz_loadu_ps(mask, from + at + half * 16));
    }
  }
}
#endif

MOESAIC_INLINE uint32_t bf16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

/// Half bits of a value below 2^-4 in magnitude, rounded to nearest even; dummy values are.
MOESAIC_INLINE uint16_t small_f16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  float positive;
  std::memcpy(&positive, &magnitude, sizeof(positive));
  const float shifted = positive + 0.5f;
  uint32_t subnormal;
  std::memcpy(&subnormal, &shifted, sizeof(subnormal));
  subnormal -= 0x3f000000u;
  return static_cast<uint16_t>(sign | (magnitude < 0x38800000u ? subnormal : normal));
}

void dummy_tile(WeightType type, const uint32_t* keys, int64_t outputs, int64_t first_input,
                int64_t inputs, int64_t row_step, std::byte* out) {
  float values[kTileInputs][kTileOutputs];
  for (int64_t i = 0; i < kTileInputs; ++i) {
    const auto column = static_cast<uint32_t>(first_input + i);
    for (int64_t o = 0; o < kTileOutputs; ++o) values[i][o] = dummy_from_key(keys[o], column);
  }
  if (outputs < kTileOutputs || inputs < kTileInputs) {
    for (int64_t i = 0; i < kTileInputs; ++i) {
      for (int64_t o = 0; o < kTileOutputs; ++o) {
        if (i >= inputs || o >= outputs) values[i][o] = 0;
      }
    }
  }
  for (int64_t i = 0; i < kTileInputs; ++i) {
    switch (type) {
      case WeightType::kF32:
        std::memcpy(out + i * row_step, values[i], sizeof(values[i]));
        break;
      case WeightType::kF16: {
        auto* halves = reinterpret_cast<uint16_t*>(out + i * row_step);
        for (int64_t o = 0; o < kTileOutputs; ++o) halves[o] = small_f16_bits(values[i][o]);
        break;
      }
      case WeightType::kBF16: {
        if (i % 2 != 0) break;
        auto* pairs = reinterpret_cast<uint32_t*>(out + i / 2 * row_step);
        for (int64_t o = 0; o < kTileOutputs; ++o) {
          pairs[o] = bf16_bits(values[i][o]) | bf16_bits(values[i + 1][o]) << 16;
        }
        break;
      }
    }
  }
}

// --- Limits of the machine.

/// Multiply-adds on registers only.
double peak_fma(int64_t iterations) {
  constexpr int kChains = kLanes == 16 ? 24 : 12;
  Vec sums[kChains];
  for (Vec& sum : sums) sum = zero();
  Vec a = set1(1.0f);
  Vec b = set1(1e-7f);
  for (int64_t i = 0; i < iterations; ++i) {
    __asm__ volatile("" : "+x"(a), "+x"(b));
    _Pragma("GCC unroll 32") for (int c = 0; c < kChains; ++c) sums[c] = fma(a, b, sums[c]);
  }
  for (Vec& sum : sums) __asm__ volatile("" : : "x"(sum));
  return static_cast<double>(iterations) * kChains * kLanes * 2;
}

#if defined(__AVX512BF16__)
double peak_dot(int64_t iterations) {
  constexpr int kChains = 24;
  Vec sums[kChains];
  for (Vec& sum : sums) sum = zero();
  __m512i ones = _mm512_set1_epi16(0x3f80);
  for (int64_t i = 0; i < iterations; ++i) {
    __asm__ volatile("" : "+v"(ones));
    const __m512bh pairs = as_pairs(ones);
    _Pragma("GCC unroll 32") for (int c = 0; c < kChains; ++c) {
      sums[c] = _mm512_dpbf16_ps(sums[c], pairs, pairs);
    }
  }
  for (Vec& sum : sums) __asm__ volatile("" : : "v"(sum));
  return static_cast<double>(iterations) * kChains * 64;
}
#endif

double peak([[maybe_unused]] WeightType type, int64_t iterations) {
#if defined(__AVX512BF16__)
  if (type == WeightType::kBF16) return peak_dot(iterations);
#endif
  return peak_fma(iterations);
}

template <int kStreams>
uint64_t read_streams(const std::byte* data, int64_t bytes, int64_t ahead) {
  constexpr int kVecs = 4;  // at a time of each stream
  constexpr int64_t kStep = kVecs * kLanes * static_cast<int64_t>(sizeof(float));
  const int64_t part = bytes / kStreams;
  Vec sums[kStreams * kVecs];
  for (Vec& sum : sums) sum = zero();
  for (int64_t at = 0; at < part; at += kStep) {
    _Pragma("GCC unroll 4") for (int s = 0; s < kStreams; ++s) {
      const std::byte* from = data + s * part + at;
      if (ahead > 0) {
        _Pragma("GCC unroll 4") for (int64_t line = 0; line < kStep; line += kCacheLine) {
          __builtin_prefetch(from + ahead + line, 0, 0);
        }
      }
      _Pragma("GCC unroll 4") for (int v = 0; v < kVecs; ++v) {
        Vec& sum = sums[s * kVecs + v];
        sum = add(sum, load(reinterpret_cast<const float*>(from) + v * kLanes));
      }
    }
  }
  float out[kStreams * kVecs * kLanes];
  for (int s = 0; s < kStreams * kVecs; ++s) store(out + s * kLanes, sums[s]);
  uint64_t bits = 0;
  for (float value : out) bits += bits_at(reinterpret_cast<const std::byte*>(&value));
  return bits;
}

uint64_t read_all(const std::byte* data, int64_t bytes, const ReadPattern& pattern) {
  if (pattern.streams == 4) return read_streams<4>(data, bytes, pattern.ahead);
  if (pattern.streams == 2) return read_streams<2>(data, bytes, pattern.ahead);
  return read_streams<1>(data, bytes, pattern.ahead);
}

}  // namespace
}  // namespace moesaic::backend::cpu
