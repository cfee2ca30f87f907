#include "backend/cpu/misc.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace moesaic::backend::cpu {
namespace {

/// Below this many floats a job costs less than waking the pool.
constexpr int64_t kSmallJob = 1 << 14;

/// Runs body(first, end) over `rows` cut for the pool, or at once when the work is small.
template <typename Body>
void over_rows(base::ThreadPool& pool, int64_t rows, int64_t floats_per_row, const Body& body) {
  if (rows <= 0) return;
  if (rows == 1 || rows * floats_per_row < kSmallJob) {
    body(0, rows);
    return;
  }
  const int64_t chunk = std::max<int64_t>(1, rows / (4 * pool.size()));
  pool.parallel_for((rows + chunk - 1) / chunk, [&](int64_t task, int) {
    body(task * chunk, std::min(rows, (task + 1) * chunk));
  });
}

KvView view_of(const KvLayer& layer) {
  KvType type = KvType::kF32;
  if (layer.desc.dtype == DType::kBF16) type = KvType::kBF16;
  if (layer.desc.dtype == DType::kF16) type = KvType::kF16;
  return {layer.data, layer.desc.kv_heads, layer.desc.head_dim, layer.desc.block_size, type};
}

/// The sums of segments that several threads share the work on, beside the threads' own scratch.
constexpr int64_t kPartialFloats = 1 << 20;

/// The tiles of a step, the one with most to read first, so that no thread is left with it.
std::vector<AttentionTile> tiles_of(const AttentionDesc& desc, const KvLayer& cache,
                                    const AttentionBatch& batch, const float* qkv, float* out) {
  const int64_t group = desc.heads / desc.kv_heads;
  const int64_t heads = std::min(group, kTileRows);
  const int64_t most = std::max<int64_t>(1, kTileRows / heads);
  AttentionTile tile;
  tile.kv = view_of(cache);
  tile.scale = desc.scale;
  tile.window = desc.sliding_window;
  tile.q_stride = (desc.heads + 2 * desc.kv_heads) * desc.head_dim;
  tile.out_stride = desc.heads * desc.head_dim;
  std::vector<AttentionTile> tiles;
  for (size_t s = 0; s < batch.context_lens.size(); ++s) {
    tile.blocks = batch.block_tables.data() + static_cast<int64_t>(s) * batch.max_blocks;
    const int64_t end = batch.seq_starts[s + 1];
    for (int64_t row = batch.seq_starts[s]; row < end; row += most) {
      tile.tokens = std::min(most, end - row);
      tile.position = batch.context_lens[s] - (end - row);
      for (int64_t head = 0; head < desc.heads;) {
        tile.kv_head = head / group;
        tile.heads = std::min(heads, (tile.kv_head + 1) * group - head);
        tile.q = qkv + row * tile.q_stride + head * desc.head_dim;
        tile.out = out + row * tile.out_stride + head * desc.head_dim;
        tiles.push_back(tile);
        head += tile.heads;
      }
    }
  }
  const auto cost = [](const AttentionTile& t) {
    // Reading a chunk costs about as much as a few rows of arithmetic on it.
    constexpr int64_t kReading = 8;
    return (t.position + t.tokens) * (t.tokens * t.heads + kReading);
  };
  std::stable_sort(tiles.begin(), tiles.end(), [&](const AttentionTile& a, const AttentionTile& b) {
    return cost(a) > cost(b);
  });
  return tiles;
}

/// A segment of a tile, for when there are more threads than tiles.
struct SegmentTask {
  size_t tile;
  int64_t segment;
  int64_t partial;  ///< floats from the start of the shared sums
};

/// The tasks of a step whose tiles are too few for the threads; empty where a tile is better left
/// whole.
std::vector<SegmentTask> segment_tasks(const std::vector<AttentionTile>& tiles, int threads) {
  if (threads == 1 || static_cast<int64_t>(tiles.size()) >= 2 * threads) return {};
  std::vector<SegmentTask> tasks;
  int64_t floats = 0;
  for (size_t t = 0; t < tiles.size(); ++t) {
    const AttentionTile& tile = tiles[t];
    const SegmentRange range = segments_of(tile.position, tile.tokens, tile.window);
    for (int64_t segment = range.first; segment < range.end; ++segment) {
      tasks.push_back({t, segment, floats});
      floats += attention_partial(tile.tokens * tile.heads, tile.kv.head_dim);
    }
  }
  if (tasks.size() <= tiles.size() || floats > kPartialFloats) return {};
  return tasks;
}

/// Softmax or sigmoid of one row of router logits, in place of double work: float is what the
/// models are trained with.
void score_row(const RouterDesc& desc, const float* logits, float* scores) {
  if (desc.scoring == Scoring::kSigmoid) {
    for (int64_t e = 0; e < desc.experts; ++e) scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    return;
  }
  const float best = *std::max_element(logits, logits + desc.experts);
  float sum = 0;
  for (int64_t e = 0; e < desc.experts; ++e) sum += scores[e] = std::exp(logits[e] - best);
  for (int64_t e = 0; e < desc.experts; ++e) scores[e] /= sum;
}

/// The top_k experts of one row, best logit first, ties to the lowest index.
void choose(const RouterDesc& desc, const float* logits, std::vector<uint8_t>& taken,
            int32_t* chosen) {
  std::fill(taken.begin(), taken.end(), uint8_t{0});
  for (int64_t i = 0; i < desc.top_k; ++i) {
    int32_t best = -1;
    for (int32_t e = 0; e < desc.experts; ++e) {
      if (taken[static_cast<size_t>(e)] != 0) continue;
      // A NaN never compares greater, so rows of NaN still choose top_k different experts.
      if (best < 0 || logits[e] > logits[best]) best = e;
    }
    taken[static_cast<size_t>(best)] = 1;
    chosen[i] = best;
  }
}

}  // namespace

