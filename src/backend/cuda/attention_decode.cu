// Attention for tiles of 16 query rows on Hopper. One warp feeds: it brings items, queries and,
// with bulk copies, blocks of keys and values into rings of shared memory, and runs ahead of the
// four warps that compute, over the ends of items too, so that memory is never waited for twice.

#include <algorithm>
#include <cstddef>

#include "backend/cuda/attention_feed.cuh"
#include "backend/cuda/launch.h"

namespace moesaic::backend::cuda {
namespace {

constexpr int kComputeThreads = 128;
constexpr int kThreads = kComputeThreads + 32;
constexpr int kItemSlots = 2;

template <int kDim, KvType kType>
using DecodeTile = TileShape<kDim, kType, 1, 4, (kDim > 128 || kType == KvType::kE4M3)>;

template <int kDim, KvType kType>
struct DecodeShape : DecodeTile<kDim, kType> {
  using Tile = DecodeTile<kDim, kType>;
  /// Blocks a multiprocessor, as registers allow, and what each has for keys and values, by turns:
  /// together 144 to 192 kB under way. fp8 wants more blocks, since its conversions take time.
  static constexpr int kMinBlocks = kDim > 128 ? 1 : Tile::kFp8 ? 3 : 2;
  static constexpr int kRingBytes = (Tile::kFp8 ? 147456 : 196608) / kMinBlocks;
  static constexpr int kSlots = std::clamp(kRingBytes / Tile::kBytes / 2 * 2, 4, 12);
  static constexpr int kQueryRowsBytes = kNarrowRows * kDim * 2;
  static constexpr int kItemBytes = sizeof(AttentionItem) + 16;  // and the head
  static constexpr int kQueries = kSlots * Tile::kBytes;
  static constexpr int kScratch = kQueries + kItemSlots * kQueryRowsBytes;
  static constexpr int kItems = kScratch + Tile::kScratchBytes;
  static constexpr int kBarriers = kItems + kItemSlots * kItemBytes;
  static constexpr int kShared = kBarriers + Ring::bytes(kSlots + kItemSlots);
  static_assert((kShared + 1024 + 128) * kMinBlocks <= 228 * 1024);  // with what the system takes
};

/// An item as the warps that compute get it.
struct HandedItem {
  AttentionItem item;
  int32_t head;  // -1: there are no more
  int32_t padding[3];
};
static_assert(sizeof(HandedItem) == sizeof(AttentionItem) + 16);

/// The feeding warp. All of its lanes call everything together.
template <class T>
class Feeder {
 public:
  __device__ Feeder(const AttentionParams& p, uint32_t shared, HandedItem* items, Ring blocks,
                    Ring handed)
      : p_(p),
        shared_(shared),
        items_(items),
        blocks_(blocks),
        handed_(handed),
        source_(p),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void run() {
    if (!p_.settled) settle();
    int taken = static_cast<int>(blockIdx.x);
    // Read along with the count, which may be less: the list has room for every block's first.
    int own = item_int(taken);
    const int work = *p_.item_count * p_.kv_heads;
    while (taken < work) {
      item_ = own;
      head_ = taken % p_.kv_heads;
      begin_item();
      // The next item's number, then the item, are fetched while this item's blocks are copied.
      int next = -1;
      bool fetched = false;
      int block = begin_;
      if (!settled_) {
        // Keys of earlier steps, as far as there is room.
        const int past = member(offsetof(AttentionItem, first_position));
        while (block < end_ && blocks_.index + 2 <= T::kSlots && (block + 1) * kKeyBlock <= past) {
          copy_block(block++);
        }
        settle();
      }
      hand_over();
      if (lane_ == 0) next = atomicAdd(p_.ticket, 1);
      for (; block < end_; ++block) {
        copy_block(block);
        if (!fetched) {
          next = take(next, work);
          own = item_int(min(next, work - 1));
          fetched = true;
        }
      }
      if (!fetched) {
        next = take(next, work);
        own = item_int(min(next, work - 1));
      }
      taken = next;
    }
    settle();
    handed_.wait_empty();
    if (lane_ == 0) items_[handed_.slot()].head = -1;
    arrive(handed_.full());
  }

