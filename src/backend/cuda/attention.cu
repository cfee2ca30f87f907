// The host's side of attention: memory layout, the plan of a step, the choice of kernels.

#include "backend/cuda/attention.h"

#include <algorithm>

#include "backend/cuda/attention_work.cuh"
#include "backend/cuda/launch.h"

namespace moesaic::backend::cuda {
namespace {

constexpr int kPlanThreads = 1024;
/// Pieces of work for every block that the device holds at once. With more, a long sequence is cut
/// finer than balance needs, and every cut costs a fold.
constexpr int kPiecesPerBlock = 2;

/// Query rows of a tile of the list for prompts.
int wide_rows(const AttentionShape& shape) {
  if (has_prompt_kernel(shape)) return 128;
  return padded_head_dim(shape.head_dim) > 128 ? 32 : 64;
}

/// Work for every block that the device holds at once; about, for the kernel of a list.
int target_pieces(int list, const AttentionShape& shape, int processors) {
  const int blocks = list == 0 && shape.kv == KvType::kE4M3 ? 3 : 2;  // a multiprocessor
  return processors * blocks * kPiecesPerBlock;
}

struct PlanParams {
  AttentionSequences sequences;
  int group, kv_heads, window;
  int tile_rows[2];
  int target[2];
  bool decode_only;
  int64_t partial_rows;
  AttentionItem* items[2];
  AttentionHeader* header;
  int32_t* counters;
  int32_t* cuts;
  uint8_t* zeros;
};

/// Sum of `x` over the threads before this one; `total` gets that over all.
template <typename T>
__device__ T scan_block(T x, T& total) {
  __shared__ T sums[kPlanThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  T sum = x;
  for (int step = 1; step < 32; step <<= 1) {
    const T below = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += below;
  }
  __syncthreads();  // `sums` of a scan before
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int w = 0; w < kPlanThreads / 32; ++w) {
    if (w < warp) before += sums[w];
    total += sums[w];
  }
  return before + sum - x;
}

/// A tile of a list: whose it is and which key blocks it sees.
struct Tile {
  int sequence, row, rows, first_block, end_block;

  __device__ int blocks() const { return end_block - first_block; }
  __device__ int splits() const { return split_of(end_block - 1) + 1 - split_of(first_block); }
};

/// How tiles are cut: into items of about `most` key blocks, a multiple of the longest split, or,
/// where that is more than there should be, into their splits.
struct Cut {
  int most;  // 0: into splits

