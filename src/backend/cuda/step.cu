#include "backend/cuda/step.h"

#include <type_traits>

#include "backend/cuda/device.cuh"
#include "backend/cuda/launch.h"

namespace moesaic::backend::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kMostHeadDim = 256;

/// Sum over a block's threads, for all of them; the order depends on the number of threads only.
__device__ float block_sum(float x) {
  __shared__ float sums[kMostThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  x = warp_sum(x);
  __syncthreads();  // the sums of a call before
  if (lane == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(lane < warps ? sums[lane] : 0.0f);
}

__global__ void embed_kernel(const __nv_bfloat16* table, int width, const int32_t* ids,
                             const int32_t* previous, const int32_t* count, float* residual,
                             int32_t* resolved) {
  begin_dependent();
  const auto row = static_cast<int>(blockIdx.x);
  if (row >= *count) return;
  int id = ids[row];
  if (id < 0) id = previous[-1 - id];
  if (resolved != nullptr && threadIdx.x == 0) resolved[row] = id;
  const auto* from = reinterpret_cast<const uint4*>(table + static_cast<int64_t>(id) * width);
  auto* to = reinterpret_cast<float4*>(residual + static_cast<int64_t>(row) * width);
  for (int i = static_cast<int>(threadIdx.x); i < width / 8; i += static_cast<int>(blockDim.x)) {
    const uint4 x = from[i];
    to[2 * i] = make_float4(low_bf16(x.x), high_bf16(x.x), low_bf16(x.y), high_bf16(x.y));
    to[2 * i + 1] = make_float4(low_bf16(x.z), high_bf16(x.z), low_bf16(x.w), high_bf16(x.w));
  }
}

/// One block a row; a thread keeps kQuads groups of four values between the two passes.
template <int kQuads>
__global__ __launch_bounds__(kMostThreads) void norm_kernel(
    float* residual, const __nv_bfloat16* delta, const float* weight, float eps, int width,
    const int32_t* wanted, const int32_t* count, __nv_bfloat16* out) {
  begin_dependent();
  const auto row = static_cast<int>(blockIdx.x);
  if (row >= *count) return;
  const int64_t source = wanted != nullptr ? wanted[row] : row;
  auto* x = reinterpret_cast<float4*>(residual + source * width);
  const int quads = width / 4;
  float4 held[kQuads];
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kQuads; ++k) {
    const int i = static_cast<int>(threadIdx.x) + k * static_cast<int>(blockDim.x);
    if (i >= quads) continue;
    float4 v = x[i];
    if (delta != nullptr) {
      const uint2 d = reinterpret_cast<const uint2*>(delta + source * width)[i];
      v.x += low_bf16(d.x);
      v.y += high_bf16(d.x);
      v.z += low_bf16(d.y);
      v.w += high_bf16(d.y);
      if (wanted == nullptr) x[i] = v;
    }
    held[k] = v;
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(width) + eps);
#pragma unroll
  for (int k = 0; k < kQuads; ++k) {
    const int i = static_cast<int>(threadIdx.x) + k * static_cast<int>(blockDim.x);
    if (i >= quads) continue;
    const float4 w = reinterpret_cast<const float4*>(weight)[i];
    const float4 v = held[k];
    reinterpret_cast<uint2*>(out + static_cast<int64_t>(row) * width)[i] =
        make_uint2(pack_bf16(v.x * scale * w.x, v.y * scale * w.y),
                   pack_bf16(v.z * scale * w.z, v.w * scale * w.w));
  }
}

void start_norm(float* residual, const __nv_bfloat16* delta, const float* weight, float eps,
                int width, const int32_t* wanted, RowCount rows, __nv_bfloat16* out,
                cudaStream_t stream) {
  MOESAIC_ASSERT(width % 8 == 0 && width <= 4 * 4 * kMostThreads);
  if (rows.most == 0) return;
  const int quads = width / 4;
  const int threads = quads >= kMostThreads ? kMostThreads : (quads + 31) / 32 * 32;
  const dim3 grid(static_cast<unsigned>(rows.most));
  const dim3 block(static_cast<unsigned>(threads));
  const auto start = [&](auto quads_a_thread) {
    launch<norm_kernel<quads_a_thread()>>(grid, block, 0, stream, residual, delta, weight, eps,
                                          width, wanted, rows.count, out);
  };
  if (quads <= kMostThreads) return start(std::integral_constant<int, 1>());
  if (quads <= 2 * kMostThreads) return start(std::integral_constant<int, 2>());
  start(std::integral_constant<int, 4>());
}

struct QkvParams {
  QkvInputs inputs;
  const int32_t* count;
  __nv_bfloat16* qkv;
  uint8_t* cache;
  int heads, kv_heads, head_dim, padded_dim, block_shift, rotary_dim;
  QkNormKind norm;
  bool fp8;
  float eps, clip, k_scale, v_scale;  // what a key and a value are multiplied by for the cache
};

/// Where row `slot` of a KV head's keys (0) or values (1) begins.
__device__ uint8_t* cache_row(const QkvParams& p, int64_t slot, int head, int value) {
  const int64_t block = slot >> p.block_shift;
  const int64_t offset = slot & ((int64_t{1} << p.block_shift) - 1);
  const int64_t row = (((block * p.kv_heads + head) * 2 + value) << p.block_shift) + offset;
  return p.cache + row * p.padded_dim * (p.fp8 ? 1 : 2);
}

/// One head of one row by one warp; `mean_square` is that of all heads where the norm is over them.
/// `values` is the warp's own shared memory.
__device__ void transform_head(const QkvParams& p, int row, int head, float mean_square,
                               float* values) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int dim = p.head_dim;
  const bool is_query = head < p.heads;
  const bool is_value = head >= p.heads + p.kv_heads;
  __nv_bfloat16* source =
      p.qkv + (static_cast<int64_t>(row) * (p.heads + 2 * p.kv_heads) + head) * dim;
  float x[8];
  const int first = lane * 8;
  const bool present = first < dim;
  const uint4 raw = present ? *reinterpret_cast<const uint4*>(source + first) : uint4{};
  const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = i % 2 == 0 ? low_bf16(pairs[i / 2]) : high_bf16(pairs[i / 2]);

  if (!is_value && p.norm != QkNormKind::kNone) {
    if (p.norm == QkNormKind::kPerHead) {
      float squares = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) squares += x[i] * x[i];
      mean_square = warp_sum(squares) / static_cast<float>(dim);
    }
    const float scale = 1.0f / sqrtf(mean_square + p.eps);
    const float* weight = is_query ? p.inputs.q_norm : p.inputs.k_norm;
    if (p.norm == QkNormKind::kFull) weight += (is_query ? head : head - p.heads) * dim;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (present) x[i] = x[i] * scale * weight[first + i];
    }
  }
  if (p.clip > 0) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = fminf(fmaxf(x[i], -p.clip), p.clip);
  }
  if (!is_value && p.rotary_dim > 0) {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[first + i] = x[i];
    __syncwarp();
    const int half = p.rotary_dim / 2;
    const int64_t angles =
        static_cast<int64_t>(p.inputs.angle_rows != nullptr ? p.inputs.angle_rows[row] : row) *
        half;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int d = first + i;
      if (d >= p.rotary_dim) continue;
      const int pair = d < half ? d : d - half;
      const float cosine = p.inputs.cos[angles + pair];
      const float sine = p.inputs.sin[angles + pair];
      x[i] = d < half ? x[i] * cosine - values[d + half] * sine
                      : x[i] * cosine + values[d - half] * sine;
    }
    __syncwarp();  // before the warp's next head
  }
  if (is_query) {
    if (!present) return;
    *reinterpret_cast<uint4*>(source + first) = make_uint4(
        pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    return;
  }
  const int64_t slot = p.inputs.slots[row];
  if (slot < 0 || first >= p.padded_dim) return;
  const int kv_head = (head - p.heads) % p.kv_heads;
  uint8_t* to = cache_row(p, slot, kv_head, is_value ? 1 : 0);
  if (p.fp8) {
    const float scale = is_value ? p.v_scale : p.k_scale;
    uint32_t words[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      words[i] = static_cast<uint32_t>(pack_e4m3(x[4 * i] * scale, x[4 * i + 1] * scale)) |
                 static_cast<uint32_t>(pack_e4m3(x[4 * i + 2] * scale, x[4 * i + 3] * scale)) << 16;
    }
    *reinterpret_cast<uint2*>(to + first) = make_uint2(words[0], words[1]);
  } else {
    *reinterpret_cast<uint4*>(to + 2 * first) = make_uint4(
        pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
  }
}

constexpr int kHeadsPerBlock = 4;

/// A warp a head, four heads a block.
__global__ __launch_bounds__(32 * kHeadsPerBlock) void qkv_kernel(const QkvParams p) {
  __shared__ float values[kHeadsPerBlock][kMostHeadDim];
  begin_dependent();
  const auto row = static_cast<int>(blockIdx.x);
  if (row >= *p.count) return;
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int head = static_cast<int>(blockIdx.y) * kHeadsPerBlock + warp;
  if (head < p.heads + 2 * p.kv_heads) transform_head(p, row, head, 0, values[warp]);
}

constexpr int kRowWarps = 16;

/// Mean square over `width` values, for all threads of the block.
__device__ float mean_square(const __nv_bfloat16* x, int width) {
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width / 2; i += 32 * kRowWarps) {
    const uint32_t pair = reinterpret_cast<const uint32_t*>(x)[i];
    squares += low_bf16(pair) * low_bf16(pair) + high_bf16(pair) * high_bf16(pair);
  }
  return block_sum(squares) / static_cast<float>(width);
}