 private:
  /// Waits for the kernel before.
  __device__ void settle() {
    if (settled_) return;
    settled_ = true;
    begin_dependent();
  }

  /// The lane's part of an item.
  __device__ int item_int(int work_index) const {
    const auto* ints = reinterpret_cast<const int*>(p_.items + work_index / p_.kv_heads);
    return lane_ < kItemInts ? ints[lane_] : 0;
  }
  /// The member of the item at hand that is `offset` bytes from its beginning.
  __device__ int member(size_t offset) const {
    return __shfl_sync(kAllLanes, item_, static_cast<int>(offset / 4));
  }

  /// The work that a ticket stands for. Every piece of work takes one ticket, so the last ticket
  /// resets the count for the next layer.
  __device__ int take(int ticket, int work) const {
    ticket = __shfl_sync(kAllLanes, ticket, 0);
    if (ticket == work - 1 && lane_ == 0) *p_.ticket = 0;
    return static_cast<int>(gridDim.x) + ticket;
  }

  __device__ void begin_item() {
    AttentionItem item;
    item.first_position = member(offsetof(AttentionItem, first_position));
    item.row = member(offsetof(AttentionItem, row));
    item.rows = member(offsetof(AttentionItem, rows));
    item.split_begin = member(offsetof(AttentionItem, split_begin));
    item.split_end = member(offsetof(AttentionItem, split_end));
    const TileKeys keys(item, p_.group, p_.window);
    begin_ = keys.begin(item);
    end_ = keys.end(item);
    source_.begin(member(offsetof(AttentionItem, sequence)), head_, keys, begin_, end_);
  }

  /// Gives the item and its queries to the warps that compute.
  __device__ void hand_over() {
    handed_.wait_empty();
    HandedItem& to = items_[handed_.slot()];
    if (lane_ < kItemInts) reinterpret_cast<int*>(&to.item)[lane_] = item_;
    if (lane_ == 0) to.head = head_;
    __syncwarp();
    // A token's query heads lie one after the other; the tile's rows are a run of them.
    const int row = member(offsetof(AttentionItem, row));
    const int rows = member(offsetof(AttentionItem, rows));
    const int first_row = member(offsetof(AttentionItem, first_row));
    const int row_bytes = p_.head_dim * 2;
    // Every lane arrives for what it wrote, lane 0 for the queries too.
    if (lane_ == 0) {
      arrive_expecting(handed_.full(), rows * row_bytes);
    } else {
      arrive(handed_.full());
    }
    __syncwarp();
    const int token = row / p_.group + lane_;
    const int first = max(row, token * p_.group);
    const int last = min(row + rows, (token + 1) * p_.group);
    if (first < last) {
      const __nv_bfloat16* from = p_.q + static_cast<int64_t>(first_row + token) * p_.q_stride +
                                  (head_ * p_.group + first - token * p_.group) * p_.head_dim;
      copy_bulk(
          shared_ + T::kQueries + handed_.slot() * T::kQueryRowsBytes + (first - row) * row_bytes,
          from, (last - first) * row_bytes, handed_.full());
    }
    ++handed_.index;
  }

  /// Begins the copies of a block's keys and of its values.
  __device__ void copy_block(int block) {
    source_.block(block);
    for (int value = 0; value < 2; ++value) {
      blocks_.wait_empty();
      source_.copy(value, shared_ + blocks_.slot() * T::kBytes, blocks_.full());
      ++blocks_.index;
    }
  }

  static constexpr int kItemInts = sizeof(AttentionItem) / 4;

