#include "backend/cpu/attention.h"

#include <algorithm>

#include "backend/cpu/rows.h"
#include "base/error.h"

namespace moesaic::backend::cpu {
namespace {

/// The sums of segments that several threads share the work on, beside the threads' own scratch.
constexpr int64_t kPartialFloats = 1 << 20;

/// A tile before it is known where q, the cache and the output lie.
struct PlannedTile {
  size_t sequence = 0;
  int64_t row = 0;
  int64_t head = 0;
  int64_t position = 0;
  int64_t tokens = 0;
  int64_t heads = 0;
};

/// A segment of a tile, for when there are more threads than tiles.
struct SegmentTask {
  size_t tile;
  int64_t segment;
  int64_t partial;  ///< floats from the start of the shared sums
};

class Plan final : public AttentionPlan {
 public:
  std::vector<PlannedTile> tiles;
  std::vector<SegmentTask> segments;   ///< empty where a tile is better left whole
  std::vector<int64_t> first_partial;  ///< of each tile whose segments are tasks
};

/// The tiles of a step, the one with most to read first, so that no thread is left with it.
std::vector<PlannedTile> tiles_of(const AttentionDesc& desc, const AttentionBatch& batch) {
  const int64_t group = desc.heads / desc.kv_heads;
  const int64_t heads = std::min(group, kTileRows);
  const int64_t most = std::max<int64_t>(1, kTileRows / heads);
  std::vector<PlannedTile> tiles;
  PlannedTile tile;
  for (size_t s = 0; s < batch.context_lens.size(); ++s) {
    tile.sequence = s;
    const int64_t end = batch.seq_starts[s + 1];
    for (tile.row = batch.seq_starts[s]; tile.row < end; tile.row += most) {
      tile.tokens = std::min(most, end - tile.row);
      tile.position = batch.context_lens[s] - (end - tile.row);
      for (tile.head = 0; tile.head < desc.heads; tile.head += tile.heads) {
        tile.heads = std::min(heads, (tile.head / group + 1) * group - tile.head);
        tiles.push_back(tile);
      }
    }
  }
  const auto cost = [](const PlannedTile& t) {
    // Reading a chunk costs about as much as a few rows of arithmetic on it.
    constexpr int64_t kReading = 8;
    return (t.position + t.tokens) * (t.tokens * t.heads + kReading);
  };
  std::stable_sort(tiles.begin(), tiles.end(),
                   [&](const PlannedTile& a, const PlannedTile& b) { return cost(a) > cost(b); });
  return tiles;
}

/// Makes tasks of segments where the tiles are too few for the threads.
void plan_segments(const AttentionDesc& desc, int threads, Plan& plan) {
  if (threads == 1 || static_cast<int64_t>(plan.tiles.size()) >= 2 * threads) return;
  int64_t floats = 0;
  for (size_t t = 0; t < plan.tiles.size(); ++t) {
    const PlannedTile& tile = plan.tiles[t];
    const SegmentRange range = segments_of(tile.position, tile.tokens, desc.sliding_window);
    plan.first_partial.push_back(floats);
    for (int64_t segment = range.first; segment < range.end; ++segment) {
      plan.segments.push_back({t, segment, floats});
      floats += attention_partial(tile.tokens * tile.heads, desc.head_dim);
    }
  }
  if (plan.segments.size() <= plan.tiles.size() || floats > kPartialFloats) plan.segments.clear();
}

}  // namespace

const AttentionTable& attention_kernels(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return kAttentionBaseline;
    case Isa::kAvx2:
      return kAttentionAvx2;
    case Isa::kVnni:
      return kAttentionVnni;
    case Isa::kAvx512:
      return kAttentionAvx512;
    case Isa::kAmx:
      break;
  }
  return kAttentionAmx;
}

size_t attention_scratch_bytes(int threads) {
  return static_cast<size_t>(threads * kAttentionScratch + kPartialFloats) * sizeof(float);
}

std::unique_ptr<AttentionPlan> plan_attention(const base::ThreadPool& pool,
                                              const AttentionDesc& desc,
                                              const AttentionBatch& batch) {
  auto plan = std::make_unique<Plan>();
  plan->tiles = tiles_of(desc, batch);
  plan_segments(desc, pool.size(), *plan);
  return plan;
}

void attention(base::ThreadPool& pool, const AttentionTable& kernels, const AttentionDesc& desc,
               const KvLayer& cache, const AttentionBatch& batch, const AttentionPlan& plan,
               const float* qkv, float* out, float* scratch) {
  MOESAIC_ASSERT(desc.head_dim <= kMaxHeadDim);
  const auto& planned = static_cast<const Plan&>(plan);
  const int64_t group = desc.heads / desc.kv_heads;
  AttentionTile common;
  common.kv = view_of(cache);
  common.scale = desc.scale;
  common.window = desc.sliding_window;
  common.q_stride = (desc.heads + 2 * desc.kv_heads) * desc.head_dim;
  common.out_stride = desc.heads * desc.head_dim;
  const auto tile_of = [&](size_t index, int worker) {
    const PlannedTile& from = planned.tiles[index];
    AttentionTile tile = common;
    tile.blocks =
        batch.block_tables.data() + static_cast<int64_t>(from.sequence) * batch.max_blocks;
    tile.kv_head = from.head / group;
    tile.position = from.position;
    tile.tokens = from.tokens;
    tile.heads = from.heads;
    tile.q = qkv + from.row * tile.q_stride + from.head * desc.head_dim;
    tile.out = out + from.row * tile.out_stride + from.head * desc.head_dim;
    tile.scratch = scratch + worker * kAttentionScratch;
    return tile;
  };
  const auto tiles = static_cast<int64_t>(planned.tiles.size());
  if (planned.segments.empty()) {
    pool.parallel_for(tiles, [&](int64_t tile, int worker) {
      kernels.tile(tile_of(static_cast<size_t>(tile), worker));
    });
    return;
  }
  float* partials = scratch + pool.size() * kAttentionScratch;
  pool.parallel_for(static_cast<int64_t>(planned.segments.size()), [&](int64_t i, int worker) {
    const SegmentTask& task = planned.segments[static_cast<size_t>(i)];
    kernels.segment(tile_of(task.tile, worker), task.segment, partials + task.partial);
  });
  pool.parallel_for(tiles, [&](int64_t tile, int worker) {
    const auto t = static_cast<size_t>(tile);
    kernels.merge(tile_of(t, worker), partials + planned.first_partial[t]);
  });
}

}  // namespace moesaic::backend::cpu
