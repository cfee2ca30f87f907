#pragma once

// Many rows without wgmma or bulk copies: 128 outputs by 128 rows, eight warps of 32 outputs by 64
// rows on mma.sync, stages filled with cp.async. The sums are added in the order of every other
// kernel of this path.

#include "backend/cuda/products/format.cuh"
#include "backend/cuda/products/schedule.cuh"

namespace moesaic::backend::cuda {

template <class F>
struct PortableTile {
  static constexpr int kThreads = 256;
  static constexpr int kOutputs = 128;
  static constexpr int kTokens = 128;
  static constexpr int kWeightBytes = kOutputs * kTileRowBytes;
  static constexpr int kRowParts = F::kTileK / 64;
  static constexpr int kPartBytes = kTokens * 128;
  static constexpr int kStageBytes = kWeightBytes + kRowParts * kPartBytes;
  /// 96 KiB, which leaves the lists 3 of what a block may have on compute capability 8.6 and 8.9.
  static constexpr int kStages = (96 << 10) / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
};

/// Starts the copies of stage k of a tile.
template <class F>
__device__ __forceinline__ void copy_stage(const ProductArgs& a, const TileWork& w, int k,
                                           const int64_t (&offsets)[4], uint32_t stage) {
  using Tile = PortableTile<F>;
  const int thread = threadIdx.x;
  const uint8_t* weights = a.weights + w.expert * a.expert_bytes;
#pragma unroll
  for (int i = 0; i < Tile::kWeightBytes / (Tile::kThreads * kChunkBytes); ++i) {
    const int at = (i * Tile::kThreads + thread) * kChunkBytes;
    const int tile_n = w.outputs * 2 + at / kTileBytes;
    if (tile_n >= a.tiles_n) break;
    const uint8_t* from = weights + (static_cast<int64_t>(tile_n) * a.tiles_k + k) * kTileBytes;
    async_copy16(stage + at, from + at % kTileBytes, kChunkBytes);
  }
  const int token = thread / 8;
  const int chunk = thread % 8;
  const uint32_t place = token * 128 + ((chunk ^ (token % 8)) << 4);
#pragma unroll
  for (int part = 0; part < Tile::kRowParts; ++part) {
    const int input = k * F::kTileK + part * 64 + chunk * 8;
    const uint32_t bytes = min(max((a.k - input) * 2, 0), kChunkBytes);
    const uint8_t* from = a.x + (bytes > 0 ? input * 2 : 0);
    const uint32_t to = stage + Tile::kWeightBytes + part * Tile::kPartBytes + place;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (token + i * 32 < w.tokens) async_copy16(to + i * 32 * 128, from + offsets[i], bytes);
    }
  }
}

/// sums += one stage's products of a warp: two slabs by 64 rows.
template <class F>
__device__ __forceinline__ void multiply_portable(uint32_t weights, uint32_t rows, int tokens,
                                                  float (&sums)[2][8][4]) {
  using Tile = PortableTile<F>;
  const int lane = threadIdx.x % 32;
  const uint32_t a_row = weights + lane % 16 * kTileRowBytes;
  // One ldmatrix.x4 brings 16 inputs of 16 rows: rows by lane % 8 and lane / 16, inputs by lane
  // / 8.
  const uint32_t b_row = rows + (lane % 8 + lane / 16 * 8) * 128;
#pragma unroll
  for (int part = 0; part < 4; ++part) {  // 32 bytes of every tile row
    uint32_t fragments[2][F::kSteps][4];
#pragma unroll
    for (int slab = 0; slab < 2; ++slab) {
      uint32_t raw[4];
      load_matrices(a_row + slab * kSlabBytes + (((2 * part + lane / 16) ^ lane % 8) << 4), raw);
      F::unpack(raw, fragments[slab]);
    }
#pragma unroll
    for (int s = 0; s < F::kSteps; ++s) {
      const int step = part * F::kSteps + s;  // of 16 inputs
      const uint32_t b_part = b_row + step / 4 * Tile::kPartBytes;
      const uint32_t b_chunk = ((step % 4 * 2 + lane / 8 % 2) ^ lane % 8) << 4;
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        if (8 * j >= tokens) break;
        uint32_t b[4];
        load_matrices(b_part + j * 8 * 128 + b_chunk, b);
#pragma unroll
        for (int slab = 0; slab < 2; ++slab) {
          multiply_bf16(sums[slab][j], fragments[slab][s], b[0], b[1]);
          multiply_bf16(sums[slab][j + 1], fragments[slab][s], b[2], b[3]);
        }
      }
    }
  }
}

