#pragma once

// Few rows: a stream of weights. A warp owns units of work (a slab of 16 outputs, an expert, a
// chunk of K), walks the unit's tiles in ascending K with mma.sync, and keeps its own ring of
// copies in flight in shared memory; warps meet only to add up partial sums. A block holds all
// experts and all chunks of the slabs that it owns, so sums over them never leave it.
//
// Rows that fit lie in shared memory as a whole; others come with the weights, stage by stage.
//
// What bounds it: bytes of weights over the read bandwidth. To fill that, 90 KiB of weights are
// kept in flight on every multiprocessor, from before the previous kernel has ended where the
// weights do not depend on it.

#include <climits>

#include "backend/cuda/products/args.cuh"
#include "backend/cuda/products/format.cuh"

namespace moesaic::backend::cuda {

inline constexpr int kStreamWarps = 12;
inline constexpr int kStreamThreads = 32 * kStreamWarps;
inline constexpr int kStreamRows = 8;     ///< the N of one mma.sync
inline constexpr int kStreamPairs = 128;  ///< kStreamRows * the largest top_k
inline constexpr int kStreamSlots = 96;   ///< stages of a block's rings, at most
inline constexpr int kPortableStages = 4;
inline constexpr int kMostResidentBytes = 100 << 10;

enum class Role { kLinear, kGateUp, kDown };

/// Tiles of K in a stage: few warps take larger stages, since a stage costs a warp some hundred
/// clocks beside its arithmetic.
__host__ __device__ constexpr int stream_stage_tiles(int warps) { return warps <= 4 ? 4 : 2; }

/// A stage: a slab's share of `tiles` tiles, and the same inputs of `rows` rows (none where they
/// are resident). The 16 bytes between rows spread them over the banks.
struct StageShape {
  int tiles = 1;
  int row_bytes = 0;
  int bytes = 0;

