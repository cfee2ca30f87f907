#pragma once

// Many rows: tiles of 64 or 128 outputs by 64 to 256 rows on wgmma. One warpgroup copies, one or
// two multiply 64 outputs each; a block goes from tile to tile and its copies run ahead across
// tiles. A bulk copy brings a tile of weights, tensor copies bring rows where they are neighbours;
// rows that are gathered come by cp.async in 16-byte chunks, which is slower and serves tiles of 64
// rows only.
//
// Where the tensor cores are the limit, two blocks of a cluster have neighbouring outputs and the
// same rows: each fetches half of the rows for both, without which the L2 could not keep up.
//
// What bounds it: at few rows, weights over the read bandwidth, so 90 KiB and more of them are in
// flight; at many rows the tensor cores, so the tile is as large as the registers allow, which also
// keeps what the L2 must deliver under its bandwidth.

#include "backend/cuda/products/format.cuh"
#include "backend/cuda/products/schedule.cuh"
#include "backend/cuda/products/wgmma.cuh"

namespace moesaic::backend::cuda {

template <class F, int kGroups, int kTokens>
struct TileShape {
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kCluster = kTokens >= 128 ? 2 : 1;  ///< blocks
  static constexpr int kClusterOutputs = kCluster * kGroups * 64;
  static constexpr int kWeightBytes = kGroups * kTileBytes;
  /// Rows of 64 inputs, 128 bytes.
  static constexpr int kRowParts = F::kRounded ? 1 : F::kTileK / 64;
  static constexpr int kPartBytes = kTokens * 128;
  /// Scales of rounded rows begin at a multiple of 16 bytes before the first row's.
  static constexpr int kScaleBytes = F::kRounded ? (kTokens + 4) * 4 : 0;
  /// Few rows are not worth fetching whole tiles of them.
  static constexpr int kRowBox = kTokens == 64 ? 16 : 64;
  static constexpr int kStageBytes =
      kWeightBytes + kRowParts * kPartBytes + (F::kRounded ? kPackedAlignment : 0);
  static constexpr int kStages = (192 << 10) / kStageBytes;
  /// Where a warpgroup turns its sums into rows of outputs, 64 at a time.
  static constexpr int kTurnBytes = 64 * (128 + kChunkBytes);
  static constexpr int kSharedBytes =
      kStages * kStageBytes + kGroups * kTurnBytes + kPackedAlignment;
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
  uint32_t full;   ///< barriers: the weights' thread and the rows' or the gathering ones arrive
  uint32_t empty;  ///< barriers: every multiplying warp of the cluster arrives

  __device__ uint32_t stage(int slot) const { return data + slot * Shape::kStageBytes; }

