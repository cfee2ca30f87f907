#pragma once

// The attention kernel with mma.sync and cp.async, for compute capability 8.0 and up: kRowWarps x
// kColumnWarps warps share a tile of 16 * kRowWarps query rows. Warps of one row group divide a
// block's keys in the first product and the head's dims in the second, which leaves every sum
// whole; scores cross between them through shared memory.
//
// A block of 64 keys and their values arrive in two stages each, so that two blocks of keys or
// values are under way while one is used.
//
// fp8 caches are multiplied as f16, which holds every e4m3 value; a thread converts what it read
// into the layout that the tensor cores want by permuting dims, in Q and K alike for the first
// product, and in V and the result for the second.

#include "backend/cuda/attention_rows.cuh"
#include "backend/cuda/launch.h"

namespace moesaic::backend::cuda {

template <int kDimOf, KvType kTypeOf, int kRowWarpsOf, int kColumnWarpsOf, bool kSharedQueryOf,
          int kMinBlocksOf>
struct AttentionTile {
  static constexpr int kDim = kDimOf, kRowWarps = kRowWarpsOf, kColumnWarps = kColumnWarpsOf;
  static constexpr bool kFp8 = kTypeOf == KvType::kE4M3;
  /// Queries stay in shared memory where registers are short.
  static constexpr bool kSharedQuery = kSharedQueryOf;
  static constexpr int kMinBlocks = kMinBlocksOf;
  static constexpr int kThreads = 32 * kRowWarps * kColumnWarps;
  /// Few rows are folded by the last block of a tile to finish, many by a kernel of their own.
  static constexpr bool kFoldsItself = kRowWarps == 1;
  static constexpr int kRows = 16 * kRowWarps;
  static constexpr int kRowBytes = kDim * (kFp8 ? 1 : 2);
  static constexpr int kRowChunks = kRowBytes / 16;
  /// Eight rows of a column of 16-byte chunks must lie in different banks for ldmatrix: chunks are
  /// permuted by their row where eight or more make a row, else rows are one chunk longer.
  static constexpr bool kPermuted = kRowChunks % 8 == 0;
  static constexpr int kStride = kRowBytes + (kPermuted ? 0 : 16);
  static constexpr int kSteps = kDim / 16;   // of the first product
  static constexpr int kGroups = kDim / 16;  // of 16 dims in the second
  static constexpr int kOwnGroups = (kGroups + kColumnWarps - 1) / kColumnWarps;
  static constexpr int kOwnKeys = kKeyBlock / kColumnWarps;
  static constexpr int kTileBytes = kKeyBlock * kStride;
  static constexpr int kScoreStride = kKeyBlock + 8;  // floats: pairs of eight rows, no conflict
  static constexpr int kScoreBytes = kColumnWarps > 1 ? kRows* kScoreStride * 4 : 0;
  static constexpr int kQueryBytes = kSharedQuery ? kRowWarps * kSteps * 32 * 16 : 0;
  static constexpr int kSharedBytes = 4 * kTileBytes + kScoreBytes + kQueryBytes;
};

/// Where chunk `fixed + moving` of a row lies in it; `fixed` is known to the compiler and a
/// multiple of a power of two above `moving`.
template <class T>
__device__ __forceinline__ int chunk_offset(int fixed, int moving, int row) {
  return T::kPermuted ? (fixed * 16) ^ ((moving ^ (row & 7)) * 16) : (fixed + moving) * 16;
}

/// This thread's part of one 16 x 16 piece of the queries, as the A operand.
template <class T>
__device__ __forceinline__ void load_query(uint32_t (&a)[4], const __nv_bfloat16* row0,
                                           const __nv_bfloat16* row1, int step, int head_dim) {
  const int q = static_cast<int>(threadIdx.x) % 4;
  if constexpr (T::kFp8) {
    const int d = step * 16 + 4 * q;
    const bool inside = d < head_dim;
    const uint2 zero = make_uint2(0, 0);
    const uint2 x = inside ? *reinterpret_cast<const uint2*>(row0 + d) : zero;
    const uint2 y = inside ? *reinterpret_cast<const uint2*>(row1 + d) : zero;
    const auto half = [](uint32_t pair) {
      constexpr float kMost = 65504.0f;
      return pack_f16(fminf(fmaxf(low_bf16(pair), -kMost), kMost),
                      fminf(fmaxf(high_bf16(pair), -kMost), kMost));
    };
    a[0] = half(x.x);
    a[1] = half(y.x);
    a[2] = half(x.y);
    a[3] = half(y.y);
  } else {
    const int d = step * 16 + 2 * q;
    const auto pair = [&](const __nv_bfloat16* row, int at) {
      return at < head_dim ? *reinterpret_cast<const uint32_t*>(row + at) : 0u;
    };
    a[0] = pair(row0, d);
    a[1] = pair(row1, d);
    a[2] = pair(row0, d + 8);
    a[3] = pair(row1, d + 8);
  }
}

template <class T>
__global__ __launch_bounds__(T::kThreads,
                             T::kMinBlocks) void attention_kernel(const AttentionParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ int next[2];
  __shared__ __align__(16) AttentionItem items[2];  // of the work at hand and the next
  begin_dependent();

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int row_warp = thread / 32 / T::kColumnWarps;
  const int column_warp = thread / 32 % T::kColumnWarps;
  const int g = lane / 4;
  const int q = lane % 4;
  const uint32_t tiles = shared_address(shared);
  float* scores = reinterpret_cast<float*>(shared + 4 * T::kTileBytes);
  uint4* queries = reinterpret_cast<uint4*>(shared + 4 * T::kTileBytes + T::kScoreBytes) +
                   row_warp * T::kSteps * 32 + lane;
  const int block_size = 1 << p.block_shift;
  const int64_t half_bytes = static_cast<int64_t>(block_size) * T::kRowBytes;
  const int64_t block_bytes = 2 * half_bytes * p.kv_heads;

  constexpr int kItemParts = sizeof(AttentionItem) / 16;
  const auto item_part = [&](int work_index) {
    return reinterpret_cast<const int4*>(p.items + work_index / p.kv_heads) + thread;
  };
  int taken = static_cast<int>(blockIdx.x);
  const int work = *p.item_count * p.kv_heads;
  // Read along with the count, which may be less: the list has room for every block's first.
  if (thread < kItemParts) reinterpret_cast<int4*>(&items[0])[thread] = *item_part(taken);
  __syncthreads();
  for (int turn = 0; taken < work; turn ^= 1, taken = next[turn]) {
    int ticket = 0;
    if (thread < kItemParts) {
      // Every piece of work takes one ticket, so the last ticket resets the count for the next
      // layer.
      if (thread == 0) ticket = atomicAdd(p.ticket, 1);
    }
    const AttentionItem& item = items[turn];
    const int tile_row = item.row;
    const int tile_rows = item.rows;
    const int head = taken % p.kv_heads;
    const int first_row = item.first_row;
    const int first_position = item.first_position;
    const int32_t* table =
        p.sequences.block_tables + static_cast<int64_t>(item.sequence) * p.sequences.max_blocks;
    const uint8_t* cache = p.cache + head * 2 * half_bytes;

    const bool two_halves = T::kRowWarps > 1 || tile_rows > 8;
    int position[2];
    const __nv_bfloat16* query[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Rows past the tile's end are computed as its last row and not written.
      const int packed = tile_row + min(row_warp * 16 + half * 8 + g, tile_rows - 1);
      const int token = packed / p.group;
      position[half] = first_position + token;
      const int query_head = head * p.group + packed % p.group;
      query[half] = p.q + static_cast<int64_t>(first_row + token) * p.q_stride +
                    static_cast<int64_t>(query_head) * p.head_dim;
    }
    const TileKeys keys(item, p.group, p.window);  // nothing else is read
    const int begin = keys.begin(item);
    const int end = keys.end(item);

    // A lane holds one cache block number of the key block.
    const auto blocks_of = [&](int key_block) {
      const int index = ((key_block * kKeyBlock) >> p.block_shift) + lane;
      const int first_key = index << p.block_shift;
      const bool seen = lane < 4 && first_key <= keys.high && first_key + block_size > keys.low;
      return seen ? table[index] : 0;
    };
    const auto copy_tile = [&](int value, int key_block, int stage, int blocks) {
      const uint32_t to = tiles + (value * 2 + stage) * T::kTileBytes;
      const uint8_t* from = cache + value * half_bytes;
      constexpr int kCopies = kKeyBlock * T::kRowChunks;
#pragma unroll
      for (int i = 0; i < kCopies; i += T::kThreads) {
        const int copy = i + thread;
        const int row = copy / T::kRowChunks;
        const int chunk = copy % T::kRowChunks;
        const int block = __shfl_sync(kAllLanes, blocks, (row >> p.block_shift) & 31);
        const int key = key_block * kKeyBlock + row;
        if (kCopies % T::kThreads != 0 && copy >= kCopies) continue;
        const int place = (T::kPermuted ? chunk ^ (row & 7) : chunk) * 16;
        copy_async(
            to + row * T::kStride + place,
            from + block * block_bytes + (key & (block_size - 1)) * T::kRowBytes + chunk * 16,
            key >= keys.low && key <= keys.high);
      }
    };
    int blocks_next = blocks_of(begin);
    copy_tile(0, begin, 0, blocks_next);
    commit_copies();
    copy_tile(1, begin, 0, blocks_next);
    commit_copies();
    blocks_next = blocks_of(begin + 1);
    // Queries: in shared memory, loaded by the row group's warps in turns, or in registers.
    constexpr int kHeld =
        T::kSharedQuery ? (T::kSteps + T::kColumnWarps - 1) / T::kColumnWarps : T::kSteps;
    uint32_t held[kHeld][4];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int step = T::kSharedQuery ? i * T::kColumnWarps + column_warp : i;
      load_query<T>(held[i], query[0], query[1], step, p.head_dim);
    }
    if (begin + 1 < end) copy_tile(0, begin + 1, 1, blocks_next);
    if (thread < kItemParts) {
      ticket = __shfl_sync((1u << kItemParts) - 1, ticket, 0);
      if (ticket == work - 1 && thread == 0) *p.ticket = 0;
      const int following = static_cast<int>(gridDim.x) + ticket;
      if (thread == 0) next[turn ^ 1] = following;
      copy_async(shared_address(&items[turn ^ 1]) + thread * 16,
                 following < work ? item_part(following) : item_part(0), following < work);
    }
    commit_copies();
    int blocks_after = blocks_of(begin + 2);
    if constexpr (T::kSharedQuery) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int step = i * T::kColumnWarps + column_warp;
        if (T::kSteps % T::kColumnWarps != 0 && step >= T::kSteps) continue;
        queries[step * 32] = make_uint4(held[i][0], held[i][1], held[i][2], held[i][3]);
      }
    }

    // [0]: the rows g of the row group, [1]: the rows g + 8. `split` is the split under way, `all`
    // the fold of those before it.
    SoftmaxRow split[2], all[2];
    float split_values[T::kOwnGroups][2][4], all_values[T::kOwnGroups][2][4];
