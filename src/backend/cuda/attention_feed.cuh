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
    // A lane's piece, and which of its rows some row of the tile sees.
    const int own_page = lane_ % pages;
    const int panel = lane_ / pages;
    static_assert(kPanels * kKeyBlock / 16 <= 32);
    const int chunk = panel <= kWide ? panel * 8 : kWide * 8 + 4;
    const int first = B::first(panel < kPanels ? chunk : 0);
    row_bytes_ = B::width(panel < kPanels ? chunk : 0) * 16;
    const int first_key = block * kKeyBlock + own_page * rows;
    first_row_ = min(max(low_ - first_key, 0), rows);
    end_row_ = max(min(high_ + 1 - first_key, rows), first_row_);
    rows_ = panel < kPanels ? rows : 0;
    if (rows_ == 0) first_row_ = end_row_ = 0;
    const int64_t cache_block =
        __shfl_sync(kAllLanes, pages_, (page - first_page_ + own_page) & 31);
    const int page_row = block * kKeyBlock & (block_size_ - 1);
    from_ = p_.cache + (cache_block * p_.kv_heads + head_) * 2 * half_bytes_ +
            first * block_size_ * 16 + page_row * row_bytes_;
    place_ = first * kKeyBlock * 16 + own_page * rows * row_bytes_;
    seen_bytes_ = __reduce_add_sync(kAllLanes, (end_row_ - first_row_) * row_bytes_);
  }

  /// Begins the copies of the block's keys (0) or values (1) to `to`; `barrier` counts one arrival
  /// and learns of the bytes. Of keys, rows that no row of the tile sees stay what they are. Of
  /// values they become zeros: weights of 0 times what happens to lie there must be 0.
  __device__ void copy(int value, uint32_t to, uint32_t barrier) const {
    if (lane_ == 0) arrive_expecting(barrier, value == 0 ? seen_bytes_ : B::kBytes);
    __syncwarp();
    const auto copy_rows = [&](const uint8_t* from, int begin, int end) {
      if (begin < end) {
        copy_bulk(to + place_ + begin * row_bytes_, from, (end - begin) * row_bytes_, barrier);
      }
    };
    copy_rows(from_ + value * half_bytes_ + first_row_ * row_bytes_, first_row_, end_row_);
    if (value == 0 || seen_bytes_ == B::kBytes) return;
    copy_rows(p_.zeros, 0, first_row_);
    copy_rows(p_.zeros, end_row_, rows_);
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
  const uint8_t* from_ = nullptr;  // the piece's first row of keys
  int place_ = 0, row_bytes_ = 0, rows_ = 0, first_row_ = 0, end_row_ = 0, seen_bytes_ = 0;
};

}  // namespace moesaic::backend::cuda
