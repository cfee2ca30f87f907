#pragma once

// What the CUDA tests share: device arrays, random inputs, bf16 and e4m3 on the host.

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "backend/cuda/launch.h"

namespace moesaic::backend::cuda::testing {

/// Skips a test, with the reason, where there is no device that can run these kernels.
inline const char* no_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return "no CUDA device";
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "attribute");
  return major >= 8 ? nullptr : "the CUDA device is older than compute capability 8.0";
}
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* reason = no_device()) GTEST_SKIP() << reason;
  }
};

/// An array in device memory; what is not given is filled with bytes 0xff: NaN as a float, -1 as an
/// index.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    check(cudaMalloc(&data_, bytes() + 16), "cudaMalloc");
    check(cudaMemset(data_, 0xff, bytes()), "cudaMemset");
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { set(values); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* get() const { return data_; }
  size_t count() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }
  void set(const std::vector<T>& values) {
    check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
          "upload");
  }
  void clear() { check(cudaMemset(data_, 0, bytes()), "cudaMemset"); }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    check(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), "download");
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

inline float from_bf16(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }
/// Rounds to nearest even; finite values only.
inline uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline float from_e4m3(uint8_t x) {
  const int exponent = x >> 3 & 15;
  const int fraction = x & 7;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                   : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return x & 0x80 ? -size : size;
}

/// SplitMix64: a test draws tens of millions of values.
class Random {
 public:
  using result_type = uint64_t;
  explicit Random(uint64_t seed) : state_(seed) {}
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return ~uint64_t{0}; }
  uint64_t operator()() {
    uint64_t x = state_ += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
  }
  /// Nearly normal: the sum of four uniform values.
  float normal() {
    const uint64_t x = (*this)();
    const auto part = [x](int i) { return static_cast<float>(x >> (16 * i) & 0xffff); };
    return (part(0) + part(1) + part(2) + part(3) - 2 * 65535.0f) * (1.7320508f / 65536.0f);
  }
  double uniform() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }
  /// In [low, high].
  int between(int low, int high) {
    return low + static_cast<int>((*this)() % static_cast<uint64_t>(high - low + 1));
  }
  std::vector<float> normals(size_t count, float scale = 1) {
    std::vector<float> values(count);
    for (float& x : values) x = scale * normal();
    return values;
  }
  std::vector<uint16_t> bf16s(size_t count, float scale = 1) {
    std::vector<uint16_t> values(count);
    for (uint16_t& x : values) x = to_bf16(scale * normal());
    return values;
  }

 private:
  uint64_t state_;
};

/// Device memory of bf16 values kept as their bits.
inline __nv_bfloat16* as_bf16(const DeviceArray<uint16_t>& array) {
  return reinterpret_cast<__nv_bfloat16*>(array.get());
}

/// Runs what `enqueue` puts on a stream as a captured graph, `times` times.
template <typename F>
void run_as_graph(F&& enqueue, int times) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  enqueue(stream);  // loads the kernels
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  enqueue(stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  for (int i = 0; i < times; ++i) check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

}  // namespace moesaic::backend::cuda::testing
