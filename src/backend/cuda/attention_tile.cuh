#pragma once

// What a tile of query rows computes, with mma.sync: kRowWarps x kColumnWarps warps share 16 *
// kRowWarps rows. Warps of one row group divide a block's keys in the first product and the head's
// dims in the second, which leaves every sum whole; maxima and weights cross between them through
// shared memory.
//
// fp8 caches are multiplied as f16, which holds every e4m3 value; a thread converts what it read
// into the layout that the tensor cores want by permuting dims, in Q and K alike for the first
// product, and in V and the result for the second.

#include "backend/cuda/attention_rows.cuh"

namespace moesaic::backend::cuda {

/// A block of 64 keys or values in shared memory: as kv_chunk_offset says, for 64 rows.
template <int kDimOf, KvType kTypeOf>
struct KvBlock {
  static constexpr int kDim = kDimOf;
  static constexpr bool kFp8 = kTypeOf == KvType::kE4M3;
  static constexpr int kRowBytes = kDim * (kFp8 ? 1 : 2);
  static constexpr int kChunks = kRowBytes / 16;
  static constexpr int kBytes = kKeyBlock * kRowBytes;

  static constexpr int kWide = kChunks / 8 * 8;  // chunks in panels of eight; the rest of them:
  static constexpr int kRest = kChunks % 8;
  static_assert(kRest == 0 || kRest == 2 || kRest == 4 || kRest == 5 || kRest == 6);

  /// First chunk and width of the panel that a chunk is in.
  static constexpr MOESAIC_ANYWHERE int first(int chunk) {
    if (kChunks % 8 == 0 || chunk < kWide) return chunk / 8 * 8;
    return kRest > 4 && chunk >= kWide + 4 ? kWide + 4 : kWide;
  }
  static constexpr MOESAIC_ANYWHERE int width(int chunk) {
    if (kChunks % 8 == 0) return 8;
    if (chunk < kWide) return 8;
    return kRest > 4 && chunk >= kWide + 4 ? kRest - 4 : kRest > 4 ? 4 : kRest;
  }
  /// kv_chunk_offset of the block.
  static constexpr MOESAIC_ANYWHERE int offset(int chunk, int row) {
    const int at = first(chunk);
    const int wide = width(chunk);
    return (at * kKeyBlock + row * wide + ((chunk - at) ^ (row * wide / 8 & (wide - 1)))) * 16;
  }
};

/// Whether the two ways to say where chunks lie agree.
template <class B>
constexpr bool agrees_with_cache() {
  for (int chunk = 0; chunk < B::kChunks; ++chunk) {
    for (int row = 0; row < kKeyBlock; ++row) {
      if (B::offset(chunk, row) != kv_chunk_offset(chunk, row, kKeyBlock, B::kChunks)) return false;
    }
  }
  return true;
}

template <int kDimOf, KvType kTypeOf, int kRowWarpsOf, int kColumnWarpsOf, bool kSharedQueryOf>
struct TileShape : KvBlock<kDimOf, kTypeOf> {
  using Block = KvBlock<kDimOf, kTypeOf>;
  using Block::kDim, Block::kFp8;
  static constexpr int kRowWarps = kRowWarpsOf, kColumnWarps = kColumnWarpsOf;
  /// Queries stay in shared memory where registers are short.
  static constexpr bool kSharedQuery = kSharedQueryOf;
  static constexpr int kThreads = 32 * kRowWarps * kColumnWarps;
  static constexpr int kRows = 16 * kRowWarps;
  static constexpr int kSteps = kDim / 16;   // of the first product
  static constexpr int kGroups = kDim / 16;  // of 16 dims in the second
  static constexpr int kOwnGroups = (kGroups + kColumnWarps - 1) / kColumnWarps;
  static constexpr int kOwnKeys = kKeyBlock / kColumnWarps;
  static constexpr int kOwnTiles = kOwnKeys / 8;
  static_assert(agrees_with_cache<Block>());
  static constexpr int kWeightStride = kKeyBlock * 2 + 16;  // bytes: eight rows, no bank twice
  // Shared memory beside the blocks.
  static constexpr int kQueryBytes = kSharedQuery ? kRowWarps * kSteps * 32 * 16 : 0;
  static constexpr int kMaximaBytes = kColumnWarps > 1 ? kRows* kColumnWarps * 4 : 0;
  static constexpr int kWeightBytes = kColumnWarps > 1 ? kRows* kWeightStride : 0;
  static constexpr int kScratchBytes = kQueryBytes + kMaximaBytes + kWeightBytes;
};

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

/// A thread's share of a tile. For every item: begin, load_queries; for every block: find_scores,
/// then with one column warp make_weights, with more share_maxima, meet, make_weights, meet; then
/// add_values, and end_split where a split ends; at last write_output, or leave_fold.
template <class T>
class TileRows {
 public:
  /// `scratch` is T::kScratchBytes of shared memory; `thread` counts from 0 to T::kThreads.
  __device__ TileRows(const AttentionParams& params, uint8_t* scratch, int thread)
      : p_(params),
        lane_(thread % 32),
        row_warp_(thread / 32 / T::kColumnWarps),
        column_warp_(thread / 32 % T::kColumnWarps),
        queries_(reinterpret_cast<uint4*>(scratch) + row_warp_ * T::kSteps * 32 + lane_),
        maxima_(reinterpret_cast<float*>(scratch + T::kQueryBytes) +
                row_warp_ * 16 * T::kColumnWarps),
        weights_(scratch + T::kQueryBytes + T::kMaximaBytes + row_warp_ * 16 * T::kWeightStride) {
    // Where the lane's rows of its groups of dims lie in a block of values.
    const int row = lane_ % 16;
#pragma unroll
    for (int i = 0; i < T::kOwnGroups; ++i) {
      const int group = min(column_warp_ + i * T::kColumnWarps, T::kGroups - 1);
      const int chunk = T::kFp8 ? group : group * 2 + lane_ / 16;
      value_offset_[i] = T::offset(chunk, row);
      value_step_[i] = 16 * 16 * T::width(chunk);
    }
  }

