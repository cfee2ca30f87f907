// The bf16 product on AMX tiles, for gemm_amx.cpp and its test with emulated tiles.
//
// Sixteen rows of activations are an A tile, a weight tile is a B tile as it lies in memory. An
// output depends on its row of A and its column of B only, so idle rows of a tile change nothing.

#pragma once

#include "backend/cpu/gemm_inl.h"
#include "backend/cpu/tile_registers_inl.h"

namespace moesaic::backend::cpu {
namespace {

constexpr int64_t kRowsPerTile = 16;
constexpr int64_t kWeightBlock = kBlockBytes<WeightBF16Dot>;
constexpr int64_t kWeightTile = kWeightBlock / kPanelTiles;
constexpr int64_t kTileStride = 64;
constexpr int64_t kSumStride = kPanelOutputs * 4;

/// One stretch of inputs of one group of 16 rows (or two) against some tiles of a panel.
struct TileStretch {
  const std::byte* x;        ///< first A tile
  int64_t x_group;           ///< bytes to the second group's
  const std::byte* weights;  ///< first B tile
  int64_t blocks;
  bool first;   ///< sums start at zero
  float* sums;  ///< [rows][64], first row and tile of this stretch
};

/// 32 rows x 32 outputs: four sums from two A and two B tiles, a load per product.
MOESAIC_INLINE void tiles_2x2(const TileStretch& s, Prefetcher& prefetch) {
  float* low = s.sums + kRowsPerTile * kPanelOutputs;
  memory_barrier();
  if (s.first) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  } else {
    TILE_LOAD(0, s.sums, kSumStride);
    TILE_LOAD(1, s.sums + kTileOutputs, kSumStride);
    TILE_LOAD(2, low, kSumStride);
    TILE_LOAD(3, low + kTileOutputs, kSumStride);
  }
  const std::byte* x = s.x;
  const std::byte* w = s.weights;
  for (int64_t block = 0; block < s.blocks; ++block) {
    // Spread out, for a burst of them fills the buffers that the tiles' own loads need.
    TILE_LOAD(6, w, kTileStride);
    TILE_LOAD(4, x, kTileStride);
    prefetch.quarter();
    TILE_LOAD(5, x + s.x_group, kTileStride);
    TILE_DOT(0, 4, 6);
    prefetch.quarter();
    TILE_LOAD(7, w + kWeightTile, kTileStride);
    TILE_DOT(2, 5, 6);
    prefetch.quarter();
    TILE_DOT(1, 4, 7);
    prefetch.quarter();
    TILE_DOT(3, 5, 7);
    x += kRowsPerTile * kTileStride;
    w += kWeightBlock;
  }
  TILE_STORE(0, s.sums, kSumStride);
  TILE_STORE(1, s.sums + kTileOutputs, kSumStride);
  TILE_STORE(2, low, kSumStride);
  TILE_STORE(3, low + kTileOutputs, kSumStride);
  memory_barrier();
}

/// 16 rows x 64 outputs: each weight is used once, so it streams through alternating tiles.
MOESAIC_INLINE void tiles_1x4(const TileStretch& s, Prefetcher& prefetch) {
  memory_barrier();
  if (s.first) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  } else {
    TILE_LOAD(0, s.sums, kSumStride);
    TILE_LOAD(1, s.sums + kTileOutputs, kSumStride);
    TILE_LOAD(2, s.sums + 2 * kTileOutputs, kSumStride);
    TILE_LOAD(3, s.sums + 3 * kTileOutputs, kSumStride);
  }
  const std::byte* x = s.x;
  const std::byte* w = s.weights;
  for (int64_t block = 0; block < s.blocks; ++block) {
    prefetch.step();
    TILE_LOAD(4, x, kTileStride);
    TILE_LOAD(5, w, kTileStride);
    TILE_LOAD(6, w + kWeightTile, kTileStride);
    TILE_LOAD(7, w + 2 * kWeightTile, kTileStride);
    TILE_DOT(0, 4, 5);
    TILE_LOAD(5, w + 3 * kWeightTile, kTileStride);
    TILE_DOT(1, 4, 6);
    TILE_DOT(2, 4, 7);
    TILE_DOT(3, 4, 5);
    x += kRowsPerTile * kTileStride;
    w += kWeightBlock;
  }
  TILE_STORE(0, s.sums, kSumStride);
  TILE_STORE(1, s.sums + kTileOutputs, kSumStride);
  TILE_STORE(2, s.sums + 2 * kTileOutputs, kSumStride);
  TILE_STORE(3, s.sums + 3 * kTileOutputs, kSumStride);
  memory_barrier();
}

/// 16 rows x 32 outputs.
MOESAIC_INLINE void tiles_1x2(const TileStretch& s, Prefetcher& prefetch) {
  memory_barrier();
  if (s.first) {
    TILE_ZERO(0);
    TILE_ZERO(1);
  } else {
    TILE_LOAD(0, s.sums, kSumStride);
    TILE_LOAD(1, s.sums + kTileOutputs, kSumStride);
  }
  const std::byte* x = s.x;
  const std::byte* w = s.weights;
  for (int64_t block = 0; block < s.blocks; ++block) {
    prefetch.step();
    TILE_LOAD(4, x, kTileStride);
    TILE_LOAD(6, w, kTileStride);
    TILE_DOT(0, 4, 6);
    TILE_LOAD(7, w + kWeightTile, kTileStride);
    TILE_DOT(1, 4, 7);
    x += kRowsPerTile * kTileStride;
    w += kWeightBlock;
  }
  TILE_STORE(0, s.sums, kSumStride);
  TILE_STORE(1, s.sums + kTileOutputs, kSumStride);
  memory_barrier();
}

