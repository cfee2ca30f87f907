#pragma once

// How keys and values come into shared memory on Hopper: rings of slots, and bulk copies of pieces
// of cache blocks that lie in the cache as they are wanted in a slot.

#include "backend/cuda/attention_tile.cuh"
#include "backend/cuda/hopper.cuh"

namespace moesaic::backend::cuda {

/// A ring of slots in shared memory: full when all announced has come, empty when all warps that
/// compute have used it. `index` counts the slots handed out so far.
struct Ring {
  uint32_t barriers;
  int slots;
  int index = 0;

  __device__ Ring(uint32_t at, int count) : barriers(at), slots(count) {}
  static constexpr MOESAIC_ANYWHERE int bytes(int count) { return 16 * count; }
  __device__ void init(int full_arrivals, int empty_arrivals) const {
    for (int i = 0; i < slots; ++i) {
      init_barrier(barriers + i * 8, full_arrivals);
      init_barrier(barriers + (slots + i) * 8, empty_arrivals);
    }
  }
  __device__ int slot(int ahead = 0) const { return (index + ahead) % slots; }
  __device__ uint32_t full(int ahead = 0) const { return barriers + slot(ahead) * 8; }
  __device__ uint32_t empty(int ahead = 0) const { return barriers + (slots + slot(ahead)) * 8; }
  __device__ void wait_full(int ahead = 0) const {
    wait_phase(full(ahead), (index + ahead) / slots % 2);
  }
  __device__ void wait_empty() const { wait_phase(empty(), index / slots % 2 ^ 1); }
};

/// The keys and values of one item, block by block. All lanes of one warp call everything together;
/// each copies one piece: a panel's rows of one cache block, or of the half of it that is in the
/// key block.
template <class B>
class BlockSource {
 public:
  __device__ explicit BlockSource(const AttentionParams& p)
      : p_(p),
        lane_(static_cast<int>(threadIdx.x) % 32),
        block_size_(1 << p.block_shift),
        half_bytes_(static_cast<int64_t>(block_size_) * B::kRowBytes) {}

  /// Key blocks [begin, end) of a sequence, with one KV head.
  __device__ void begin(int sequence, int head, const TileKeys& keys, int begin, int end) {
    head_ = head;
    low_ = keys.low;
    high_ = min(keys.high, end * kKeyBlock - 1);
    table_ = p_.sequences.block_tables + static_cast<int64_t>(sequence) * p_.sequences.max_blocks;
    first_page_ = begin * kKeyBlock >> p_.block_shift;
    pages_ = pages_from(first_page_);
    pages_after_ = pages_from(first_page_ + 32);
  }

  /// Sets out to copy a block; blocks come in ascending order.
  __device__ void block(int block) {
    const int rows = min(block_size_, kKeyBlock);  // of a piece
    const int pages = kKeyBlock / rows;
    const int page = block * kKeyBlock >> p_.block_shift;
    if (page + pages > first_page_ + 32) {
      first_page_ += 32;
      pages_ = pages_after_;
      pages_after_ = pages_from(first_page_ + 32);
    }
    const int low_page = max(0, (low_ >> p_.block_shift) - page);
    const int high_page = min(pages - 1, (high_ >> p_.block_shift) - page);
    bytes_ = (high_page - low_page + 1) * rows * B::kRowBytes;
    const int own_page = lane_ % pages;
    const int panel = lane_ / pages;
    static_assert(kPanels * kKeyBlock / 16 <= 32);
    copies_ = panel < kPanels && own_page >= low_page && own_page <= high_page;
    const int chunk = panel <= kWide ? panel * 8 : kWide * 8 + 4;
    const int first = B::first(copies_ ? chunk : 0);
    const int width = B::width(copies_ ? chunk : 0);
    const int64_t cache_block =
        __shfl_sync(kAllLanes, pages_, (page - first_page_ + own_page) & 31);
    const int first_row = block * kKeyBlock & (block_size_ - 1);
    from_ = p_.cache + (cache_block * p_.kv_heads + head_) * 2 * half_bytes_ +
            (first * block_size_ + first_row * width) * 16;
    place_ = (first * kKeyBlock + own_page * rows * width) * 16;
    piece_bytes_ = rows * width * 16;
  }

  /// Begins the copies of the block's keys (0) or values (1) to `to`; `barrier` counts one arrival
  /// and learns of the bytes.
  __device__ void copy(int value, uint32_t to, uint32_t barrier) const {
    if (lane_ == 0) arrive_expecting(barrier, bytes_);
    __syncwarp();
    if (copies_) copy_bulk(to + place_, from_ + value * half_bytes_, piece_bytes_, barrier);
  }

 private:
  // Panels of eight chunks; what is left of a row is one or two more.
  static constexpr int kWide = B::kWide / 8;
  static constexpr int kPanels = kWide + (B::kRest == 0 ? 0 : B::kRest > 4 ? 2 : 1);

  /// A lane's number of a cache block, of 32 from `page` on.
  __device__ int pages_from(int page) const {
    const int own = page + lane_;
    const int first_key = own << p_.block_shift;
    return first_key <= high_ && first_key + block_size_ > low_ ? table_[own] : 0;
  }

  const AttentionParams& p_;
  const int lane_, block_size_;
  const int64_t half_bytes_;
  int head_ = 0, low_ = 0, high_ = 0;
  const int32_t* table_ = nullptr;
  int first_page_ = 0, pages_ = 0, pages_after_ = 0;
  bool copies_ = false;
  const uint8_t* from_ = nullptr;
  int place_ = 0, bytes_ = 0, piece_bytes_ = 0;
};

/// Whether no row of a tile sees some of a key block's keys.
__device__ __forceinline__ bool has_unseen(int first_key, const TileKeys& keys) {
  return first_key < keys.low || first_key + kKeyBlock - 1 > keys.high;
}

/// Sets rows of a block of values that no row of the tile sees to zero: weights of 0 times what
/// happens to lie there must be 0. By `threads` threads, of which this is number `thread`; what
/// they write is ordered before products and later bulk copies.
template <class B>
__device__ __forceinline__ void clear_unseen(uint32_t block, int first_key, const TileKeys& keys,
                                             int thread, int threads) {
  for (int i = thread; i < kKeyBlock * B::kChunks; i += threads) {
    const int row = i / B::kChunks;
    if (first_key + row >= keys.low && first_key + row <= keys.high) continue;
    const uint32_t to = block + B::offset(i % B::kChunks, row);
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
  }
  publish_to_async();
}

}  // namespace moesaic::backend::cuda
