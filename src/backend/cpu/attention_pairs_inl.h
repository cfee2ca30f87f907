// Attention over a bf16 cache with products of bf16 pairs and sums in float: VDPBF16PS, or AMX
// tiles where MOESAIC_TILE_ATTENTION is defined. Queries and weights are rounded to bf16, as the
// frameworks that models of this type are trained with do.

#pragma once

#if defined(__AVX512BF16__)

#include "backend/cpu/attention_state_inl.h"
#if defined(MOESAIC_TILE_ATTENTION)
#include "backend/cpu/tile_registers_inl.h"
#endif

namespace moesaic::backend::cpu {
namespace {

/// Pairs are of neighbours: dims for the scores, positions for the values. Both then come from two
/// rows of the cache whose elements are interleaved, 16 at a time.
constexpr int64_t kPairGroup = 16;

bool takes_pairs(const KvView& kv) {
  return kv.type == KvType::kBF16 && kv.block_size % kPairGroup == 0 &&
         kv.head_dim % (2 * kPairGroup) == 0;
}

MOESAIC_INLINE uint16_t* halves(float* memory) { return reinterpret_cast<uint16_t*>(memory); }

/// The queries, [kTileRows][dim]; the scores are scaled, not they.
void set_pair_queries(const AttentionTile& tile, const TileState& state) {
  const int64_t dim = tile.kv.head_dim;
  for (int64_t r = 0; r < state.rows; ++r) {
    const float* q = tile.q + r / tile.heads * tile.q_stride + r % tile.heads * dim;
    uint16_t* out = halves(state.queries) + r * dim;
    for (int64_t d = 0; d < dim; d += kLanes) store_bf16(out + d, load(q + d));
  }
}

MOESAIC_INLINE __m512i pair_at(const uint16_t* place) {
  int pair = 0;
  std::memcpy(&pair, place, sizeof(pair));
  return _mm512_set1_epi32(pair);
}

// --- c (+)= a b, where a is [rows][depth] and b [depth / 2][columns][2]; strides in elements

struct PairProduct {
  const uint16_t* a;
  int64_t a_stride;
  const uint16_t* b;
  int64_t b_stride;  ///< between pairs
  int64_t depth;
  float* c;
  int64_t c_stride;
  bool fresh;  ///< c starts at zero
};

#if defined(MOESAIC_TILE_ATTENTION)

constexpr int64_t kPairRows = 16;   ///< taken at once; fewer leave rubbish in the rest of c
constexpr int64_t kPairDepth = 32;  ///< depth comes in multiples of this

/// 16 rows and N times 16 columns.
template <int N>
MOESAIC_INLINE void multiply_tiles(const PairProduct& p) {
  const int64_t c_stride = p.c_stride * 4;
  memory_barrier();
  if (p.fresh) {
    TILE_ZERO(0);
    if constexpr (N > 1) TILE_ZERO(1);
    if constexpr (N > 2) TILE_ZERO(2);
    if constexpr (N > 3) TILE_ZERO(3);
  } else {
    TILE_LOAD(0, p.c, c_stride);
    if constexpr (N > 1) TILE_LOAD(1, p.c + 16, c_stride);
    if constexpr (N > 2) TILE_LOAD(2, p.c + 32, c_stride);
    if constexpr (N > 3) TILE_LOAD(3, p.c + 48, c_stride);
  }
  const uint16_t* a = p.a;
  const uint16_t* b = p.b;
  for (int64_t d = 0; d < p.depth; d += kPairDepth) {
    TILE_LOAD(4, a, p.a_stride * 2);
    TILE_LOAD(5, b, p.b_stride * 2);
    TILE_DOT(0, 4, 5);
    if constexpr (N > 1) {
      TILE_LOAD(6, b + 32, p.b_stride * 2);
      TILE_DOT(1, 4, 6);
    }
    if constexpr (N > 2) {
      TILE_LOAD(7, b + 64, p.b_stride * 2);
      TILE_DOT(2, 4, 7);
    }
    if constexpr (N > 3) {
      TILE_LOAD(5, b + 96, p.b_stride * 2);
      TILE_DOT(3, 4, 5);
    }
    a += kPairDepth;
    b += kPairDepth / 2 * p.b_stride;
  }
  TILE_STORE(0, p.c, c_stride);
  if constexpr (N > 1) TILE_STORE(1, p.c + 16, c_stride);
  if constexpr (N > 2) TILE_STORE(2, p.c + 32, c_stride);
  if constexpr (N > 3) TILE_STORE(3, p.c + 48, c_stride);
  memory_barrier();
}

/// At most kPairRows rows; columns in multiples of 16.
void multiply_pairs(PairProduct p, int64_t, int64_t columns) {
  for (; columns >= 64; columns -= 64) {
    multiply_tiles<4>(p);
    p.b += 2 * 64;
    p.c += 64;
  }
  if (columns == 48) multiply_tiles<3>(p);
  if (columns == 32) multiply_tiles<2>(p);
  if (columns == 16) multiply_tiles<1>(p);
}

/// What multiply_tiles does to one of its sums, 16 lanes at a time: 32 products go into an even and
/// an odd chain, whose sum is added (Intel SDM, TDPBF16PS). Under FlushDenormals bit for bit the
/// same.
struct PairChain {
  Vec sum;
  Vec even = zero();
  Vec odd = zero();

