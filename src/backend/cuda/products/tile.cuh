#pragma once

// Many rows: tiles of 64 or 128 outputs by 64, 128 or 256 rows on wgmma. One warpgroup copies, one
// or two multiply 64 outputs each; a block goes from tile to tile and its copies run ahead across
// tiles. Weights come as whole 8 KiB tiles by bulk copies, rows by cp.async in 16-byte chunks, which
// lets any row be gathered and any k be padded with zeros.
//
// What bounds it: at few rows, weights over the read bandwidth, so 90 KiB and more of them are in
// flight; at many rows the tensor cores, so the tile is as large as the registers allow.

#include "backend/cuda/products/format.cuh"
#include "backend/cuda/products/schedule.cuh"
#include "backend/cuda/products/wgmma.cuh"

namespace moesaic::backend::cuda {

template <class F, int kGroups, int kTokens>
struct TileShape {
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kWeightBytes = kGroups * kTileBytes;
  /// Rows of 64 inputs, 128 bytes.
  static constexpr int kRowParts = F::kTileK / 64;
  static constexpr int kPartBytes = kTokens * 128;
  static constexpr int kStageBytes = kWeightBytes + kRowParts * kPartBytes;
  static constexpr int kStages = (192 << 10) / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + kPackedAlignment;
};

/// A place in the ring of stages and the phase of its barriers.
template <int kStages>
struct RingPlace {
  int slot = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++slot == kStages) {
      slot = 0;
      parity ^= 1;
    }
  }
};

template <class F, int kGroups, int kTokens>
struct TileRing {
  using Shape = TileShape<F, kGroups, kTokens>;
  uint32_t data;
  uint32_t full;   ///< barriers: the weights' bytes and 128 copying threads arrive
  uint32_t empty;  ///< barriers: every multiplying warp arrives

  __device__ uint32_t stage(int slot) const { return data + slot * Shape::kStageBytes; }

  __device__ void init() const {
    for (int i = 0; i < Shape::kStages; ++i) {
      barrier_init(full + i * 8, 128 + 1);
      barrier_init(empty + i * 8, 4 * kGroups);
    }
    barrier_init_fence();
  }

  /// One thread: the weights of a stage.
  __device__ void fill_weights(const ProductArgs& a, const TileWork& w, int k, int slot,
                               uint64_t policy) const {
    const int first = w.outputs * kGroups;
    const int present = min(kGroups, a.tiles_n - first);
    barrier_arrive_expect(full + slot * 8, present * kTileBytes);
    const uint8_t* from = a.weights + w.expert * a.expert_bytes;
    for (int g = 0; g < present; ++g) {
      const int64_t tile = static_cast<int64_t>(first + g) * a.tiles_k + k;
      if (a.stream_once) {
        bulk_copy(stage(slot) + g * kTileBytes, from + tile * kTileBytes, kTileBytes,
                  full + slot * 8, policy);
      } else {
        bulk_copy(stage(slot) + g * kTileBytes, from + tile * kTileBytes, kTileBytes,
                  full + slot * 8);
      }
    }
  }
};

/// What a copying thread knows of a tile's rows: one 16-byte chunk of every 16th row.
template <class F, int kTokens>
struct RowCopies {
  static constexpr int kRowsAtOnce = 128 / 8;
  static constexpr int kCopies = kTokens / kRowsAtOnce;
  static constexpr int kParts = F::kTileK / 64;

  const ProductArgs& a;
  uint32_t place;              ///< of the first chunk within a part
  int copies = 0;              ///< of the tile; the same in all threads
  uint32_t offsets[kCopies];   ///< rows in units of 16 bytes

  __device__ explicit RowCopies(const ProductArgs& args) : a(args) {
    const int token = threadIdx.x / 8;
    place = token * 128 + ((threadIdx.x % 8 ^ token % 8) << 4);
  }

  template <class S>
  __device__ void enter(const S& schedule, const TileWork& w) {
    const int stride = static_cast<int>(a.x_stride / 16);
    copies = (w.tokens + kRowsAtOnce - 1) / kRowsAtOnce;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      if (i >= copies) break;
      // Past the last row that one is copied again, so that no copy needs a condition.
      const int r = min(static_cast<int>(threadIdx.x) / 8 + i * kRowsAtOnce, w.tokens - 1);
      offsets[i] = static_cast<uint32_t>(schedule.x_row(w.first + r)) * stride;
    }
  }

  /// Tile k of K into `rows`.
  __device__ void copy(int k, uint32_t rows) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int input = k * F::kTileK + part * 64 + threadIdx.x % 8 * 8;
      const uint8_t* from = a.x + static_cast<int64_t>(input) * 2;
      const uint32_t to = rows + part * kTokens * 128 + place;
      if (k + 1 == a.tiles_k && a.k % F::kTileK != 0) {
        // The last tile of an odd K: zeros from k on.
        const int bytes = min(max((a.k - input) * 2, 0), kChunkBytes);
        if (bytes == 0) from = a.x;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          if (i < copies) async_copy16(to + i * 2048, from + uint64_t{offsets[i]} * 16, bytes);
        }
      } else if (copies == kCopies) {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          async_copy16(to + i * 2048, from + uint64_t{offsets[i]} * 16);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          if (i >= copies) break;
          async_copy16(to + i * 2048, from + uint64_t{offsets[i]} * 16);
        }
      }
    }
  }
};