const MiscTable& misc_kernels(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return kMiscBaseline;
    case Isa::kAvx2:
      return kMiscAvx2;
    case Isa::kAvx512:
      return kMiscAvx512;
    case Isa::kAmx:
      break;
  }
  return kMiscAmx;
}

size_t kv_block_bytes(const KvDesc& desc) {
  return static_cast<size_t>(2 * desc.block_size * desc.kv_heads * desc.head_dim) *
         tensor::size_of(desc.dtype);
}

size_t attention_scratch_bytes(int threads) {
  return static_cast<size_t>(threads * kAttentionScratch + kPartialFloats) * sizeof(float);
}

void rms_norm(base::ThreadPool& pool, const MiscTable& kernels, const float* x, const float* weight,
              float eps, int64_t rows, int64_t width, float* out) {
  over_rows(pool, rows, width, [&](int64_t first, int64_t end) {
    for (int64_t r = first; r < end; ++r) {
      kernels.rms_norm(x + r * width, weight, eps, width, out + r * width);
    }
  });
}

void add_rms_norm(base::ThreadPool& pool, const MiscTable& kernels, float* residual,
                  const float* delta, const float* weight, float eps, int64_t rows, int64_t width,
                  float* out) {
  over_rows(pool, rows, width, [&](int64_t first, int64_t end) {
    for (int64_t r = first; r < end; ++r) {
      kernels.add_rms_norm(residual + r * width, delta + r * width, weight, eps, width,
                           out + r * width);
    }
  });
}