template <class F, bool kChunks, bool kSilu>
__global__ void __launch_bounds__(256, 1)
    portable_tile_kernel(const __grid_constant__ ProductArgs a) {
  using Tile = PortableTile<F>;
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ ShortPlanLists lists;
  if (!kSilu) release_successor();
  wait_for_predecessor();
  if (kSilu) release_successor();
  const Schedule<Tile::kOutputs, Tile::kTokens, ShortPlanLists> schedule(a, lists);
  const int warp_outputs = threadIdx.x / 32 % 4;  // in units of two slabs
  const int warp_rows = threadIdx.x / 128 * 64;
  const uint32_t data = shared_address(shared);

  for (int tile = blockIdx.x; tile < schedule.tiles(); tile += gridDim.x) {
    const TileWork w = schedule.locate(tile);
    int64_t offsets[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = threadIdx.x / 8 + i * 32;
      offsets[i] = r < w.tokens ? schedule.x_row(w.first + r) * a.x_stride : 0;
    }
#pragma unroll
    for (int k = 0; k < Tile::kStages - 1; ++k) {
      if (k < a.tiles_k) copy_stage<F>(a, w, k, offsets, data + k * Tile::kStageBytes);
      async_commit();
    }
    const bool scaled_chunks = kChunks && F::kOutputScales && a.block_scales;
    const int chunk_tiles = scaled_chunks ? 1 : a.chunk_tiles;
    const int first_slab = w.outputs * 8 + warp_outputs * 2;
    float sums[2][8][4] = {};
    float chunk[2][8][4] = {};
    int until = chunk_tiles;  // tiles of the chunk that are left
    bool first = true;
    int slot = 0;
    for (int k = 0; k < a.tiles_k; ++k) {
      async_wait<Tile::kStages - 2>();
      __syncthreads();
      const int next = k + Tile::kStages - 1;
      if (next < a.tiles_k) {
        copy_stage<F>(a, w, next, offsets, data + next % Tile::kStages * Tile::kStageBytes);
      }
      async_commit();
      const uint32_t stage = data + slot * Tile::kStageBytes;
      multiply_portable<F>(stage + warp_outputs * 2 * kSlabBytes,
                           stage + Tile::kWeightBytes + warp_rows * 128, w.tokens - warp_rows,
                           chunk);
      slot = slot + 1 == Tile::kStages ? 0 : slot + 1;
      if (kChunks && (--until == 0 || k + 1 == a.tiles_k)) {
        BlockScales scales[2]{};
        if (scaled_chunks) {
          for (int i = 0; i < 2; ++i)
            scales[i] = block_scales(a, w.expert, min(first_slab + i, a.slabs - 1), k);
        }
#pragma unroll
        for (int i = 0; i < 2 * 8 * 4; ++i) {
          float& sum = sums[i / 32][i / 4 % 8][i % 4];
          float& part = chunk[i / 32][i / 4 % 8][i % 4];
          sum = scaled_chunks ? add_scaled(sum, part, scales[i / 32], i)
                : first       ? part
                              : __fadd_rn(sum, part);
          part = 0.0f;
        }
        first = false;
        until = chunk_tiles;
      }
    }
    __syncthreads();  // the next tile's copies overwrite what slower warps still read
#pragma unroll
    for (int slab = 0; slab < 2; ++slab) {
      const int at = first_slab + slab;
      if (at >= a.slabs) break;
      const SlabValues values = slab_values<F>(a, w.expert, at);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int done = warp_rows + 8 * j;
        if (done >= w.tokens) break;
        store_fragment<F, kSilu>(a, values, kChunks ? sums[slab][j] : chunk[slab][j],
                                 w.tokens - done, [&](int r) -> int64_t {
                                   const int place = w.first + done + r;
                                   return kSilu && !a.h_by_pair ? place : schedule.pair(place);
                                 });
      }
    }
  }
}

}  // namespace moesaic::backend::cuda
