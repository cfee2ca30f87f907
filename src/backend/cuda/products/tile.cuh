#pragma once

// Many rows: tiles of 64 or 128 outputs by 64 to 256 rows on wgmma. One warpgroup copies, one or two
// multiply 64 outputs each; a block goes from tile to tile and its copies run ahead across tiles. One
// tensor copy brings a stage's weights, a few bring its rows where they are neighbours; rows that are
// gathered come by cp.async in 16-byte chunks, which is slower and serves tiles of 64 rows only.
//
// Where the tensor cores are the limit, two blocks of a cluster have neighbouring outputs and the same
// rows: each fetches half of the rows for both, without which the L2 could not keep up.
//
// What bounds it: at few rows, weights over the read bandwidth, so 90 KiB and more of them are in
// flight; at many rows the tensor cores, so the tile is as large as the registers allow, which also
// keeps what the L2 must deliver under its bandwidth.

#include <cuda.h>

#include "backend/cuda/products/format.cuh"
#include "backend/cuda/products/schedule.cuh"
#include "backend/cuda/products/wgmma.cuh"

namespace moesaic::backend::cuda {

/// What tensor copies read.
struct TileMaps {
  CUtensorMap weights;  ///< [expert][slab][tile of K][256 x 8 bytes], a box is 4 or 8 slabs
  CUtensorMap rows;     ///< [row][input], a box is TileShape::kRowBox rows by 128 bytes, swizzled
};

template <class F, int kGroups, int kTokens>
struct TileShape {
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kCluster = kTokens >= 128 ? 2 : 1;  ///< blocks
  static constexpr int kClusterOutputs = kCluster * kGroups * 64;
  static constexpr int kGroupBytes = 4 * kTileBytes;
  static constexpr int kWeightBytes = kGroups * kGroupBytes;
  /// Rows of 64 inputs, 128 bytes.
  static constexpr int kRowParts = F::kTileK / 64;
  static constexpr int kPartBytes = kTokens * 128;
  /// Few rows are not worth fetching whole tiles of them.
  static constexpr int kRowBox = kTokens == 64 ? 16 : 64;
  static constexpr int kStageBytes = kWeightBytes + kRowParts * kPartBytes;
  static constexpr int kStages = (200 << 10) / kStageBytes;
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

inline constexpr int kGatherThreads = 96;

template <class F, int kGroups, int kTokens, bool kGather>
struct TileRing {
  using Shape = TileShape<F, kGroups, kTokens>;
  uint32_t data;
  uint32_t full;   ///< barriers: one arrival with the bytes of copies, and those of gathering threads
  uint32_t empty;  ///< barriers: every multiplying warp of the cluster arrives

  __device__ uint32_t stage(int slot) const { return data + slot * Shape::kStageBytes; }

  __device__ void init() const {
    for (int i = 0; i < Shape::kStages; ++i) {
      barrier_init(full + i * 8, kGather ? kGatherThreads + 1 : 1);
      barrier_init(empty + i * 8, 4 * kGroups * Shape::kCluster);
    }
    barrier_init_fence();
  }

