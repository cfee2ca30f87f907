#pragma once

// What the test and the benchmark share: device memory, random data made on the device, and plain
// loops in double that share no code with the kernels under test.

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "backend/cuda/products/products.h"

namespace moesaic::backend::cuda::testing {

inline void require(cudaError_t status, const char* what, int line) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "line %d: %s: %s\n", line, what, cudaGetErrorString(status));
  std::exit(70);
}
#define MOESAIC_CUDA_REQUIRE(call) \
  ::moesaic::backend::cuda::testing::require((call), #call, __LINE__)

/// Why no test can run here; empty where one can.
inline std::string no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return count == 0 ? "no CUDA device" : "";
}

template <class T>
class Device {
 public:
  explicit Device(size_t count = 0) : count_(count) {
    if (count > 0) MOESAIC_CUDA_REQUIRE(cudaMalloc(&data_, count * sizeof(T)));
  }
  explicit Device(const std::vector<T>& host) : Device(host.size()) {
    if (count_ == 0) return;
    MOESAIC_CUDA_REQUIRE(
        cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Device() { cudaFree(data_); }
  Device(Device&& other) noexcept : data_(other.data_), count_(other.count_) {
    other.data_ = nullptr;
    other.count_ = 0;
  }
  Device& operator=(Device&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }

  T* get() { return static_cast<T*>(data_); }
  const T* get() const { return static_cast<const T*>(data_); }
  size_t size() const { return count_; }
  std::vector<T> host() const {
    std::vector<T> out(count_);
    MOESAIC_CUDA_REQUIRE(cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }
  /// What nothing wrote stays visible.
  void poison() { MOESAIC_CUDA_REQUIRE(cudaMemset(data_, 0xff, count_ * sizeof(T))); }

 private:
  void* data_ = nullptr;
  size_t count_ = 0;
};

// --- Random values: uniform in [-scale, scale), a function of seed and place.

__device__ inline float random_value(uint64_t seed, uint64_t at) {
  uint64_t v = (at + 1) * 0x9e3779b97f4a7c15ull ^ seed * 0xd1b54a32d192ed03ull;
  v = (v ^ v >> 32) * 0xbf58476d1ce4e5b9ull;
  v = (v ^ v >> 29) * 0x94d049bb133111ebull;
  v ^= v >> 32;
  return static_cast<float>(v >> 40) * (2.0f / 16777216.0f) - 1.0f;
}
__device__ inline void assign(float& to, float v) { to = v; }
__device__ inline void assign(__nv_bfloat16& to, float v) { to = __float2bfloat16_rn(v); }
__device__ inline void assign(__half& to, float v) { to = __float2half_rn(v); }
__device__ inline void assign(__nv_fp8_e4m3& to, float v) { to = __nv_fp8_e4m3(v); }

template <class T>
__global__ void fill_kernel(T* data, size_t count, uint64_t seed, float scale) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    assign(data[i], scale * random_value(seed, i));
  }
}
template <class T>
void fill(T* data, size_t count, uint64_t seed, float scale) {
  if (count == 0) return;
  fill_kernel<<<1024, 256>>>(data, count, seed, scale);
  MOESAIC_CUDA_REQUIRE(cudaGetLastError());
}
template <class T>
Device<T> random_device(size_t count, uint64_t seed, float scale) {
  Device<T> d(count);
  fill(d.get(), count, seed, scale);
  return d;
}

/// Distinct experts for every row, uniform; weights positive.
struct HostRouting {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};
inline HostRouting random_routing(int64_t rows, int64_t top_k, int64_t experts, uint64_t seed) {
  std::mt19937_64 random(seed);
  HostRouting r;
  std::vector<int32_t> all(static_cast<size_t>(experts));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < top_k; ++i) {
      const auto j = i + static_cast<int64_t>(random() % static_cast<uint64_t>(experts - i));
      std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(j)]);
      r.experts.push_back(all[static_cast<size_t>(i)]);
      r.weights.push_back(0.1f + static_cast<float>(random() % 1000) / 1000.0f);
    }
  }
  return r;
}

// --- The reference.