#pragma unroll
    for (int i = 0; i < T::kOwnGroups; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) split_values[i][j / 4][j % 4] = all_values[i][j / 4][j % 4] = 0;
    }

    const bool leaves_fold = item.split_end == item.first_end;
    const auto for_each_pair = [&](auto&& f) {  // of neighbouring dims of a row that are ours
#pragma unroll
      for (int i = 0; i < T::kOwnGroups; ++i) {
        const int group = column_warp + i * T::kColumnWarps;
        if (T::kGroups % T::kColumnWarps != 0 && group >= T::kGroups) continue;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            if constexpr (T::kFp8) {
              f(half, group * 16 + 4 * q + 2 * j, i, 0, 2 * half + j, 1, 2 * half + j);
            } else {
              f(half, group * 16 + 2 * q + 8 * j, i, j, 2 * half, j, 2 * half + 1);
            }
          }
        }
      }
    };
    const auto leave_partial = [&](int slot, const SoftmaxRow(&row)[2], auto& values) {
      const int64_t base = item.partial_row +
                           (static_cast<int64_t>(slot) * p.kv_heads + head) * tile_rows +
                           row_warp * 16 + g;
      for_each_pair([&](int half, int d, int i, int t0, int e0, int t1, int e1) {
        if (row_warp * 16 + g + half * 8 >= tile_rows) return;
        *reinterpret_cast<float2*>(p.partials + (base + half * 8) * T::kDim + d) =
            make_float2(values[i][t0][e0], values[i][t1][e1]);
      });
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (column_warp != 0 || q != 0 || row_warp * 16 + g + half * 8 >= tile_rows) continue;
        p.maxima[base + half * 8] = make_float2(row[half].maximum, row[half].sum);
      }
    };

    for (int block = begin; block < end; ++block) {
      const int stage = (block - begin) % 2;
      wait_copies<2>();
      __syncthreads();  // these keys are there; the values before these have been used
      if (block + 1 < end) copy_tile(1, block + 1, 1 - stage, blocks_next);
      commit_copies();

      // Scores of the warp's share of the keys.
      float s[8][4];
      float own[T::kOwnKeys / 8][4];
#pragma unroll
      for (int n = 0; n < T::kOwnKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) own[n][i] = 0;
      }
      const uint32_t key_tile =
          tiles + stage * T::kTileBytes + column_warp * T::kOwnKeys * T::kStride;