  MOESAIC_INLINE static Vec low(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  }
  MOESAIC_INLINE static Vec high(__m512i pairs) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  MOESAIC_INLINE void step(__m512i pairs, __m512i x) {
    even = fma(low(pairs), low(x), even);
    odd = fma(high(pairs), high(x), odd);
  }
  MOESAIC_INLINE void close() {
    sum = add(sum, add(even, odd));
    even = zero();
    odd = zero();
  }
};
constexpr int kChainRows = 2;  ///< whose chains over four vectors fit the registers

class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
};

#else

constexpr int64_t kPairRows = 6;
constexpr int64_t kPairDepth = 2;

template <int R, int V>
MOESAIC_INLINE void multiply_vectors(const PairProduct& p) {
  Vec sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      sums[r][v] = p.fresh ? zero() : load(p.c + r * p.c_stride + v * kLanes);
    }
  }
  const uint16_t* b = p.b;
  for (int64_t d = 0; d < p.depth; d += 2, b += p.b_stride) {
    __m512bh row[V];
    for (int v = 0; v < V; ++v) row[v] = as_pairs(_mm512_loadu_si512(b + v * 2 * kLanes));
    for (int r = 0; r < R; ++r) {
      const __m512bh x = as_pairs(pair_at(p.a + r * p.a_stride + d));
      for (int v = 0; v < V; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], row[v], x);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(p.c + r * p.c_stride + v * kLanes, sums[r][v]);
  }
}

template <int R>
void multiply_columns(PairProduct p, int64_t columns) {
  for (; columns >= 4 * kLanes; columns -= 4 * kLanes) {
    multiply_vectors<R, 4>(p);
    p.b += 2 * 4 * kLanes;
    p.c += 4 * kLanes;
  }
  for (; columns > 0; columns -= kLanes) {
    multiply_vectors<R, 1>(p);
    p.b += 2 * kLanes;
    p.c += kLanes;
  }
}

/// At most kPairRows rows; columns in multiples of 16.
void multiply_pairs(PairProduct p, int64_t rows, int64_t columns) {
  if (rows == kPairRows) {
    multiply_columns<kPairRows>(p, columns);
    return;
  }
  for (; rows >= 2; rows -= 2, p.a += 2 * p.a_stride, p.c += 2 * p.c_stride) {
    multiply_columns<2>(p, columns);
  }
  if (rows > 0) multiply_columns<1>(p, columns);
}

/// What multiply_vectors does to one of its sums.
struct PairChain {
  Vec sum;