  const AttentionParams& p_;
  const uint32_t shared_;
  HandedItem* const items_;
  Ring blocks_, handed_;
  BlockSource<typename T::Block> source_;
  const int lane_;
  bool settled_ = false;
  int item_ = 0;  // a lane's part of it
  int head_ = 0, begin_ = 0, end_ = 0;
};

template <class T>
__global__ __launch_bounds__(kThreads, T::kMinBlocks) void decode_kernel(const AttentionParams p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t memory = shared_address(shared);
  auto* items = reinterpret_cast<HandedItem*>(shared + T::kItems);
  Ring blocks(memory + T::kBarriers, T::kSlots);
  Ring handed(memory + T::kBarriers + Ring::bytes(T::kSlots), kItemSlots);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    constexpr int kWarps = kComputeThreads / 32;
    blocks.init(1, kWarps);
    handed.init(32, kComputeThreads);
    publish_barriers();
  }
  __syncthreads();
  if (thread >= kComputeThreads) {
    Feeder<T>(p, memory, items, blocks, handed).run();
    return;
  }
  begin_dependent();

  const bool first_lane = thread % 32 == 0;
  const auto release = [&](Ring& ring) {
    __syncwarp();
    if (first_lane) arrive(ring.empty());
    ++ring.index;
  };
  TileRows<T> rows(p, shared + T::kScratch, thread);
  for (;; arrive(handed.empty()), ++handed.index) {
    handed.wait_full();
    const HandedItem& given = items[handed.slot()];
    const AttentionItem& item = given.item;
    const int head = given.head;
    if (head < 0) break;
    const TileKeys keys(item, p.group, p.window);
    const int begin = keys.begin(item);
    const int end = keys.end(item);
    rows.begin(item);
    const auto* queries = reinterpret_cast<const __nv_bfloat16*>(
        shared + T::kQueries + handed.slot() * T::kQueryRowsBytes);
    rows.load_queries(queries + (rows.packed(item, 0) - item.row) * p.head_dim,
                      queries + (rows.packed(item, 1) - item.row) * p.head_dim);
    if (T::kSharedQuery) meet(kComputeThreads);
    for (int block = begin; block < end; ++block) {
      const int first_key = block * kKeyBlock;
      blocks.wait_full();
      rows.find_scores(memory + blocks.slot() * T::kBytes);
      release(blocks);
      if (keys.hides(first_key, p.window)) rows.mask(first_key);
      rows.share_maxima();
      meet(kComputeThreads);
      rows.make_weights();
      blocks.wait_full();
      meet(kComputeThreads);
      rows.add_values(memory + blocks.slot() * T::kBytes);
      release(blocks);
      if (ends_split(block) || block + 1 == end) rows.end_split(item, head, split_of(block));
    }
    if (item.chunks == 1) {
      rows.write_output(item, head);
      continue;
    }
    if (item.split_end == item.first_end) rows.leave_fold(item, head);
    if (last_of_tile(p.counters + item.tile * p.kv_heads + head, item.chunks, kComputeThreads,
                     thread == 0)) {
      for (int r = thread / 32; r < item.rows; r += kComputeThreads / 32) {
        fold_row<T::kDim>(p, item, head, r);
      }
    }
  }
#else
  __trap();  // not chosen for such devices
#endif
}

template <int kDim, KvType kType>
void start(const AttentionParams& params, cudaStream_t stream) {
  using T = DecodeShape<kDim, kType>;
  const int grid = multiprocessors() * T::kMinBlocks;
  launch<decode_kernel<T>>(dim3(static_cast<unsigned>(grid)), dim3(kThreads), T::kShared, stream,
                           params);
}

template <KvType kType>
void start(const AttentionParams& params, int dim, cudaStream_t stream) {
  switch (dim) {
    case 64:
      return start<64, kType>(params, stream);
    case 80:
      return start<80, kType>(params, stream);
    case 96:
      return start<96, kType>(params, stream);
    case 128:
      return start<128, kType>(params, stream);
    default:
      return start<256, kType>(params, stream);
  }
}

}  // namespace

bool has_hopper_kernels() {
  static const bool built = is_hopper() && waits_for_predecessor(reinterpret_cast<const void*>(
                                               decode_kernel<DecodeShape<128, KvType::kBF16>>));
  return built;
}

void attention_decode(const AttentionParams& params, KvType type, int dim, cudaStream_t stream) {
  type == KvType::kBF16 ? start<KvType::kBF16>(params, dim, stream)
                        : start<KvType::kE4M3>(params, dim, stream);
}

}  // namespace moesaic::backend::cuda
