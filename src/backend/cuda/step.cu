#include "backend/cuda/step.h"

#include <type_traits>

#include "backend/cuda/device.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/products/layout.h"

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

/// A thread per 16-byte chunk of a row (products/layout.h).
__global__ void embed_kernel(const uint8_t* tiles, int tiles_k, int width, const int32_t* ids,
                             const int32_t* previous, const int32_t* count, float* residual) {
  begin_dependent();
  const auto row = static_cast<int>(blockIdx.x);
  if (row >= *count) return;
  int id = ids[row];
  if (id < 0) id = previous[-1 - id];
  const uint8_t* first = tiles + static_cast<int64_t>(id / kTileRows) * tiles_k * kTileBytes +
                         id % kTileRows * kTileRowBytes;
  auto* to = reinterpret_cast<float4*>(residual + static_cast<int64_t>(row) * width);
  for (int i = static_cast<int>(threadIdx.x); i < width / 8; i += static_cast<int>(blockDim.x)) {
    const uint4 x = *reinterpret_cast<const uint4*>(
        first + static_cast<int64_t>(i / 8) * kTileBytes + ((i % 8) ^ (id % 8)) * kChunkBytes);
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

constexpr int kGateWarps = 8;

/// A warp a row.
__global__ __launch_bounds__(32 * kGateWarps) void gate_kernel(const __nv_bfloat16* x,
                                                               const float* gate, int width,
                                                               const int32_t* count,
                                                               float* weights) {
  begin_dependent();
  const int row = static_cast<int>(blockIdx.x) * kGateWarps + static_cast<int>(threadIdx.x) / 32;
  if (row >= *count) return;
  const auto* values = reinterpret_cast<const uint4*>(x + static_cast<int64_t>(row) * width);
  const auto* factors = reinterpret_cast<const float4*>(gate);
  float sum = 0;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % 32; i < width / 8; i += 32) {
    const uint4 v = values[i];
    const float4 low = factors[2 * i];
    const float4 high = factors[2 * i + 1];
    sum += low_bf16(v.x) * low.x + high_bf16(v.x) * low.y + low_bf16(v.y) * low.z +
           high_bf16(v.y) * low.w + low_bf16(v.z) * high.x + high_bf16(v.z) * high.y +
           low_bf16(v.w) * high.z + high_bf16(v.w) * high.w;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) weights[row] = 1.0f / (1.0f + expf(-sum));
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

/// Where dims [first, first + 8) of a KV head's key (0) or value (1) at `slot` lie.
__device__ uint8_t* cache_place(const QkvParams& p, int64_t slot, int head, int value, int first) {
  const int64_t block = slot >> p.block_shift;
  const int rows = 1 << p.block_shift;
  const auto row = static_cast<int>(slot & (rows - 1));
  const int row_bytes = p.padded_dim * (p.fp8 ? 1 : 2);
  const int at = first * (p.fp8 ? 1 : 2);
  return p.cache + ((block * p.kv_heads + head) * 2 + value) * rows * row_bytes +
         kv_chunk_offset(at / 16, row, rows, row_bytes / 16) + at % 16;
}

/// Rotates the first rotary_dim dims of a head, of which the lane has x = dims [first, first + 8).
/// `values` is shared memory of the head's lanes, a float a dim of theirs.
__device__ void rotate(const QkvParams& p, int row, int first, float (&x)[8], float* values) {
  const int half = p.rotary_dim / 2;
  const int64_t angles =
      static_cast<int64_t>(p.inputs.angle_rows != nullptr ? p.inputs.angle_rows[row] : row) * half;
  if (half % 8 == 0) {
    // A lane's pairs all lie in one other lane.
    const bool rotates = first < p.rotary_dim;
    const bool lower = first < half;
    const int pair = rotates ? (lower ? first : first - half) : 0;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int source = rotates ? (lower ? lane + half / 8 : lane - half / 8) : lane;
    const auto* cosines = reinterpret_cast<const float4*>(p.inputs.cos + angles + pair);
    const auto* sines = reinterpret_cast<const float4*>(p.inputs.sin + angles + pair);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float4 c = cosines[k];
      const float4 s = sines[k];
      const float cosine[4] = {c.x, c.y, c.z, c.w};
      const float sine[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& own = x[4 * k + i];
        const float other = __shfl_sync(kAllLanes, own, source);
        if (rotates) own = own * cosine[i] + (lower ? -other : other) * sine[i];
      }
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) values[first + i] = x[i];
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int d = first + i;
    if (d >= p.rotary_dim) continue;
    const int pair = d < half ? d : d - half;
    const float cosine = p.inputs.cos[angles + pair];
    const float sine = p.inputs.sin[angles + pair];
    x[i] = x[i] * cosine + (d < half ? -values[d + half] : values[d - half]) * sine;
  }
  __syncwarp();  // before the lanes' next head
}

/// One head of one row by kLanes lanes of a warp, eight dims a lane; all lanes of a warp call it
/// together. `all_squares` is the mean square of q and of k where the norm is over all heads.
/// `values` [kMostHeadDim] is shared memory of the warp.
template <int kLanes>
__device__ void transform_head(const QkvParams& p, int row, int head, float2 all_squares,
                               float* values) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int heads = p.heads + 2 * p.kv_heads;
  const int dim = p.head_dim;
  const bool is_query = head < p.heads;
  const bool is_value = head >= p.heads + p.kv_heads;
  __nv_bfloat16* source = p.qkv + (static_cast<int64_t>(row) * heads + min(head, heads - 1)) * dim;
  const int first = lane % kLanes * 8;
  const bool present = first < dim && head < heads;
  const uint4 raw = present ? *reinterpret_cast<const uint4*>(source + first) : uint4{};
  const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
  float x[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = i % 2 == 0 ? low_bf16(pairs[i / 2]) : high_bf16(pairs[i / 2]);

  if (p.norm != QkNormKind::kNone) {
    float mean_square = is_query ? all_squares.x : all_squares.y;
    if (p.norm == QkNormKind::kPerHead) {
      float squares = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) squares += x[i] * x[i];
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        squares += __shfl_xor_sync(kAllLanes, squares, step);
      }
      mean_square = squares / static_cast<float>(dim);
    }
    const float scale = 1.0f / sqrtf(mean_square + p.eps);
    const float* weight = is_query ? p.inputs.q_norm : p.inputs.k_norm;
    if (p.norm == QkNormKind::kFull) weight += (is_query ? head : head - p.heads) * dim;
    if (present && !is_value) {
      const auto* weights = reinterpret_cast<const float4*>(weight + first);
      const float4 low = weights[0];
      const float4 high = weights[1];
      const float w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = x[i] * scale * w[i];
    }
  }
  if (p.clip > 0) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = fminf(fmaxf(x[i], -p.clip), p.clip);
  }
  if (p.rotary_dim > 0) {
    float rotated[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) rotated[i] = x[i];
    rotate(p, row, first, rotated, values + lane / kLanes * kLanes * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = is_value ? x[i] : rotated[i];
  }
  if (head >= heads) return;
  if (is_query) {
    if (!present) return;
    *reinterpret_cast<uint4*>(source + first) = make_uint4(
        pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    return;
  }
  const int64_t slot = p.inputs.slots[row];
  if (slot < 0 || first >= p.padded_dim) return;
  const int kv_head = (head - p.heads) % p.kv_heads;
  uint8_t* to = cache_place(p, slot, kv_head, is_value ? 1 : 0, first);
  if (p.fp8) {
    const float scale = is_value ? p.v_scale : p.k_scale;
    uint32_t words[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      words[i] = static_cast<uint32_t>(pack_e4m3(x[4 * i] * scale, x[4 * i + 1] * scale)) |
                 static_cast<uint32_t>(pack_e4m3(x[4 * i + 2] * scale, x[4 * i + 3] * scale)) << 16;
    }
    *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
  } else {
    *reinterpret_cast<uint4*>(to) = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]),
                                               pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
  }
}