  MOESAIC_INLINE void step(__m512i pairs, __m512i x) {
    sum = _mm512_dpbf16_ps(sum, as_pairs(pairs), as_pairs(x));
  }
  MOESAIC_INLINE void close() {}
};
constexpr int kChainRows = 4;
struct FlushDenormals {
  FlushDenormals() {}  // VDPBF16PS does so whatever the state
};

#endif

// --- the cache's rows as pairs

/// a0 b0 a1 b1 ... of 16 elements each.
MOESAIC_INLINE __m512i interleaved(__m256i a, __m256i b) {
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, both);
}
MOESAIC_INLINE __m256i sixteen(const std::byte* place) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(place));
}

/// Asks for the part of a chunk's keys that falls to positions p and p + 1 of the chunk before it.
MOESAIC_INLINE void prefetch_keys(const KvView& kv, const Places& places, int64_t p) {
  const int64_t stride = kv.block_size * 2;
  const int64_t share = kv.head_dim / kPairGroup * 2;
  const std::byte* key = places.keys[p / kPairGroup] + p % kPairGroup / 2 * share * stride;
  // Two dims of blocks of 16 are a cache line.
  const int64_t step = kv.block_size == kPairGroup ? 2 : 1;
  for (int64_t d = 0; d < share; d += step) _mm_prefetch(key + d * stride, _MM_HINT_T0);
}

// --- softmax

/// The first n of a chunk's positions.
MOESAIC_INLINE uint64_t positions_below(int64_t n) {
  static_assert(kChunk == 64);
  return n <= 0 ? 0 : n >= kChunk ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
}

/// As weigh(), from scores that are not scaled yet to weights in bf16.
MOESAIC_INLINE void weigh_pairs(const AttentionTile& tile, const TileState& state, int64_t r,
                                int64_t first) {
  const Seen seen = seen_by(tile, r, r + 1, first);
  const uint64_t visible = positions_below(seen.high) & ~positions_below(seen.low);
  const float* products = state.scores + r * kChunk;
  Vec scores[kGroups];
  Vec largest = set1(kMasked);
  for (int g = 0; g < kGroups; ++g) {
    scores[g] = _mm512_mask_mul_ps(set1(kMasked), static_cast<__mmask16>(visible >> g * kLanes),
                                   load(products + g * kLanes), set1(tile.scale));
    largest = vmax(largest, scores[g]);
  }
  const float before = state.segment.best[r];
  const float chunk_best = max_of(largest);
  const float best = chunk_best > before ? chunk_best : before;
  uint16_t* weights = halves(state.weights) + r * kChunk;
  Vec total = zero();
  for (int g = 0; g < kGroups; ++g) {
    const Vec weight = _mm512_maskz_mov_ps(static_cast<__mmask16>(visible >> g * kLanes),
                                           exp_approx(sub(scores[g], set1(best))));
    total = add(total, weight);
    store_bf16(weights + g * kLanes, weight);
  }
  float fade = 1.0f;
  if (best != before) {
    const Vec fades = exp_approx(set1(before - best));
    fade = _mm512_cvtss_f32(fades);
    float* values = state.segment.values + r * state.dim;
    for (int64_t d = 0; d < state.dim; d += kLanes) store(values + d, mul(load(values + d), fades));
  }
  state.segment.total[r] = state.segment.total[r] * fade + sum_of(total);
  state.segment.best[r] = best;
}

// --- few rows: straight from the cache

/// Up to so many rows read the cache itself; more share a copy of the chunk.
constexpr int64_t kDirectPairRows = 8;
constexpr int kPairVecs = 4;
constexpr int64_t kChainLength = 32;