  __host__ __device__ constexpr StageShape(int tiles_in, int row_tile_bytes, int rows)
      : tiles(tiles_in),
        row_bytes(tiles_in * row_tile_bytes + kChunkBytes),
        bytes((tiles_in * kSlabBytes + rows * row_bytes + 127) / 128 * 128) {}
};

/// The call's pairs by expert, in shared memory.
struct RouteList {
  int ids[kStreamPairs];
  int pairs[kStreamPairs];      ///< by expert, then ascending
  int row_pairs[kStreamPairs];  ///< [rows, top_k] by expert within the row; -1: none
  int expert[kStreamPairs];     ///< the experts that have pairs, ascending
  int first[kStreamPairs + 1];  ///< where each one's pairs begin
  int heads[4];                 ///< experts that begin in each 32 places of `pairs`
  int active;
};

/// Sorts by counting what comes before: at most 128 pairs, one thread each. Returns the rows of the
/// call, read where they are `counted`.
__device__ inline int sort_pairs(const ProductArgs& a, bool counted, RouteList& list) {
  constexpr int kNone = INT_MAX;
  const int p = threadIdx.x;
  // Of pairs that there may be, so that it need not wait for the count.
  const bool held = a.ids != nullptr && p < min(a.rows * a.top_k, kStreamPairs);
  const int own = held ? a.ids[p] : kNone;
  const int rows = counted ? a.row_count() : a.rows;
  const int pairs = rows * a.top_k;
  if (a.ids == nullptr) {
    if (p < pairs) list.pairs[p] = list.row_pairs[p] = p;
    if (p == 0) {
      list.active = 1;
      list.expert[0] = 0;
      list.first[0] = 0;
      list.first[1] = pairs;
    }
    __syncthreads();
    return rows;
  }
  if (p < kStreamPairs) {
    list.ids[p] = p < pairs && own >= 0 && own < a.experts ? own : kNone;
  }
  __syncthreads();
  if (p < pairs) {
    const int id = list.ids[p];
    auto before = [&](int q) { return list.ids[q] < id || (list.ids[q] == id && q < p); };
    int place = 0;
    for (int q = 0; q < pairs; ++q) place += before(q);
    list.pairs[place] = p;
    const int row = p - p % a.top_k;
    int row_place = 0;
    for (int q = row; q < row + a.top_k; ++q) row_place += before(q);
    list.row_pairs[row + row_place] = id == kNone ? -1 : p;
  }
  __syncthreads();
  bool head = false;
  bool routed = false;
  unsigned heads = 0;
  if (p < kStreamPairs) {
    const int id = p < pairs ? list.ids[list.pairs[p]] : kNone;
    routed = id != kNone;
    head = routed && (p == 0 || list.ids[list.pairs[p - 1]] != id);
    heads = __ballot_sync(0xffffffffu, head);
    if (p % 32 == 0) list.heads[p / 32] = __popc(heads);
  }
  if (p == 0) list.active = 0;
  __syncthreads();
  if (p < kStreamPairs) {
    int at = __popc(heads & ((1u << (p % 32)) - 1));
    for (int w = 0; w < p / 32; ++w) at += list.heads[w];
    if (head) {
      list.expert[at] = list.ids[list.pairs[p]];
      list.first[at] = p;
    }
    // The last routed place closes the list.
    const bool next_routed = p + 1 < pairs && list.ids[list.pairs[p + 1]] != kNone;
    if (routed && !next_routed) {
      list.active = at + head;
      list.first[at + head] = p + 1;
    }
  }
  __syncthreads();
  return rows;
}

/// How many warps, `most` at most, share `units` of equal length: one each, or the number under
/// which the last round leaves the fewest idle.
__device__ inline int warps_for(int units, int most) {
  if (units <= most) return max(units, 1);
  int best = most;
  float best_idle = 1.0f;
  for (int warps = most; warps > most / 2; --warps) {
    const int slots = (units + warps - 1) / warps * warps;
    const float idle = static_cast<float>(slots - units) / static_cast<float>(slots);
    if (idle < best_idle - 1e-6f) {
      best = warps;
      best_idle = idle;
    }
  }
  return best;
}

/// The part of a product that one block owns.
template <Role kRole>
struct Share {
  int first = 0;  ///< group: a slab, or with kGateUp a (expert, slab)
  int groups = 0;
  int per_group = 1;  ///< units
  int slabs = 0;

  __device__ Share(const ProductArgs& a, int active) {
    slabs = a.slabs;
    // Fewer than 2^32 / blocks: 128 experts at most, or one of any size that has an index.
    const unsigned all = static_cast<unsigned>(slabs) * (kRole == Role::kGateUp ? active : 1);
    first = static_cast<int>(blockIdx.x * all / gridDim.x);
    groups = static_cast<int>((blockIdx.x + 1) * all / gridDim.x) - first;
    per_group = kRole == Role::kDown ? active * a.chunks : a.chunks;
  }
  __device__ int units() const { return groups * per_group; }
};

/// One unit: a slab's tiles of a chunk, times the rows that an expert has.
struct Unit {
  const uint8_t* weights = nullptr;
  int expert = 0;
  int slab = 0;
  int group = 0;  ///< within the block
  int chunk = 0;
  int tile = 0;  ///< first tile of K
  int tiles = 0;
  int first = 0;  ///< of its pairs in the list
  int pairs = 0;

