// Attention for prompts on Hopper: 128 query rows, bf16 caches, head dims 64 and 128. Of the first
// warpgroup one warp brings keys and values with bulk copies, the others queries; two warpgroups
// compute, each for 64 rows, with wgmma. A warpgroup multiplies the next block's scores while it
// takes this block's softmax, and the two together fill the tensor cores.
//
// Sums run over the same steps in the same order as in attention_tile.cuh, so the bits are the
// same.

#include "backend/cuda/attention_feed.cuh"
#include "backend/cuda/launch.h"

namespace moesaic::backend::cuda {
namespace {

constexpr int kGroups = 2;  // of 64 rows
constexpr int kTileRows = 64 * kGroups;
constexpr int kThreads = 128 + 128 * kGroups;
[[maybe_unused]] constexpr int kQueryThreads = 96;
constexpr int kSlots = 8;  // keys and values by turns
constexpr int kQuerySlots = 2;

template <int kDim>
struct PromptShape : KvBlock<kDim, KvType::kBF16> {
  using Block = KvBlock<kDim, KvType::kBF16>;
  static constexpr int kQueryBytes = kTileRows * kDim * 2;
  static constexpr int kOnes = kSlots * Block::kBytes;  // an operand of ones
  static constexpr int kQueries = kOnes + 1024;
  static constexpr int kBarriers = kQueries + kQuerySlots * kQueryBytes;
  static constexpr int kShared =
      kBarriers + Ring::bytes(kSlots + kQuerySlots) + 1024;  // operands begin at multiples of 1024
};

/// The warp that brings keys and values.
template <class T>
__device__ void feed_blocks(const AttentionParams& p, uint32_t memory, Ring blocks) {
  BlockSource<typename T::Block> source(p);
  const int work = *p.item_count * p.kv_heads;
  for (int taken = static_cast<int>(blockIdx.x); taken < work;
       taken += static_cast<int>(gridDim.x)) {
    const AttentionItem& item = p.items[taken / p.kv_heads];
    const TileKeys keys(item, p.group, p.window);
    const int begin = keys.begin(item);
    const int end = keys.end(item);
    source.begin(item.sequence, taken % p.kv_heads, keys, begin, end);
    for (int block = begin; block < end; ++block) {
      source.block(block);
      for (int value = 0; value < 2; ++value) {
        blocks.wait_empty();
        source.copy(value, memory + blocks.slot() * T::kBytes, blocks.full());
        ++blocks.index;
      }
    }
  }
}

/// The threads that bring queries.
template <class T>
__device__ void feed_queries(const AttentionParams& p, uint32_t memory, Ring queries) {
  constexpr int kChunks = T::kDim / 8;  // of 16 bytes in a row
  const int thread = static_cast<int>(threadIdx.x) - 32;
  const int work = *p.item_count * p.kv_heads;
  for (int taken = static_cast<int>(blockIdx.x); taken < work;
       taken += static_cast<int>(gridDim.x)) {
    const AttentionItem& item = p.items[taken / p.kv_heads];
    const int head = taken % p.kv_heads;
    queries.wait_empty();
    const uint32_t to = memory + T::kQueries + queries.slot() * T::kQueryBytes;
    for (int i = thread; i < kTileRows * kChunks; i += kQueryThreads) {
      const int row = i / kChunks;
      const int chunk = i % kChunks;
      const int packed = item.row + min(row, item.rows - 1);
      const int token = packed / p.group;
      const int query_head = head * p.group + packed - token * p.group;
      const __nv_bfloat16* from = p.q + static_cast<int64_t>(item.first_row + token) * p.q_stride +
                                  query_head * p.head_dim + chunk * 8;
      copy_async(to + row / 64 * (64 * T::kDim * 2) + kv_chunk_offset(chunk, row % 64, 64, kChunks),
                 from, row < item.rows && chunk * 8 < p.head_dim);
    }
    commit_copies();
    wait_copies<0>();
    publish_to_async();
    arrive(queries.full());
    ++queries.index;
  }
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// scores = queries x keys of one block, under way.
template <int kDim>
__device__ __forceinline__ void begin_scores(float (&s)[8][4], uint32_t queries, uint32_t keys) {
  pin(s);
  begin_products();
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    const uint32_t at = step / 4 * (64 * 128) + step % 4 * 32;
    multiply_shared(s, swizzled_operand(queries + at, 16, 1024),
                    swizzled_operand(keys + at, 16, 1024), step > 0 ? 1 : 0);
  }
  commit_products();
}

/// values += weights x values of one block, sums += weights, under way.
template <int kTiles>
__device__ __forceinline__ void begin_values(float (&values)[kTiles][4], float (&sums)[1][4],
                                             const uint32_t (&weights)[4][4], uint32_t block,
                                             uint32_t ones) {
  pin(values);
  pin(sums);
  begin_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_registers(values, weights[step],
                       swizzled_operand(block + step * (16 * 128), kKeyBlock * 128, 1024));
    multiply_registers(sums, weights[step], swizzled_operand(ones, 16, 1024));
  }
  commit_products();
}

/// A warpgroup that computes 64 rows of each tile.
template <class T>
__device__ void compute(const AttentionParams& p, uint32_t memory, Ring blocks, Ring queries) {
  constexpr int kDim = T::kDim;
  constexpr int kTiles = kDim / 8;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = warpgroup_index() - 1;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 % 4 * 16;
  const int g = lane / 4;
  const int q = lane % 4;
  const uint32_t ones = memory + T::kOnes;
  const int work = *p.item_count * p.kv_heads;
  const auto block_at = [&](int ahead) { return memory + blocks.slot(ahead) * T::kBytes; };
  const auto release = [&](uint32_t barrier) {
    if (lane == 0) arrive(barrier);
  };

  for (int taken = static_cast<int>(blockIdx.x); taken < work;
       taken += static_cast<int>(gridDim.x)) {
    const AttentionItem& item = p.items[taken / p.kv_heads];
    const int head = taken % p.kv_heads;
    const TileKeys keys(item, p.group, p.window);
    const int begin = keys.begin(item);
    const int end = keys.end(item);
    queries.wait_full();
    if (group * 64 >= item.rows) {  // none of the tile's rows are ours
      for (int i = 0; i < 2 * (end - begin); ++i, ++blocks.index) {
        blocks.wait_full();
        release(blocks.empty());
      }
      release(queries.empty());
      ++queries.index;
      continue;
    }
    const uint32_t query_rows =
        memory + T::kQueries + queries.slot() * T::kQueryBytes + group * (64 * kDim * 2);
    const int own_row = group * 64 + warp_row + g;  // and the row 8 below
    int position[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(own_row + half * 8, item.rows - 1);
      position[half] = item.first_position + (item.row + row) / p.group;
    }

    // Of the split under way, and folded of those before it. sums[0][2 half] is the half's.
    float maximum[2], sums[1][4], values[kTiles][4];
    float all_maximum[2], all_sum[2], all_values[kTiles][4];
    float s[8][4];
    uint32_t weights[4][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      maximum[half] = all_maximum[half] = kNegativeInfinity;
      all_sum[half] = 0;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[0][i] = 0;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[t][i] = all_values[t][i] = 0;
    }
    const auto take_block = [&](int block, float(&shrink)[2]) {
      const int first_key = block * kKeyBlock;
      if (keys.hides(first_key, p.window)) mask_scores(s, first_key, p.window, position);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        shrink[half] = take_scores(s, half, p.score_scale, maximum[half]);
      }
    };
    const auto pack_weights = [&] {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = s[2 * step + i / 2] + i % 2 * 2;
          weights[step][i] = pack_bf16(pair[0], pair[1]);
        }
      }
    };
    const auto leave_partial = [&](int slot, const float(&row_maximum)[2], float sum0, float sum1,
                                   const float(&from)[kTiles][4]) {
      const int64_t base =
          item.partial_row + (static_cast<int64_t>(slot) * p.kv_heads + head) * item.rows + own_row;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (own_row + half * 8 >= item.rows) continue;
        float* to = p.partials + (base + half * 8) * kDim + 2 * q;
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          *reinterpret_cast<float2*>(to + 8 * t) =
              make_float2(from[t][2 * half], from[t][2 * half + 1]);
        }
        if (q == 0) {
          p.maxima[base + half * 8] = make_float2(row_maximum[half], half == 0 ? sum0 : sum1);
        }
      }
    };
    const bool cut = item.chunks > 1;
    const bool leaves_fold = item.split_end == item.first_end;
    // Ends split `split`, whose maxima are `done`.
    const auto end_split = [&](int split, const float(&done)[2]) {
      if (cut && !leaves_fold) {
        leave_partial(1 + split - item.first_end, done, sums[0][0], sums[0][2], values);
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const FoldFactors factors(all_maximum[half], done[half]);
          all_sum[half] = fold(all_sum[half], factors.before, sums[0][2 * half], factors.now);
          all_maximum[half] = factors.maximum;
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
              all_values[t][i] = fold(all_values[t][i], factors.before, values[t][i], factors.now);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[0][i] = 0;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) values[t][i] = 0;
      }
    };

    float shrink[2];
    blocks.wait_full();
    begin_scores<kDim>(s, query_rows, block_at(0));
    wait_products<0>();
    pin(s);
    release(blocks.empty());
    take_block(begin, shrink);  // nothing to shrink yet
    pack_weights();
    if (begin + 1 < end) blocks.wait_full(2);
    for (int block = begin + 1; block < end; ++block, blocks.index += 2) {
      begin_scores<kDim>(s, query_rows, block_at(2));
      blocks.wait_full(1);
      begin_values(values, sums, weights, block_at(1), ones);
      wait_products<1>();
      pin(s);
      release(blocks.empty(2));
      const bool split_over = ends_split(block - 1);
      float done[2];
      if (split_over) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          done[half] = maximum[half];
          maximum[half] = kNegativeInfinity;
        }
      }
      take_block(block, shrink);
      pin(s);
      // Waiting for the next keys here keeps the compiler from waiting for the values' product
      // before the softmax.
      if (block + 1 < end) blocks.wait_full(4);
      wait_products<0>();
      pin(values);
      pin(sums);
      release(blocks.empty(1));
      if (split_over) {
        end_split(split_of(block - 1), done);
      } else if (__any_sync(kAllLanes, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
        // A maximum seldom changes after the first blocks; x * 1 = x.
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[0][i] = __fmul_rn(sums[0][i], shrink[i / 2]);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
#pragma unroll
          for (int i = 0; i < 4; ++i) values[t][i] = __fmul_rn(values[t][i], shrink[i / 2]);
        }
      }
      pack_weights();
    }
    release(queries.empty());
    ++queries.index;
    blocks.wait_full(1);
    begin_values(values, sums, weights, block_at(1), ones);
    wait_products<0>();
    pin(values);
    pin(sums);
    release(blocks.empty(1));
    blocks.index += 2;
    end_split(split_of(end - 1), maximum);

    if (cut) {
      if (leaves_fold) leave_partial(0, all_maximum, all_sum[0], all_sum[1], all_values);
      continue;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (own_row + half * 8 >= item.rows) continue;
      const float scale = final_scale(all_sum[half], p.value_scale);
      __nv_bfloat16* to =
          output_row(p, item.first_row, item.row + own_row + half * 8, head) + 2 * q;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        if (8 * t >= p.head_dim) continue;
        *reinterpret_cast<uint32_t*>(to + 8 * t) =
            pack_bf16(__fmul_rn(all_values[t][2 * half], scale),
                      __fmul_rn(all_values[t][2 * half + 1], scale));
      }
    }
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

