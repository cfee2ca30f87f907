#pragma once

// The attention kernel for compute capability 8.0 and up, with cp.async: all threads copy and all
// compute. A block of keys and its values arrive in two stages each, so that two blocks of keys or
// values are under way while one is used.

#include "backend/cuda/attention_tile.cuh"
#include "backend/cuda/launch.h"

namespace moesaic::backend::cuda {

template <class T, int kMinBlocks>
__global__ __launch_bounds__(T::kThreads,
                             kMinBlocks) void attention_kernel(const AttentionParams p) {
  /// Few rows are folded by the last block of a tile to finish, many by a kernel of their own.
  constexpr bool kFoldsItself = T::kRowWarps == 1;
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ int next[2];
  __shared__ __align__(16) AttentionItem items[2];  // of the work at hand and the next
  begin_dependent();

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const uint32_t stages = shared_address(shared);
  const auto stage_of = [&](int value, int stage) {
    return stages + (value * 2 + stage) * T::kBytes;
  };
  const int block_size = 1 << p.block_shift;
  const int64_t half_bytes = static_cast<int64_t>(block_size) * T::kRowBytes;
  const int64_t block_bytes = 2 * half_bytes * p.kv_heads;
  TileRows<T> rows(p, shared + 4 * T::kBytes, thread);

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
    // Every piece of work takes one ticket, so the last ticket resets the count for the next layer.
    int ticket = 0;
    if (thread == 0) ticket = atomicAdd(p.ticket, 1);
    const AttentionItem& item = items[turn];
    const int head = taken % p.kv_heads;
    const int32_t* table =
        p.sequences.block_tables + static_cast<int64_t>(item.sequence) * p.sequences.max_blocks;
    const uint8_t* cache = p.cache + head * 2 * half_bytes;
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
    const auto copy_block = [&](int value, int key_block, int stage, int blocks) {
      const uint32_t to = stage_of(value, stage);
      const uint8_t* from = cache + value * half_bytes;
      constexpr int kCopies = kKeyBlock * T::kChunks;
#pragma unroll
      for (int i = 0; i < kCopies; i += T::kThreads) {
        const int copy = i + thread;  // in the order of both layouts, panel after panel
        const int first = T::first(min(copy / kKeyBlock, T::kChunks - 1));
        const int width = T::width(first);
        const int row = (copy - first * kKeyBlock) / width;
        const int place = (copy - first * kKeyBlock) % width;
        const int block = __shfl_sync(kAllLanes, blocks, (row >> p.block_shift) & 31);
        const int key = key_block * kKeyBlock + row;
        if (kCopies % T::kThreads != 0 && copy >= kCopies) continue;
        copy_async(to + copy * 16,
                   from + block * block_bytes +
                       (first * block_size + (key & (block_size - 1)) * width + place) * 16,
                   key >= keys.low && key <= keys.high);
      }
    };
    int blocks_next = blocks_of(begin);
    copy_block(0, begin, 0, blocks_next);
    commit_copies();
    copy_block(1, begin, 0, blocks_next);
    commit_copies();
    blocks_next = blocks_of(begin + 1);
    rows.begin(item);
    const __nv_bfloat16* query[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int packed = rows.packed(item, half);
      query[half] = p.q + (item.first_row + packed / p.group) * p.q_stride +
                    (head * p.group + packed % p.group) * p.head_dim;
    }
    rows.load_queries(query[0], query[1]);
    if (begin + 1 < end) copy_block(0, begin + 1, 1, blocks_next);
    if (thread < 32) {
      ticket = __shfl_sync(kAllLanes, ticket, 0);
      if (ticket == work - 1 && thread == 0) *p.ticket = 0;
      const int following = static_cast<int>(gridDim.x) + ticket;
      if (thread == 0) next[turn ^ 1] = following;
      if (thread < kItemParts && following < work) {
        copy_async(shared_address(&items[turn ^ 1]) + thread * 16, item_part(following), true);
      }
    }
    commit_copies();
    int blocks_after = blocks_of(begin + 2);

    for (int block = begin; block < end; ++block) {
      const int stage = (block - begin) % 2;
      wait_copies<2>();
      __syncthreads();  // these keys are there; the values before these have been used
      if (block + 1 < end) copy_block(1, block + 1, 1 - stage, blocks_next);
      commit_copies();
      rows.find_scores(stage_of(0, stage));
      if (keys.hides(block * kKeyBlock, p.window)) rows.mask(block * kKeyBlock);
      if constexpr (T::kColumnWarps > 1) {
        rows.share_maxima();
      } else {
        wait_copies<2>();
      }
      __syncthreads();  // these keys have been used; maxima, or these values, are there
      if (block + 2 < end) copy_block(0, block + 2, stage, blocks_after);
      commit_copies();
      blocks_next = blocks_after;
      blocks_after = blocks_of(block + 3);
      rows.make_weights();
      if constexpr (T::kColumnWarps > 1) {
        wait_copies<2>();
        __syncthreads();  // these values and all weights are there
      }
      rows.add_values(stage_of(1, stage));
      if (ends_split(block) || block + 1 == end) rows.end_split(item, head, split_of(block));
    }

    if (item.chunks == 1) {
      rows.write_output(item, head);
    } else {
      if (item.split_end == item.first_end) rows.leave_fold(item, head);
      if constexpr (kFoldsItself) {
        if (last_of_tile(p.counters + item.tile * p.kv_heads + head, item.chunks, T::kThreads,
                         thread == 0)) {
          for (int r = thread / 32; r < item.rows; r += T::kThreads / 32) {
            fold_row<T::kDim>(p, item, head, r);
          }
        }
      }
    }
    wait_copies<0>();  // the next item
    __syncthreads();   // and the stages are free
  }
}

/// Starts the kernel with as many blocks as the device holds at once.
template <class T, int kMinBlocks>
void start_attention(const AttentionParams& params, cudaStream_t stream) {
  const int grid = multiprocessors() * kMinBlocks;
  launch<attention_kernel<T, kMinBlocks>>(dim3(static_cast<unsigned>(grid)), dim3(T::kThreads),
                                          4 * T::kBytes + T::kScratchBytes, stream, params);
}

}  // namespace moesaic::backend::cuda