constexpr int kHeadWarps = 4;

/// Some heads of a row a block.
template <int kLanes>
__global__ __launch_bounds__(32 * kHeadWarps) void qkv_kernel(const QkvParams p) {
  constexpr int kHeads = 32 / kLanes;  // of a warp
  __shared__ float values[kHeadWarps][kMostHeadDim];
  begin_dependent();
  const auto row = static_cast<int>(blockIdx.x);
  if (row >= *p.count) return;
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int first = (static_cast<int>(blockIdx.y) * kHeadWarps + warp) * kHeads;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  transform_head<kLanes>(p, row, first + lane / kLanes, make_float2(0, 0), values[warp]);
}

constexpr int kRowWarps = 16;

/// Mean square over `width` values, for all threads of the block.
__device__ float mean_square(const __nv_bfloat16* x, int width) {
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width / 8; i += 32 * kRowWarps) {
    const uint4 raw = reinterpret_cast<const uint4*>(x)[i];
    for (uint32_t pair : {raw.x, raw.y, raw.z, raw.w}) {
      squares += low_bf16(pair) * low_bf16(pair) + high_bf16(pair) * high_bf16(pair);
    }
  }
  return block_sum(squares) / static_cast<float>(width);
}

/// A block a row, for the norm over all heads.
template <int kLanes>
__global__ __launch_bounds__(32 * kRowWarps) void qkv_full_norm_kernel(const QkvParams p) {
  constexpr int kHeads = 32 / kLanes;  // of a warp at a time
  __shared__ float values[kRowWarps][kMostHeadDim];
  begin_dependent();
  const auto row = static_cast<int>(blockIdx.x);
  if (row >= *p.count) return;
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int all = p.heads + 2 * p.kv_heads;
  const __nv_bfloat16* source = p.qkv + static_cast<int64_t>(row) * all * p.head_dim;
  const float2 squares =
      make_float2(mean_square(source, p.heads * p.head_dim),
                  mean_square(source + p.heads * p.head_dim, p.kv_heads * p.head_dim));
  __syncthreads();  // all of the row has been read before any of it changes
  for (int first = warp * kHeads; first < all; first += kRowWarps * kHeads) {
    transform_head<kLanes>(p, row, first + lane / kLanes, squares, values[warp]);
  }
}