#pragma unroll
      for (int step = 0; step < T::kSteps; ++step) {
        uint32_t a[4];
        if constexpr (T::kSharedQuery) {
          const uint4 x = queries[step * 32];
          a[0] = x.x, a[1] = x.y, a[2] = x.z, a[3] = x.w;
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i) a[i] = held[step][i];
        }
#pragma unroll
        for (int n = 0; n < T::kOwnKeys / 8; n += 2) {
          if constexpr (T::kFp8) {
            uint32_t b[2];
            load_matrix_x2(b, key_tile + (n * 8 + lane % 16) * T::kStride +
                                  chunk_offset<T>(step & ~1, step & 1, lane));
            const auto convert = [](uint32_t four, int high_half) {
              return e4m3x2_to_f16x2(static_cast<uint16_t>(high_half ? four >> 16 : four));
            };
            mma_16x8x16<true>(own[n], a, convert(b[0], 0), convert(b[0], 1));
            mma_16x8x16<true>(own[n + 1], a, convert(b[1], 0), convert(b[1], 1));
          } else {
            uint32_t b[4];
            load_matrix_x4<false>(b, key_tile + (n * 8 + lane % 8 + lane / 16 * 8) * T::kStride +
                                         chunk_offset<T>(step * 2, lane / 8 % 2, lane));
            mma_16x8x16<false>(own[n], a, b[0], b[1]);
            mma_16x8x16<false>(own[n + 1], a, b[2], b[3]);
          }
        }
      }
      if constexpr (T::kColumnWarps > 1) {
        float* mine = scores + (row_warp * 16 + g) * T::kScoreStride + 2 * q;
#pragma unroll
        for (int n = 0; n < T::kOwnKeys / 8; ++n) {
          float* to = mine + column_warp * T::kOwnKeys + n * 8;
          *reinterpret_cast<float2*>(to) = make_float2(own[n][0], own[n][1]);
          *reinterpret_cast<float2*>(to + 8 * T::kScoreStride) = make_float2(own[n][2], own[n][3]);
        }
      }
      wait_copies<2>();
      __syncthreads();  // these values and all scores are there; these keys have been used
      if (block + 2 < end) copy_tile(0, block + 2, stage, blocks_after);
      commit_copies();
      blocks_next = blocks_after;
      blocks_after = blocks_of(block + 3);
      if constexpr (T::kColumnWarps > 1) {
        const float* mine = scores + (row_warp * 16 + g) * T::kScoreStride + 2 * q;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          const float2 x = *reinterpret_cast<const float2*>(mine + n * 8);
          const float2 y = *reinterpret_cast<const float2*>(mine + n * 8 + 8 * T::kScoreStride);
          s[n][0] = x.x, s[n][1] = x.y, s[n][2] = y.x, s[n][3] = y.y;
        }
      } else {
#pragma unroll
        for (int n = 0; n < T::kOwnKeys / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) s[n][i] = own[n][i];
        }
      }
      const int first_key = block * kKeyBlock;
      if (keys.hides(first_key, p.window)) mask_scores(s, first_key, p.window, position);
      float shrink[2];
      shrink[0] = take_scores(s, 0, p.score_scale, split[0]);
      if (two_halves) {
        shrink[1] = take_scores(s, 1, p.score_scale, split[1]);
      } else {
        shrink[1] = 0;
#pragma unroll
        for (int n = 0; n < 8; ++n) s[n][2] = s[n][3] = 0;
      }