  template <Role kRole>
  __device__ static Unit make(const ProductArgs& a, const Share<kRole>& share,
                              const RouteList& list, int rows, int number) {
    Unit u;
    u.group = number / share.per_group;
    const int part = number % share.per_group;
    const int group = share.first + u.group;
    int active = 0;
    if constexpr (kRole == Role::kGateUp) {
      active = group / share.slabs;
      u.slab = group % share.slabs;
    } else {
      u.slab = group;
      u.chunk = part % a.chunks;
      if constexpr (kRole == Role::kDown) active = part / a.chunks;
    }
    if (kRole == Role::kLinear || a.ids == nullptr) {
      u.pairs = rows;
    } else {
      u.expert = list.expert[active];
      u.first = list.first[active];
      u.pairs = min(list.first[active + 1] - u.first, kStreamRows);
    }
    u.tile = u.chunk * a.chunk_tiles;
    u.tiles = min(a.chunk_tiles, a.tiles_k - u.tile);
    const int64_t tile = static_cast<int64_t>(u.slab / kTileSlabs) * a.tiles_k + u.tile;
    u.weights = a.weights + u.expert * a.expert_bytes + tile * kTileBytes +
                u.slab % kTileSlabs * kSlabBytes;
    return u;
  }
};

/// A warp's stream of stages, filled ahead of the arithmetic: with bulk copies a stage completes
/// its barrier; with cp.async stages are commit groups.
template <class F, Role kRole, bool kBulk>
struct Ring {
  static constexpr int kRowTileBytes = F::kTileK * 2;

  const ProductArgs& a;
  const Share<kRole>& share;
  const RouteList& list;
  int rows;  ///< rows of this call
  StageShape shape;
  bool with_stages;   ///< rows come with the stages
  uint32_t data;      ///< shared address of the warp's stages
  uint32_t barriers;  ///< of the warp's barriers
  int stages;
  int step;         ///< units from one of the warp's to its next
  uint64_t policy;  ///< of the weights in the L2
  uint64_t keep;    ///< of the rows, which other blocks read too

  // The next stage to be filled.
  int number;  ///< of its unit; from units() on none is left
  int slot = 0;
  int tiles = 0;  ///< of the unit that are left
  int pairs = 0;
  int row_left = 0;  ///< bytes of a row that are left
  const uint8_t* weights = nullptr;
  const uint8_t* row = nullptr;  ///< of this lane's row

  __device__ bool more() const { return number < share.units(); }

  /// With `find_row` the rows may be read by now.
  __device__ void enter_unit(bool find_row) {
    if (!more()) return;
    const int lane = threadIdx.x % 32;
    const Unit unit = Unit::make(a, share, list, rows, number);
    tiles = unit.tiles;
    pairs = unit.pairs;
    weights = unit.weights;
    const int first = unit.tile * F::kTileK;
    row_left = min((a.k - first + 7) / 8 * 16, tiles * kRowTileBytes);
    if (!find_row || lane >= pairs) return;
    int x_row = kRole == Role::kLinear ? lane : a.x_row(list.pairs[unit.first + lane]);
    if (kRole == Role::kLinear && a.index != nullptr) x_row = a.index[x_row];
    row = a.x + x_row * a.x_stride + first * int64_t{2};
  }

  /// Starts a stage's copies; the weights, the rows or both.
  __device__ __forceinline__ void fill(bool with_weights, bool with_rows) {
    const int lane = threadIdx.x % 32;
    const int row_bytes = min(row_left, shape.tiles * kRowTileBytes);
    const uint32_t to = data + slot * shape.bytes;
    if constexpr (kBulk) {
      const uint32_t barrier = barriers + slot * 8;
      const int count = min(tiles, shape.tiles);
      const int weight_bytes = count * kSlabBytes;
      if (lane == 0) {
        if (!with_stages) {
          barrier_arrive_expect(barrier, weight_bytes);
        } else if (with_rows) {
          barrier_arrive_expect(barrier, pairs * row_bytes + (with_weights ? weight_bytes : 0));
        } else {
          barrier_expect(barrier, weight_bytes);
        }
        if (with_weights) {
          for (int t = 0; t < count; ++t) {
            bulk_copy(to + t * kSlabBytes, weights + t * kTileBytes, kSlabBytes, barrier, policy);
          }
        }
      }
      if (with_rows && lane < pairs) {
        bulk_copy(to + shape.tiles * kSlabBytes + lane * shape.row_bytes, row, row_bytes, barrier,
                  keep);
      }
    } else {
      const int count = min(tiles, shape.tiles);
      for (int at = lane * kChunkBytes; at < count * kSlabBytes; at += 32 * kChunkBytes) {
        async_copy16(to + at, weights + at / kSlabBytes * kTileBytes + at % kSlabBytes);
      }
      for (int r = 0; r < pairs; ++r) {
        const auto from = __shfl_sync(0xffffffffu, reinterpret_cast<uint64_t>(row), r);
        for (int at = lane * kChunkBytes; at < row_bytes; at += 32 * kChunkBytes) {
          async_copy16(to + shape.tiles * kSlabBytes + r * shape.row_bytes + at,
                       reinterpret_cast<const uint8_t*>(from) + at);
        }
      }
    }
  }