template <class W>
__global__ void reference_linear_kernel(const W* w, int64_t n, int64_t k, const __nv_bfloat16* x,
                                        int64_t stride, const int32_t* index, int64_t rows,
                                        const float* bias, double* y) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= rows * n) return;
  const int64_t row = i / n;
  const int64_t channel = i % n;
  const __nv_bfloat16* xr = x + (index == nullptr ? row : index[row]) * stride;
  double sum = bias == nullptr ? 0.0 : bias[channel];
  for (int64_t j = 0; j < k; ++j) {
    sum += static_cast<double>(static_cast<float>(w[channel * k + j])) *
           static_cast<double>(__bfloat162float(xr[j]));
  }
  y[i] = sum;
}
template <class W>
Device<double> reference_linear(const W* w, int64_t n, int64_t k, const __nv_bfloat16* x,
                                int64_t stride, const int32_t* index, int64_t rows,
                                const float* bias) {
  Device<double> y(static_cast<size_t>(rows * n));
  const auto blocks = static_cast<unsigned>((rows * n + 255) / 256);
  reference_linear_kernel<<<blocks, 256>>>(w, n, k, x, stride, index, rows, bias, y.get());
  MOESAIC_CUDA_REQUIRE(cudaGetLastError());
  return y;
}

/// h [rows * top_k, width] = silu(gate x) * (up x), rounded to bf16 as every kernel stores it.
/// Weights [experts, ...] row-major.
template <class W>
__global__ void reference_gate_up_kernel(const W* gate, const W* up, int64_t hidden, int64_t width,
                                         int64_t experts, const __nv_bfloat16* x, int64_t stride,
                                         const int32_t* ids, int64_t top_k, int64_t pairs,
                                         double* h) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= pairs * width) return;
  const int64_t pair = i / width;
  const int64_t channel = i % width;
  const int64_t expert = ids == nullptr ? 0 : ids[pair];
  if (expert < 0 || expert >= experts) return;
  const __nv_bfloat16* xr = x + pair / top_k * stride;
  const W* g = gate + (expert * width + channel) * hidden;
  const W* u = up + (expert * width + channel) * hidden;
  double gs = 0;
  double us = 0;
  for (int64_t j = 0; j < hidden; ++j) {
    const auto xv = static_cast<double>(__bfloat162float(xr[j]));
    gs += static_cast<double>(static_cast<float>(g[j])) * xv;
    us += static_cast<double>(static_cast<float>(u[j])) * xv;
  }
  const double v = gs / (1 + exp(-gs)) * us;
  h[i] = static_cast<double>(__bfloat162float(__double2bfloat16(v)));
}
template <class W>
__global__ void reference_down_kernel(const W* down, int64_t hidden, int64_t width, int64_t experts,
                                      const int32_t* ids, const float* weights, int64_t top_k,
                                      int64_t rows, const double* h, double* y) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= rows * hidden) return;
  const int64_t row = i / hidden;
  const int64_t channel = i % hidden;
  double sum = 0;
  for (int64_t t = 0; t < top_k; ++t) {
    const int64_t pair = row * top_k + t;
    const int64_t expert = ids == nullptr ? 0 : ids[pair];
    if (expert < 0 || expert >= experts) continue;
    const W* d = down + (expert * hidden + channel) * width;
    double v = 0;
    for (int64_t j = 0; j < width; ++j) {
      v += static_cast<double>(static_cast<float>(d[j])) * h[pair * width + j];
    }
    // A routed expert's output is rounded to bf16 by every kernel.
    if (ids != nullptr) v = static_cast<double>(__bfloat162float(__double2bfloat16(v)));
    sum += (weights == nullptr ? 1.0 : static_cast<double>(weights[pair])) * v;
  }
  y[i] = sum;
}

/// ||a - b|| / ||b||; infinite where a is not finite.
template <class T>
double relative_error(const std::vector<T>& a, const std::vector<double>& b) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    if (!(d == d)) return HUGE_VAL;
    difference += d * d;
    norm += b[i] * b[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

}  // namespace moesaic::backend::cuda::testing
