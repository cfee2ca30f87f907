// Attention over a paged cache, for each instruction set.
//
// What is computed, for every query row alike: positions in chunks of kChunk and segments of
// kSegment from position 0 on; in a segment an online softmax, chunk by chunk; then the segments
// folded in ascending order. Scores sum over the dims, and values over the positions, in ascending
// order. A position that a row does not see has weight 0 and changes no bit, so it does not matter
// which other rows share the row's tile. How the numbers are brought to the registers differs with
// the number of rows (Direct, Fetched), the arithmetic does not.

#pragma once

#include <cstring>

#include "backend/cpu/kernels_misc.h"
#include "backend/cpu/kv_inl.h"
#include "backend/cpu/vec_inl.h"

namespace moesaic::backend::cpu {
namespace {

constexpr float kMasked = -1e30f;  ///< below every score, and finite: max - max stays a number

/// Up to so many rows read the cache itself; more share a copy of the chunk in float.
constexpr int64_t kDirectRows = 8;

MOESAIC_INLINE float exp_of(float x) {
  float lanes[kLanes];
  store(lanes, exp_approx(set1(x)));
  return lanes[0];
}

// --- products of float matrices

constexpr int kColumnVecs = kLanes == 16 ? 4 : 2;  ///< what fits the registers beside the rows
constexpr int kRegisterRows = kLanes == 4 ? 4 : 6;

/// c[R][V vectors] += a[R][depth] b[depth][...], each sum in ascending depth.
template <int R, int V>
MOESAIC_INLINE void multiply(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                             int64_t depth, float* c, int64_t c_stride) {
  Vec sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = load(c + r * c_stride + v * kLanes);
  }
  for (int64_t d = 0; d < depth; ++d) {
    Vec row[V];
    for (int v = 0; v < V; ++v) row[v] = load(b + d * b_stride + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec x = set1(a[r * a_stride + d]);
      for (int v = 0; v < V; ++v) sums[r][v] = fma(x, row[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(c + r * c_stride + v * kLanes, sums[r][v]);
  }
}

template <int R>
void multiply_rows(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                   int64_t depth, int64_t columns, float* c, int64_t c_stride) {
  int64_t column = 0;
  for (; column + kColumnVecs * kLanes <= columns; column += kColumnVecs * kLanes) {
    multiply<R, kColumnVecs>(a, a_stride, b + column, b_stride, depth, c + column, c_stride);
  }
  for (; column < columns; column += kLanes) {
    multiply<R, 1>(a, a_stride, b + column, b_stride, depth, c + column, c_stride);
  }
}

/// c[rows][columns] += a[rows][depth] b[depth][columns] for at most kRegisterRows rows; columns is
/// a multiple of kLanes.
void multiply_add(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows,
                  int64_t depth, int64_t columns, float* c, int64_t c_stride) {
  int64_t r = 0;
  if (rows == kRegisterRows) {
    multiply_rows<kRegisterRows>(a, a_stride, b, b_stride, depth, columns, c, c_stride);
    return;
  }
  for (; r + 2 <= rows; r += 2) {
    multiply_rows<2>(a + r * a_stride, a_stride, b, b_stride, depth, columns, c + r * c_stride,
                     c_stride);
  }
  if (r < rows) {
    multiply_rows<1>(a + r * a_stride, a_stride, b, b_stride, depth, columns, c + r * c_stride,
                     c_stride);
  }
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
  float* queries;  ///< [rows][dim], scaled
  float* scores;   ///< [rows][kChunk]
  Sums segment;    ///< of the segment under way
  Sums all;        ///< of the segments before it
};

Sums sums_at(float* memory, int64_t rows, int64_t dim) {
  return {memory, memory + rows * dim, memory + rows * dim + rows};
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
  float* sums = state.scores + kTileRows * kChunk;
  state.segment = sums_at(sums, state.rows, state.dim);
  state.all = sums_at(sums + attention_partial(kTileRows, dim), state.rows, state.dim);
  clear(state.all, state.rows, state.dim);
  for (int64_t r = 0; r < state.rows; ++r) {
    const float* q = tile.q + r / tile.heads * tile.q_stride + r % tile.heads * dim;
    float* out = state.queries + r * state.dim;
    for (int64_t d = 0; d < dim; ++d) out[d] = q[d] * tile.scale;
  }
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

/// scores[R][kChunk] = queries times keys.
template <KvType T, int R>
void score_direct(const TileState& state, const KvView& kv, const Places& places, int64_t row) {
  constexpr int V = R <= 2 ? 4 : kColumnVecs;
  const float* q = state.queries + row * state.dim;
  const int64_t stride = kv.block_size * kBytes<T>;
  for (int g = 0; g < kGroups; g += V) {
    Vec sums[R][V];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sums[r][v] = zero();
    }
    for (int64_t d = 0; d < kv.head_dim; ++d) {
      Vec keys[V];
      for (int v = 0; v < V; ++v) {
        keys[v] = load_kv<T>(places.keys[g + v] + d * stride);
        // A chunk's pieces lie scattered, each too short for the processor to foresee the next.
        _mm_prefetch(places.values[g + v] + d * kLanes * kBytes<T>, _MM_HINT_T0);
      }
      for (int r = 0; r < R; ++r) {
        const Vec x = set1(q[r * state.dim + d]);
        for (int v = 0; v < V; ++v) sums[r][v] = fma(x, keys[v], sums[r][v]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) {
        store(state.scores + (row + r) * kChunk + (g + v) * kLanes, sums[r][v]);
      }
    }
  }
}

/// Asks for the part of a chunk's keys that falls to position p of the chunk before it.
template <KvType T>
MOESAIC_INLINE void prefetch_keys(const KvView& kv, const Places& places, int64_t p) {
  const int64_t stride = kv.block_size * kBytes<T>;
  const int64_t step = stride < 64 ? 64 / stride : 1;
  const int64_t share = kv.head_dim / kLanes;
  const int64_t first = p % kLanes * share;
  for (int64_t d = first; d < first + share; d += step) {
    _mm_prefetch(places.keys[p / kLanes] + d * stride, _MM_HINT_T0);
  }
}

/// V vectors of the R rows' sums += weights times values.
template <KvType T, int R, int V>
MOESAIC_INLINE void add_values(const TileState& state, const KvView& kv, const Places& places,
                               int64_t row, int64_t column, int64_t count, const Places* next) {
  Vec sums[R][V];
  float* out = state.segment.values + row * state.dim + column;
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = load(out + r * state.dim + v * kLanes);
  }
  const float* weights = state.scores + row * kChunk;
  for (int64_t p = 0; p < count; ++p) {
    if (next != nullptr) prefetch_keys<T>(kv, *next, p);
    const std::byte* at =
        places.values[p / kLanes] + (p % kLanes * kv.head_dim + column) * kBytes<T>;
    Vec values[V];
    for (int v = 0; v < V; ++v) values[v] = load_kv<T>(at + v * kLanes * kBytes<T>);
    for (int r = 0; r < R; ++r) {
      const Vec weight = set1(weights[r * kChunk + p]);
      for (int v = 0; v < V; ++v) sums[r][v] = fma(weight, values[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(out + r * state.dim + v * kLanes, sums[r][v]);
  }
}

template <KvType T, int R>
void add_direct(const TileState& state, const KvView& kv, const Places& places, int64_t row,
                int64_t count, const Places* next) {
  constexpr int V = R <= 2 ? 2 * kColumnVecs : kColumnVecs;
  int64_t column = 0;
  for (; column + V * kLanes <= kv.head_dim; column += V * kLanes) {
    add_values<T, R, V>(state, kv, places, row, column, count, next);
    next = nullptr;
  }
  for (; column < kv.head_dim; column += kLanes) {
    add_values<T, R, 1>(state, kv, places, row, column, count, nullptr);
  }
}

/// The chunk's keys and values as floats in the scratch, from whole vectors.
template <KvType T>
void fetch_groups(const TileState& state, const KvView& kv, const Places& places, int64_t count) {
  const int64_t stride = kv.block_size * kBytes<T>;
  for (int g = 0; g < kGroups; ++g) {
    float* keys = state.keys + g * kLanes;
    for (int64_t d = 0; d < kv.head_dim; ++d) {
      store(keys + d * kChunk, load_kv<T>(places.keys[g] + d * stride));
    }
  }
  for (int64_t p = 0; p < count; ++p) {
    const std::byte* row = places.values[p / kLanes] + p % kLanes * kv.head_dim * kBytes<T>;
    float* values = state.values + p * state.dim;
    for (int64_t d = 0; d < kv.head_dim; d += kLanes) {
      store(values + d, load_kv<T>(row + d * kBytes<T>));
    }
  }
}

/// The same for any block size and head_dim.
template <KvType T>
void fetch_any(const AttentionTile& tile, const TileState& state, int64_t first, int64_t count) {
  const KvView& kv = tile.kv;
  for (int64_t done = 0; done < count;) {
    const int64_t position = first + done;
    const int64_t block = tile.blocks[position / kv.block_size];
    const int64_t offset = position % kv.block_size;
    const int64_t room = kv.block_size - offset;
    const int64_t here = count - done < room ? count - done : room;
    const std::byte* key = kv.data + key_index(kv, block, tile.kv_head, offset) * kBytes<T>;
    for (int64_t d = 0; d < kv.head_dim; ++d) {
      get<T>(key + d * kv.block_size * kBytes<T>, here, state.keys + d * kChunk + done);
    }
    const std::byte* value = kv.data + value_index(kv, block, tile.kv_head, offset) * kBytes<T>;
    for (int64_t p = 0; p < here; ++p) {
      float* row = state.values + (done + p) * state.dim;
      get<T>(value + p * kv.head_dim * kBytes<T>, kv.head_dim, row);
    }
    done += here;
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

// --- tiles

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

void weigh_rows(const AttentionTile& tile, const TileState& state, int64_t first_row,
                int64_t end_row, int64_t first) {
  for (int64_t r = first_row; r < end_row; ++r) {
    const Seen seen = seen_by(tile, r, r + 1, first);
    weigh(state, r, seen.low, seen.high);
  }
}

/// `next`: where the chunk after this lies, if there is one.
template <KvType T>
void direct_chunk(const AttentionTile& tile, const TileState& state, const Places& places,
                  int64_t first, int64_t count, const Places* next) {
  int64_t r = 0;
  for (; r + 4 <= state.rows; r += 4) score_direct<T, 4>(state, tile.kv, places, r);
  for (; r + 2 <= state.rows; r += 2) score_direct<T, 2>(state, tile.kv, places, r);
  if (r < state.rows) score_direct<T, 1>(state, tile.kv, places, r);
  weigh_rows(tile, state, 0, state.rows, first);
  r = 0;
  for (; r + 4 <= state.rows; r += 4) {
    add_direct<T, 4>(state, tile.kv, places, r, count, r == 0 ? next : nullptr);
  }
  for (; r + 2 <= state.rows; r += 2) {
    add_direct<T, 2>(state, tile.kv, places, r, count, r == 0 ? next : nullptr);
  }
  if (r < state.rows) add_direct<T, 1>(state, tile.kv, places, r, count, r == 0 ? next : nullptr);
}

template <KvType T>
void direct_chunks(const AttentionTile& tile, const TileState& state, int64_t first, int64_t end) {
  Places here;
  Places next;
  find<T>(tile, first, end, here);
  for (; first < end; first += kChunk) {
    const bool last = end - first <= kChunk;
    if (!last) find<T>(tile, first + kChunk, end, next);
    direct_chunk<T>(tile, state, here, first, last ? end - first : kChunk, last ? nullptr : &next);
    here = next;
  }
}

template <KvType T>
void fetched_chunk(const AttentionTile& tile, const TileState& state, int64_t first, int64_t count,
                   bool whole_vectors) {
  if (whole_vectors) {
    Places places;
    find<T>(tile, first, first + count, places);
    fetch_groups<T>(state, tile.kv, places, count);
  } else {
    fetch_any<T>(tile, state, first, count);
  }
  // Rows in the registers' number, and of the chunk only what the last of them sees.
  const auto for_rows = [&](const auto& body) {
    for (int64_t r = 0; r < state.rows; r += kRegisterRows) {
      const int64_t rows = state.rows - r < kRegisterRows ? state.rows - r : kRegisterRows;
      const Seen seen = seen_by(tile, r, r + rows, first);
      if (!seen.nothing()) body(r, rows, seen.high < count ? seen.high : count);
    }
  };
  std::memset(state.scores, 0, static_cast<size_t>(state.rows * kChunk) * sizeof(float));
  for_rows([&](int64_t r, int64_t rows, int64_t keys) {
    multiply_add(state.queries + r * state.dim, state.dim, state.keys, kChunk, rows,
                 tile.kv.head_dim, (keys + kLanes - 1) / kLanes * kLanes, state.scores + r * kChunk,
                 kChunk);
  });
  for_rows([&](int64_t r, int64_t rows, int64_t) { weigh_rows(tile, state, r, r + rows, first); });
  for_rows([&](int64_t r, int64_t rows, int64_t keys) {
    multiply_add(state.scores + r * kChunk, kChunk, state.values, state.dim, rows, keys, state.dim,
                 state.segment.values + r * state.dim, state.dim);
  });
}

/// Fills state.segment with what the rows see of one segment.
template <KvType T>
void run_segment(const AttentionTile& tile, const TileState& state, int64_t segment) {
  clear(state.segment, state.rows, state.dim);
  const int64_t seen_from =
      tile.window > 0 && tile.position >= tile.window ? tile.position - tile.window + 1 : 0;
  int64_t end = tile.position + tile.tokens;
  if (end > (segment + 1) * kSegment) end = (segment + 1) * kSegment;
  int64_t first = segment * kSegment;
  if (first < seen_from) first = seen_from / kChunk * kChunk;
  const bool whole_vectors = tile.kv.block_size % kLanes == 0 && tile.kv.head_dim % kLanes == 0;
  if (whole_vectors && state.rows <= kDirectRows) {
    if (first < end) direct_chunks<T>(tile, state, first, end);
    return;
  }
  for (; first < end; first += kChunk) {
    const int64_t count = end - first < kChunk ? end - first : kChunk;
    fetched_chunk<T>(tile, state, first, count, whole_vectors);
  }
}

void run_segment(const AttentionTile& tile, const TileState& state, int64_t segment) {
  switch (tile.kv.type) {
    case KvType::kF32:
      return run_segment<KvType::kF32>(tile, state, segment);
    case KvType::kBF16:
      return run_segment<KvType::kBF16>(tile, state, segment);
    case KvType::kF16:
      return run_segment<KvType::kF16>(tile, state, segment);
  }
}

void attention_tile(const AttentionTile& tile) {
  const TileState state = set_up(tile);
  const SegmentRange range = segments_of(tile.position, tile.tokens, tile.window);
  for (int64_t segment = range.first; segment < range.end; ++segment) {
    run_segment(tile, state, segment);
    fold(state, state.segment);
  }
  finish(tile, state);
}

void attention_segment(const AttentionTile& tile, int64_t segment, float* partial) {
  TileState state = set_up(tile);
  state.segment = sums_at(partial, state.rows, state.dim);
  run_segment(tile, state, segment);
}

void attention_merge(const AttentionTile& tile, float* partials) {
  const TileState state = set_up(tile);
  const SegmentRange range = segments_of(tile.position, tile.tokens, tile.window);
  const int64_t step = attention_partial(state.rows, tile.kv.head_dim);
  for (int64_t i = 0; i < range.end - range.first; ++i) {
    fold(state, sums_at(partials + i * step, state.rows, state.dim));
  }
  finish(tile, state);
}

}  // namespace
}  // namespace moesaic::backend::cpu