template <class T>
__global__ __launch_bounds__(kThreads, 1) void prompt_kernel(const AttentionParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t shared[];
  const uint32_t memory = (shared_address(shared) + 1023) / 1024 * 1024;
  const Ring blocks(memory + T::kBarriers, kSlots);
  const Ring queries(memory + T::kBarriers + Ring::bytes(kSlots), kQuerySlots);
  if (threadIdx.x == 0) {
    blocks.init(1, 4 * kGroups);
    queries.init(kQueryThreads, 4 * kGroups);
    publish_barriers();
  }
  if (threadIdx.x >= 128) {
    const uint32_t to = memory + T::kOnes + (threadIdx.x - 128) * 4;
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(0x3f803f80) : "memory");
    publish_to_async();
  }
  __syncthreads();
  begin_dependent();
  if (warpgroup_index() == 0) {
    give_registers<40>();
    if (threadIdx.x < 32) {
      feed_blocks<T>(p, memory, blocks);
    } else {
      feed_queries<T>(p, memory, queries);
    }
  } else {
    take_registers<232>();
    compute<T>(p, memory, blocks, queries);
  }
#else
  __trap();  // not chosen for such devices
#endif
}

template <int kDim>
void start(const AttentionParams& params, cudaStream_t stream) {
  using T = PromptShape<kDim>;
  launch<prompt_kernel<T>>(dim3(static_cast<unsigned>(multiprocessors())), dim3(kThreads),
                           T::kShared, stream, params);
}

}  // namespace

bool has_prompt_kernel(const AttentionShape& shape) {
  return has_hopper_kernels() && shape.kv == KvType::kBF16 &&
         (padded_head_dim(shape.head_dim) == 64 || padded_head_dim(shape.head_dim) == 128);
}

void attention_prompt(const AttentionParams& params, int dim, cudaStream_t stream) {
  dim == 64 ? start<64>(params, stream) : start<128>(params, stream);
}

}  // namespace moesaic::backend::cuda