#ifndef MOESAIC_TILE_STREAMING
#define MOESAIC_TILE_STREAMING kAhead
#endif
/// Inputs taken at once: a panel up to this size stays in the second level cache while all rows
/// pass it, and an output is then done in one go. Larger panels are cut, and their sums kept in
/// between.
#ifndef MOESAIC_TILE_CHUNK_BYTES
#define MOESAIC_TILE_CHUNK_BYTES 524288
#endif
constexpr int64_t kTileChunkBlocks = MOESAIC_TILE_CHUNK_BYTES / kWeightBlock;
/// Rows of one step (tiles_2x2), and rows whose sums are kept between the chunks of a cut panel.
constexpr int64_t kStepRows = 2 * kRowsPerTile;
constexpr int64_t kCutRows = 256;

/// All rows of a stretch of `groups` groups of 16, over one chunk of inputs.
void sweep_tiles(const Gemm& task, const std::byte* weights, const std::byte* x, int64_t groups,
                 int64_t blocks, bool first, float* sums, Prefetcher& prefetch) {
  for (int64_t group = 0; group < groups;) {
    TileStretch stretch{x + group * task.x_layout.group,
                        task.x_layout.group,
                        weights + task.first_tile * kWeightTile,
                        blocks,
                        first,
                        sums + group * kRowsPerTile * kPanelOutputs};
    const bool pair = groups - group >= 2;
    if (!pair && task.tiles == kPanelTiles) {
      tiles_1x4(stretch, prefetch);
      group += 1;
      continue;
    }
    for (int64_t tile = 0; tile < task.tiles; tile += 2) {
      if (pair) {
        tiles_2x2(stretch, prefetch);
      } else {
        tiles_1x2(stretch, prefetch);
      }
      stretch.weights += 2 * kWeightTile;
      stretch.sums += 2 * kTileOutputs;
    }
    group += pair ? 2 : 1;
  }
}

/// As gemm_of, for bf16 rows in tiles. Rows beyond the last are computed with whatever is there and
/// dropped.
void gemm_tiles(const Gemm& task) {
  const int64_t blocks = (task.k + kTileInputs - 1) / kTileInputs;
  const int64_t panel_bytes = blocks * kWeightBlock;
  const int64_t all_groups = (task.rows + kRowsPerTile - 1) / kRowsPerTile;
  // Handing the sums on after each step lets the stores drain behind the next step's tiles.
  const int64_t at_once = blocks <= kTileChunkBlocks ? kStepRows : kCutRows;
  const int64_t groups_at_once = at_once / kRowsPerTile;
  alignas(64) float sums[kCutRows * kPanelOutputs];

  // Visits of one block of inputs: a 2x2 step takes half its tiles.
  const int64_t visits = all_groups / 2 * (task.tiles / 2) + all_groups % 2;
  TILE_CONFIGURE(&kTileConfig);
  for (int64_t panel = 0; panel < task.panels; ++panel) {
    const std::byte* weights = task.weights + panel * panel_bytes;
    Prefetcher prefetch(visits > 1 ? Streaming::kPanel : Streaming::MOESAIC_TILE_STREAMING, weights,
                        panel + 1 < task.panels ? weights + panel_bytes : task.next, panel_bytes,
                        kWeightBlock, visits);
    for (int64_t group = 0; group < all_groups; group += groups_at_once) {
      const int64_t left = all_groups - group;
      const int64_t groups = left < groups_at_once ? left : groups_at_once;
      const std::byte* x = task.x + group * task.x_layout.group;
      for (int64_t block = 0; block < blocks; block += kTileChunkBlocks) {
        const int64_t chunk = blocks - block < kTileChunkBlocks ? blocks - block : kTileChunkBlocks;
        sweep_tiles(task, weights + block * kWeightBlock, x + block * task.x_layout.block, groups,
                    chunk, block == 0, sums, prefetch);
      }
      const int64_t row = group * kRowsPerTile;
      const int64_t rows = task.rows - row < at_once ? task.rows - row : at_once;
      finish<WeightBF16Dot>(task, panel, row, rows, sums);
    }
  }
  TILE_RELEASE();
}

void gemm_amx(WeightType type, const Gemm& task) {
  if (type == WeightType::kBF16) {
    gemm_tiles(task);
  } else {
    gemm(type, task);
  }
}

double peak_amx(WeightType type, int64_t iterations) {
  if (type != WeightType::kBF16) return peak(type, iterations);
  TILE_CONFIGURE(&kTileConfig);
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  TILE_ZERO(4);
  TILE_ZERO(5);
  TILE_ZERO(6);
  TILE_ZERO(7);
  for (int64_t i = 0; i < iterations; ++i) {
    TILE_DOT(0, 4, 6);
    TILE_DOT(1, 4, 7);
    TILE_DOT(2, 5, 6);
    TILE_DOT(3, 5, 7);
  }
  TILE_RELEASE();
  return static_cast<double>(iterations) * 4 * 2 * 16 * 16 * 32;
}

}  // namespace
}  // namespace moesaic::backend::cpu