  __device__ Cut(int64_t pieces, int target) {
    const auto wanted = static_cast<int>((pieces + target - 1) / target);
    most = wanted <= kMostSplitBlocks / 3
               ? 0
               : (wanted + kMostSplitBlocks - 1) / kMostSplitBlocks * kMostSplitBlocks;
  }
  __device__ int items(const Tile& tile) const {
    if (most == 0) return tile.splits();
    return max(1, min((tile.blocks() + most - 1) / most, tile.blocks() / kMostSplitBlocks));
  }
  /// The first split of item `i` of `count`; the end of the last for i = count.
  __device__ int split(const Tile& tile, int i, int count) const {
    if (i == 0) return split_of(tile.first_block);
    if (i == count) return split_of(tile.end_block - 1) + 1;
    if (most == 0) return split_of(tile.first_block) + i;
    // Of equal parts, rounded down to where splits of all lengths end. No part is shorter than the
    // longest split, so none is left empty.
    const int block = tile.first_block + static_cast<int64_t>(tile.blocks()) * i / count;
    return split_of(block / kMostSplitBlocks * kMostSplitBlocks);
  }
};

__device__ int packed_rows(const PlanParams& p, int sequence) {
  return (p.sequences.seq_starts[sequence + 1] - p.sequences.seq_starts[sequence]) * p.group;
}

/// How many tiles of list `list` a sequence has.
__device__ int tiles_of(const PlanParams& p, int list, int sequence) {
  const int rows = packed_rows(p, sequence);
  const int own = p.decode_only || rows <= kNarrowRows ? 0 : 1;
  return list == own ? (rows + p.tile_rows[list] - 1) / p.tile_rows[list] : 0;
}

/// Tile `index` of a list, given the tiles before each sequence. A sequence's last tiles come
/// first: they see the most keys.
__device__ Tile find_tile(const PlanParams& p, int list, const int* before, int sequences,
                          int index) {
  int low = 0;
  int high = sequences;  // the last s with before[s] <= index lies in [low, high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (before[middle] <= index ? low : high) = middle;
  }
  Tile tile;
  tile.sequence = low;
  const int rows = packed_rows(p, low);
  tile.row = (before[low + 1] - 1 - index) * p.tile_rows[list];
  tile.rows = min(p.tile_rows[list], rows - tile.row);
  const int first_position = p.sequences.context_lens[low] - rows / p.group;
  const int first_key = max(0, first_position + tile.row / p.group - p.window + 1);
  const int last_key = first_position + (tile.row + tile.rows - 1) / p.group;
  tile.first_block = first_key / kKeyBlock;
  tile.end_block = last_key / kKeyBlock + 1;
  return tile;
}

__global__ __launch_bounds__(kPlanThreads) void plan_kernel(const PlanParams p) {
  extern __shared__ int before[];  // [sequences + 1] tiles before each
  begin_dependent();
  const int thread = static_cast<int>(threadIdx.x);
  const int sequences = *p.sequences.count;
  int64_t partial_rows = 0;
  int cut_tiles = 0;
  for (int list = 0; list < (p.decode_only ? 1 : 2); ++list) {
    int tiles = 0;
    for (int base = 0; base < sequences; base += kPlanThreads) {
      const int s = base + thread;
      int total;
      const int at = tiles + scan_block(s < sequences ? tiles_of(p, list, s) : 0, total);
      if (s < sequences) before[s] = at;
      tiles += total;
    }
    if (thread == 0) before[sequences] = tiles;
    __syncthreads();

    int blocks = 0;
    for (int t = thread; t < tiles; t += kPlanThreads) {
      blocks += find_tile(p, list, before, sequences, t).blocks();
    }
    int all_blocks;
    scan_block(blocks, all_blocks);
    const Cut cut(static_cast<int64_t>(all_blocks) * p.kv_heads, p.target[list]);

    int items = 0;
    for (int base = 0; base < tiles; base += kPlanThreads) {
      const bool present = base + thread < tiles;
      Tile tile{};
      int chunks = 0;
      int64_t wanted = 0;
      if (present) {
        tile = find_tile(p, list, before, sequences, base + thread);
        chunks = cut.items(tile);
        if (chunks > 1) {
          const int slots = 1 + split_of(tile.end_block - 1) + 1 - cut.split(tile, 1, chunks);
          wanted = static_cast<int64_t>(slots) * p.kv_heads * tile.rows;
          if (wanted > p.partial_rows) wanted = 0, chunks = 1;
        }
      }
      int64_t all_wanted;
      const int64_t first_partial = partial_rows + scan_block(wanted, all_wanted);
      partial_rows += all_wanted;
      if (chunks > 1 && first_partial + wanted > p.partial_rows) chunks = 1;
      int total;
      const int cut_index = cut_tiles + scan_block(chunks > 1 ? 1 : 0, total);
      cut_tiles += total;
      const int at = items + scan_block(chunks, total);
      items += total;
      for (int chunk = 0; chunk < chunks; ++chunk) {
        AttentionItem item{};
        item.sequence = tile.sequence;
        item.first_row = p.sequences.seq_starts[tile.sequence];
        item.first_position = p.sequences.context_lens[tile.sequence] -
                              (p.sequences.seq_starts[tile.sequence + 1] - item.first_row);
        item.row = tile.row;
        item.rows = tile.rows;
        item.chunks = chunks;
        item.split_begin = cut.split(tile, chunk, chunks);
        item.split_end = cut.split(tile, chunk + 1, chunks);
        item.first_end = cut.split(tile, 1, chunks);
        item.last_end = split_of(tile.end_block - 1) + 1;
        item.partial_row = static_cast<int32_t>(first_partial);
        item.tile = cut_index;
        p.items[list][at + chunk] = item;
      }
      if (chunks > 1) p.cuts[cut_index] = at;
    }
    if (thread == 0) {
      p.header->items[list] = items;
      p.header->tickets[list] = 0;
      if (list == 0) p.header->cut_begin = cut_tiles;
      p.header->cut_end = cut_tiles;
    }
    __syncthreads();  // `before`
  }
  for (int i = thread; i < cut_tiles * p.kv_heads; i += kPlanThreads) p.counters[i] = 0;
  for (int i = thread; i < kZeroBytes / 4; i += kPlanThreads) {
    reinterpret_cast<uint32_t*>(p.zeros)[i] = 0;
  }
}

constexpr int kFoldWarps = 4;

/// Folds all rows of the cut tiles of the list for prompts, a warp a row.
template <int kDim>
__global__ __launch_bounds__(32 * kFoldWarps) void fold_kernel(const AttentionParams p,
                                                               int tile_rows) {
  begin_dependent();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first_cut = p.header->cut_begin;
  const int rows = (p.header->cut_end - first_cut) * p.kv_heads * tile_rows;
  for (int i = static_cast<int>(blockIdx.x) * kFoldWarps + warp; i < rows;
       i += static_cast<int>(gridDim.x) * kFoldWarps) {
    const int r = i % tile_rows;
    const int head = i / tile_rows % p.kv_heads;
    const AttentionItem& item = p.items[p.cuts[first_cut + i / tile_rows / p.kv_heads]];
    if (r < item.rows) fold_row<kDim>(p, item, head, r);
  }
}

void start_fold(const AttentionParams& params, int dim, int tile_rows, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(2 * multiprocessors()));
  const dim3 block(32 * kFoldWarps);
  switch (dim) {
    case 64:
      return launch<fold_kernel<64>>(grid, block, 0, stream, params, tile_rows);
    case 80:
      return launch<fold_kernel<80>>(grid, block, 0, stream, params, tile_rows);
    case 96:
      return launch<fold_kernel<96>>(grid, block, 0, stream, params, tile_rows);
    case 128:
      return launch<fold_kernel<128>>(grid, block, 0, stream, params, tile_rows);
    default:
      return launch<fold_kernel<256>>(grid, block, 0, stream, params, tile_rows);
  }
}