/// The copying warpgroup.
template <class F, int kGroups, int kTokens>
__device__ __forceinline__ void copy_tiles(const ProductArgs& a,
                                           const Schedule<kGroups * kTileRows, kTokens>& schedule,
                                           const TileRing<F, kGroups, kTokens>& ring,
                                           bool weights_first) {
  using Shape = TileShape<F, kGroups, kTokens>;
  const int thread = threadIdx.x;
  const uint64_t policy = streaming_policy();

  int early = 0;  // stages whose weights are on their way
  if (weights_first) {
    if (thread == 0 && blockIdx.x < schedule.tiles()) {
      const TileWork w = schedule.locate(blockIdx.x);
      for (; early < min(Shape::kStages, a.tiles_k); ++early) {
        ring.fill_weights(a, w, early, early, policy);
      }
    }
    wait_for_predecessor();
  }
  RowCopies<F, kTokens> rows(a);
  RingPlace<Shape::kStages> at;
  at.parity = 1;
  for (int tile = blockIdx.x; tile < schedule.tiles(); tile += gridDim.x) {
    const TileWork w = schedule.locate(tile);
    rows.enter(schedule, w);
    for (int k = 0; k < a.tiles_k; ++k) {
      barrier_wait(ring.empty + at.slot * 8, at.parity);
      if (thread == 0) {
        if (early > 0) {
          --early;
        } else {
          ring.fill_weights(a, w, k, at.slot, policy);
        }
      }
      rows.copy(k, ring.stage(at.slot) + Shape::kWeightBytes);
      barrier_arrive_after_copies(ring.full + at.slot * 8);
      at.next();
    }
  }
}

#ifdef MOESAIC_WGMMA

/// sums = the next `tiles` stages' products for the 64 outputs of this warpgroup.
template <int kGroups, int kTokens>
__device__ __forceinline__ void multiply_tiles(const TileRing<BF16, kGroups, kTokens>& ring,
                                               int group, int tiles, auto& at,
                                               float (&sums)[kTokens / 2]) {
  using Shape = TileShape<BF16, kGroups, kTokens>;
  const bool speaks = threadIdx.x % 32 == 0;
  int last = 0;
  for (int k = 0; k < tiles; ++k) {
    barrier_wait(ring.full + at.slot * 8, at.parity);
    proxy_fence();
    const uint32_t stage = ring.stage(at.slot);
    const uint64_t weights = swizzled_operand(stage + group * kTileBytes);
    const uint64_t rows = swizzled_operand(stage + Shape::kWeightBytes);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      Wgmma<kTokens>::bf16(sums, weights + 2 * s, rows + 2 * s, k > 0 || s > 0);
    }
    wgmma_commit();
    if (k > 0) {
      wgmma_wait<1>();
      if (speaks) barrier_arrive(ring.empty + last * 8);
    }
    last = at.slot;
    at.next();
  }
  wgmma_wait<0>();
  wgmma_pin(sums);
  if (speaks) barrier_arrive(ring.empty + last * 8);
}

/// 64 inputs of a warp's slab as A fragments.
__device__ __forceinline__ void unpack_half(uint32_t slab, int half, uint32_t (&a)[4][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint32_t raw[4];
    const int part = half * 2 + i;
    load_matrices(slab + lane % 16 * kTileRowBytes + (((2 * part + lane / 16) ^ lane % 8) << 4), raw);
    uint32_t steps[2][4];
    E4M3::unpack(raw, steps);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      a[2 * i][j] = steps[0][j];
      a[2 * i + 1][j] = steps[1][j];
    }
  }
}