  /// One lane of every multiplying warp: the stage may be overwritten.
  __device__ __forceinline__ void release(int slot) const {
    barrier_arrive(empty + slot * 8);
    if constexpr (Shape::kCluster == 2) barrier_arrive_remote(empty + slot * 8, cluster_rank() ^ 1);
  }
};

/// Where a block starts and how far apart its tiles are; the blocks of a cluster have one tile.
template <class Shape>
struct TileWalk {
  static __device__ int first() { return blockIdx.x / Shape::kCluster; }
  static __device__ int step() { return gridDim.x / Shape::kCluster; }
};

/// One thread: all copies of weights, and those of rows that are neighbours.
template <class F, int kGroups, int kTokens, bool kSilu, bool kGather>
__device__ __forceinline__ void copy_tiles(const ProductArgs& a, const TileMaps& maps,
                                           const Schedule<TileShape<F, kGroups, kTokens>::kClusterOutputs, kTokens>& schedule,
                                           const TileRing<F, kGroups, kTokens, kGather>& ring,
                                           bool weights_first) {
  using Shape = TileShape<F, kGroups, kTokens>;
  const uint64_t policy = a.stream_once ? streaming_policy() : plain_policy();
  const uint64_t keep = plain_policy();
  prefetch_map(&maps.weights);
  const int rank = Shape::kCluster == 2 ? static_cast<int>(cluster_rank()) : 0;
  auto copy_weights = [&](const TileWork& w, int k, int slot) {
    const int slab = (w.outputs * Shape::kCluster + rank) * kGroups * 4;
    tensor_copy(ring.stage(slot), &maps.weights, 0, k, slab, w.expert, ring.full + slot * 8, policy);
  };
  auto boxes_of = [](const TileWork& w) {
    return kGather ? 0 : (w.tokens + Shape::kRowBox - 1) / Shape::kRowBox;
  };
  auto expect = [&](int boxes, int slot) {
    barrier_arrive_expect(ring.full + slot * 8, Shape::kWeightBytes + boxes * Shape::kRowParts *
                                                                          (Shape::kRowBox * 128));
  };
  auto copy_rows = [&](const TileWork& w, int boxes, int k, int slot) {
    const uint32_t to = ring.stage(slot) + Shape::kWeightBytes;
    for (int i = rank; i < boxes; i += Shape::kCluster) {
#pragma unroll
      for (int part = 0; part < Shape::kRowParts; ++part) {
        const uint32_t box_to = to + part * Shape::kPartBytes + i * (Shape::kRowBox * 128);
        const int x = k * F::kTileK + part * 64;
        const int y = w.first + i * Shape::kRowBox;
        if constexpr (Shape::kCluster == 2) {
          tensor_copy_to_both(box_to, &maps.rows, x, y, ring.full + slot * 8, keep);
        } else {
          tensor_copy(box_to, &maps.rows, x, y, ring.full + slot * 8, keep);
        }
      }
    }
  };

  RingPlace<Shape::kStages> at;
  at.parity = 1;
  int early = 0;  // stages whose weights are on their way
  if (weights_first) {
    if (TileWalk<Shape>::first() < schedule.tiles()) {
      const TileWork w = schedule.locate(TileWalk<Shape>::first());
      for (; early < min(Shape::kStages, a.tiles_k); ++early) {
        expect(boxes_of(w), early);
        copy_weights(w, early, early);
      }
    }
    wait_for_predecessor();
    if (kSilu) release_successor();
  }
  for (int tile = TileWalk<Shape>::first(); tile < schedule.tiles();
       tile += TileWalk<Shape>::step()) {
    const TileWork w = schedule.locate(tile);
    const int boxes = boxes_of(w);
    for (int k = 0; k < a.tiles_k; ++k) {
      if (early > 0) {
        --early;
      } else {
        barrier_wait(ring.empty + at.slot * 8, at.parity);
        expect(boxes, at.slot);
        copy_weights(w, k, at.slot);
      }
      copy_rows(w, boxes, k, at.slot);
      at.next();
    }
  }
}

/// Three warps: rows gathered by index, a thread one 16-byte chunk of every 12th row, which the
/// swizzle puts into one of two places.
template <class F, int kGroups, int kTokens>
__device__ __forceinline__ void gather_rows(const ProductArgs& a,
                                            const Schedule<TileShape<F, kGroups, kTokens>::kClusterOutputs, kTokens>& schedule,
                                            const TileRing<F, kGroups, kTokens, true>& ring) {
  using Shape = TileShape<F, kGroups, kTokens>;
  constexpr int kRowsAtOnce = kGatherThreads / 8;
  constexpr int kCopies = (kTokens + kRowsAtOnce - 1) / kRowsAtOnce;
  const int thread = threadIdx.x - 32;
  const int first = thread / 8;
  const int chunk = thread % 8;
  uint32_t place[2];
  for (int i = 0; i < 2; ++i) {
    const int row = first + i * kRowsAtOnce;
    place[i] = row * 128 + ((chunk ^ row % 8) << 4);
  }
  RingPlace<Shape::kStages> at;
  at.parity = 1;
  for (int tile = TileWalk<Shape>::first(); tile < schedule.tiles();
       tile += TileWalk<Shape>::step()) {
    const TileWork w = schedule.locate(tile);
    const uint8_t* rows[kCopies];
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int r = first + i * kRowsAtOnce;
      if (r < w.tokens) rows[i] = a.x + schedule.x_row(w.first + r) * a.x_stride;
    }
    for (int k = 0; k < a.tiles_k; ++k) {
      barrier_wait(ring.empty + at.slot * 8, at.parity);
#pragma unroll
      for (int part = 0; part < Shape::kRowParts; ++part) {
        const int input = k * F::kTileK + part * 64 + chunk * 8;
        const uint32_t to = ring.stage(at.slot) + Shape::kWeightBytes + part * Shape::kPartBytes;
        const int bytes = min(max((a.k - input) * 2, 0), kChunkBytes);
        const int64_t from = bytes == 0 ? 0 : input * 2;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          if (first + i * kRowsAtOnce >= w.tokens) break;
          const uint32_t chunk_to = to + place[i % 2] + i / 2 * (kRowsAtOnce * 256);
          if (bytes == kChunkBytes) {
            async_copy16(chunk_to, rows[i] + from);
          } else {
            async_copy16(chunk_to, rows[i] + from, bytes);
          }
        }
      }
      barrier_arrive_after_copies(ring.full + at.slot * 8);
      at.next();
    }
  }
}