void qkv_rope_append(base::ThreadPool& pool, const MiscTable& kernels, const AttentionDesc& desc,
                     const QkvInputs& inputs, int64_t rows, float* qkv, const KvLayer& cache) {
  MOESAIC_ASSERT(desc.head_dim <= kMaxHeadDim);
  const int64_t width = (desc.heads + 2 * desc.kv_heads) * desc.head_dim;
  const int64_t half = desc.rotary_dim / 2;
  over_rows(pool, rows, width, [&](int64_t first, int64_t end) {
    QkvRow row;
    row.heads = desc.heads;
    row.kv_heads = desc.kv_heads;
    row.head_dim = desc.head_dim;
    row.rotary_dim = desc.rotary_dim;
    row.norm_per_head = desc.qk_norm == QkNorm::kPerHead;
    if (desc.qk_norm != QkNorm::kNone) {
      row.q_norm = inputs.q_norm;
      row.k_norm = inputs.k_norm;
    }
    row.eps = desc.norm_eps;
    row.clip = desc.clip_qkv;
    row.kv = view_of(cache);
    for (int64_t r = first; r < end; ++r) {
      row.q = qkv + r * width;
      row.cos = inputs.cos + r * half;
      row.sin = inputs.sin + r * half;
      row.slot = inputs.slots[static_cast<size_t>(r)];
      kernels.qkv_row(row);
    }
  });
}

void attention(base::ThreadPool& pool, const MiscTable& kernels, const AttentionDesc& desc,
               const KvLayer& cache, const AttentionBatch& batch, const float* qkv, float* out,
               float* scratch) {
  MOESAIC_ASSERT(desc.head_dim <= kMaxHeadDim);
  const std::vector<AttentionTile> tiles = tiles_of(desc, cache, batch, qkv, out);
  const auto with_scratch = [&](size_t tile, int worker) {
    AttentionTile own = tiles[tile];
    own.scratch = scratch + worker * kAttentionScratch;
    return own;
  };
  const std::vector<SegmentTask> tasks = segment_tasks(tiles, pool.size());
  if (tasks.empty()) {
    pool.parallel_for(static_cast<int64_t>(tiles.size()), [&](int64_t tile, int worker) {
      kernels.attention_tile(with_scratch(static_cast<size_t>(tile), worker));
    });
    return;
  }
  float* partials = scratch + pool.size() * kAttentionScratch;
  pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int worker) {
    const SegmentTask& task = tasks[static_cast<size_t>(i)];
    kernels.attention_segment(with_scratch(task.tile, worker), task.segment,
                              partials + task.partial);
  });
  std::vector<int64_t> first(tiles.size(), -1);
  for (const SegmentTask& task : tasks) {
    if (first[task.tile] < 0) first[task.tile] = task.partial;
  }
  pool.parallel_for(static_cast<int64_t>(tiles.size()), [&](int64_t tile, int worker) {
    const auto t = static_cast<size_t>(tile);
    kernels.attention_merge(with_scratch(t, worker), partials + first[t]);
  });
}

void route(base::ThreadPool& pool, const RouterDesc& desc, const float* logits, int64_t rows,
           Routing& routing) {
  routing.rows = rows;
  routing.top_k = desc.top_k;
  routing.experts.resize(static_cast<size_t>(rows * desc.top_k));
  routing.weights.resize(static_cast<size_t>(rows * desc.top_k));
  over_rows(pool, rows, desc.experts * (desc.top_k + 8), [&](int64_t first, int64_t end) {
    std::vector<float> scores(static_cast<size_t>(desc.experts));
    std::vector<uint8_t> taken(static_cast<size_t>(desc.experts));
    for (int64_t r = first; r < end; ++r) {
      const float* row = logits + r * desc.experts;
      int32_t* chosen = routing.experts.data() + r * desc.top_k;
      float* weights = routing.weights.data() + r * desc.top_k;
      score_row(desc, row, scores.data());
      choose(desc, row, taken, chosen);
      float sum = 0;
      for (int64_t i = 0; i < desc.top_k; ++i) sum += scores[static_cast<size_t>(chosen[i])];
      const float factor = desc.scale / (desc.renormalize ? sum : 1.0f);
      for (int64_t i = 0; i < desc.top_k; ++i) {
        weights[i] = scores[static_cast<size_t>(chosen[i])] * factor;
      }
    }
  });
  routing.counts.assign(static_cast<size_t>(desc.experts), 0);
  for (int32_t expert : routing.experts) ++routing.counts[static_cast<size_t>(expert)];
}

}  // namespace moesaic::backend::cpu