/// The same with weights widened in registers: one half tile is widened while the tensor cores have
/// the other.
template <int kGroups, int kTokens>
__device__ __forceinline__ void multiply_tiles(const TileRing<E4M3, kGroups, kTokens>& ring,
                                               int group, int tiles, auto& at,
                                               float (&sums)[kTokens / 2]) {
  using Shape = TileShape<E4M3, kGroups, kTokens>;
  const bool speaks = threadIdx.x % 32 == 0;
  const int warp = threadIdx.x / 32 % 4;
  uint32_t first[4][4];
  uint32_t second[4][4];
  int last = 0;
  for (int k = 0; k < tiles; ++k) {
    barrier_wait(ring.full + at.slot * 8, at.parity);
    proxy_fence();
    const uint32_t stage = ring.stage(at.slot);
    const uint32_t slab = stage + group * kTileBytes + warp * kSlabBytes;
    const uint64_t rows = swizzled_operand(stage + Shape::kWeightBytes);
    unpack_half(slab, 0, first);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      Wgmma<kTokens>::bf16(sums, first[s], rows + 2 * s, k > 0 || s > 0);
    }
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_pin(second);
    if (k > 0 && speaks) barrier_arrive(ring.empty + last * 8);
    unpack_half(slab, 1, second);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      Wgmma<kTokens>::bf16(sums, second[s], rows + (Shape::kPartBytes >> 4) + 2 * s, true);
    }
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_pin(first);
    last = at.slot;
    at.next();
  }
  wgmma_wait<0>();
  wgmma_pin(sums);
  if (speaks) barrier_arrive(ring.empty + last * 8);
}

#endif  // MOESAIC_WGMMA

template <class F, int kGroups, int kTokens, bool kChunks, bool kSilu>
__global__ void __launch_bounds__(128 * (kGroups + 1), 1)
    tile_kernel(const __grid_constant__ ProductArgs a) {
#ifdef MOESAIC_WGMMA
  using Shape = TileShape<F, kGroups, kTokens>;
  extern __shared__ uint8_t unaligned[];
  __shared__ PlanLists lists;
  __shared__ uint64_t barriers[2 * Shape::kStages];

  // As in stream_kernel: a plan is read ahead by the down product, and only by it.
  const bool weights_first = !kSilu || a.plan.first == nullptr;
  if (!kSilu && threadIdx.x == 0) release_successor();
  if (!weights_first) wait_for_predecessor();
  TileRing<F, kGroups, kTokens> ring;
  ring.data = (shared_address(unaligned) + kPackedAlignment - 1) & ~(kPackedAlignment - 1u);
  ring.full = shared_address(barriers);
  ring.empty = ring.full + Shape::kStages * 8;
  if (threadIdx.x == 0) ring.init();
  const Schedule<kGroups * kTileRows, kTokens> schedule(a, lists);

  if (threadIdx.x < 128) {
    if constexpr (kGroups == 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
    copy_tiles<F, kGroups, kTokens>(a, schedule, ring, weights_first);
    if (kSilu && threadIdx.x == 0) release_successor();
  } else {
    if constexpr (kGroups == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
    if (weights_first) wait_for_predecessor();
    const int group = threadIdx.x / 128 - 1;
    const int warp = threadIdx.x / 32 % 4;
    RingPlace<Shape::kStages> at;
    for (int tile = blockIdx.x; tile < schedule.tiles(); tile += gridDim.x) {
      const TileWork w = schedule.locate(tile);
      float sums[kTokens / 2];
      const int tile_n = w.outputs * kGroups + group;
      if (kChunks && F::kOutputScales && a.block_scales) {
        const int slab = min(tile_n, a.tiles_n - 1) * 4 + warp;
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) sums[i] = 0.0f;
        for (int k = 0; k < a.tiles_k; ++k) {
          const BlockScales scales = block_scales(a, w.expert, slab, k);
          float chunk[kTokens / 2];
          multiply_tiles(ring, group, 1, at, chunk);
#pragma unroll
          for (int i = 0; i < kTokens / 2; ++i) sums[i] = add_scaled(sums[i], chunk[i], scales, i);
        }
      } else if constexpr (kChunks) {
        multiply_tiles(ring, group, min(a.chunk_tiles, a.tiles_k), at, sums);
        for (int k = a.chunk_tiles; k < a.tiles_k; k += a.chunk_tiles) {
          float chunk[kTokens / 2];
          multiply_tiles(ring, group, min(a.chunk_tiles, a.tiles_k - k), at, chunk);
#pragma unroll
          for (int i = 0; i < kTokens / 2; ++i) sums[i] = __fadd_rn(sums[i], chunk[i]);
        }
      } else {
        multiply_tiles(ring, group, a.tiles_k, at, sums);
      }
      if (tile_n >= a.tiles_n) continue;
      const SlabValues values = slab_values<F>(a, w.expert, tile_n * 4 + warp);
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
        if (8 * j >= w.tokens) break;
        const float c[4] = {sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]};
        store_fragment<F, kSilu>(a, values, c, w.tokens - 8 * j, [&](int r) -> int64_t {
          return schedule.pair(w.first + 8 * j + r);
        });
      }
    }
  }
#endif
}

}  // namespace moesaic::backend::cuda