#ifdef MOESAIC_WGMMA

/// sums = the next `tiles` stages' products for the 64 outputs of this warpgroup.
template <int kGroups, int kTokens, bool kGather>
__device__ __forceinline__ void multiply_tiles(const TileRing<BF16, kGroups, kTokens, kGather>& ring,
                                               int group, int tiles, auto& at,
                                               float (&sums)[kTokens / 2]) {
  using Shape = TileShape<BF16, kGroups, kTokens>;
  const bool speaks = threadIdx.x % 32 == 0;
  int last = 0;
  for (int k = 0; k < tiles; ++k) {
    barrier_wait(ring.full + at.slot * 8, at.parity);
    if constexpr (kGather) proxy_fence();
    const uint32_t stage = ring.stage(at.slot);
    const uint64_t weights = swizzled_operand(stage + group * Shape::kGroupBytes);
    const uint64_t rows = swizzled_operand(stage + Shape::kWeightBytes);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      Wgmma<kTokens>::bf16(sums, weights + 2 * s, rows + 2 * s, k > 0 || s > 0);
    }
    wgmma_commit();
    if (k > 0) {
      wgmma_wait<1>();
      if (speaks) ring.release(last);
    }
    last = at.slot;
    at.next();
  }
  wgmma_wait<0>();
  wgmma_pin(sums);
  if (speaks) ring.release(last);
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
template <int kGroups, int kTokens, bool kGather>
__device__ __forceinline__ void multiply_tiles(const TileRing<E4M3, kGroups, kTokens, kGather>& ring,
                                               int group, int tiles, auto& at,
                                               float (&sums)[kTokens / 2]) {
  using Shape = TileShape<E4M3, kGroups, kTokens>;
  const bool speaks = threadIdx.x % 32 == 0;
  const int warp = threadIdx.x / 32 % 4;
  uint32_t first[4][4];
  uint32_t second[4][4];
  int last = 0;
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) sums[i] = 0.0f;
  for (int k = 0; k < tiles; ++k) {
    barrier_wait(ring.full + at.slot * 8, at.parity);
    if constexpr (kGather) proxy_fence();
    const uint32_t stage = ring.stage(at.slot);
    const uint32_t slab = stage + group * Shape::kGroupBytes + warp * kTileBytes;
    const uint64_t rows = swizzled_operand(stage + Shape::kWeightBytes);
    unpack_half(slab, 0, first);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      Wgmma<kTokens>::bf16(sums, first[s], rows + 2 * s, true);
    }
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_pin(second);
    if (k > 0 && speaks) ring.release(last);
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
  if (speaks) ring.release(last);
}

