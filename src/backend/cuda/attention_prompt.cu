// Attention for prompts on Hopper: 128 query rows, bf16 caches, head dims 64 and 128. One warpgroup
// copies queries, keys and values into rings of shared memory; two compute, each for 64 rows, with
// wgmma. A warpgroup multiplies the next block's scores while it takes this block's softmax, and
// the two together fill the tensor cores.
//
// Sums run over the same steps in the same order as in attention_kernel.cuh, so the bits are the
// same.

#include "backend/cuda/attention_rows.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/warpgroup.cuh"

namespace moesaic::backend::cuda {
namespace {

constexpr int kGroups = 2;  // of 64 rows
constexpr int kTileRows = 64 * kGroups;
constexpr int kCopyThreads = 128;
constexpr int kThreads = kCopyThreads + 128 * kGroups;
constexpr int kSlots = 8;  // keys and values by turns
constexpr int kQuerySlots = 2;
constexpr int kLag = 4;  // copies under way when the next is begun

template <int kDim>
struct PromptMemory {
  static constexpr int kSlotBytes = kKeyBlock * kDim * 2;
  static constexpr int kQueryBytes = kTileRows * kDim * 2;
  static constexpr int kBarriers = 2 * (kSlots + kQuerySlots);
  static constexpr int kRing = 0;
  static constexpr int kQueries = kRing + kSlots * kSlotBytes;
  static constexpr int kBarrier = kQueries + kQuerySlots * kQueryBytes;
  static constexpr int kBytes = kBarrier + kBarriers * 8;
  static constexpr int kShared = kBytes + 1024;  // swizzled operands begin at multiples of 1024
};

/// Barriers of the two rings: a slot is full when its copies have arrived, empty when all warps
/// that compute have used it.
struct Barriers {
  uint32_t base;

  __device__ uint32_t full(int slot) const { return base + slot * 8; }
  __device__ uint32_t empty(int slot) const { return base + (kSlots + slot) * 8; }
  __device__ uint32_t query_full(int slot) const { return base + (2 * kSlots + slot) * 8; }
  __device__ uint32_t query_empty(int slot) const {
    return base + (2 * kSlots + kQuerySlots + slot) * 8;
  }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// The copying warpgroup's side of the rings. A slot is announced as full kLag copies later, when
/// its own have arrived for sure, or at once when there is nothing else to do.
class Announcer {
 public:
  __device__ void commit(uint32_t barrier) {
    commit_copies();
    if (pending_[0] != 0) {
      wait_copies<kLag>();
      publish_to_products();
      arrive(pending_[0]);
    }
#pragma unroll
    for (int i = 0; i + 1 < kLag; ++i) pending_[i] = pending_[i + 1];
    pending_[kLag - 1] = barrier;
  }
  __device__ void flush() {
    wait_copies<0>();
    publish_to_products();
#pragma unroll
    for (int i = 0; i < kLag; ++i) {
      if (pending_[i] != 0) arrive(pending_[i]);
      pending_[i] = 0;
    }
  }
  /// Waits for a slot to be emptied. Those that empty it may be waiting for what is pending.
  __device__ void wait(uint32_t barrier, int parity) {
    if (phase_over(barrier, parity)) return;
    flush();
    wait_phase(barrier, parity);
  }