/// scores[R][kChunk] = queries times keys. A chunk's pieces lie scattered, each too short for the
/// processor to foresee the next, so its values are asked for meanwhile.
template <int R>
void score_pairs(const TileState& state, const KvView& kv, const Places& places, int64_t row) {
  static_assert(kGroups == kPairVecs);
  const uint16_t* q = halves(state.queries) + row * state.dim;
  const int64_t stride = kv.block_size * 2;
  PairChain sums[R][kPairVecs];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kPairVecs; ++v) sums[r][v].sum = zero();
  }
  for (int64_t d = 0; d < kv.head_dim;) {
    for (const int64_t end = d + kChainLength; d < end; d += 2) {
      __m512i keys[kPairVecs];
      for (int v = 0; v < kPairVecs; ++v) {
        const std::byte* at = places.keys[v] + d * stride;
        keys[v] = interleaved(sixteen(at), sixteen(at + stride));
        _mm_prefetch(places.values[v] + d * kPairGroup * 2, _MM_HINT_T0);
      }
      for (int r = 0; r < R; ++r) {
        const __m512i x = pair_at(q + r * state.dim + d);
        for (int v = 0; v < kPairVecs; ++v) sums[r][v].step(keys[v], x);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kPairVecs; ++v) sums[r][v].close();
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kPairVecs; ++v) {
      store(state.scores + (row + r) * kChunk + v * kLanes, sums[r][v].sum);
    }
  }
}

