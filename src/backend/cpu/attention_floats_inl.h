// Attention over a cache of floats, or of halves that are widened to floats.

#pragma once

#include "backend/cpu/attention_state_inl.h"

namespace moesaic::backend::cpu {
namespace {

/// Up to so many rows read the cache itself; more share a copy of the chunk in float.
constexpr int64_t kDirectRows = 8;

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

/// The queries as floats, scaled.
void set_queries(const AttentionTile& tile, const TileState& state) {
  const int64_t dim = tile.kv.head_dim;
  for (int64_t r = 0; r < state.rows; ++r) {
    const float* q = tile.q + r / tile.heads * tile.q_stride + r % tile.heads * dim;
    float* out = state.queries + r * state.dim;
    for (int64_t d = 0; d < dim; ++d) out[d] = q[d] * tile.scale;
  }
}

void weigh_rows(const AttentionTile& tile, const TileState& state, int64_t first_row,
                int64_t end_row, int64_t first) {
  for (int64_t r = first_row; r < end_row; ++r) {
    const Seen seen = seen_by(tile, r, r + 1, first);
    weigh(state, r, seen.low, seen.high);
  }
}

// --- few rows: straight from the cache

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

// --- many rows: from a copy

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

/// Adds chunks [first, end) to state.segment.
template <KvType T>
void float_chunks(const AttentionTile& tile, const TileState& state, int64_t first, int64_t end) {
  const bool whole_vectors = tile.kv.block_size % kLanes == 0 && tile.kv.head_dim % kLanes == 0;
  if (whole_vectors && state.rows <= kDirectRows) {
    direct_chunks<T>(tile, state, first, end);
    return;
  }
  for (; first < end; first += kChunk) {
    const int64_t count = end - first < kChunk ? end - first : kChunk;
    fetched_chunk<T>(tile, state, first, count, whole_vectors);
  }
}

}  // namespace
}  // namespace moesaic::backend::cpu
