#pragma once

// The small kernels of a step: rows in, norms, what stands between the QKV product and attention,
// rows out. Activations are bf16, the residual stream and norm weights float32. Every row's bits
// depend on that row alone. All pointers are device memory, 16-byte aligned; widths are multiples
// of 8.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/attention.h"
#include "backend/cuda/products/products.h"

namespace moesaic::backend::cuda {

/// How many rows a kernel works on: what `count` says when it runs, so that a captured graph for
/// `most` rows serves fewer.
struct RowCount {
  const int32_t* count = nullptr;
  int most = 0;
};

/// residual [rows, k] = rows `ids` of the packed table [vocab, k] of bf16. An id of -1 - j means
/// what row j of the step before chose: previous[j].
void embed(const Linear& table, const int32_t* ids, const int32_t* previous, RowCount rows,
           float* residual, cudaStream_t stream);

/// Root mean square norm (https://arxiv.org/abs/1910.07467): out = x * rsqrt(mean(x^2) + eps) *
/// weight with x = residual + delta. `delta` may be null; else the sum is also stored to residual.
/// Widths up to 16384.
void add_rms_norm(float* residual, const __nv_bfloat16* delta, const float* weight, float eps,
                  int width, RowCount rows, __nv_bfloat16* out, cudaStream_t stream);

/// The same for rows `wanted` of the residual, packed; leaves the residual alone.
void gather_rms_norm(const float* residual, const __nv_bfloat16* delta, const float* weight,
                     float eps, int width, const int32_t* wanted, RowCount rows, __nv_bfloat16* out,
                     cudaStream_t stream);

/// weights[row] = sigmoid(x[row] . gate): how much of a shared expert a row takes. x [rows, width],
/// gate [width], in float32; width is a multiple of 8.
void sigmoid_gate(const __nv_bfloat16* x, const float* gate, int width, RowCount rows,
                  float* weights, cudaStream_t stream);

enum class QkNormKind : uint8_t {
  kNone,
  kPerHead,  ///< over each head's dims; weights [head_dim]
  kFull,     ///< over all heads of a row; weights [heads * head_dim], [kv_heads * head_dim]
};

struct QkvShape {
  AttentionShape attention;
  int rotary_dim = 0;  ///< first dims of each head that rotate; dim i pairs with i + rotary_dim / 2
  QkNormKind norm = QkNormKind::kNone;
  float eps = 1e-6f;
  float clip = 0;  ///< clamps q, k and v to +-clip after the norm; 0 = off
};

struct QkvInputs {
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  /// [positions or rows, rotary_dim / 2]; row r uses entry angle_rows[r], or r where that is null.
  const float* cos = nullptr;
  const float* sin = nullptr;
  const int32_t* angle_rows = nullptr;
  const int64_t* slots = nullptr;  ///< [rows] block * block_size + offset; negative: not appended
};

/// From qkv [rows, (heads + 2 kv_heads) * head_dim]: norm, clip and rotation of q in place; norm,
/// clip and rotation of k and clip of v into the cache. Arithmetic is float32 and rounds once, to
/// bf16 or e4m3.
void qkv_rope_append(const QkvShape& shape, const QkvInputs& inputs, RowCount rows,
                     __nv_bfloat16* qkv, void* cache, cudaStream_t stream);

}  // namespace moesaic::backend::cuda
