// Norms and rope with KV append; with attention_inl.h one source for every instruction set. A file
// misc_<isa>.cpp names the table and includes this.

#include "backend/cpu/attention_inl.h"
#include "backend/cpu/kernels_misc.h"
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

void norm(const float* x, const float* weight, float eps, int64_t width, float* out) {
  const float scale = 1.0f / root(squares_of(x, width) / static_cast<float>(width) + eps);
  for (int64_t i = 0; i < width; ++i) out[i] = x[i] * scale * weight[i];
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

const MiscTable MOESAIC_MISC_TABLE = {norm,           add_norm,          qkv_row,
                                      attention_tile, attention_segment, attention_merge};

}  // namespace moesaic::backend::cpu