 private:
  uint32_t pending_[kLag] = {};
};

template <int kDim>
__device__ void copy_all(const AttentionParams& p, uint32_t memory, const Barriers& barriers) {
  using M = PromptMemory<kDim>;
  constexpr int kChunks = kDim / 8;              // of 16 bytes in a row
  constexpr int kPass = kCopyThreads / kChunks;  // rows that the threads copy at once
  static_assert(kPass % 8 == 0);                 // a thread's place in a row stays the same
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int first_row = thread / kChunks;
  const int chunk = thread % kChunks;
  const int place = ((chunk ^ first_row) & 7) * 16;
  const int block_size = 1 << p.block_shift;
  const int64_t half_bytes = static_cast<int64_t>(block_size) * kDim * 2;
  const int64_t block_bytes = 2 * half_bytes * p.kv_heads;
  const int work = *p.item_count * p.kv_heads;
  Announcer announcer;
  int copies = 0;  // of the ring so far
  int queries = 0;
  for (int taken = static_cast<int>(blockIdx.x); taken < work;
       taken += static_cast<int>(gridDim.x)) {
    const AttentionItem& item = p.items[taken / p.kv_heads];
    const int head = taken % p.kv_heads;
    const TileKeys keys(item, p.group, p.window);
    const int begin = keys.begin(item);
    const int end = keys.end(item);
    const int32_t* table =
        p.sequences.block_tables + static_cast<int64_t>(item.sequence) * p.sequences.max_blocks;
    const uint8_t* cache = p.cache + head * 2 * half_bytes;

    const int query_slot = queries % kQuerySlots;
    announcer.wait(barriers.query_empty(query_slot), queries / kQuerySlots % 2 ^ 1);
    const uint32_t query_memory = memory + M::kQueries + query_slot * M::kQueryBytes;
#pragma unroll 2
    for (int row = first_row; row < kTileRows; row += kPass) {
      const int packed = item.row + min(row, item.rows - 1);
      const int token = packed / p.group;
      const int query_head = head * p.group + packed - token * p.group;
      const __nv_bfloat16* from = p.q + static_cast<int64_t>(item.first_row + token) * p.q_stride +
                                  query_head * kDim + chunk * 8;
      copy_async(query_memory + row / 64 * (64 * kDim * 2) + chunk / 8 * (64 * 128) +
                     row % 64 * 128 + place,
                 from, row < item.rows);
    }
    announcer.commit(barriers.query_full(query_slot));
    ++queries;

    const auto blocks_of = [&](int key_block) {  // a lane holds one cache block of the key block
      const int index = ((key_block * kKeyBlock) >> p.block_shift) + lane;
      const int first_key = index << p.block_shift;
      const bool seen = lane < 4 && first_key <= keys.high && first_key + block_size > keys.low;
      return seen ? table[index] : 0;
    };
    int blocks = blocks_of(begin);
    for (int key_block = begin; key_block < end; ++key_block) {
      const int blocks_next = key_block + 1 < end ? blocks_of(key_block + 1) : 0;
      for (int value = 0; value < 2; ++value) {
        const int slot = copies % kSlots;
        announcer.wait(barriers.empty(slot), copies / kSlots % 2 ^ 1);
        const uint32_t to = memory + M::kRing + slot * M::kSlotBytes;
        const uint8_t* from = cache + value * half_bytes;
#pragma unroll 4
        for (int i = 0; i < kKeyBlock; i += kPass) {
          const int row = first_row + i;
          const int block = __shfl_sync(kAllLanes, blocks, row >> p.block_shift);
          const int key = key_block * kKeyBlock + row;
          copy_async(
              to + chunk / 8 * (kKeyBlock * 128) + row * 128 + place,
              from + block * block_bytes + (key & (block_size - 1)) * (kDim * 2) + chunk * 16,
              key >= keys.low && key <= keys.high);
        }
        announcer.commit(barriers.full(slot));
        ++copies;
      }
      blocks = blocks_next;
    }
  }
  announcer.flush();
}

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

/// values += weights x values of one block, under way.
template <int kTiles>
__device__ __forceinline__ void begin_values(float (&values)[kTiles][4],
                                             const uint32_t (&weights)[4][4], uint32_t block) {
  pin(values);
  begin_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    multiply_registers(values, weights[step],
                       swizzled_operand(block + step * (16 * 128), kKeyBlock * 128, 1024));
  }
  commit_products();
}

template <int kDim>
__device__ void compute_all(const AttentionParams& p, uint32_t memory, const Barriers& barriers) {
  using M = PromptMemory<kDim>;
  constexpr int kTiles = kDim / 8;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = warpgroup_index() - 1;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 % 4 * 16;
  const int g = lane / 4;
  const int q = lane % 4;
  const int work = *p.item_count * p.kv_heads;
  int used = 0;  // slots of the ring so far
  int queries = 0;
  const auto slot_memory = [&](int index) {
    return memory + M::kRing + index % kSlots * M::kSlotBytes;
  };
  const auto wait_full = [&](int index) {
    wait_phase(barriers.full(index % kSlots), index / kSlots % 2);
  };
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
    const int query_slot = queries % kQuerySlots;
    const int query_phase = queries / kQuerySlots % 2;
    ++queries;
    wait_phase(barriers.query_full(query_slot), query_phase);
    if (group * 64 >= item.rows) {  // none of the tile's rows are ours
      for (int i = 0; i < 2 * (end - begin); ++i, ++used) {
        wait_full(used);
        release(barriers.empty(used % kSlots));
      }
      release(barriers.query_empty(query_slot));
      continue;
    }
    const uint32_t query_memory =
        memory + M::kQueries + query_slot * M::kQueryBytes + group * (64 * kDim * 2);
    const int own_row = group * 64 + warp_row + g;  // and the row 8 below
    int position[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(own_row + half * 8, item.rows - 1);
      position[half] = item.first_position + (item.row + row) / p.group;
    }

    SoftmaxRow split[2], all[2];
    float values[kTiles][4], all_values[kTiles][4], s[8][4];
    uint32_t weights[4][4];
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
        shrink[half] = take_scores(s, half, p.score_scale, split[half]);
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
    const auto leave_partial = [&](int slot, const SoftmaxRow(&row)[2],
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
        if (q == 0) p.maxima[base + half * 8] = make_float2(row[half].maximum, row[half].sum);
      }
    };
    const bool cut = item.chunks > 1;
    const bool leaves_fold = item.split_end == item.first_end;
    // Ends split `index`, whose rows are `done` and whose values are in `values`.
    const auto end_split = [&](int index, SoftmaxRow(&done)[2]) {
      done[0].sum = quad_sum(done[0].sum);
      done[1].sum = quad_sum(done[1].sum);
      if (cut && !leaves_fold) {
        leave_partial(1 + index - item.first_end, done, values);
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const FoldFactors factors(all[half].maximum, done[half].maximum);
          all[half].sum = fold(all[half].sum, factors.before, done[half].sum, factors.now);
          all[half].maximum = factors.maximum;
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
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) values[t][i] = 0;
      }
    };

