#pragma once

// Starting kernels: every kernel of this folder is launched through launch(), with programmatic
// dependent launch, so that in a stream or a graph the next kernel's blocks are set up while the
// last one's run. A kernel therefore begins with begin_dependent() (device.cuh).

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "backend/cuda/cuda_error.h"

namespace moesaic::backend::cuda {

/// Throws CudaError naming `call` when a CUDA call did not succeed.
inline void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw CudaError(std::string(call) + ": " + cudaGetErrorString(error));
}

/// Multiprocessors of the current device.
inline int multiprocessors() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  return count;
}

/// Whether the current device runs code for compute capability 9.0 (Hopper).
inline bool is_hopper() {
  int device = 0;
  int major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "cudaDeviceGetAttribute");
  return major == 9;
}

/// Whether the code that the device runs of a kernel is for compute capability 9.0 or later, and so
/// waits in begin_dependent() for the kernel before it.
inline bool waits_for_predecessor(const void* kernel) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  return attributes.ptxVersion >= 90;
}

/// Starts kKernel with `shared` bytes of dynamic shared memory. Throws CudaError when it cannot
/// start.
template <auto* kKernel, typename... Args>
void launch(dim3 grid, dim3 block, size_t shared, cudaStream_t stream, Args... args) {
  const auto* pointer = reinterpret_cast<const void*>(kKernel);
  static const bool dependent = waits_for_predecessor(pointer);
  constexpr size_t kFree = 40 * 1024;  // a block gets 48 kB without asking, static memory included
  if (shared > kFree) {
    check(cudaFuncSetAttribute(pointer, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)),
          "cudaFuncSetAttribute");
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = dependent ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kKernel, args...), "cudaLaunchKernelEx");
}

}  // namespace moesaic::backend::cuda
