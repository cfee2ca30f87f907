// Norms, rope with KV append, and attention: one source for every instruction set. A file
// misc_<isa>.cpp names the table and includes this.

#include <cstring>

#include "backend/cpu/kernels_misc.h"
#include "backend/cpu/vec_inl.h"

namespace moesaic::backend::cpu {
namespace {

constexpr float kMasked = -1e30f;  ///< below every score, and finite: max - max stays a number

MOESAIC_INLINE float sum_of(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

MOESAIC_INLINE float max_of(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  float best = lanes[0];
  for (int i = 1; i < kLanes; ++i) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

MOESAIC_INLINE float root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

/// Sum of squares with four chains and one fixed order.
MOESAIC_INLINE float squares_of(const float* x, int64_t width) {
  Vec sums[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    for (int c = 0; c < 4; ++c) {
      const Vec v = load(x + i + c * kLanes);
      sums[c] = fma(v, v, sums[c]);
    }
  }
  float tail = 0;
  for (; i < width; ++i) tail += x[i] * x[i];
  return sum_of(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) + tail;
}

void norm(const float* x, const float* weight, float eps, int64_t width, float* out) {
  const float scale = 1.0f / root(squares_of(x, width) / static_cast<float>(width) + eps);
  for (int64_t i = 0; i < width; ++i) out[i] = x[i] * scale * weight[i];
}

void add_norm(float* residual, const float* delta, const float* weight, float eps, int64_t width,
              float* out) {
  for (int64_t i = 0; i < width; ++i) residual[i] += delta[i];
  norm(residual, weight, eps, width, out);
}

// --- KV elements

MOESAIC_INLINE uint16_t bf16_bits(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// IEEE half, rounded to nearest even.
MOESAIC_INLINE uint16_t f16_bits(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    float shifted = 0;
    std::memcpy(&shifted, &magnitude, sizeof(shifted));
    shifted += 0.5f;
    uint32_t low = 0;
    std::memcpy(&low, &shifted, sizeof(low));
    return static_cast<uint16_t>(sign | (low - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

MOESAIC_INLINE void put(KvType type, std::byte* data, int64_t index, float value) {
  if (type == KvType::kF32) {
    std::memcpy(data + index * 4, &value, 4);
    return;
  }
  const uint16_t bits = type == KvType::kBF16 ? bf16_bits(value) : f16_bits(value);
  std::memcpy(data + index * 2, &bits, 2);
}

/// dst[i] = element first + i, for i < count.
MOESAIC_INLINE void get(KvType type, const std::byte* data, int64_t first, int64_t count,
                        float* dst) {
  if (type == KvType::kF32) {
    std::memcpy(dst, data + first * 4, static_cast<size_t>(count) * 4);
    return;
  }
  const auto* src = reinterpret_cast<const uint16_t*>(data) + first;
  if (type == KvType::kBF16) {
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t bits = static_cast<uint32_t>(src[i]) << 16;
      std::memcpy(dst + i, &bits, 4);
    }
    return;
  }
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(dst + i, load_f16(src + i));
  if (i < count) {
    uint16_t rest[kLanes] = {};
    float lanes[kLanes];
    std::memcpy(rest, src + i, static_cast<size_t>(count - i) * 2);
    store(lanes, load_f16(rest));
    std::memcpy(dst + i, lanes, static_cast<size_t>(count - i) * 4);
  }
}

/// Index of K's element (dim 0, position `offset`) of a head in a block; dims lie block_size apart.
MOESAIC_INLINE int64_t key_index(const KvView& kv, int64_t block, int64_t head, int64_t offset) {
  return (block * 2 * kv.kv_heads + head) * kv.head_dim * kv.block_size + offset;
}
/// Index of V's element (position `offset`, dim 0) of a head in a block; dims lie side by side.
MOESAIC_INLINE int64_t value_index(const KvView& kv, int64_t block, int64_t head, int64_t offset) {
  return ((block * 2 + 1) * kv.kv_heads + head) * kv.head_dim * kv.block_size +
         offset * kv.head_dim;
}

// --- QK-norm, rope, append

void rotate(float* head, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[i + half];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half] = b * cos[i] + a * sin[i];
  }
}

void normalise_heads(const QkvRow& row, float* x, int64_t heads, const float* weight) {
  if (weight == nullptr) return;
  if (!row.norm_per_head) {
    norm(x, weight, row.eps, heads * row.head_dim, x);
    return;
  }
  for (int64_t h = 0; h < heads; ++h) {
    norm(x + h * row.head_dim, weight, row.eps, row.head_dim, x + h * row.head_dim);
  }
}

void qkv_row(const QkvRow& row) {
  const int64_t dim = row.head_dim;
  float* k = row.q + row.heads * dim;
  float* v = k + row.kv_heads * dim;
  normalise_heads(row, row.q, row.heads, row.q_norm);
  normalise_heads(row, k, row.kv_heads, row.k_norm);
  if (row.clip > 0) {
    for (float* p = row.q; p < v + row.kv_heads * dim; ++p) {
      *p = *p > row.clip ? row.clip : *p < -row.clip ? -row.clip : *p;
    }
  }
  for (float* head = row.q; head < v; head += dim) {
    rotate(head, row.cos, row.sin, row.rotary_dim / 2);
  }
  const int64_t block = row.slot / row.kv.block_size;
  const int64_t offset = row.slot % row.kv.block_size;
  for (int64_t h = 0; h < row.kv_heads; ++h) {
    const int64_t key = key_index(row.kv, block, h, offset);
    const int64_t value = value_index(row.kv, block, h, offset);
    for (int64_t d = 0; d < dim; ++d) {
      put(row.kv.type, row.kv.data, key + d * row.kv.block_size, k[h * dim + d]);
    }
    for (int64_t d = 0; d < dim; ++d) put(row.kv.type, row.kv.data, value + d, v[h * dim + d]);
  }
}

// --- attention

constexpr int kColumnVecs = kLanes == 16 ? 4 : 2;  ///< what fits the registers beside six rows
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

/// c[rows][columns] += a[rows][depth] b[depth][columns]; columns is a multiple of kLanes.
void multiply_add(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows,
                  int64_t depth, int64_t columns, float* c, int64_t c_stride) {
  int64_t r = 0;
  for (; r + kRegisterRows <= rows; r += kRegisterRows) {
    multiply_rows<kRegisterRows>(a + r * a_stride, a_stride, b, b_stride, depth, columns,
                                 c + r * c_stride, c_stride);
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

/// A tile's working memory, cut from its scratch.
struct TileState {
  int64_t rows;    ///< tokens * heads
  int64_t dim;     ///< head_dim up to a multiple of 16; the rest is zero
  float* keys;     ///< [head_dim][kChunk]
  float* values;   ///< [kChunk][dim]
  float* queries;  ///< [rows][dim], scaled
  float* sums;     ///< [rows][dim], the weighted values so far
  float* scores;   ///< [rows][kChunk]
  float* best;     ///< [rows] largest score so far
  float* total;    ///< [rows] sum of weights so far
};

TileState set_up(const AttentionTile& tile) {
  TileState state{};
  const int64_t dim = tile.kv.head_dim;
  state.rows = tile.tokens * tile.heads;
  state.dim = (dim + 15) / 16 * 16;
  state.keys = tile.scratch;
  state.values = state.keys + kChunk * kMaxHeadDim;
  state.queries = state.values + kChunk * kMaxHeadDim;
  state.sums = state.queries + kTileRows * kMaxHeadDim;
  state.scores = state.sums + kTileRows * kMaxHeadDim;
  state.best = state.scores + kTileRows * kChunk;
  state.total = state.best + kTileRows;
  std::memset(state.sums, 0, static_cast<size_t>(state.rows * state.dim) * sizeof(float));
  for (int64_t r = 0; r < state.rows; ++r) {
    const float* q = tile.q + r / tile.heads * tile.q_stride + r % tile.heads * dim;
    float* out = state.queries + r * state.dim;
    for (int64_t d = 0; d < dim; ++d) out[d] = q[d] * tile.scale;
    state.best[r] = kMasked;
    state.total[r] = 0;
  }
  return state;
}

/// Brings the keys and values of positions [first, first + kChunk) as floats into the scratch;
/// those from `end` on are zeros.
void fetch_chunk(const AttentionTile& tile, const TileState& state, int64_t first, int64_t end) {
  const KvView& kv = tile.kv;
  const int64_t dim = kv.head_dim;
  const int64_t here = end - first < kChunk ? end - first : kChunk;
  if (here < kChunk) {
    std::memset(state.keys, 0, static_cast<size_t>(dim * kChunk) * sizeof(float));
    std::memset(state.values + here * state.dim, 0,
                static_cast<size_t>((kChunk - here) * state.dim) * sizeof(float));
  }
  for (int64_t done = 0; done < here;) {
    const int64_t position = first + done;
    const int64_t block = tile.blocks[position / kv.block_size];
    const int64_t offset = position % kv.block_size;
    const int64_t room = kv.block_size - offset;
    const int64_t count = here - done < room ? here - done : room;
    const int64_t key = key_index(kv, block, tile.kv_head, offset);
    for (int64_t d = 0; d < dim; ++d) {
      get(kv.type, kv.data, key + d * kv.block_size, count, state.keys + d * kChunk + done);
    }
    const int64_t value = value_index(kv, block, tile.kv_head, offset);
    for (int64_t p = 0; p < count; ++p) {
      float* row = state.values + (done + p) * state.dim;
      get(kv.type, kv.data, value + p * dim, dim, row);
      for (int64_t d = dim; d < state.dim; ++d) row[d] = 0;
    }
    done += count;
  }
}

/// Turns a row's scores into weights under the running maximum and brings its sums under it too. A
/// chunk with nothing visible changes no bit: the maximum stays, e^0 is exactly 1 and all weights
/// 0.
void weigh(const TileState& state, int64_t r, int64_t low, int64_t high) {
  float* scores = state.scores + r * kChunk;
  for (int64_t i = 0; i < low && i < kChunk; ++i) scores[i] = kMasked;
  for (int64_t i = high < 0 ? 0 : high; i < kChunk; ++i) scores[i] = kMasked;
  Vec largest = load(scores);
  for (int64_t i = kLanes; i < kChunk; i += kLanes) largest = vmax(largest, load(scores + i));
  const float chunk_best = max_of(largest);
  const float best = chunk_best > state.best[r] ? chunk_best : state.best[r];
  Vec total = zero();
  for (int64_t i = 0; i < kChunk; i += kLanes) {
    store(scores + i, exp_approx(sub(load(scores + i), set1(best))));
  }
  for (int64_t i = 0; i < low && i < kChunk; ++i) scores[i] = 0;
  for (int64_t i = high < 0 ? 0 : high; i < kChunk; ++i) scores[i] = 0;
  for (int64_t i = 0; i < kChunk; i += kLanes) total = add(total, load(scores + i));
  float lanes[kLanes];
  store(lanes, exp_approx(set1(state.best[r] - best)));
  const float fade = lanes[0];
  state.total[r] = state.total[r] * fade + sum_of(total);
  state.best[r] = best;
  float* sums = state.sums + r * state.dim;
  if (fade != 1.0f) {
    for (int64_t d = 0; d < state.dim; ++d) sums[d] *= fade;
  }
}

void attention_tile(const AttentionTile& tile) {
  const TileState state = set_up(tile);
  const int64_t end = tile.position + tile.tokens;
  int64_t first = tile.window > 0 && tile.position >= tile.window
                      ? (tile.position - tile.window + 1) / kChunk * kChunk
                      : 0;
  for (; first < end; first += kChunk) {
    fetch_chunk(tile, state, first, end);
    std::memset(state.scores, 0, static_cast<size_t>(state.rows * kChunk) * sizeof(float));
    multiply_add(state.queries, state.dim, state.keys, kChunk, state.rows, tile.kv.head_dim, kChunk,
                 state.scores, kChunk);
    for (int64_t r = 0; r < state.rows; ++r) {
      const int64_t position = tile.position + r / tile.heads;
      const int64_t low = tile.window > 0 ? position - tile.window + 1 - first : 0;
      weigh(state, r, low, position + 1 - first);
    }
    multiply_add(state.scores, kChunk, state.values, state.dim, state.rows, kChunk, state.dim,
                 state.sums, state.dim);
  }
  for (int64_t r = 0; r < state.rows; ++r) {
    float* out = tile.out + r / tile.heads * tile.out_stride + r % tile.heads * tile.kv.head_dim;
    const float scale = 1.0f / state.total[r];
    for (int64_t d = 0; d < tile.kv.head_dim; ++d) out[d] = state.sums[r * state.dim + d] * scale;
  }
}

}  // namespace

const MiscTable MOESAIC_MISC_TABLE = {norm, add_norm, qkv_row, attention_tile};

}  // namespace moesaic::backend::cpu