/// A block a row, for the norm over all heads.
__global__ __launch_bounds__(32 * kRowWarps) void qkv_full_norm_kernel(const QkvParams p) {
  __shared__ float values[kRowWarps][kMostHeadDim];
  begin_dependent();
  const auto row = static_cast<int>(blockIdx.x);
  if (row >= *p.count) return;
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int all = p.heads + 2 * p.kv_heads;
  const __nv_bfloat16* source = p.qkv + static_cast<int64_t>(row) * all * p.head_dim;
  const float q_square = mean_square(source, p.heads * p.head_dim);
  const float k_square = mean_square(source + p.heads * p.head_dim, p.kv_heads * p.head_dim);
  __syncthreads();  // all of the row has been read before any of it changes
  for (int head = warp; head < all; head += kRowWarps) {
    transform_head(p, row, head, head < p.heads ? q_square : k_square, values[warp]);
  }
}

}  // namespace

void embed(const __nv_bfloat16* table, int width, const int32_t* ids, const int32_t* previous,
           RowCount rows, float* residual, int32_t* resolved, cudaStream_t stream) {
  MOESAIC_ASSERT(width % 8 == 0);
  if (rows.most == 0) return;
  launch<embed_kernel>(dim3(static_cast<unsigned>(rows.most)), dim3(256), 0, stream, table, width,
                       ids, previous, rows.count, residual, resolved);
}