#endif  // MOESAIC_WGMMA

template <class F, int kGroups, int kTokens, bool kChunks, bool kSilu, bool kGather>
__global__ void __launch_bounds__(128 * (kGroups + 1), 1)
    tile_kernel(const __grid_constant__ ProductArgs a, const __grid_constant__ TileMaps maps) {
#ifdef MOESAIC_WGMMA
  using Shape = TileShape<F, kGroups, kTokens>;
  extern __shared__ uint8_t unaligned[];
  __shared__ PlanLists lists;
  __shared__ uint64_t barriers[2 * Shape::kStages];

  // As in stream_kernel: a plan is read ahead by the down product, and only by it.
  const bool weights_first = !kSilu || a.plan.first == nullptr;
  if (!kSilu && threadIdx.x == 0) release_successor();
  if (!weights_first) {
    wait_for_predecessor();
    if (threadIdx.x == 0) release_successor();
  }
  TileRing<F, kGroups, kTokens, kGather> ring;
  ring.data = (shared_address(unaligned) + kPackedAlignment - 1) & ~(kPackedAlignment - 1u);
  ring.full = shared_address(barriers);
  ring.empty = ring.full + Shape::kStages * 8;
  if (threadIdx.x == 0) ring.init();
  if constexpr (Shape::kCluster == 2) cluster_sync();
  const Schedule<Shape::kClusterOutputs, kTokens> schedule(a, lists);

  if (threadIdx.x < 128) {
    if constexpr (kGroups == 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == 0) {
      copy_tiles<F, kGroups, kTokens, kSilu, kGather>(a, maps, schedule, ring, weights_first);
    } else if (threadIdx.x >= 32) {
      if constexpr (kGather) {
        if (weights_first) wait_for_predecessor();
        gather_rows<F, kGroups, kTokens>(a, schedule, ring);
      }
    }
  } else {
    if constexpr (kGroups == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    if (weights_first) wait_for_predecessor();
    const int rank = Shape::kCluster == 2 ? static_cast<int>(cluster_rank()) : 0;
    const int group = threadIdx.x / 128 - 1;
    const int warp = threadIdx.x / 32 % 4;
    RingPlace<Shape::kStages> at;
    for (int tile = TileWalk<Shape>::first(); tile < schedule.tiles();
       tile += TileWalk<Shape>::step()) {
      const TileWork w = schedule.locate(tile);
      float sums[kTokens / 2];
      const int slab = ((w.outputs * Shape::kCluster + rank) * kGroups + group) * 4 + warp;
      if (kChunks && F::kOutputScales && a.block_scales) {
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) sums[i] = 0.0f;
        for (int k = 0; k < a.tiles_k; ++k) {
          const BlockScales scales = block_scales(a, w.expert, min(slab, a.slabs - 1), k);
          float chunk[kTokens / 2];
          multiply_tiles(ring, group, a.scaled_tiles, at, chunk);
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
      if (slab >= a.slabs) continue;
      const SlabValues values = slab_values<F>(a, w.expert, slab);
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
        if (8 * j >= w.tokens) break;
        const float c[4] = {sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]};
        store_fragment<F, kSilu>(a, values, c, w.tokens - 8 * j, [&](int r) -> int64_t {
          const int place = w.first + 8 * j + r;
          return kSilu ? place : schedule.pair(place);  // h lies in the plan's order
        });
      }
    }
  }
  // Neither block leaves while the other may still copy to it or arrive at its barriers.
  if constexpr (Shape::kCluster == 2) cluster_sync();
#endif
}

}  // namespace moesaic::backend::cuda