bool valid(const AttentionShape& shape) {
  const int size = shape.block_size;
  return shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && shape.head_dim % 8 == 0 &&
         padded_head_dim(shape.head_dim) != 0 && shape.scale > 0 &&
         (size == 16 || size == 32 || size == 64 || size == 128);
}

AttentionParams describe(const AttentionShape& shape, const AttentionSequences& sequences) {
  constexpr float kLog2E = 1.44269504088896340736f;
  AttentionParams p{};
  p.sequences = sequences;
  p.kv_heads = shape.kv_heads;
  p.group = shape.heads / shape.kv_heads;
  p.head_dim = shape.head_dim;
  while ((1 << p.block_shift) < shape.block_size) ++p.block_shift;
  p.window = shape.window > 0 ? shape.window : kNoWindow;
  p.score_scale = shape.scale * shape.k_scale * kLog2E;
  p.value_scale = shape.v_scale;
  return p;
}

}  // namespace

AttentionLayout::AttentionLayout(const AttentionShape& shape, const AttentionLimits& limits,
                                 int processors) {
  const int dim = padded_head_dim(shape.head_dim);
  const int64_t group = shape.heads / shape.kv_heads;
  const auto take = [this](int64_t size) {
    const size_t at = bytes;
    bytes += (static_cast<size_t>(size) + 255) / 256 * 256;
    return at;
  };
  bytes = 0;
  take(sizeof(AttentionHeader));
  // A tile gives at least one item, and cuts give at most as many more as were aimed at. The narrow
  // list holds every tile of a decode step, also with several rows a sequence.
  const int64_t rows[2] = {kNarrowRows, wide_rows(shape)};
  for (int list = 0; list < 2; ++list) {
    item_capacity[list] = limits.max_sequences + limits.max_rows * group / rows[list] +
                          target_pieces(list, shape, processors);
    items[list] = take(item_capacity[list] * static_cast<int64_t>(sizeof(AttentionItem)));
  }
  const int64_t cut_capacity = (item_capacity[0] + item_capacity[1]) / 2;
  counters = take(cut_capacity * shape.kv_heads * 4);
  cuts = take(cut_capacity * 4);
  zeros = take(kZeroBytes);
  const size_t row_bytes = sizeof(float) * static_cast<size_t>(dim) + sizeof(float2);
  partial_rows = static_cast<int64_t>(
      std::min<size_t>(limits.partial_bytes / row_bytes, size_t{1} << 31) / 32 * 32);
  partial_rows = std::min<int64_t>(partial_rows, INT32_MAX);
  maxima = take(partial_rows * static_cast<int64_t>(sizeof(float2)));
  partials = take(partial_rows * static_cast<int64_t>(sizeof(float)) * dim);
}

