// What attention over floats and over bf16 pairs share: a tile's working memory, where a chunk's
// keys and values lie, the softmax, and folding segments.

#pragma once

#include <cstring>

#include "backend/cpu/kernels_attention.h"
#include "backend/cpu/kv_inl.h"
#include "backend/cpu/vec_inl.h"

namespace moesaic::backend::cpu {
namespace {

constexpr float kMasked = -1e30f;  ///< below every score, and finite: max - max stays a number

MOESAIC_INLINE float exp_of(float x) {
  float lanes[kLanes];
  store(lanes, exp_approx(set1(x)));
  return lanes[0];
}

// --- a tile's working memory

/// Weighted values, largest score and sum of weights of each row.
struct Sums {
  float* values;  ///< [rows][dim]
  float* best;    ///< [rows]
  float* total;   ///< [rows]
};

struct TileState {
  int64_t rows;    ///< tokens * heads
  int64_t dim;     ///< head_dim up to a multiple of 16; the rest is zero
  float* keys;     ///< [head_dim][kChunk]
  float* values;   ///< [kChunk][dim]
  float* queries;  ///< [kTileRows][dim]
  float* scores;   ///< [kTileRows][kChunk]
  float* weights;  ///< for the scores in another type
  Sums segment;    ///< of the segment under way, room for kTileRows
  Sums all;        ///< of the segments before it
};

Sums sums_at(float* memory, int64_t rows, int64_t dim) {
  return {memory, memory + rows * dim, memory + rows * dim + rows};
}

void copy(const Sums& from, const Sums& to, int64_t rows, int64_t dim) {
  std::memcpy(to.values, from.values, static_cast<size_t>(rows * dim) * sizeof(float));
  std::memcpy(to.best, from.best, static_cast<size_t>(rows) * sizeof(float));
  std::memcpy(to.total, from.total, static_cast<size_t>(rows) * sizeof(float));
}

void clear(const Sums& sums, int64_t rows, int64_t dim) {
  std::memset(sums.values, 0, static_cast<size_t>(rows * dim) * sizeof(float));
  for (int64_t r = 0; r < rows; ++r) {
    sums.best[r] = kMasked;
    sums.total[r] = 0;
  }
}

TileState set_up(const AttentionTile& tile) {
  TileState state{};
  const int64_t dim = tile.kv.head_dim;
  state.rows = tile.tokens * tile.heads;
  state.dim = padded_dim(dim);
  state.keys = tile.scratch;
  state.values = state.keys + kChunk * state.dim;
  state.queries = state.values + kChunk * state.dim;
  state.scores = state.queries + kTileRows * state.dim;
  state.weights = state.scores + kTileRows * kChunk;
  float* sums = state.weights + kTileRows * kChunk / 2;
  state.segment = sums_at(sums, kTileRows, state.dim);
  state.all = sums_at(sums + attention_partial(kTileRows, dim), kTileRows, state.dim);
  clear(state.all, state.rows, state.dim);
  return state;
}

// --- chunks whose positions come in whole vectors

constexpr int kGroups = static_cast<int>(kChunk) / kLanes;

/// Where the groups of kLanes positions of a chunk lie: their keys' dim 0 and first value row.
struct Places {
  const std::byte* keys[kGroups];
  const std::byte* values[kGroups];
};

template <KvType T>
void find(const AttentionTile& tile, int64_t first, int64_t end, Places& places) {
  const KvView& kv = tile.kv;
  for (int g = 0; g < kGroups; ++g) {
    // Groups from the end on are masked later: the chunk's first one is as good to read.
    const int64_t position = first + g * kLanes < end ? first + g * kLanes : first;
    const int64_t block = tile.blocks[position / kv.block_size];
    const int64_t offset = position % kv.block_size;
    places.keys[g] = kv.data + key_index(kv, block, tile.kv_head, offset) * kBytes<T>;
    places.values[g] = kv.data + value_index(kv, block, tile.kv_head, offset) * kBytes<T>;
  }
}

// --- softmax

/// Turns a row's scores into weights under the running maximum and brings its sums under it too.
/// The row sees positions [low, high) of the chunk; the others get weight 0. A chunk with nothing
/// visible changes no bit: the maximum stays, e^0 is exactly 1 and all weights are 0.
void weigh(const TileState& state, int64_t r, int64_t low, int64_t high) {
  float* scores = state.scores + r * kChunk;
  for (int64_t i = 0; i < low && i < kChunk; ++i) scores[i] = kMasked;
  for (int64_t i = high < 0 ? 0 : high; i < kChunk; ++i) scores[i] = kMasked;
  Vec largest = load(scores);
  for (int64_t i = kLanes; i < kChunk; i += kLanes) largest = vmax(largest, load(scores + i));
  const float before = state.segment.best[r];
  const float chunk_best = max_of(largest);
  const float best = chunk_best > before ? chunk_best : before;
  for (int64_t i = 0; i < kChunk; i += kLanes) {
    store(scores + i, exp_approx(sub(load(scores + i), set1(best))));
  }
  for (int64_t i = 0; i < low && i < kChunk; ++i) scores[i] = 0;
  for (int64_t i = high < 0 ? 0 : high; i < kChunk; ++i) scores[i] = 0;
  Vec total = zero();
  for (int64_t i = 0; i < kChunk; i += kLanes) total = add(total, load(scores + i));
  float fade = 1.0f;
  if (best != before) {
    fade = exp_of(before - best);
    float* values = state.segment.values + r * state.dim;
    for (int64_t d = 0; d < state.dim; ++d) values[d] *= fade;
  }
  state.segment.total[r] = state.segment.total[r] * fade + sum_of(total);
  state.segment.best[r] = best;
}

/// Folds a segment into the sums of those before it.
void fold(const TileState& state, const Sums& segment) {
  for (int64_t r = 0; r < state.rows; ++r) {
    const float best = segment.best[r] > state.all.best[r] ? segment.best[r] : state.all.best[r];
    const float old = exp_of(state.all.best[r] - best);
    const float fresh = exp_of(segment.best[r] - best);
    state.all.best[r] = best;
    state.all.total[r] = state.all.total[r] * old + segment.total[r] * fresh;
    float* values = state.all.values + r * state.dim;
    const float* more = segment.values + r * state.dim;
    for (int64_t d = 0; d < state.dim; ++d) values[d] = values[d] * old + more[d] * fresh;
  }
}

void finish(const AttentionTile& tile, const TileState& state) {
  for (int64_t r = 0; r < state.rows; ++r) {
    float* out = tile.out + r / tile.heads * tile.out_stride + r % tile.heads * tile.kv.head_dim;
    const float scale = 1.0f / state.all.total[r];
    const float* values = state.all.values + r * state.dim;
    // A sum of zeros that others' weights of 0 went into may have another sign: + 0 makes it +0.
    for (int64_t d = 0; d < tile.kv.head_dim; ++d) out[d] = values[d] * scale + 0.0f;
  }
}

// --- what rows see

/// What rows [first_row, end_row) of a tile see of the chunk at `first`, as positions in it.
struct Seen {
  int64_t low;
  int64_t high;
  bool nothing() const { return high <= 0 || low >= kChunk; }
};

Seen seen_by(const AttentionTile& tile, int64_t first_row, int64_t end_row, int64_t first) {
  const int64_t from = tile.position + first_row / tile.heads;
  const int64_t to = tile.position + (end_row - 1) / tile.heads;
  return {tile.window > 0 ? from - tile.window + 1 - first : 0, to + 1 - first};
}

}  // namespace
}  // namespace moesaic::backend::cpu
