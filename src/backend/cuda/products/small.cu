#include "backend/cuda/products/small.cuh"

#include "backend/cuda/products/launch.cuh"

namespace moesaic::backend::cuda {
namespace {

__device__ __forceinline__ float4 load4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ float4 load4(const __nv_bfloat16* p) {
  const uint2 v = *reinterpret_cast<const uint2*>(p);
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
          __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u)};
}

__device__ __forceinline__ void store(const SmallArgs& a, int row, int channel, float value) {
  float* y = a.y + row * a.y_stride + channel;
  if (a.store == Store::kAddF32) {
    add_to(y, value);
  } else {
    *y = value;
  }
}

template <class X>
__device__ __forceinline__ const X* x_row(const SmallArgs& a, int row) {
  if (a.index != nullptr) row = a.index[row];
  return reinterpret_cast<const X*>(a.x + row * a.x_stride);
}

__device__ __forceinline__ int small_rows(const SmallArgs& a) {
  return a.count == nullptr ? a.rows : min(a.rows, *a.count);
}

}  // namespace

template <class X, int kRows>
__global__ void __launch_bounds__(256) small_few_kernel(const __grid_constant__ SmallArgs a) {
  extern __shared__ float parts[];  // [segment][output][row]
  release_successor();
  const int output = threadIdx.x % kFewOutputs;
  const int channel = blockIdx.x * kFewOutputs + output;
  const int segments = (a.k + kSegment - 1) / kSegment;
  wait_for_predecessor();
  const int rows = min(small_rows(a) - static_cast<int>(blockIdx.y) * kRows, kRows);
  const X* x[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) x[r] = x_row<X>(a, blockIdx.y * kRows + (r < rows ? r : 0));
  if (rows <= 0) return;
  for (int s = threadIdx.x / kFewOutputs; s < segments; s += 256 / kFewOutputs) {
    float sums[kRows] = {};
    const int end = min((s + 1) * kSegment, a.k);
    if (channel < a.n) {
      const float* w = a.w + static_cast<int64_t>(channel) * a.k;
#pragma unroll 8
      for (int k = s * kSegment; k < end; k += 4) {
        const float4 wv = load4(w + k);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float4 xv = load4(x[r] + k);
          sums[r] = __fmaf_rn(wv.x, xv.x, sums[r]);
          sums[r] = __fmaf_rn(wv.y, xv.y, sums[r]);
          sums[r] = __fmaf_rn(wv.z, xv.z, sums[r]);
          sums[r] = __fmaf_rn(wv.w, xv.w, sums[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) parts[(s * kFewOutputs + output) * kRows + r] = sums[r];
  }
  __syncthreads();
  const int row = threadIdx.x / kFewOutputs;
  if (row >= rows || channel >= a.n) return;
  float total = 0.0f;
#pragma unroll 16
  for (int s = 0; s < segments; ++s) {
    total = __fadd_rn(total, parts[(s * kFewOutputs + output) * kRows + row]);
  }
  store(a, blockIdx.y * kRows + row, channel, total);
}

template <class X>
__global__ void __launch_bounds__(256, 2) small_many_kernel(const __grid_constant__ SmallArgs a) {
  constexpr int kHalf = kSegment / 2;
  constexpr int kStride = kManyTile + 4;
  constexpr int kWarps = 8;
  struct Shared {
    float w[kWarps][kHalf][kStride];
    float x[kWarps][kHalf][kStride];
    float parts[kWarps][kManyTile][kManyTile];  ///< [row][output] of each warp's segment
  };
  extern __shared__ __align__(16) uint8_t bytes[];
  Shared& shared = *reinterpret_cast<Shared*>(bytes);
  release_successor();
  wait_for_predecessor();
  const int rows = small_rows(a);
  const int first_row = blockIdx.y * kManyTile;
  const int first_channel = blockIdx.x * kManyTile;
  if (first_row >= rows) return;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int o = lane % 8 * 4;  // a lane has 4 outputs by 8 rows
  const int r = lane / 8 * 8;
  const int segments = (a.k + kSegment - 1) / kSegment;
  float totals[4] = {};  // of 4 neighbouring places of parts
  for (int begin = 0; begin < segments; begin += kWarps) {
    float sums[8][4] = {};
    for (int k = (begin + warp) * kSegment, half = 0; half < 2; ++half, k += kHalf) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kManyTile; i += 4) {
        const int line = i + lane / 8;
        const int input = lane % 8 * 4;
        const bool inside = k + input < a.k;
        float4 wv{0, 0, 0, 0};
        float4 xv{0, 0, 0, 0};
        if (inside && first_channel + line < a.n) {
          wv = load4(a.w + static_cast<int64_t>(first_channel + line) * a.k + k + input);
        }
        if (inside && first_row + line < rows)
          xv = load4(x_row<X>(a, first_row + line) + k + input);
        const float w4[4] = {wv.x, wv.y, wv.z, wv.w};
        const float x4[4] = {xv.x, xv.y, xv.z, xv.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          shared.w[warp][input + j][line] = w4[j];
          shared.x[warp][input + j][line] = x4[j];
        }
      }
      __syncwarp();
#pragma unroll 8
      for (int i = 0; i < kHalf; ++i) {
        const float4 wv = load4(&shared.w[warp][i][o]);
        const float4 x0 = load4(&shared.x[warp][i][r]);
        const float4 x1 = load4(&shared.x[warp][i][r + 4]);
        const float w4[4] = {wv.x, wv.y, wv.z, wv.w};
        const float x8[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
#pragma unroll
        for (int j = 0; j < 32; ++j) {
          sums[j / 4][j % 4] = __fmaf_rn(w4[j % 4], x8[j / 4], sums[j / 4][j % 4]);
        }
      }
    }
    __syncthreads();  // the parts of the round before have been read
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      *reinterpret_cast<float4*>(&shared.parts[warp][r + j][o]) =
          make_float4(sums[j][0], sums[j][1], sums[j][2], sums[j][3]);
    }
    __syncthreads();
    for (int s = 0; s < min(kWarps, segments - begin); ++s) {
      const float4 v = load4(&shared.parts[s][0][0] + threadIdx.x * 4);
      totals[0] = __fadd_rn(totals[0], v.x), totals[1] = __fadd_rn(totals[1], v.y);
      totals[2] = __fadd_rn(totals[2], v.z), totals[3] = __fadd_rn(totals[3], v.w);
    }
  }
  const int row = first_row + threadIdx.x / 8;
  const int channel = first_channel + threadIdx.x % 8 * 4;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (row < rows && channel + j < a.n) store(a, row, channel + j, totals[j]);
  }
}