/// V vectors of the R rows' sums += weights times values.
template <int R, int V>
void add_pairs(const TileState& state, const KvView& kv, const Places& places, int64_t row,
               int64_t column, int64_t count, const Places* next) {
  const int64_t dim = kv.head_dim;
  const uint16_t* weights = halves(state.weights) + row * kChunk;
  float* out = state.segment.values + row * dim + column;
  PairChain sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v].sum = load(out + r * dim + v * kLanes);
  }
  for (int64_t p = 0; p < count;) {
    for (const int64_t end = p + kChainLength; p < end && p < count; p += 2) {
      if (next != nullptr) prefetch_keys(kv, *next, p);
      const std::byte* at = places.values[p / kPairGroup] + (p % kPairGroup * dim + column) * 2;
      for (int v = 0; v < V; ++v, at += kLanes * 2) {
        const __m256i second = p + 1 < count ? sixteen(at + dim * 2) : _mm256_setzero_si256();
        const __m512i values = interleaved(sixteen(at), second);
        for (int r = 0; r < R; ++r) sums[r][v].step(values, pair_at(weights + r * kChunk + p));
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sums[r][v].close();
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(out + r * dim + v * kLanes, sums[r][v].sum);
  }
}

template <int R>
void add_pair_columns(const TileState& state, const KvView& kv, const Places& places, int64_t row,
                      int64_t count, const Places* next) {
  constexpr int kVecs = R == 1 ? 2 * kPairVecs : kPairVecs;
  int64_t column = 0;
  for (; column + kVecs * kLanes <= kv.head_dim; column += kVecs * kLanes) {
    add_pairs<R, kVecs>(state, kv, places, row, column, count, next);
    next = nullptr;
  }
  for (; column < kv.head_dim; column += 2 * kLanes) {
    add_pairs<R, 2>(state, kv, places, row, column, count, next);
    next = nullptr;
  }
}

void direct_pair_chunk(const AttentionTile& tile, const TileState& state, const Places& places,
                       int64_t first, int64_t count, const Places* next) {
  {
    const FlushDenormals flush;
    int64_t r = 0;
    for (; r + kChainRows <= state.rows; r += kChainRows) {
      score_pairs<kChainRows>(state, tile.kv, places, r);
    }
    for (; r < state.rows; ++r) score_pairs<1>(state, tile.kv, places, r);
  }
  for (int64_t r = 0; r < state.rows; ++r) weigh_pairs(tile, state, r, first);
  const FlushDenormals flush;
  int64_t r = 0;
  for (; r + kChainRows <= state.rows; r += kChainRows) {
    add_pair_columns<kChainRows>(state, tile.kv, places, r, count, r == 0 ? next : nullptr);
  }
  for (; r < state.rows; ++r) {
    add_pair_columns<1>(state, tile.kv, places, r, count, r == 0 ? next : nullptr);
  }
}

// --- many rows: from a copy

/// The chunk's keys as [dim / 2][kChunk][2]; its values are asked for meanwhile.
void fetch_keys(const TileState& state, const KvView& kv, const Places& places) {
  const int64_t stride = kv.block_size * 2;
  for (int g = 0; g < kGroups; ++g) {
    uint16_t* out = halves(state.keys) + g * 2 * kPairGroup;
    for (int64_t d = 0; d < kv.head_dim; d += 2, out += 2 * kChunk) {
      const std::byte* row = places.keys[g] + d * stride;
      _mm512_storeu_si512(out, interleaved(sixteen(row), sixteen(row + stride)));
      _mm_prefetch(places.values[g] + d * kPairGroup * 2, _MM_HINT_T0);
    }
  }
}

/// The chunk's values as [kChunk / 2][dim][2], zeros from `count` on. `next`: where the next chunk
/// lies, whose keys are asked for meanwhile, or null.
void fetch_values(const TileState& state, const KvView& kv, const Places& places, int64_t count,
                  const Places* next) {
  const int64_t dim = kv.head_dim;
  uint16_t* out = halves(state.values);
  for (int64_t p = 0; p < kChunk; p += 2) {
    if (next != nullptr) prefetch_keys(kv, *next, p);
    const std::byte* row = places.values[p / kPairGroup] + p % kPairGroup * dim * 2;
    for (int64_t d = 0; d < dim; d += kPairGroup, row += kPairGroup * 2, out += 2 * kPairGroup) {
      const __m256i zeros = _mm256_setzero_si256();
      const __m256i a = p < count ? sixteen(row) : zeros;
      const __m256i b = p + 1 < count ? sixteen(row + dim * 2) : zeros;
      _mm512_storeu_si512(out, interleaved(a, b));
    }
  }
}

void fetched_pair_chunk(const AttentionTile& tile, const TileState& state, const Places& places,
                        int64_t first, int64_t count, const Places* next) {
  const int64_t dim = tile.kv.head_dim;
  fetch_keys(state, tile.kv, places);
  fetch_values(state, tile.kv, places, count, next);
  for (int64_t r = 0; r < state.rows; r += kPairRows) {
    const int64_t rows = state.rows - r < kPairRows ? state.rows - r : kPairRows;
    const Seen seen = seen_by(tile, r, r + rows, first);
    if (seen.nothing()) continue;
    const int64_t end = seen.high < count ? seen.high : count;
    float* scores = state.scores + r * kChunk;
    multiply_pairs({halves(state.queries) + r * dim, dim, halves(state.keys), 2 * kChunk, dim,
                    scores, kChunk, true},
                   rows, (end + kPairGroup - 1) / kPairGroup * kPairGroup);
    for (int64_t i = r; i < r + rows; ++i) weigh_pairs(tile, state, i, first);
    multiply_pairs({halves(state.weights) + r * kChunk, kChunk, halves(state.values), 2 * dim,
                    (end + kPairDepth - 1) / kPairDepth * kPairDepth,
                    state.segment.values + r * dim, dim, false},
                   rows, dim);
  }
}

/// Adds chunks [first, end) to state.segment.
void pair_chunks(const AttentionTile& tile, const TileState& state, int64_t first, int64_t end) {
  Places here;
  Places next;
  find<KvType::kBF16>(tile, first, end, here);
  const bool direct = state.rows <= kDirectPairRows;
#if defined(MOESAIC_TILE_ATTENTION)
  if (!direct) TILE_CONFIGURE(&kTileConfig);
#endif
  for (; first < end; first += kChunk) {
    const bool last = end - first <= kChunk;
    const int64_t count = last ? end - first : kChunk;
    if (!last) find<KvType::kBF16>(tile, first + kChunk, end, next);
    const auto chunk = direct ? direct_pair_chunk : fetched_pair_chunk;
    chunk(tile, state, here, first, count, last ? nullptr : &next);
    here = next;
  }
#if defined(MOESAIC_TILE_ATTENTION)
  if (!direct) TILE_RELEASE();
#endif
}

}  // namespace
}  // namespace moesaic::backend::cpu

#endif  // __AVX512BF16__