    float shrink[2];
    wait_full(used);
    begin_scores<kDim>(s, query_memory, slot_memory(used));
    wait_products<0>();
    pin(s);
    release(barriers.empty(used % kSlots));
    take_block(begin, shrink);  // nothing to shrink yet
    pack_weights();
    for (int block = begin + 1; block < end; ++block, used += 2) {
      wait_full(used + 2);
      begin_scores<kDim>(s, query_memory, slot_memory(used + 2));
      wait_full(used + 1);
      begin_values(values, weights, slot_memory(used + 1));
      wait_products<1>();
      pin(s);
      release(barriers.empty((used + 2) % kSlots));
      const bool split_over = block % kBlocksPerSplit == 0;
      SoftmaxRow done[2];
      if (split_over) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          done[half] = split[half];
          split[half] = SoftmaxRow();
        }
      }
      take_block(block, shrink);
      wait_products<0>();
      pin(values);
      release(barriers.empty((used + 1) % kSlots));
      if (split_over) {
        end_split(block / kBlocksPerSplit - 1, done);
      } else {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
#pragma unroll
          for (int i = 0; i < 4; ++i) values[t][i] = __fmul_rn(values[t][i], shrink[i / 2]);
        }
      }
      pack_weights();
    }
    release(barriers.query_empty(query_slot));
    wait_full(used + 1);
    begin_values(values, weights, slot_memory(used + 1));
    wait_products<0>();
    pin(values);
    release(barriers.empty((used + 1) % kSlots));
    used += 2;
    end_split((end - 1) / kBlocksPerSplit, split);

    if (cut) {
      if (leaves_fold) leave_partial(0, all, all_values);
      continue;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (own_row + half * 8 >= item.rows) continue;
      const float scale = final_scale(all[half].sum, p.value_scale);
      __nv_bfloat16* to =
          output_row(p, item.first_row, item.row + own_row + half * 8, head) + 2 * q;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        *reinterpret_cast<uint32_t*>(to + 8 * t) =
            pack_bf16(__fmul_rn(all_values[t][2 * half], scale),
                      __fmul_rn(all_values[t][2 * half + 1], scale));
      }
    }
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

template <int kDim>
__global__ __launch_bounds__(kThreads, 1) void prompt_kernel(const AttentionParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using M = PromptMemory<kDim>;
  extern __shared__ uint8_t shared[];
  const uint32_t memory = (shared_address(shared) + 1023) / 1024 * 1024;
  const Barriers barriers{memory + M::kBarrier};
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < kSlots; ++slot) {
      init_barrier(barriers.full(slot), kCopyThreads);
      init_barrier(barriers.empty(slot), 4 * kGroups);
    }
    for (int slot = 0; slot < kQuerySlots; ++slot) {
      init_barrier(barriers.query_full(slot), kCopyThreads);
      init_barrier(barriers.query_empty(slot), 4 * kGroups);
    }
  }
  __syncthreads();
  begin_dependent();
  if (warpgroup_index() == 0) {
    give_registers<40>();
    copy_all<kDim>(p, memory, barriers);
  } else {
    take_registers<232>();
    compute_all<kDim>(p, memory, barriers);
  }
#else
  __trap();  // not chosen for such devices
#endif
}

template <int kDim>
void start(const AttentionParams& params, cudaStream_t stream) {
  launch<prompt_kernel<kDim>>(dim3(static_cast<unsigned>(multiprocessors())), dim3(kThreads),
                              PromptMemory<kDim>::kShared, stream, params);
}

}  // namespace

bool has_prompt_kernel(const AttentionShape& shape) {
  static const bool built =
      is_hopper() && waits_for_predecessor(reinterpret_cast<const void*>(prompt_kernel<128>));
  return built && shape.kv == KvType::kBF16 && (shape.head_dim == 64 || shape.head_dim == 128);
}

void attention_prompt(const AttentionParams& params, int dim, cudaStream_t stream) {
  dim == 64 ? start<64>(params, stream) : start<128>(params, stream);
}

}  // namespace moesaic::backend::cuda
