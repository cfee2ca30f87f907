#pragma once

// The attention kernels of an instruction set. Like kernels.h this is included by sources compiled
// for each set: plain data only.

#include <cstddef>
#include <cstdint>

namespace moesaic::backend::cpu {

/// Element type of a KV cache.
enum class KvType : int { kF32, kBF16, kF16 };

/// A block holds, for each KV head, K as [dim][position] and then, for all heads, V as
/// [head][position][dim]: scores of many keys come from one broadcast query element without
/// horizontal sums, and values are rows.
struct KvView {
  std::byte* data = nullptr;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t block_size = 0;
  KvType type = KvType::kBF16;
};

/// Keys are scored this many at a time, and this many make a segment that could be another
/// thread's, both from position 0 on whatever the batch: the order of every sum follows from the
/// position alone.
constexpr int64_t kChunk = 64;
constexpr int64_t kSegment = 512;
constexpr int64_t kMaxHeadDim = 512;
/// Query rows (tokens x heads of a group) of one task.
constexpr int64_t kTileRows = 96;

/// head_dim as the scratch has it.
static constexpr int64_t padded_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

/// Floats of the sums of `rows` query rows: weighted values, largest score, total weight.
static constexpr int64_t attention_partial(int64_t rows, int64_t head_dim) {
  return (rows * (padded_dim(head_dim) + 2) + 15) / 16 * 16;
}

/// Floats of scratch that one attention task needs: keys and values of a chunk, queries, scores,
/// weights in two bytes, the sums of a segment and of those before it.
constexpr int64_t kAttentionScratch = 2 * kChunk * kMaxHeadDim + kTileRows * kMaxHeadDim +
                                      kTileRows * kChunk * 3 / 2 +
                                      2 * attention_partial(kTileRows, kMaxHeadDim);

/// The segments that hold what `tokens` rows from `position` on see.
struct SegmentRange {
  int64_t first;
  int64_t end;
};
static constexpr SegmentRange segments_of(int64_t position, int64_t tokens, int64_t window) {
  const int64_t seen_from = window > 0 && position >= window ? position - window + 1 : 0;
  return {seen_from / kSegment, (position + tokens + kSegment - 1) / kSegment};
}

/// Attention of `tokens` consecutive tokens of one sequence and `heads` heads that share a KV head;
/// tokens * heads <= kTileRows.
struct AttentionTile {
  KvView kv;
  const int32_t* blocks = nullptr;  ///< the sequence's block table
  int64_t kv_head = 0;
  int64_t position = 0;  ///< of the first token
  int64_t tokens = 0;
  int64_t heads = 0;
  float scale = 1;
  int64_t window = 0;  ///< 0 = all
  const float* q = nullptr;
  int64_t q_stride = 0;  ///< floats between tokens; heads lie side by side
  float* out = nullptr;
  int64_t out_stride = 0;
  float* scratch = nullptr;
};

struct AttentionTable {
  void (*tile)(const AttentionTile& tile);
  /// The same in two steps: each segment of segments_of() into its own attention_partial() floats,
  /// by any thread in any order; then all of them, which lie one after the other, folded in
  /// ascending order. Bit for bit what `tile` makes.
  void (*segment)(const AttentionTile& tile, int64_t segment, float* partial);
  void (*merge)(const AttentionTile& tile, float* partials);
};

extern const AttentionTable kAttentionBaseline;
extern const AttentionTable kAttentionAvx2;
extern const AttentionTable kAttentionVnni;
extern const AttentionTable kAttentionAvx512;
extern const AttentionTable kAttentionAmx;

}  // namespace moesaic::backend::cpu
