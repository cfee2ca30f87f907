// The AMX tile instructions or, with MOESAIC_EMULATE_TILES, their likeness for tests on machines
// without AMX.

#pragma once

#include <cstring>

#include "backend/cpu/vec_inl.h"

namespace moesaic::backend::cpu {
namespace {

#ifdef MOESAIC_EMULATE_TILES

/// The eight tile registers, with the semantics of the Intel SDM (vol. 2, TDPBF16PS), except that
/// denormals are kept.
struct Tiles {
  alignas(64) uint8_t bytes[8][16][64];
};
thread_local Tiles g_tiles;

MOESAIC_INLINE void emulate_load(int tile, const void* from, int64_t stride) {
  for (int r = 0; r < 16; ++r) {
    std::memcpy(g_tiles.bytes[tile][r], static_cast<const uint8_t*>(from) + r * stride, 64);
  }
}
MOESAIC_INLINE void emulate_store(int tile, void* to, int64_t stride) {
  for (int r = 0; r < 16; ++r) {
    std::memcpy(static_cast<uint8_t*>(to) + r * stride, g_tiles.bytes[tile][r], 64);
  }
}
MOESAIC_INLINE float emulated_bf16(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
MOESAIC_INLINE void emulate_dot(int c, int a, int b) {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      float even = 0;
      float odd = 0;
      for (int k = 0; k < 16; ++k) {
        const uint8_t* left = g_tiles.bytes[a][m] + 4 * k;
        const uint8_t* right = g_tiles.bytes[b][k] + 4 * n;
        even = __builtin_fmaf(emulated_bf16(left), emulated_bf16(right), even);
        odd = __builtin_fmaf(emulated_bf16(left + 2), emulated_bf16(right + 2), odd);
      }
      float sum;
      std::memcpy(&sum, g_tiles.bytes[c][m] + 4 * n, 4);
      sum += even + odd;
      std::memcpy(g_tiles.bytes[c][m] + 4 * n, &sum, 4);
    }
  }
}
#define TILE_CONFIGURE(config) (void)(config)
#define TILE_RELEASE() (void)0
#define TILE_ZERO(t) std::memset(g_tiles.bytes[t], 0, sizeof(g_tiles.bytes[t]))
#define TILE_LOAD(t, p, stride) emulate_load(t, p, stride)
#define TILE_STORE(t, p, stride) emulate_store(t, p, stride)
#define TILE_DOT(c, a, b) emulate_dot(c, a, b)

#else

// Tile numbers are pasted into the instruction, so they are literals.
#define TILE_CONFIGURE(config) _tile_loadconfig(config)
#define TILE_RELEASE() _tile_release()
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define TILE_DOT(c, a, b) _tile_dpbf16ps(c, a, b)

#endif

/// GCC 12 does not tell the optimiser that a tile load reads memory; nothing may move across this.
MOESAIC_INLINE void memory_barrier() { __asm__ volatile("" ::: "memory"); }

/// Palette 1, eight tiles of 16 rows of 64 bytes: the bytes per row from 16 on, the rows from 48.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
alignas(64) constexpr TileConfig kTileConfig;

}  // namespace
}  // namespace moesaic::backend::cpu
