#pragma once

// Packed weights. A matrix [n, k] is cut into tiles of 64 outputs by 128 bytes of inputs, the tiles
// of the same outputs one after the other in ascending k:
//   [n / 64][k / kTileK][4 slabs][16 outputs][8 chunks of 16 bytes]
// Chunk c of output r lies at place c ^ (r % 8): the 128-byte swizzle that wgmma reads and that
// keeps ldmatrix free of bank conflicts. A tile is the A operand of one wgmma, a slab of it that of
// one mma.sync. Tensor copies fetch either, and several along K or the outputs, at once. Blocks
// read 8 KiB and more in a row, which the memory likes better than slabs that each have their K
// together (measured).
//
// Elements of 8 bits are permuted within each 16 inputs so that the four bytes of a lane of
// ldmatrix are the inputs 2t, 2t+1, 2t+8, 2t+9 that the bf16 fragment of that lane holds.
//
// Gate and up rows of an expert are interleaved by 8 within each slab, so that both land in the
// same thread's fragment: row 16 s + i is gate row 8 s + i for i < 8, else up row 8 s + i - 8.
//
// Scales follow the tiles: per output [n rounded to 64], or per 8 outputs and 128 inputs
// [n / 16][k / 128][2].

#include <cstdint>

#include "backend/cuda/products/products.h"

namespace moesaic::backend::cuda {

inline constexpr int kSlabRows = 16;
inline constexpr int kTileRowBytes = 128;
inline constexpr int kSlabBytes = kSlabRows * kTileRowBytes;
inline constexpr int kTileSlabs = 4;
inline constexpr int kTileRows = kTileSlabs * kSlabRows;
inline constexpr int kTileBytes = kTileSlabs * kSlabBytes;
inline constexpr int kChunkBytes = 16;
inline constexpr int kPackedAlignment = 1024;

/// Inputs per partial sum where K is summed in chunks; a multiple of every format's tile.
inline constexpr int kChunkInputs = 512;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

constexpr bool is_fp8(Format format) { return format != Format::kBF16; }
constexpr int tile_inputs(Format format) { return is_fp8(format) ? 128 : 64; }

/// Where the pieces of one packed matrix lie, in bytes from its first tile.
struct PackedMatrix {
  int64_t tiles_n = 0;
  int64_t tiles_k = 0;
  int64_t scales = 0;  ///< offset of the scales; they are there for fp8 formats only
  int64_t bytes = 0;   ///< of the matrix, rounded to kPackedAlignment

  constexpr PackedMatrix(int64_t n, int64_t k, Format format, Scales kind)
      : tiles_n(ceil_div(n, kTileRows)), tiles_k(ceil_div(k, tile_inputs(format))) {
    scales = tiles_n * tiles_k * kTileBytes;
    int64_t count = 0;
    if (is_fp8(format)) count = tiles_n * (kind == Scales::kBlock128 ? tiles_k * 8 : kTileRows);
    bytes = round_up(scales + count * 4, kPackedAlignment);
  }
};

/// One expert: its gate and up tiles, then its down tiles.
struct PackedExpert {
  PackedMatrix gate_up;
  PackedMatrix down;

  constexpr explicit PackedExpert(const ExpertsShape& s)
      : gate_up(2 * round_up(s.width, 8), s.hidden, s.format, s.scales),
        down(s.hidden, s.width, s.format, s.scales) {}
  constexpr int64_t bytes() const { return gate_up.bytes + down.bytes; }
};

/// Inputs per partial sum of a matrix, or 0 where the whole K has one accumulator. Set by the
/// weight alone, never by rows. Chunks let several warps share a slab's K, which small matrices
/// need at few rows; the largest matrices have warps enough, and their accumulators fill the
/// register file at many rows, where every chunk costs a pause of the tensor cores besides: four
/// are a compromise.
constexpr int64_t chunk_inputs(int64_t n, int64_t k, bool many_experts, Format format) {
  if (format == Format::kFP8Rounded) return 0;  // every tile is scaled and added by itself
  if (many_experts || n * k > int64_t{1} << 26 || k <= kChunkInputs) return 0;
  return round_up(ceil_div(k, 4), kChunkInputs);
}

}  // namespace moesaic::backend::cuda