  __device__ void init() const {
    for (int i = 0; i < Shape::kStages; ++i) {
      barrier_init(full + i * 8, kGather ? kGatherThreads + 1 : 2);
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

/// One thread: the weights, as whole tiles by plain copies; tensor copies of them reach 20% less.
/// It keeps nothing but running addresses, since what it does between two stages is a few hundred
/// clocks of latency.
template <class F, int kGroups, int kTokens, bool kGather>
__device__ __forceinline__ void copy_weights(
    const ProductArgs& a,
    const Schedule<TileShape<F, kGroups, kTokens>::kClusterOutputs, kTokens>& schedule,
    const TileRing<F, kGroups, kTokens, kGather>& ring) {
  using Shape = TileShape<F, kGroups, kTokens>;
  const uint64_t policy = a.stream_once ? streaming_policy() : plain_policy();
  const int rank = Shape::kCluster == 2 ? static_cast<int>(cluster_rank()) : 0;
  const int64_t group_bytes = static_cast<int64_t>(a.tiles_k) * kTileBytes;
  const int tiles_k = a.tiles_k;
  RingPlace<Shape::kStages> at;
  at.parity = 1;
  for (int tile = TileWalk<Shape>::first(); tile < schedule.tiles();
       tile += TileWalk<Shape>::step()) {
    const TileWork w = schedule.locate(tile);
    const int tile_n = (w.outputs * Shape::kCluster + rank) * kGroups;
    const int present = max(min(kGroups, a.tiles_n - tile_n), 0);
    const uint8_t* from = a.weights + w.expert * a.expert_bytes + tile_n * group_bytes;
    for (int k = 0; k < tiles_k; ++k) {
      const uint32_t barrier = ring.full + at.slot * 8;
      const uint32_t to = ring.stage(at.slot);
      barrier_wait(ring.empty + at.slot * 8, at.parity);
      barrier_arrive_expect(barrier, present * kTileBytes);
      if (present > 0) bulk_copy(to, from, kTileBytes, barrier, policy);
      if (kGroups == 2 && present == 2) {
        bulk_copy(to + kTileBytes, from + group_bytes, kTileBytes, barrier, policy);
      }
      from += kTileBytes;
      at.next();
    }
  }
}

/// One thread: rows that are neighbours, in boxes of them; a cluster's blocks take turns.
template <class F, int kGroups, int kTokens>
__device__ __forceinline__ void copy_rows(
    const ProductArgs& a, const TensorMaps& maps,
    const Schedule<TileShape<F, kGroups, kTokens>::kClusterOutputs, kTokens>& schedule,
    const TileRing<F, kGroups, kTokens, false>& ring) {
  using Shape = TileShape<F, kGroups, kTokens>;
  constexpr int kBoxBytes = Shape::kRowBox * 128;
  const uint64_t policy = plain_policy();
  const int rank = Shape::kCluster == 2 ? static_cast<int>(cluster_rank()) : 0;
  const int tiles_k = a.tiles_k;
  RingPlace<Shape::kStages> at;
  at.parity = 1;
  for (int tile = TileWalk<Shape>::first(); tile < schedule.tiles();
       tile += TileWalk<Shape>::step()) {
    const TileWork w = schedule.locate(tile);
    const int boxes = (w.tokens + Shape::kRowBox - 1) / Shape::kRowBox;
    for (int k = 0; k < tiles_k; ++k) {
      const uint32_t barrier = ring.full + at.slot * 8;
      const uint32_t to = ring.stage(at.slot) + Shape::kWeightBytes;
      barrier_wait(ring.empty + at.slot * 8, at.parity);
      barrier_arrive_expect(barrier, boxes * Shape::kRowParts * kBoxBytes + Shape::kScaleBytes);
      if constexpr (F::kRounded) {
        bulk_copy(to + Shape::kRowParts * Shape::kPartBytes,
                  a.x_scales + k * a.x_scale_stride + w.first / 4 * 4, Shape::kScaleBytes, barrier,
                  policy);
      }
#pragma unroll
      for (int i = 0; i < kTokens / Shape::kRowBox; i += Shape::kCluster) {
        const int box = i + rank;
        if (box >= boxes) break;
#pragma unroll
        for (int part = 0; part < Shape::kRowParts; ++part) {
          const uint32_t box_to = to + part * Shape::kPartBytes + box * kBoxBytes;
          const int x = k * F::kTileK + part * 64;  // elements, of whichever size
          const int y = w.first + box * Shape::kRowBox;
          if constexpr (Shape::kCluster == 2) {
            tensor_copy_to_both(box_to, &maps.rows, x, y, barrier, policy);
          } else {
            tensor_copy(box_to, &maps.rows, x, y, barrier, policy);
          }
        }
      }
      at.next();
    }
  }
}

/// Three warps: rows gathered by index, a thread one 16-byte chunk of every 12th row, which the
/// swizzle puts into one of two places.
template <class F, int kGroups, int kTokens>
__device__ __forceinline__ void gather_rows(
    const ProductArgs& a,
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

/// sums = the next `tiles` stages' products for the 64 outputs of this warpgroup and the first
/// kRows rows of the tile.
template <int kRows, int kGroups, int kTokens, bool kGather>
__device__ __forceinline__ void multiply_tiles(
    const TileRing<BF16, kGroups, kTokens, kGather>& ring, int group, int tiles, auto& at,
    float (&sums)[kRows / 2]) {
  using Shape = TileShape<BF16, kGroups, kTokens>;
  const bool speaks = threadIdx.x % 32 == 0;
  int last = 0;
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) sums[i] = 0.0f;
  for (int k = 0; k < tiles; ++k) {
    barrier_wait(ring.full + at.slot * 8, at.parity);
    if constexpr (kGather) proxy_fence();
    const uint32_t stage = ring.stage(at.slot);
    const uint64_t weights = swizzled_operand(stage + group * kTileBytes);
    const uint64_t rows = swizzled_operand(stage + Shape::kWeightBytes);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      Wgmma<kRows>::bf16(sums, weights + 2 * s, rows + 2 * s);
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
    load_matrices(slab + lane % 16 * kTileRowBytes + (((2 * part + lane / 16) ^ lane % 8) << 4),
                  raw);
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
template <int kRows, int kGroups, int kTokens, bool kGather>
__device__ __forceinline__ void multiply_tiles(
    const TileRing<E4M3, kGroups, kTokens, kGather>& ring, int group, int tiles, auto& at,
    float (&sums)[kRows / 2]) {
  using Shape = TileShape<E4M3, kGroups, kTokens>;
  const bool speaks = threadIdx.x % 32 == 0;
  const int warp = threadIdx.x / 32 % 4;
  uint32_t first[4][4];
  uint32_t second[4][4];
  int last = 0;
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) sums[i] = 0.0f;
  for (int k = 0; k < tiles; ++k) {
    barrier_wait(ring.full + at.slot * 8, at.parity);
    if constexpr (kGather) proxy_fence();
    const uint32_t stage = ring.stage(at.slot);
    const uint32_t slab = stage + group * kTileBytes + warp * kSlabBytes;
    const uint64_t rows = swizzled_operand(stage + Shape::kWeightBytes);
    unpack_half(slab, 0, first);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      Wgmma<kRows>::bf16(sums, first[s], rows + 2 * s);
    }
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_pin(second);
    if (k > 0 && speaks) ring.release(last);
    unpack_half(slab, 1, second);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      Wgmma<kRows>::bf16(sums, second[s], rows + (Shape::kPartBytes >> 4) + 2 * s);
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

/// Both sides e4m3: sums += every stage's product, scaled. `first_scale` is the place of the first
/// row's scale; block scales are those of this warp's slab.
template <int kRows, int kGroups, int kTokens>
__device__ __forceinline__ void multiply_rounded(
    const ProductArgs& a, const TileRing<E4M3Rounded, kGroups, kTokens, false>& ring, int group,
    int expert, int slab, int first_scale, auto& at, float (&sums)[kRows / 2]) {
  using Shape = TileShape<E4M3Rounded, kGroups, kTokens>;
  const bool speaks = threadIdx.x % 32 == 0;
  float chunk[kRows / 2];
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) sums[i] = chunk[i] = 0.0f;
  for (int k = 0; k < a.tiles_k; ++k) {
    BlockScales blocks{{1.0f, 1.0f}};
    if (a.block_scales) blocks = block_scales(a, expert, slab, k);
    barrier_wait(ring.full + at.slot * 8, at.parity);
    const uint32_t stage = ring.stage(at.slot);
    const uint64_t weights = swizzled_operand(stage + group * kTileBytes);
    const uint64_t rows = swizzled_operand(stage + Shape::kWeightBytes);
    wgmma_begin();
    Wgmma<kRows>::e4m3_first(chunk, weights, rows);
#pragma unroll
    for (int s = 1; s < 4; ++s) Wgmma<kRows>::e4m3(chunk, weights + 2 * s, rows + 2 * s);
    wgmma_commit();
    // The scales come while the tensor cores are at work, two neighbours at a time where they may.
    const uint32_t scales =
        stage + Shape::kWeightBytes + Shape::kPartBytes + (first_scale + threadIdx.x % 4 * 2) * 4;
    float scale[kRows / 8][2];
    if (first_scale % 2 == 0) {
#pragma unroll
      for (int j = 0; j < kRows / 8; ++j) {
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                     : "=f"(scale[j][0]), "=f"(scale[j][1])
                     : "r"(scales + 32 * j));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRows / 4; ++i) {
        asm volatile("ld.shared.f32 %0, [%1];"
                     : "=f"(scale[i / 2][i % 2])
                     : "r"(scales + 32 * (i / 2) + 4 * (i % 2)));
      }
    }
    wgmma_wait<0>();
    wgmma_pin(chunk);
    if (speaks) ring.release(at.slot);
    if (a.block_scales) {
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) {
        const float both = __fmul_rn(scale[i / 4][i % 2], blocks.half[i / 2 % 2]);
        sums[i] = __fmaf_rn(chunk[i], both, sums[i]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) {
        sums[i] = __fmaf_rn(chunk[i], scale[i / 4][i % 2], sums[i]);
      }
    }
    at.next();
  }
}

/// The same for the rows that a tile has, in a quarter, half or all of its places: the last tile of
/// an expert need not cost what a full one does.
template <int kTokens, class Ring>
__device__ __forceinline__ void multiply_present(const Ring& ring, int group, int tiles,
                                                 int present, auto& at,
                                                 float (&sums)[kTokens / 2]) {
  if constexpr (kTokens >= 256) {
    if (present <= kTokens / 4) {
      return multiply_tiles<kTokens / 4>(ring, group, tiles, at,
                                         reinterpret_cast<float(&)[kTokens / 8]>(sums));
    }
  }
  if constexpr (kTokens >= 128) {
    if (present <= kTokens / 2) {
      return multiply_tiles<kTokens / 2>(ring, group, tiles, at,
                                         reinterpret_cast<float(&)[kTokens / 4]>(sums));
    }
  }
  multiply_tiles<kTokens>(ring, group, tiles, at, sums);
}

/// Stores a warpgroup's sums, outputs of its tile by the tile's rows: they are turned in shared
/// memory so that a row's outputs leave together.
template <class F, bool kSilu, int kTokens, class S>
__device__ __forceinline__ void store_tile(const ProductArgs& a, const S& schedule,
                                           const TileWork& w, int tile_n, int group, uint8_t* turn,
                                           const float (&sums)[kTokens / 2]) {
  const int thread = threadIdx.x % 128;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const bool f32 = !kSilu && a.store != Store::kBF16;
  const SlabValues values =
      slab_values<F>(a, w.expert, min(tile_n * kTileSlabs + warp, a.slabs - 1));
  auto row_of = [&](int i) -> int64_t {
    const int place = w.first + i;
    // h lies in the plan's order for a tile product to read, by pair for a stream.
    return kSilu && !a.h_by_pair ? place : schedule.pair(place);
  };
  auto sync = [&] { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); };
  if (f32) {
    constexpr int kPitch = kTileRows * 4 + kChunkBytes;
#pragma unroll
    for (int block = 0; block < kTokens / 32; ++block) {
      if (32 * block >= w.tokens) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = 8 * j + 2 * t + i % 2;
          const float sum = scaled<F>(a, values, i / 2, sums[(block * 4 + j) * 4 + i]);
          *reinterpret_cast<float*>(turn + row * kPitch + (warp * 16 + g + i / 2 * 8) * 4) = sum;
        }
      }
      sync();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = i * 8 + thread / 16;
        if (block * 32 + row < w.tokens) {
          const int channel = tile_n * kTileRows + thread % 16 * 4;
          const auto v = *reinterpret_cast<const float4*>(turn + row * kPitch + thread % 16 * 16);
          store_sums(a, row_of(block * 32 + row), channel, v);
        }
      }
      sync();
    }
    return;
  }
  constexpr int kRowBytes = kSilu ? kTileRows : kTileRows * 2;
  constexpr int kPitch = kRowBytes + kChunkBytes;
  constexpr int kBlock = kTokens < 64 ? kTokens : 64;
#pragma unroll
  for (int block = 0; block < kTokens / kBlock; ++block) {
    if (kBlock * block >= w.tokens) break;
#pragma unroll
    for (int j = 0; j < kBlock / 8; ++j) {
      const float* c = &sums[(block * (kBlock / 8) + j) * 4];
      const float v[4] = {scaled<F>(a, values, 0, c[0]), scaled<F>(a, values, 0, c[1]),
                          scaled<F>(a, values, 1, c[2]), scaled<F>(a, values, 1, c[3])};
      uint8_t* to = turn + (8 * j + g) * kPitch + t * 4;
      if constexpr (kSilu) {
        *reinterpret_cast<uint32_t*>(to + warp * 16) =
            transpose_matrix(pack_bf16(silu_times(v[0], v[2]), silu_times(v[1], v[3])));
      } else {
        *reinterpret_cast<uint32_t*>(to + warp * 32) = transpose_matrix(pack_bf16(v[0], v[1]));
        *reinterpret_cast<uint32_t*>(to + warp * 32 + 16) = transpose_matrix(pack_bf16(v[2], v[3]));
      }
    }
    sync();
    constexpr int kChunks = kRowBytes / kChunkBytes;
#pragma unroll
    for (int i = 0; i < kBlock * kChunks / 128; ++i) {
      const int row = (i * 128 + thread) / kChunks;
      const int chunk = thread % kChunks;
      if (block * kBlock + row < w.tokens) {
        const auto v = *reinterpret_cast<const uint4*>(turn + row * kPitch + chunk * kChunkBytes);
        store_bf16<kSilu>(a, row_of(block * kBlock + row), tile_n * (kRowBytes / 2) + chunk * 8, v);
      }
    }
    sync();
  }
}