namespace {

template <class X>
void launch_small(const SmallArgs& a, const Launch& launch) {
  constexpr int kFewRows = 64;  // above, rows share the weights they read
  if (a.rows <= kFewRows) {
    const unsigned blocks = static_cast<unsigned>(ceil_div(a.n, kFewOutputs));
    const int segments = static_cast<int>(ceil_div(a.k, kSegment));
    auto few = [&](auto kernel, int rows) {
      launch.run(kernel, dim3(blocks, static_cast<unsigned>(ceil_div(a.rows, rows))), 256,
                 segments * kFewOutputs * rows * 4, 1, a);
    };
    if (a.rows == 1) {
      few(small_few_kernel<X, 1>, 1);
    } else {
      few(small_few_kernel<X, 4>, 4);
    }
    return;
  }
  launch.run(small_many_kernel<X>,
             dim3(static_cast<unsigned>(ceil_div(a.n, kManyTile)),
                  static_cast<unsigned>(ceil_div(a.rows, kManyTile))),
             256, kManySharedBytes, 1, a);
}

}  // namespace

void launch_small(const SmallArgs& args, bool x_is_f32, const Launch& launch) {
  if (x_is_f32) {
    launch_small<float>(args, launch);
  } else {
    launch_small<__nv_bfloat16>(args, launch);
  }
}

}  // namespace moesaic::backend::cuda