#pragma unroll
      for (int i = 0; i < T::kOwnGroups; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float& value = split_values[i][j / 4][j % 4];
          value = __fmul_rn(value, shrink[j % 4 / 2]);
        }
      }

      const uint32_t values = tiles + (2 + stage) * T::kTileBytes;
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = s[2 * step + i / 2] + i % 2 * 2;
          a[i] = T::kFp8 ? pack_f16(pair[0], pair[1]) : pack_bf16(pair[0], pair[1]);
        }
#pragma unroll
        for (int i = 0; i < T::kOwnGroups; ++i) {
          const int group = column_warp + i * T::kColumnWarps;
          if (T::kGroups % T::kColumnWarps != 0 && group >= T::kGroups) continue;
          if constexpr (T::kFp8) {
            uint32_t b[2];
            load_matrix_x2_transposed(b,
                                      values + (step * 16 + lane % 16) * T::kStride +
                                          chunk_offset<T>(i * T::kColumnWarps, column_warp, lane));
            uint32_t even[2], odd[2];
#pragma unroll
            for (int k = 0; k < 2; ++k) {
              const uint32_t pairs = __byte_perm(b[k], 0, 0x3120);
              even[k] = e4m3x2_to_f16x2(static_cast<uint16_t>(pairs));
              odd[k] = e4m3x2_to_f16x2(static_cast<uint16_t>(pairs >> 16));
            }
            mma_16x8x16<true>(split_values[i][0], a, even[0], even[1]);
            mma_16x8x16<true>(split_values[i][1], a, odd[0], odd[1]);
          } else {
            uint32_t b[4];
            load_matrix_x4<true>(
                b, values + (step * 16 + lane % 16) * T::kStride +
                       chunk_offset<T>(i * T::kColumnWarps * 2, column_warp * 2 + lane / 16, lane));
            mma_16x8x16<false>(split_values[i][0], a, b[0], b[1]);
            mma_16x8x16<false>(split_values[i][1], a, b[2], b[3]);
          }
        }
      }

      if (block % kBlocksPerSplit != kBlocksPerSplit - 1 && block + 1 < end) continue;
      // The split is over.
      split[0].sum = quad_sum(split[0].sum);
      split[1].sum = quad_sum(split[1].sum);
      if (item.chunks > 1 && !leaves_fold) {
        leave_partial(1 + block / kBlocksPerSplit - item.first_end, split, split_values);
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const FoldFactors factors(all[half].maximum, split[half].maximum);
          all[half].sum = fold(all[half].sum, factors.before, split[half].sum, factors.now);
          all[half].maximum = factors.maximum;
#pragma unroll
          for (int i = 0; i < T::kOwnGroups; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              float& value = all_values[i][j / 2][2 * half + j % 2];
              value = fold(value, factors.before, split_values[i][j / 2][2 * half + j % 2],
                           factors.now);
            }
          }
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) split[half] = SoftmaxRow();
#pragma unroll
      for (int i = 0; i < T::kOwnGroups; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) split_values[i][j / 4][j % 4] = 0;
      }
    }

    if (item.chunks == 1) {
      const float scale[2] = {final_scale(all[0].sum, p.value_scale),
                              final_scale(all[1].sum, p.value_scale)};
      // Read again, which costs fewer registers than keeping them.
      const int tile_row_again = item.row;
      const int tile_rows_again = item.rows;
      __nv_bfloat16* to[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = row_warp * 16 + half * 8 + g;
        to[half] =
            r < tile_rows_again ? output_row(p, first_row, tile_row_again + r, head) : nullptr;
      }
      for_each_pair([&](int half, int d, int i, int t0, int e0, int t1, int e1) {
        if (to[half] == nullptr || d >= p.head_dim) return;
        *reinterpret_cast<uint32_t*>(to[half] + d) =
            pack_bf16(__fmul_rn(all_values[i][t0][e0], scale[half]),
                      __fmul_rn(all_values[i][t1][e1], scale[half]));
      });
    } else {
      if (leaves_fold) leave_partial(0, all, all_values);
      wait_copies<0>();
      if constexpr (T::kFoldsItself) {
        // Nothing is under way to the stages, and a warp's share of them holds kAtOnce slots.
        constexpr int kWarps = T::kThreads / 32;
        constexpr int kAtOnce = T::kFp8 ? 16 : 32;
        static_assert(kAtOnce * T::kDim * 4 * kWarps <= 4 * T::kTileBytes);
        if (last_of_tile(p.counters + item.tile * p.kv_heads + head, item.chunks)) {
          float* staging = reinterpret_cast<float*>(shared) + thread / 32 * kAtOnce * T::kDim;
          for (int r = thread / 32; r < item.rows; r += kWarps) {
            fold_row<T::kDim, kAtOnce>(p, item, head, r, staging);
          }
        }
      }
    }
    wait_copies<0>();  // the next item
    __syncthreads();   // and the stages are free
  }
}

/// Starts the kernel with as many blocks as the device holds at once.
template <class T>
void start_attention(const AttentionParams& params, cudaStream_t stream) {
  const int grid = multiprocessors() * T::kMinBlocks;
  launch<attention_kernel<T>>(dim3(static_cast<unsigned>(grid)), dim3(T::kThreads), T::kSharedBytes,
                              stream, params);
}

}  // namespace moesaic::backend::cuda
