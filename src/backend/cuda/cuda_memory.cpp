#include "backend/cuda/cuda_memory.h"

#include <fmt/format.h>

namespace moesaic::backend::cuda {
namespace {

constexpr uintptr_t kAlignment = 1024;

double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

DeviceMemory::DeviceMemory(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  if (cudaMalloc(&base_, bytes + kAlignment) != cudaSuccess) {
    cudaGetLastError();
    size_t free = 0;
    size_t total = 0;
    cudaMemGetInfo(&free, &total);
    throw CudaError(fmt::format("no {:.1f} MiB of device memory ({:.1f} of {:.1f} MiB are free)",
                                mib(bytes), mib(free), mib(total)));
  }
  const auto at = reinterpret_cast<uintptr_t>(base_);
  data_ = static_cast<std::byte*>(base_) + (kAlignment - at % kAlignment) % kAlignment;
}

DeviceMemory::~DeviceMemory() { cudaFree(base_); }

void DeviceMemory::clear() {
  if (size_ == 0) return;
  check(cudaMemset(data_, 0, size_), "cudaMemset");
  check(cudaStreamSynchronize(nullptr), "cudaMemset");
}

PinnedMemory::PinnedMemory(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  if (cudaMallocHost(&data_, bytes) != cudaSuccess) {
    cudaGetLastError();
    throw CudaError(fmt::format("no {:.1f} MiB of pinned host memory", mib(bytes)));
  }
}

PinnedMemory::~PinnedMemory() { cudaFreeHost(data_); }

}  // namespace moesaic::backend::cuda