  __device__ void begin(const AttentionItem& item) {
    two_halves_ = T::kRowWarps > 1 || item.rows > 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      position_[half] = item.first_position + packed(item, half) / p_.group;
      maximum_[half] = all_maximum_[half] = kNegativeInfinity;
      all_sum_[half] = 0;
    }
#pragma unroll
    for (int i = 0; i < T::kOwnGroups; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) values_[i][j / 4][j % 4] = all_values_[i][j / 4][j % 4] = 0;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum_[i] = 0;
  }

  /// The sequence's row that the thread's upper (0) or lower (1) row is. Rows past the tile's end
  /// are computed as its last row and not written.
  __device__ int packed(const AttentionItem& item, int half) const {
    return item.row + min(row_warp_ * 16 + half * 8 + lane_ / 4, item.rows - 1);
  }

  /// Loads the rows' queries; with kSharedQuery a barrier must follow before find_scores.
  __device__ void load_queries(const __nv_bfloat16* row0, const __nv_bfloat16* row1) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int step = T::kSharedQuery ? i * T::kColumnWarps + column_warp_ : i;
      load_query<T>(held_[i], row0, row1, step, p_.head_dim);
    }
    if constexpr (T::kSharedQuery) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int step = i * T::kColumnWarps + column_warp_;
        if (T::kSteps % T::kColumnWarps != 0 && step >= T::kSteps) continue;
        queries_[step * 32] = make_uint4(held_[i][0], held_[i][1], held_[i][2], held_[i][3]);
      }
    }
  }

  /// Raw scores of the warp's share of the keys in `block`.
  __device__ void find_scores(uint32_t block) {
#pragma unroll
    for (int n = 0; n < T::kOwnTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores_[n][i] = 0;
    }
    // A lane gives the address of one row: of 8 or, for two steps of fp8 at once, 16 keys.
    const int row = T::kFp8 ? lane_ % 16 : lane_ % 8 + lane_ / 16 * 8;
#pragma unroll
    for (int step = 0; step < T::kSteps; ++step) {
      uint32_t a[4];
      if constexpr (T::kSharedQuery) {
        const uint4 x = queries_[step * 32];
        a[0] = x.x, a[1] = x.y, a[2] = x.z, a[3] = x.w;
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = held_[step][i];
      }
      // The panel is known here; only the place in it depends on the lane.
      constexpr int kChunksPerStep = T::kFp8 ? 1 : 2;
      const int first = T::first(step * kChunksPerStep);
      const int width = T::width(step * kChunksPerStep);
      const int column = step * kChunksPerStep - first + (T::kFp8 ? 0 : lane_ / 8 % 2);
      const int place = (column ^ (row * width / 8 & (width - 1))) * 16;
      const uint32_t keys =
          block + first * kKeyBlock * 16 + place + (column_warp_ * T::kOwnKeys + row) * width * 16;
#pragma unroll
      for (int n = 0; n < T::kOwnTiles; n += 2) {
        const uint32_t address = keys + n * 8 * width * 16;
        if constexpr (T::kFp8) {
          uint32_t b[2];
          load_matrix_x2(b, address);
          const auto convert = [](uint32_t four, int high_half) {
            return e4m3x2_to_f16x2(static_cast<uint16_t>(high_half ? four >> 16 : four));
          };
          mma_16x8x16<true>(scores_[n], a, convert(b[0], 0), convert(b[0], 1));
          mma_16x8x16<true>(scores_[n + 1], a, convert(b[1], 0), convert(b[1], 1));
        } else {
          uint32_t b[4];
          load_matrix_x4<false>(b, address);
          mma_16x8x16<false>(scores_[n], a, b[0], b[1]);
          mma_16x8x16<false>(scores_[n + 1], a, b[2], b[3]);
        }
      }
    }
  }

  /// Hides keys that a row does not see; called where some row of the tile does not see all.
  __device__ void mask(int first_key) {
    mask_scores(scores_, first_key + column_warp_ * T::kOwnKeys, p_.window, position_);
  }

  /// Tells the other column warps the greatest scores of the warp's keys.
  __device__ void share_maxima() {
    static_assert(T::kColumnWarps == 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half == 1 && !two_halves_) continue;
      const float top = quad_max(own_maximum(half));
      if (lane_ % 4 == 0) maxima_[(lane_ / 4 + half * 8) * T::kColumnWarps + column_warp_] = top;
    }
  }

  /// Turns scores into weights: in registers, or with several column warps in shared memory.
  __device__ void make_weights() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half == 1 && !two_halves_) {
        shrink_[1] = 1;
        continue;
      }
      float top;
      if constexpr (T::kColumnWarps > 1) {
        const float4 tops =
            *reinterpret_cast<const float4*>(maxima_ + (lane_ / 4 + half * 8) * T::kColumnWarps);
        top = fmaxf(fmaxf(tops.x, tops.y), fmaxf(tops.z, tops.w));
      } else {
        top = quad_max(own_maximum(half));
      }
      float base;
      shrink_[half] = take_maximum(top, p_.score_scale, maximum_[half], base);