int padded_head_dim(int head_dim) {
  for (int dim : {64, 80, 96, 128, 256}) {
    if (head_dim <= dim) return dim;
  }
  return 0;
}

size_t kv_block_bytes(const AttentionShape& shape) {
  const size_t element = shape.kv == KvType::kBF16 ? 2 : 1;
  return static_cast<size_t>(shape.block_size) * 2 * static_cast<size_t>(shape.kv_heads) *
         static_cast<size_t>(padded_head_dim(shape.head_dim)) * element;
}

size_t attention_work_bytes(const AttentionShape& shape, const AttentionLimits& limits) {
  return AttentionLayout(shape, limits, multiprocessors()).bytes;
}

void plan_attention(const AttentionShape& shape, const AttentionLimits& limits,
                    const AttentionSequences& sequences, StepKind kind, void* work,
                    cudaStream_t stream) {
  MOESAIC_ASSERT(valid(shape));
  const int processors = multiprocessors();
  const AttentionLayout layout(shape, limits, processors);
  auto* base = static_cast<std::byte*>(work);
  PlanParams p{};
  p.sequences = sequences;
  p.group = shape.heads / shape.kv_heads;
  p.kv_heads = shape.kv_heads;
  p.window = shape.window > 0 ? shape.window : kNoWindow;
  p.tile_rows[0] = kNarrowRows;
  p.tile_rows[1] = wide_rows(shape);
  for (int list = 0; list < 2; ++list) {
    p.target[list] = target_pieces(list, shape, processors);
    p.items[list] = reinterpret_cast<AttentionItem*>(base + layout.items[list]);
  }
  p.decode_only = kind == StepKind::kDecode;
  p.partial_rows = layout.partial_rows;
  p.header = reinterpret_cast<AttentionHeader*>(base);
  p.counters = reinterpret_cast<int32_t*>(base + layout.counters);
  p.cuts = reinterpret_cast<int32_t*>(base + layout.cuts);
  p.zeros = reinterpret_cast<uint8_t*>(base + layout.zeros);
  launch<plan_kernel>(dim3(1), dim3(kPlanThreads),
                      sizeof(int) * (static_cast<size_t>(limits.max_sequences) + 1), stream, p);
}

void attention(const AttentionShape& shape, const AttentionLimits& limits,
               const AttentionSequences& sequences, StepKind kind, void* work,
               const __nv_bfloat16* q, int64_t q_stride, const void* cache, __nv_bfloat16* out,
               cudaStream_t stream, Settled settled) {
  MOESAIC_ASSERT(valid(shape));
  const AttentionLayout layout(shape, limits, multiprocessors());
  const int dim = padded_head_dim(shape.head_dim);
  auto* base = static_cast<std::byte*>(work);
  auto* header = reinterpret_cast<AttentionHeader*>(base);
  AttentionParams p = describe(shape, sequences);
  p.settled = settled == Settled::kPast;
  p.q = q;
  p.q_stride = q_stride;
  p.out = out;
  p.cache = static_cast<const uint8_t*>(cache);
  p.counters = reinterpret_cast<int32_t*>(base + layout.counters);
  p.cuts = reinterpret_cast<const int32_t*>(base + layout.cuts);
  p.header = header;
  p.zeros = reinterpret_cast<const uint8_t*>(base + layout.zeros);
  p.maxima = reinterpret_cast<float2*>(base + layout.maxima);
  p.partials = reinterpret_cast<float*>(base + layout.partials);
  for (int list = 0; list < (kind == StepKind::kDecode ? 1 : 2); ++list) {
    p.items = reinterpret_cast<const AttentionItem*>(base + layout.items[list]);
    p.item_count = &header->items[list];
    p.ticket = &header->tickets[list];
    if (list == 0) {
      has_hopper_kernels() ? attention_decode(p, shape.kv, dim, stream)
                           : attention_narrow(p, shape.kv, dim, stream);
    } else {
      has_prompt_kernel(shape) ? attention_prompt(p, dim, stream)
                               : attention_wide(p, shape.kv, dim, stream);
      start_fold(p, dim, wide_rows(shape), stream);
    }
  }
}

}  // namespace moesaic::backend::cuda
