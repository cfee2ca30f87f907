// Packing on the device: a thread per 16-byte chunk of the packed layout (layout.h).

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "backend/cuda/products/launch.cuh"

namespace moesaic::backend::cuda {
namespace {

constexpr float kMaxE4M3 = 448.0f;
constexpr int kPackThreads = 256;

/// A source as the device reads it.
struct DeviceSource {
  const void* values = nullptr;
  SourceType type = SourceType::kBF16;
  int rows = 0;
  int64_t stride = 0;
  Scales scales = Scales::kNone;
  const float* scale_data = nullptr;
};

struct PackArgs {
  DeviceSource source[2];  ///< the matrix; or gate and up
  bool interleaved = false;
  int first_row = 0;  ///< packed row of the source's first
  int rows = 0;       ///< packed rows to write, padding included
  int k = 0;
  int tiles_k = 0;
  bool block_scales = false;
  uint8_t* tiles = nullptr;
  float* scales = nullptr;  ///< fp8 formats
};

/// The source and its row that packed row `first_row + i` holds; a null source is padding.
__device__ const DeviceSource* find_row(const PackArgs& a, int i, int& row) {
  const DeviceSource* source = &a.source[0];
  row = i;
  if (a.interleaved) {
    row = i / kSlabRows * 8 + i % 8;
    source = &a.source[i % kSlabRows / 8];
  }
  return row < source->rows ? source : nullptr;
}

__device__ float scale_of(const DeviceSource& s, int row, int k, int inputs) {
  switch (s.scales) {
    case Scales::kTensor:
      return s.scale_data[0];
    case Scales::kOutput:
      return s.scale_data[row];
    case Scales::kBlock128:
      return s.scale_data[row / 128 * ((inputs + 127) / 128) + k / 128];
    default:
      return 1.0f;
  }
}

__device__ __nv_fp8_storage_t raw_e4m3(const DeviceSource& s, int row, int k) {
  return static_cast<const __nv_fp8_storage_t*>(s.values)[row * s.stride + k];
}

__device__ float value_of(const DeviceSource& s, int row, int k, int inputs) {
  const int64_t at = row * s.stride + k;
  switch (s.type) {
    case SourceType::kF32:
      return static_cast<const float*>(s.values)[at];
    case SourceType::kF16:
      return __half2float(static_cast<const __half*>(s.values)[at]);
    case SourceType::kBF16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(s.values)[at]);
    default:
      break;
  }
  const __half_raw half = __nv_cvt_fp8_to_halfraw(raw_e4m3(s, row, k), __NV_E4M3);
  return __fmul_rn(__half2float(__half(half)), scale_of(s, row, k, inputs));
}

/// Whether the elements go into an fp8 format as they are.
__device__ bool keeps_elements(const PackArgs& a, const DeviceSource& s) {
  return s.type == SourceType::kE4M3 && (s.scales == Scales::kBlock128) == a.block_scales;
}

/// A block per packed row: its scale.
__global__ void output_scales_kernel(const __grid_constant__ PackArgs a) {
  __shared__ float warp_most[kPackThreads / 32];
  int row = 0;
  const DeviceSource* s = find_row(a, blockIdx.x, row);
  float* scale = a.scales + a.first_row + blockIdx.x;
  if (s == nullptr || keeps_elements(a, *s)) {
    if (threadIdx.x == 0) *scale = s == nullptr ? 0.0f : scale_of(*s, row, 0, a.k);
    return;
  }
  float most = 0.0f;
  for (int k = threadIdx.x; k < a.k; k += kPackThreads) {
    most = fmaxf(most, fabsf(value_of(*s, row, k, a.k)));
  }
  for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
  if (threadIdx.x % 32 == 0) warp_most[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (float m : warp_most) most = fmaxf(most, m);
    *scale = most > 0.0f ? most / kMaxE4M3 : 1.0f;
  }
}

/// A thread per 8 packed rows and 128 inputs.
__global__ void block_scales_kernel(const __grid_constant__ PackArgs a) {
  const int i = blockIdx.x * kPackThreads + threadIdx.x;
  const int groups = (a.rows + 7) / 8;
  if (i >= groups * a.tiles_k) return;
  const int group = i / a.tiles_k;
  const int k = i % a.tiles_k;
  int row = 0;
  const DeviceSource* s = find_row(a, group * 8, row);
  const int packed = a.first_row + group * 8;
  const int64_t tile = static_cast<int64_t>(packed / kSlabRows) * a.tiles_k + k;
  a.scales[tile * 2 + packed % kSlabRows / 8] =
      s == nullptr ? 0.0f : scale_of(*s, row, k * 128, a.k);
}

template <bool kFP8>
__global__ void __launch_bounds__(kPackThreads) pack_kernel(const __grid_constant__ PackArgs a) {
  constexpr int kTileK = kFP8 ? 128 : 64;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x;
  const int chunks = a.tiles_k * 8;
  if (i >= static_cast<int64_t>(a.rows) * chunks) return;
  const int local = static_cast<int>(i / chunks);
  const int chunk = static_cast<int>(i % chunks);
  const int tile_k = chunk / 8;
  const int place = chunk % 8;
  int row = 0;
  const DeviceSource* s = find_row(a, local, row);
  const int packed = a.first_row + local;
  uint32_t words[4] = {};
  if (s != nullptr) {
    const int first = tile_k * kTileK + place * (kTileK / 8);
    if constexpr (kFP8) {
      const bool keep = keeps_elements(a, *s);
      const float inverse = keep ? 0.0f : 1.0f / a.scales[packed];
      for (int b = 0; b < 16; ++b) {
        constexpr int kInput[4] = {0, 1, 8, 9};
        const int k = first + b / 4 * 2 + kInput[b % 4];
        if (k >= a.k) continue;
        const __nv_fp8_storage_t v =
            keep ? raw_e4m3(*s, row, k)
                 : __nv_cvt_float_to_fp8(__fmul_rn(value_of(*s, row, k, a.k), inverse),
                                         __NV_SATFINITE, __NV_E4M3);
        words[b / 4] |= static_cast<uint32_t>(v) << (b % 4 * 8);
      }
    } else {
      for (int b = 0; b < 8; ++b) {
        const int k = first + b;
        if (k >= a.k) continue;
        const uint32_t bits = __bfloat16_as_ushort(__float2bfloat16_rn(value_of(*s, row, k, a.k)));
        words[b / 2] |= bits << (b % 2 * 16);
      }
    }
  }
  const int64_t tile = static_cast<int64_t>(packed / kTileRows) * a.tiles_k + tile_k;
  uint8_t* to = a.tiles + tile * kTileBytes + packed % kTileRows * kTileRowBytes +
                ((place ^ (packed % 8)) << 4);
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

DeviceSource device_source(const Source& s) {
  if (s.type != SourceType::kE4M3 && s.scales != Scales::kNone) {
    throw CudaError("only e4m3 weights have scales");
  }
  if (s.scales != Scales::kNone && s.scale_data == nullptr) throw CudaError("scales are missing");
  return {s.values, s.type, static_cast<int>(s.rows), s.stride, s.scales, s.scale_data};
}

void run_pack(PackArgs a, const PackedMatrix& matrix, Format format, Scales scales,
              std::byte* packed, cudaStream_t stream) {
  a.tiles_k = static_cast<int>(matrix.tiles_k);
  a.tiles = reinterpret_cast<uint8_t*>(packed);
  a.scales = reinterpret_cast<float*>(packed + matrix.scales);
  a.block_scales = is_fp8(format) && scales == Scales::kBlock128;
  if (a.rows == 0) return;
  if (a.block_scales) {
    for (int i = 0; i < (a.interleaved ? 2 : 1); ++i) {
      if (a.source[i].type != SourceType::kE4M3 || a.source[i].scales != Scales::kBlock128) {
        throw CudaError("a format with block scales is packed from e4m3 with block scales");
      }
    }
    const int64_t count = ceil_div(a.rows, 8) * a.tiles_k;
    block_scales_kernel<<<static_cast<unsigned>(ceil_div(count, kPackThreads)), kPackThreads, 0,
                          stream>>>(a);
  } else if (is_fp8(format)) {
    output_scales_kernel<<<static_cast<unsigned>(a.rows), kPackThreads, 0, stream>>>(a);
  }
  const int64_t chunks = static_cast<int64_t>(a.rows) * a.tiles_k * 8;
  const auto blocks = static_cast<unsigned>(ceil_div(chunks, kPackThreads));
  if (is_fp8(format)) {
    pack_kernel<true><<<blocks, kPackThreads, 0, stream>>>(a);
  } else {
    pack_kernel<false><<<blocks, kPackThreads, 0, stream>>>(a);
  }
  check(cudaGetLastError(), "packing weights");
}

}  // namespace

void pack(const LinearShape& shape, int64_t first_row, const Source& source, std::byte* packed,
          cudaStream_t stream) {
  const PackedMatrix matrix(shape.n, shape.k, shape.format, shape.scales);
  if (first_row < 0 || first_row + source.rows > shape.n) {
    throw CudaError("the part to pack lies outside the matrix");
  }
  if (is_fp8(shape.format) && shape.scales == Scales::kBlock128 && first_row % 128 != 0) {
    throw CudaError("a part with block scales begins on a block");
  }
  PackArgs a;
  a.source[0] = device_source(source);
  a.first_row = static_cast<int>(first_row);
  const bool last = first_row + source.rows == shape.n;
  a.rows =
      static_cast<int>((last ? matrix.tiles_n * kTileRows : first_row + source.rows) - first_row);
  a.k = static_cast<int>(shape.k);
  run_pack(a, matrix, shape.format, shape.scales, packed, stream);
}

void pack(const ExpertsShape& shape, int64_t expert, const Source& gate, const Source& up,
          const Source& down, std::byte* packed, cudaStream_t stream) {
  if (expert < 0 || expert >= shape.experts) throw CudaError("no such expert");
  if (gate.rows != shape.width || up.rows != shape.width || down.rows != shape.hidden) {
    throw CudaError("an expert's parts do not have its shape");
  }
  const PackedExpert layout(shape);
  std::byte* at = packed + expert * layout.bytes();
  PackArgs a;
  a.source[0] = device_source(gate);
  a.source[1] = device_source(up);
  a.interleaved = true;
  a.rows = static_cast<int>(layout.gate_up.tiles_n * kTileRows);
  a.k = static_cast<int>(shape.hidden);
  run_pack(a, layout.gate_up, shape.format, shape.scales, at, stream);
  PackArgs d;
  d.source[0] = device_source(down);
  d.rows = static_cast<int>(layout.down.tiles_n * kTileRows);
  d.k = static_cast<int>(shape.width);
  run_pack(d, layout.down, shape.format, shape.scales, at + layout.gate_up.bytes, stream);
}

}  // namespace moesaic::backend::cuda
