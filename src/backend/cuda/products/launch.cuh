#pragma once

// Launching kernels, and what the .cu files offer each other.

#include <cuda_runtime.h>

#include "backend/cuda/launch.h"
#include "backend/cuda/products/args.cuh"
#include "backend/cuda/products/routing.cuh"
#include "backend/cuda/products/stream.cuh"

namespace moesaic::backend::cuda {

struct Launch {
  cudaStream_t stream = nullptr;
  bool dependent = false;  ///< may start before its predecessor has ended

  template <class Args, class... Rest>
  void run(void (*kernel)(Args, Rest...), dim3 grid, int threads, int shared_bytes, int cluster,
           const Args& args, Rest... rest) const {
    if (shared_bytes > (48 << 10)) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
            "shared memory of a kernel");
    }
    cudaLaunchAttribute attributes[2]{};
    unsigned count = 0;
    if (dependent) {
      attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[count++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
      attributes[count].id = cudaLaunchAttributeClusterDimension;
      attributes[count++].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = count;
    check(cudaLaunchKernelEx(&config, kernel, args, rest...), "launch of a product");
  }
};

/// How a tile product is cut; `groups` and `tokens` as in Tuning.
struct TileChoice {
  int groups = 2;
  int tokens = 64;
};

/// One block per multiprocessor each. `ring_bytes` and `part_bytes` as in stream_kernel.
template <class F>
void launch_stream(const ProductArgs& args, Role role, bool bulk, int blocks, int part_bytes,
                   const Launch& launch);
template <class F>
void launch_tiles(const ProductArgs& args, bool silu, const TileChoice& choice, int blocks,
                  const Launch& launch);
template <class F>
void launch_portable_tiles(const ProductArgs& args, bool silu, int blocks, const Launch& launch);

}  // namespace moesaic::backend::cuda
