#pragma once

// Causal attention over a paged KV cache for steps that mix prompts' chunks and decodes.
//
// Promise: the bits of a row's output depend only on its query, its sequence's cached keys and
// values and its position. They are the same alone and in any batch, in a chunk and in a whole
// prompt, and whichever kernel serves the row. Three rules keep it:
//   - every row takes keys in the same blocks of 64 positions, counted from position 0; a block
//     that a row does not see changes nothing (weights 0, rescaling by 1);
//   - sums over the head dim and over the keys of a block, that of the weights too, go through the
//     tensor cores in steps of 16, ascending, so that the tile they are part of does not matter;
//   - at fixed positions (every 256; further on 512 and 1024) the running result starts afresh, and
//     the results of these splits are folded in ascending order, in registers or from memory.
// So how a sequence is cut into work items is free, and the plan below cuts by what fills the
// device.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define MOESAIC_ANYWHERE __host__ __device__
#else
#define MOESAIC_ANYWHERE
#endif

namespace moesaic::backend::cuda {

enum class KvType : uint8_t { kBF16, kE4M3 };

/// What the cache's rows are padded to: the least of 64, 80, 96, 128, 256 that holds `head_dim`; 0
/// when there is none. head_dim is a multiple of 8.
int padded_head_dim(int head_dim);

/// The form of a layer's attention and of its cache.
struct AttentionShape {
  int heads = 0;
  int kv_heads = 0;  ///< divides heads
  int head_dim = 0;
  int block_size = 16;  ///< positions a block: 16, 32, 64 or 128
  KvType kv = KvType::kBF16;
  float scale = 0;    ///< softmax scale, usually head_dim^-1/2; positive
  int window = 0;     ///< key p is visible to query q iff 0 <= q - p < window; 0 = all
  float k_scale = 1;  ///< a cached key times this is the key; likewise
  float v_scale = 1;  ///< the value. 1 for bf16
};

/// Bytes of one block of one layer's cache. Inside it: [kv_heads][K, V], and in each of these the
/// rows of block_size positions, padded head_dim long, dims beyond head_dim zero, in the order of
/// kv_chunk_offset.
size_t kv_block_bytes(const AttentionShape& shape);

/// Where 16-byte chunk `chunk` of row `row` lies among `rows` rows of `chunks` chunks each: chunks
/// form panels of 8 columns (what is left of a row: of 4, 2 and 1), which lie one after the other,
/// and in a panel chunks are permuted by their row so that eight rows of a column lie in different
/// banks of shared memory. A piece of a panel can thus be copied there as it is.
MOESAIC_ANYWHERE constexpr int kv_chunk_offset(int chunk, int row, int rows, int chunks) {
  int first = chunk / 8 * 8;
  int width = 8;
  if (chunk >= chunks / 8 * 8) {
    for (width = 4; (chunks & width) == 0 || chunk >= first + width; width /= 2) {
      first += chunks & width;
    }
  }
  return (first * rows + row * width + ((chunk - first) ^ (row * width / 8 & (width - 1)))) * 16;
}

/// The sequences of a step, in device memory. Sequence s owns rows [seq_starts[s],
/// seq_starts[s+1]); its last row is at position context_lens[s] - 1. Position p of it lies in
/// block block_tables[s * max_blocks + p / block_size]; entries of blocks that no row of the step
/// sees are not read.
struct AttentionSequences {
  const int32_t* count = nullptr;  ///< [1], at most AttentionLimits::max_sequences
  const int32_t* seq_starts = nullptr;
  const int32_t* context_lens = nullptr;
  const int32_t* block_tables = nullptr;
  int max_blocks = 0;
};

struct AttentionLimits {
  int max_sequences = 0;
  int max_rows = 0;
  /// Memory for results of splits that are still to be folded. With less than a step could use,
  /// long sequences are computed by fewer blocks: slower, with the same bits.
  size_t partial_bytes = size_t{64} << 20;
};

/// Which kernels a step may need. A decode step has few rows a sequence; in a mixed step a sequence
/// with more than 16 query heads times rows a KV head goes through the kernel for prompts.
enum class StepKind : uint8_t { kDecode, kMixed };

/// What attention may read before the kernel before it is over.
enum class Settled : uint8_t {
  kNothing,
  /// The sequences' arrays, the plan, and cached keys and values of earlier steps: all kernels that
  /// wrote them are over when the kernel before starts. That holds where at least one other kernel
  /// stands between, and every kernel since waits for its predecessor before it lets its successor
  /// start (griddepcontrol.wait before launch_dependents).
  kPast,
};

/// Device memory, 256-byte aligned, that plan_attention and attention share. It needs no
/// initialisation.
size_t attention_work_bytes(const AttentionShape& shape, const AttentionLimits& limits);

/// Makes the work list of a step: once a step for all layers that differ in nothing but their
/// cache. Reads the sequences on the device, so a captured graph serves other steps of its kind.
void plan_attention(const AttentionShape& shape, const AttentionLimits& limits,
                    const AttentionSequences& sequences, StepKind kind, void* work,
                    cudaStream_t stream);

/// out[row] = attention of every row of the planned step; the rows' keys and values are in the
/// cache already. `q` [rows, q_stride >= heads * head_dim], `out` [rows, heads * head_dim]; all
/// rows begin at multiples of 16 bytes.
void attention(const AttentionShape& shape, const AttentionLimits& limits,
               const AttentionSequences& sequences, StepKind kind, void* work,
               const __nv_bfloat16* q, int64_t q_stride, const void* cache, __nv_bfloat16* out,
               cudaStream_t stream, Settled settled = Settled::kNothing);

}  // namespace moesaic::backend::cuda
