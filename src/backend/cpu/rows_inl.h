// Norms and rope with KV append, one source for every instruction set: a file rows_<isa>.cpp names
// the table and includes this.

#include "backend/cpu/kernels_rows.h"
#include "backend/cpu/kv_inl.h"
#include "backend/cpu/vec_inl.h"

namespace moesaic::backend::cpu {
namespace {

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

void scale_row(const float* x, const float* weight, float mean_square, float eps, int64_t width,
               float* out) {
  const float scale = 1.0f / root(mean_square + eps);
  for (int64_t i = 0; i < width; ++i) out[i] = x[i] * scale * weight[i];
}

void norm(const float* x, const float* weight, float eps, int64_t width, float* out) {
  scale_row(x, weight, squares_of(x, width) / static_cast<float>(width), eps, width, out);
}

void add_norm(float* residual, const float* delta, const float* weight, float eps, int64_t width,
              float* out) {
  for (int64_t i = 0; i < width; ++i) residual[i] += delta[i];
  norm(residual, weight, eps, width, out);
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

/// `squares` is the sum of squares over the `all_heads` heads of all ranks; null: x's own.
void normalise_heads(const QkvRow& row, float* x, int64_t heads, const float* weight,
                     const float* squares, int64_t all_heads) {
  if (weight == nullptr) return;
  if (!row.norm_per_head) {
    const int64_t width = heads * row.head_dim;
    if (squares == nullptr) {
      norm(x, weight, row.eps, width, x);
    } else {
      scale_row(x, weight, *squares / static_cast<float>(all_heads * row.head_dim), row.eps, width,
                x);
    }
    return;
  }
  for (int64_t h = 0; h < heads; ++h) {
    norm(x + h * row.head_dim, weight, row.eps, row.head_dim, x + h * row.head_dim);
  }
}

template <KvType T>
void append(const KvView& kv, int64_t block, int64_t offset, const float* k, const float* v) {
  const int64_t dim = kv.head_dim;
  const int64_t stride = kv.block_size * kBytes<T>;
  std::byte rounded[kMaxHeadDim * kBytes<T>];  // side by side, which the compiler does in vectors
  for (int64_t h = 0; h < kv.kv_heads; ++h) {
    std::byte* key = kv.data + key_index(kv, block, h, offset) * kBytes<T>;
    std::byte* value = kv.data + value_index(kv, block, h, offset) * kBytes<T>;
    for (int64_t d = 0; d < dim; ++d) put<T>(rounded + d * kBytes<T>, k[h * dim + d]);
    for (int64_t d = 0; d < dim; ++d) {
      std::memcpy(key + d * stride, rounded + d * kBytes<T>, kBytes<T>);
    }
    for (int64_t d = 0; d < dim; ++d) put<T>(value + d * kBytes<T>, v[h * dim + d]);
  }
}

void qkv_row(const QkvRow& row) {
  const int64_t dim = row.head_dim;
  float* k = row.q + row.heads * dim;
  float* v = k + row.kv_heads * dim;
  const float* k_squares = row.squares == nullptr ? nullptr : row.squares + 1;
  normalise_heads(row, row.q, row.heads, row.q_norm, row.squares, row.all_heads);
  normalise_heads(row, k, row.kv_heads, row.k_norm, k_squares, row.all_kv_heads);
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
  switch (row.kv.type) {
    case KvType::kF32:
      append<KvType::kF32>(row.kv, block, offset, k, v);
      break;
    case KvType::kBF16:
      append<KvType::kBF16>(row.kv, block, offset, k, v);
      break;
    case KvType::kF16:
      append<KvType::kF16>(row.kv, block, offset, k, v);
      break;
  }
}

}  // namespace

const RowTable MOESAIC_ROW_TABLE = {norm, add_norm, qkv_row};

}  // namespace moesaic::backend::cpu