/// Lanes that a head takes at eight dims a lane.
template <int kLanes>
void start_qkv(const QkvParams& p, int rows, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(rows));
  if (p.norm == QkNormKind::kFull) {
    launch<qkv_full_norm_kernel<kLanes>>(grid, dim3(32 * kRowWarps), 0, stream, p);
    return;
  }
  constexpr int kHeads = kHeadWarps * 32 / kLanes;
  const int heads = p.heads + 2 * p.kv_heads;
  launch<qkv_kernel<kLanes>>(dim3(grid.x, static_cast<unsigned>((heads + kHeads - 1) / kHeads)),
                             dim3(32 * kHeadWarps), 0, stream, p);
}

}  // namespace

void embed(const Linear& table, const int32_t* ids, const int32_t* previous, RowCount rows,
           float* residual, cudaStream_t stream) {
  MOESAIC_ASSERT(table.shape.k % 8 == 0 && table.shape.format == Format::kBF16);
  if (rows.most == 0) return;
  const PackedMatrix packed(table.shape.n, table.shape.k, table.shape.format, table.shape.scales);
  launch<embed_kernel>(dim3(static_cast<unsigned>(rows.most)), dim3(256), 0, stream,
                       reinterpret_cast<const uint8_t*>(table.packed),
                       static_cast<int>(packed.tiles_k), static_cast<int>(table.shape.k), ids,
                       previous, rows.count, residual);
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

void sigmoid_gate(const __nv_bfloat16* x, const float* gate, int width, RowCount rows,
                  float* weights, cudaStream_t stream) {
  MOESAIC_ASSERT(width % 8 == 0);
  if (rows.most == 0) return;
  const dim3 grid(static_cast<unsigned>((rows.most + kGateWarps - 1) / kGateWarps));
  launch<gate_kernel>(grid, dim3(32 * kGateWarps), 0, stream, x, gate, width, rows.count, weights);
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
  if (p.padded_dim <= 64) return start_qkv<8>(p, rows.most, stream);
  if (p.padded_dim <= 128) return start_qkv<16>(p, rows.most, stream);
  start_qkv<32>(p, rows.most, stream);
}

}  // namespace moesaic::backend::cuda