  __device__ __forceinline__ void advance(bool find_row) {
    if (++slot == stages) slot = 0;
    tiles -= shape.tiles;
    row_left -= shape.tiles * kRowTileBytes;
    weights += shape.tiles * kTileBytes;
    row += shape.tiles * kRowTileBytes;
    if (tiles <= 0) {
      number += step;
      enter_unit(find_row);
    }
  }

  /// Fills the next stage, if any is left.
  __device__ __forceinline__ void refill() {
    if (more()) {
      fill(true, with_stages);
      advance(with_stages);
    }
    if constexpr (!kBulk) async_commit();
  }

  /// Fills the whole ring; `rows_ready` returns the number of rows once they may be read.
  template <class RowsReady>
  __device__ void start(bool weights_first, const RowsReady& rows_ready) {
    if (kBulk && weights_first) {
      const int first = number;
      int filled = 0;
      enter_unit(false);
      for (; filled < stages && more(); ++filled) {
        fill(true, false);
        advance(false);
      }
      rows = rows_ready();
      if (!with_stages) return;
      number = first;
      slot = 0;
      enter_unit(true);
      for (int i = 0; i < filled; ++i) {
        fill(false, true);
        advance(true);
      }
    } else {
      rows = rows_ready();
      enter_unit(with_stages);
      for (int i = 0; i < stages; ++i) refill();
    }
  }
};

/// Rows that lie in shared memory for the whole call: [row][tiles_k * kTileK] with 16 bytes
/// between. Rows of the product are those of x for linear and gate and up, pairs for down.
template <class F, Role kRole>
struct ResidentRows {
  const ProductArgs& a;
  uint32_t data;  ///< shared address
  uint32_t barrier;
  int pitch;