void add_rms_norm(float* residual, const __nv_bfloat16* delta, const float* weight, float eps,
                  int width, RowCount rows, __nv_bfloat16* out, cudaStream_t stream) {
  start_norm(residual, delta, weight, eps, width, nullptr, rows, out, stream);
}

void gather_rms_norm(const float* residual, const __nv_bfloat16* delta, const float* weight,
                     float eps, int width, const int32_t* wanted, RowCount rows, __nv_bfloat16* out,
                     cudaStream_t stream) {
  // Not written, since `wanted` is given.
  start_norm(const_cast<float*>(residual), delta, weight, eps, width, wanted, rows, out, stream);
}

void qkv_rope_append(const QkvShape& shape, const QkvInputs& inputs, RowCount rows,
                     __nv_bfloat16* qkv, void* cache, cudaStream_t stream) {
  const AttentionShape& a = shape.attention;
  MOESAIC_ASSERT(a.head_dim % 8 == 0 && padded_head_dim(a.head_dim) != 0);
  MOESAIC_ASSERT(shape.rotary_dim % 2 == 0 && shape.rotary_dim <= a.head_dim);
  if (rows.most == 0) return;
  QkvParams p{};
  p.inputs = inputs;
  p.count = rows.count;
  p.qkv = qkv;
  p.cache = static_cast<uint8_t*>(cache);
  p.heads = a.heads;
  p.kv_heads = a.kv_heads;
  p.head_dim = a.head_dim;
  p.padded_dim = padded_head_dim(a.head_dim);
  while ((1 << p.block_shift) < a.block_size) ++p.block_shift;
  p.rotary_dim = shape.rotary_dim;
  p.norm = shape.norm;
  p.fp8 = a.kv == KvType::kE4M3;
  p.eps = shape.eps;
  p.clip = shape.clip;
  p.k_scale = 1.0f / a.k_scale;
  p.v_scale = 1.0f / a.v_scale;
  const auto blocks = static_cast<unsigned>(rows.most);
  if (shape.norm == QkNormKind::kFull) {
    launch<qkv_full_norm_kernel>(dim3(blocks), dim3(32 * kRowWarps), 0, stream, p);
    return;
  }
  const int heads = a.heads + 2 * a.kv_heads;
  const auto groups = static_cast<unsigned>((heads + kHeadsPerBlock - 1) / kHeadsPerBlock);
  launch<qkv_kernel>(dim3(blocks, groups), dim3(32 * kHeadsPerBlock), 0, stream, p);
}

}  // namespace moesaic::backend::cuda