#endif  // MOESAIC_WGMMA

template <class F, int kGroups, int kTokens, bool kChunks, bool kSilu, bool kGather>
__global__ void __launch_bounds__(128 * (kGroups + 1), 1)
    tile_kernel(const __grid_constant__ ProductArgs a, const __grid_constant__ TensorMaps maps) {
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
    if constexpr (kGroups == 2 && kGather) asm volatile("setmaxnreg.dec.sync.aligned.u32 96;");
    if constexpr (kGroups == 2 && !kGather) asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == 0) {
      copy_weights<F, kGroups, kTokens, kGather>(a, schedule, ring);
    } else if (threadIdx.x >= 32) {
      if (weights_first) wait_for_predecessor();
      if (kSilu && weights_first && threadIdx.x == 32) release_successor();
      if constexpr (kGather) {
        gather_rows<F, kGroups, kTokens>(a, schedule, ring);
      } else if (threadIdx.x == 32) {
        prefetch_map(&maps.rows);
        copy_rows<F, kGroups, kTokens>(a, maps, schedule, ring);
      }
    }
  } else {
    if constexpr (kGroups == 2 && kGather) asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
    if constexpr (kGroups == 2 && !kGather) asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    if (weights_first) wait_for_predecessor();
    const int rank = Shape::kCluster == 2 ? static_cast<int>(cluster_rank()) : 0;
    const int group = threadIdx.x / 128 - 1;
    const int warp = threadIdx.x / 32 % 4;
    uint8_t* turn = unaligned + (ring.data - shared_address(unaligned)) +
                    Shape::kStages * Shape::kStageBytes + group * Shape::kTurnBytes;
    RingPlace<Shape::kStages> at;
    for (int tile = TileWalk<Shape>::first(); tile < schedule.tiles();
         tile += TileWalk<Shape>::step()) {
      const TileWork w = schedule.locate(tile);
      float sums[kTokens / 2];
      const int tile_n = (w.outputs * Shape::kCluster + rank) * kGroups + group;
      if constexpr (F::kRounded) {
        const int slab = min(tile_n * kTileSlabs + warp, a.slabs - 1);
        if (kTokens >= 128 && w.tokens <= kTokens / 2) {
          multiply_rounded<kTokens / 2 < 64 ? 64 : kTokens / 2>(
              a, ring, group, w.expert, slab, w.first % 4, at,
              reinterpret_cast<float(&)[(kTokens / 2 < 64 ? 64 : kTokens / 2) / 2]>(sums));
        } else {
          multiply_rounded<kTokens>(a, ring, group, w.expert, slab, w.first % 4, at, sums);
        }
      } else if (kChunks && F::kOutputScales && a.block_scales) {
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) sums[i] = 0.0f;
        for (int k = 0; k < a.tiles_k; ++k) {
          const int slab = min(tile_n * kTileSlabs + warp, a.slabs - 1);
          const BlockScales scales = block_scales(a, w.expert, slab, k);
          float chunk[kTokens / 2];
          multiply_present<kTokens>(ring, group, a.scaled_tiles, w.tokens, at, chunk);
#pragma unroll
          for (int i = 0; i < kTokens / 2; ++i) sums[i] = add_scaled(sums[i], chunk[i], scales, i);
        }
      } else if constexpr (kChunks) {
        multiply_present<kTokens>(ring, group, min(a.chunk_tiles, a.tiles_k), w.tokens, at, sums);
        for (int k = a.chunk_tiles; k < a.tiles_k; k += a.chunk_tiles) {
          float chunk[kTokens / 2];
          multiply_present<kTokens>(ring, group, min(a.chunk_tiles, a.tiles_k - k), w.tokens, at,
                                    chunk);
#pragma unroll
          for (int i = 0; i < kTokens / 2; ++i) sums[i] = __fadd_rn(sums[i], chunk[i]);
        }
      } else {
        multiply_present<kTokens>(ring, group, a.tiles_k, w.tokens, at, sums);
      }
      if (tile_n < a.tiles_n) {
        store_tile<F, kSilu, kTokens>(a, schedule, w, tile_n, group, turn, sums);
      }
    }
  }
  // Neither block leaves while the other may still copy to it or arrive at its barriers.
  if constexpr (Shape::kCluster == 2) cluster_sync();
#endif
}

}  // namespace moesaic::backend::cuda