  __host__ __device__ static int pitch_of(const ProductArgs& a) {
    return a.tiles_k * F::kTileK * 2 + kChunkBytes;
  }
  /// All threads: zeros what no copy writes. A barrier of the block must follow.
  __device__ void clear(int rows) const {
    const int from = (a.k + 7) / 8 * 16;
    const int words = (pitch - from) / 16;
    for (int i = threadIdx.x; i < rows * words; i += kStreamThreads) {
      const uint32_t to = data + i / words * pitch + from + i % words * 16;
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
    }
  }
  /// One lane of each warp starts its part of the copies.
  __device__ void start(int rows, uint64_t policy) const {
    const int warp = threadIdx.x / 32;
    const int bytes = (a.k + 7) / 8 * 16;
    if (threadIdx.x == 0) barrier_arrive_expect(barrier, rows * bytes);
    for (int r = warp; r < rows; r += kStreamWarps) {
      const int x_row = kRole == Role::kLinear && a.index != nullptr ? a.index[r] : r;
      bulk_copy(data + r * pitch, a.x + x_row * a.x_stride, bytes, barrier, policy);
    }
  }
  /// Every warp before its first use.
  __device__ void wait(int rows) const {
    barrier_wait(barrier, 0);
    const int lane = threadIdx.x % 32;
    if (a.k % 8 != 0) {  // what the copies brought from past k; all warps write the same zeros
      for (int r = lane; r < rows; r += 32) {
        for (int i = a.k; i < (a.k + 7) / 8 * 8; ++i) {
          asm volatile("st.shared.b16 [%0], %1;" ::"r"(data + r * pitch + i * 2), "h"(short{0})
                       : "memory");
        }
      }
    }
    __syncwarp();
  }
};

/// Zeros the inputs from `inputs` on in a stage's rows: what a copy did not bring may be anything,
/// and NaN times a padding weight of zero is NaN.
template <class F>
__device__ inline void clear_tail(uint8_t* rows, const StageShape& shape, int pairs, int inputs) {
  const int lane = threadIdx.x % 32;
  if (lane < pairs) {
    auto* row = reinterpret_cast<__nv_bfloat16*>(rows + lane * shape.row_bytes);
    for (int i = inputs; i < shape.tiles * F::kTileK; ++i) row[i] = __float2bfloat16_rn(0.0f);
    proxy_fence();  // before the next copy into this stage
  }
  __syncwarp();
}

/// c += a slab's share of one tile times the rows. `weights` and `rows` are this lane's addresses
/// for ldmatrix, without the swizzle.
template <class F>
__device__ __forceinline__ void multiply_slab(uint32_t weights, uint32_t rows, float (&c)[4]) {
  const int lane = threadIdx.x % 32;
  uint32_t b[F::kTileK / 32][4];
  uint32_t raw[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // 32 bytes of every tile row
    load_matrices(weights + (((2 * i + lane / 16) ^ lane % 8) << 4), raw[i]);
    if (i < F::kTileK / 32) load_matrices(rows + i * 64, b[i]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t fragments[F::kSteps][4];
    F::unpack(raw[i], fragments);
#pragma unroll
    for (int s = 0; s < F::kSteps; ++s) {
      const int step = i * F::kSteps + s;  // of 16 inputs
      multiply_bf16(c, fragments[s], b[step / 2][step % 2 * 2], b[step / 2][step % 2 * 2 + 1]);
    }
  }
}

/// Sums of a block that are added up by all its threads, [group][chunk][pair][16 outputs].
struct Parts {
  float* data;
  int chunks;
  int pairs;
  __device__ float* at(int group, int chunk, int pair) const {
    return data + ((group * chunks + chunk) * pairs + pair) * kSlabRows;
  }
  /// Over the chunks, in order.
  __device__ float sum(int group, int pair, int channel) const {
    float v = at(group, 0, pair)[channel];
    for (int c = 1; c < chunks; ++c) v = __fadd_rn(v, at(group, c, pair)[channel]);
    return v;
  }
};

template <class F>
__device__ __forceinline__ float output_scaled(const ProductArgs& a, int expert, int channel,
                                               float sum) {
  if (!F::kOutputScales || a.block_scales) return sum;
  const auto* scales =
      reinterpret_cast<const float*>(a.weights + expert * a.expert_bytes + a.scales);
  return __fmul_rn(sum, __ldg(scales + channel));
}

/// Adds up the parts and stores: linear over chunks; down over chunks, then over the row's experts.
template <class F, Role kRole>
__device__ void finish_parts(const ProductArgs& a, const Share<kRole>& share, const RouteList& list,
                             int rows, const Parts& parts) {
  for (int i = threadIdx.x; i < share.groups * rows * kSlabRows; i += kStreamThreads) {
    const int group = i / kSlabRows / rows;
    const int row = i / kSlabRows % rows;
    const int lane = i % kSlabRows;
    const int channel = (share.first + group) * kSlabRows + lane;
    if (channel >= a.n) continue;
    float total = 0;
    if constexpr (kRole == Role::kLinear) {
      total = output_scaled<F>(a, 0, channel, parts.sum(group, row, lane));
      if (a.bias != nullptr) total = __fadd_rn(total, __ldg(a.bias + channel));
    } else {
      for (int e = 0; e < a.top_k; ++e) {
        const int pair = list.row_pairs[row * a.top_k + e];
        if (pair < 0) break;
        const int expert = a.ids == nullptr ? 0 : list.ids[pair];
        float value = output_scaled<F>(a, expert, channel, parts.sum(group, pair, lane));
        if (a.ids != nullptr) value = expert_output(value);
        const float weight = a.route_weights == nullptr ? 1.0f : a.route_weights[pair];
        total = add_weighted(total, weight, value, e == 0);
      }
    }
    store_sum(a, row, channel, total);
  }
}

template <class F, Role kRole, bool kBulk>
__global__ void __launch_bounds__(kStreamThreads, 2)
    stream_kernel(const __grid_constant__ ProductArgs a, const int ring_bytes,
                  const int resident_at) {
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ RouteList list;
  __shared__ uint64_t barriers[kStreamSlots];
  __shared__ uint64_t rows_barrier;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;

  // What is chosen may be read before the previous kernel ends if that is the gate and up product,
  // which lets this one start only once the router is done. What was not chosen needs no wait.
  const bool weights_first = kRole != Role::kGateUp || a.ids == nullptr;
  if constexpr (kRole != Role::kGateUp) release_successor();
  if (!weights_first) {
    wait_for_predecessor();
    release_successor();
  }
  int rows = a.rows;
  if constexpr (kRole != Role::kLinear) {
    rows = sort_pairs(a, kRole == Role::kDown || !weights_first, list);
  }
  const Share<kRole> share(a, kRole == Role::kLinear ? 1 : list.active);
  const int units = share.units();
  const bool resident = kBulk && resident_at > 0;
  const int stage_rows = resident ? 0 : a.rows;
  const int smallest = StageShape(kBulk ? 2 : 1, F::kTileK * 2, stage_rows).bytes;
  const int most = ring_bytes / smallest / (kBulk ? 1 : kPortableStages);
  const int warps = warps_for(units, min(most, kStreamWarps));
  const StageShape shape(kBulk ? stream_stage_tiles(warps) : 1, F::kTileK * 2, stage_rows);
  const int all_stages = min(ring_bytes / shape.bytes, kStreamSlots);
  const int stages = kBulk ? all_stages / warps + (warp < all_stages % warps) : kPortableStages;
  const int first_stage =
      kBulk ? all_stages / warps * warp + min(warp, all_stages % warps) : kPortableStages * warp;
  const uint32_t ring_data = shared_address(shared) + first_stage * shape.bytes;
  const uint32_t ring_barriers = shared_address(barriers) + first_stage * 8;
  const ResidentRows<F, kRole> home{a, shared_address(shared) + resident_at,
                                    shared_address(&rows_barrier),
                                    ResidentRows<F, kRole>::pitch_of(a)};
  const int row_pairs = kRole == Role::kDown ? a.top_k : 1;
  if (kBulk && warp < warps) {
    for (int i = lane; i < stages; i += 32) barrier_init(ring_barriers + i * 8, 1);
    barrier_init_fence();
    __syncwarp();
  }
  if (resident) {
    if (threadIdx.x == 0) {
      barrier_init(home.barrier, 1);
      barrier_init_fence();
    }
    home.clear(a.rows * row_pairs);
    __syncthreads();
  }
  Ring<F, kRole, kBulk> ring{.a = a,
                             .share = share,
                             .list = list,
                             .rows = rows,
                             .shape = shape,
                             .with_stages = !resident,
                             .data = ring_data,
                             .barriers = ring_barriers,
                             .stages = stages,
                             .step = warps,
                             .policy = streaming_policy(),
                             .keep = plain_policy(),
                             .number = warp < warps ? warp : INT_MAX};
  ring.start(weights_first, [&] {
    if (!weights_first) return rows;
    wait_for_predecessor();
    if (kRole == Role::kGateUp) release_successor();
    return a.row_count();
  });
  rows = ring.rows;
  if (resident) {
    if (lane == 0) home.start(rows * row_pairs, ring.keep);
    home.wait(rows * row_pairs);
  }

  const int pairs = rows * a.top_k;
  const bool direct = kRole == Role::kGateUp || (kRole == Role::kLinear && a.chunks == 1);
  const Parts parts{reinterpret_cast<float*>(shared + ring_bytes), a.chunks, pairs};
  const uint32_t a_lane = lane % 16 * kTileRowBytes;
  const uint32_t b_lane = shape.tiles * kSlabBytes + min(lane % 8, a.rows - 1) * shape.row_bytes +
                          lane / 8 * kChunkBytes;
  int slot = 0;
  uint32_t parity = 0;
  for (int number = warp < warps ? warp : units; number < units; number += warps) {
    const Unit unit = Unit::make(a, share, list, rows, number);
    uint32_t home_row = 0;  // this lane's, for ldmatrix
    if (resident) {
      int row = min(lane % 8, max(unit.pairs, 1) - 1);
      if (kRole != Role::kLinear) row = list.pairs[unit.first + row];
      if (kRole == Role::kGateUp) row = a.x_row(row);
      home_row =
          home.data + row * home.pitch + unit.tile * (F::kTileK * 2) + lane / 8 * kChunkBytes;
    }
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int done = 0; done < unit.tiles; done += shape.tiles) {
      if constexpr (kBulk) {
        barrier_wait(ring_barriers + slot * 8, parity);
      } else {
        async_wait<kPortableStages - 1>();
        __syncwarp();
      }
      const uint32_t offset = first_stage * shape.bytes + slot * shape.bytes;
      const int left = a.k - (unit.tile + done) * F::kTileK;
      if (!resident && left < shape.tiles * F::kTileK) {
        clear_tail<F>(shared + offset + shape.tiles * kSlabBytes, shape, unit.pairs, left);
      }
      const uint32_t stage = shared_address(shared) + offset;
      const int count = min(shape.tiles, unit.tiles - done);
      for (int t = 0; t < count; ++t) {
        const uint32_t weights = stage + a_lane + t * kSlabBytes;
        const uint32_t x = resident ? home_row + (done + t) * (F::kTileK * 2)
                                    : stage + b_lane + t * (F::kTileK * 2);
        if (F::kOutputScales && a.block_scales) {
          const BlockScales scales = block_scales(a, unit.expert, unit.slab, unit.tile + done + t);
          float chunk[4] = {0.0f, 0.0f, 0.0f, 0.0f};
          multiply_slab<F>(weights, x, chunk);
          for (int j = 0; j < 4; ++j) c[j] = add_scaled(c[j], chunk[j], scales, j);
        } else {
          multiply_slab<F>(weights, x, c);
        }
      }
      __syncwarp();
      ring.refill();
      if (++slot == stages) {
        slot = 0;
        parity ^= 1;
      }
    }
    auto pair_of = [&](int r) { return kRole == Role::kLinear ? r : list.pairs[unit.first + r]; };
    if (direct) {
      const SlabValues values = slab_values<F>(a, unit.expert, unit.slab);
      store_fragment<F, kRole == Role::kGateUp>(a, values, c, unit.pairs, pair_of);
    } else {
      for (int r = 0; r < 2; ++r) {
        const int row = lane % 4 * 2 + r;
        if (row >= unit.pairs) continue;
        float* part = parts.at(unit.group, unit.chunk, pair_of(row));
        part[lane / 4] = c[r];
        part[lane / 4 + 8] = c[2 + r];
      }
    }
  }
  if (direct) return;
  __syncthreads();
  finish_parts<F, kRole>(a, share, list, rows, parts);
}

}  // namespace moesaic::backend::cuda