#pragma unroll
      for (int n = 0; n < T::kOwnTiles; ++n) {
        float(&s)[4] = scores_[n];
        s[2 * half] = weight_of_score(s[2 * half], p_.score_scale, base);
        s[2 * half + 1] = weight_of_score(s[2 * half + 1], p_.score_scale, base);
        if constexpr (T::kColumnWarps > 1) {
          const int key = column_warp_ * T::kOwnKeys + n * 8 + lane_ % 4 * 2;
          *reinterpret_cast<uint32_t*>(weights_ + (lane_ / 4 + half * 8) * T::kWeightStride +
                                       key * 2) = pack(s[2 * half], s[2 * half + 1]);
        }
      }
    }
  }

  /// Adds the weighted values in `block` and the weights themselves.
  __device__ void add_values(uint32_t block) {
    // A maximum seldom changes after the first blocks; x * 1 = x.
    if (__any_sync(kAllLanes, shrink_[0] != 1.0f || shrink_[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < T::kOwnGroups; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float& value = values_[i][j / 4][j % 4];
          value = __fmul_rn(value, shrink_[j % 4 / 2]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) sum_[i] = __fmul_rn(sum_[i], shrink_[i / 2]);
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t a[4];
      if constexpr (T::kColumnWarps > 1) {
        load_matrix_x4<false>(a, shared_address(weights_) + lane_ % 16 * T::kWeightStride +
                                     (step * 2 + lane_ / 16) * 16);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = scores_[2 * step + i / 2] + i % 2 * 2;
          a[i] = pack(pair[0], pair[1]);
        }
      }
      constexpr uint32_t kOnes = T::kFp8 ? 0x3c003c00u : 0x3f803f80u;
      mma_16x8x16<T::kFp8>(sum_, a, kOnes, kOnes);
#pragma unroll
      for (int i = 0; i < T::kOwnGroups; ++i) {
        const int group = column_warp_ + i * T::kColumnWarps;
        if (T::kGroups % T::kColumnWarps != 0 && group >= T::kGroups) continue;
        const uint32_t address = block + value_offset_[i] + step * value_step_[i];
        if constexpr (T::kFp8) {
          uint32_t b[2];
          load_matrix_x2_transposed(b, address);
          uint32_t even[2], odd[2];
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            const uint32_t pairs = __byte_perm(b[k], 0, 0x3120);
            even[k] = e4m3x2_to_f16x2(static_cast<uint16_t>(pairs));
            odd[k] = e4m3x2_to_f16x2(static_cast<uint16_t>(pairs >> 16));
          }
          mma_16x8x16<true>(values_[i][0], a, even[0], even[1]);
          mma_16x8x16<true>(values_[i][1], a, odd[0], odd[1]);
        } else {
          uint32_t b[4];
          load_matrix_x4<true>(b, address);
          mma_16x8x16<false>(values_[i][0], a, b[0], b[1]);
          mma_16x8x16<false>(values_[i][1], a, b[2], b[3]);
        }
      }
    }
  }

  /// Folds split `split`, which is over, or leaves its result in memory, and begins the next.
  __device__ void end_split(const AttentionItem& item, int head, int split) {
    if (item.chunks > 1 && item.split_end != item.first_end) {
      const float sums[2] = {sum_[0], sum_[2]};
      leave_partial(item, head, 1 + split - item.first_end, maximum_, sums, values_);
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const FoldFactors factors(all_maximum_[half], maximum_[half]);
        all_sum_[half] = fold(all_sum_[half], factors.before, sum_[2 * half], factors.now);
        all_maximum_[half] = factors.maximum;
#pragma unroll
        for (int i = 0; i < T::kOwnGroups; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            float& value = all_values_[i][j / 2][2 * half + j % 2];
            value = fold(value, factors.before, values_[i][j / 2][2 * half + j % 2], factors.now);
          }
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) maximum_[half] = kNegativeInfinity;
#pragma unroll
    for (int i = 0; i < T::kOwnGroups; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) values_[i][j / 4][j % 4] = 0;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum_[i] = 0;
  }

  /// For an item that is all of its tile.
  __device__ void write_output(const AttentionItem& item, int head) {
    const float scale[2] = {final_scale(all_sum_[0], p_.value_scale),
                            final_scale(all_sum_[1], p_.value_scale)};
    __nv_bfloat16* to[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = tile_row(half);
      to[half] = r < item.rows ? output_row(p_, item.first_row, item.row + r, head) : nullptr;
    }
    for_each_pair([&](int half, int d, int i, int t0, int e0, int t1, int e1) {
      if (to[half] == nullptr || d >= p_.head_dim) return;
      *reinterpret_cast<uint32_t*>(to[half] + d) =
          pack_bf16(__fmul_rn(all_values_[i][t0][e0], scale[half]),
                    __fmul_rn(all_values_[i][t1][e1], scale[half]));
    });
  }

  /// For the first of a tile's items.
  __device__ void leave_fold(const AttentionItem& item, int head) {
    leave_partial(item, head, 0, all_maximum_, all_sum_, all_values_);
  }

 private:
  static constexpr int kHeld =
      T::kSharedQuery ? (T::kSteps + T::kColumnWarps - 1) / T::kColumnWarps : T::kSteps;

  __device__ static uint32_t pack(float low, float high) {
    return T::kFp8 ? pack_f16(low, high) : pack_bf16(low, high);
  }
  __device__ int tile_row(int half) const { return row_warp_ * 16 + half * 8 + lane_ / 4; }
  __device__ float own_maximum(int half) const {
    float top = kNegativeInfinity;
#pragma unroll
    for (int n = 0; n < T::kOwnTiles; ++n) {
      top = fmaxf(top, fmaxf(scores_[n][2 * half], scores_[n][2 * half + 1]));
    }
    return top;
  }

  /// Calls f(half, dim, ...) for pairs of neighbouring dims of the thread's rows, with the indices
  /// of the two values.
  template <typename F>
  __device__ void for_each_pair(F&& f) {
    const int q = lane_ % 4;
#pragma unroll
    for (int i = 0; i < T::kOwnGroups; ++i) {
      const int group = column_warp_ + i * T::kColumnWarps;
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
  }

  __device__ void leave_partial(const AttentionItem& item, int head, int slot,
                                const float (&maximum)[2], const float (&sum)[2],
                                const float (&values)[T::kOwnGroups][2][4]) {
    const int64_t base =
        item.partial_row + (static_cast<int64_t>(slot) * p_.kv_heads + head) * item.rows;
    for_each_pair([&](int half, int d, int i, int t0, int e0, int t1, int e1) {
      if (tile_row(half) >= item.rows) return;
      *reinterpret_cast<float2*>(p_.partials + (base + tile_row(half)) * T::kDim + d) =
          make_float2(values[i][t0][e0], values[i][t1][e1]);
    });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (column_warp_ != 0 || lane_ % 4 != 0 || tile_row(half) >= item.rows) continue;
      p_.maxima[base + tile_row(half)] = make_float2(maximum[half], sum[half]);
    }
  }

  const AttentionParams& p_;
  const int lane_, row_warp_, column_warp_;
  uint4* queries_;
  float* maxima_;  // [16, column warps]
  uint8_t* weights_;
  int value_offset_[T::kOwnGroups], value_step_[T::kOwnGroups];
  bool two_halves_;
  int position_[2];
  uint32_t held_[kHeld][4];
  float scores_[T::kOwnTiles][4];
  float shrink_[2];
  // [0]: the upper row, [1]: the lower. Of the split under way, and folded of those before it.
  float maximum_[2], all_maximum_[2], all_sum_[2];
  float sum_[4];
  float values_[T::kOwnGroups][2][4], all_values_[T::kOwnGroups][2][4];
};

}  // namespace moesaic::backend::cuda
