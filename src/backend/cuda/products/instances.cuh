#pragma once

// The launches of one element format's kernels; a .cu file per format and kernel family includes
// this and instantiates one of them, so that they compile side by side.

#include <algorithm>

#include "backend/cuda/products/launch.cuh"
#include "backend/cuda/products/tile.cuh"
#include "backend/cuda/products/tile_portable.cuh"

namespace moesaic::backend::cuda {

/// Shared memory of a stream kernel's rings: enough in flight, and little enough at one or two rows
/// that the next kernel's rings fit beside them.
template <class F>
int stream_ring_bytes(int rows, bool bulk, int part_bytes) {
  const int stage = StageShape(1, F::kTileK * 2, rows).bytes;
  if (!bulk) {  // whole warps within the 99 KiB of compute capability 8.6 and 8.9
    const int warps = std::min(kStreamWarps, (90 << 10) / (kPortableStages * stage));
    return warps * kPortableStages * stage;
  }
  // Two kernels' blocks share a multiprocessor's 227 KiB where that leaves enough in flight.
  constexpr int kEnough = 80 << 10;  // of weights
  constexpr int kShared = (227 << 10) / 2 - (6 << 10);
  constexpr int kAlone = 208 << 10;
  const int shared = (kShared - part_bytes) / stage;
  if (shared * kTileBytes >= kEnough) return std::min(shared, kStreamSlots) * stage;
  return std::min({(96 << 10) / kTileBytes, (kAlone - part_bytes) / stage, kStreamSlots}) * stage;
}

template <class F>
void launch_stream(const ProductArgs& args, Role role, bool bulk, int blocks, int part_bytes,
                   const Launch& launch) {
  const int ring = stream_ring_bytes<F>(args.rows, bulk, part_bytes);
  auto run = [&](auto kernel) {
    launch.run(kernel, dim3(static_cast<unsigned>(blocks)), kStreamThreads, ring + part_bytes, 1,
               args, ring);
  };
  switch (role) {
    case Role::kLinear:
      run(bulk ? stream_kernel<F, Role::kLinear, true> : stream_kernel<F, Role::kLinear, false>);
      break;
    case Role::kGateUp:
      run(bulk ? stream_kernel<F, Role::kGateUp, true> : stream_kernel<F, Role::kGateUp, false>);
      break;
    case Role::kDown:
      run(bulk ? stream_kernel<F, Role::kDown, true> : stream_kernel<F, Role::kDown, false>);
      break;
  }
}

/// cuTensorMapEncodeTiled of the driver, which the program does not link.
inline auto tensor_map_encoder() {
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                           cudaEnableDefault, &found),
          "the driver's tensor maps");
    if (entry == nullptr) throw CudaError("the driver has no tensor maps");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  return encode;
}

template <class F, int kGroups, int kTokens>
TileMaps tile_maps(const ProductArgs& args, bool gather) {
  using Shape = TileShape<F, kGroups, kTokens>;
  TileMaps maps{};
  auto encode = [](CUtensorMap& map, CUtensorMapDataType type, int rank, const void* data,
                   const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                   CUtensorMapSwizzle swizzle) {
    const cuuint32_t steps[4] = {1, 1, 1, 1};
    const CUresult result = tensor_map_encoder()(
        &map, type, static_cast<cuuint32_t>(rank), const_cast<void*>(data), sizes, strides, box,
        steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) {
      throw CudaError("a tensor map was refused: CUresult " + std::to_string(result));
    }
  };
  const auto u64 = [](int64_t v) { return static_cast<cuuint64_t>(v); };
  const int64_t slab_bytes = int64_t{args.tiles_k} * kTileBytes;
  const cuuint64_t sizes[4] = {kTileBytes / 8, u64(args.tiles_k), u64(args.slabs),
                               u64(args.experts)};
  const cuuint64_t strides[3] = {
      kTileBytes, u64(slab_bytes),
      u64(args.experts > 1 ? args.expert_bytes : slab_bytes * args.slabs)};
  const cuuint32_t box[4] = {kTileBytes / 8, 1, 4 * kGroups, 1};
  encode(maps.weights, CU_TENSOR_MAP_DATA_TYPE_UINT64, 4, args.weights, sizes, strides, box,
         CU_TENSOR_MAP_SWIZZLE_NONE);
  if (gather) return maps;
  const cuuint64_t row_sizes[2] = {u64(args.k), u64(args.x_rows)};
  const cuuint64_t row_strides[1] = {u64(args.x_stride)};
  const cuuint32_t row_box[2] = {64, Shape::kRowBox};
  encode(maps.rows, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, args.x, row_sizes, row_strides, row_box,
         CU_TENSOR_MAP_SWIZZLE_128B);
  return maps;
}

template <class F, int kGroups, int kTokens, bool kGather>
void launch_tile_shape(const ProductArgs& args, bool silu, int blocks, const Launch& launch) {
  using Shape = TileShape<F, kGroups, kTokens>;
  const TileMaps maps = tile_maps<F, kGroups, kTokens>(args, kGather);
  auto run = [&](auto kernel) {
    launch.run(kernel, dim3(static_cast<unsigned>(blocks / Shape::kCluster * Shape::kCluster)),
               Shape::kThreads, Shape::kSharedBytes, Shape::kCluster, args, maps);
  };
  constexpr bool kInChunks = kTokens != 256;  // two sets of sums do not fit the registers
  const bool chunks = args.chunks > 1 || args.block_scales;
  if (chunks) {
    if constexpr (kInChunks) {
      if (!silu) return run(tile_kernel<F, kGroups, kTokens, true, false, kGather>);
      if constexpr (F::kOutputScales) {
        return run(tile_kernel<F, kGroups, kTokens, true, true, kGather>);
      }
    }
  } else {
    return run(silu ? tile_kernel<F, kGroups, kTokens, false, true, kGather>
                    : tile_kernel<F, kGroups, kTokens, false, false, kGather>);
  }
  throw CudaError("tiles of " + std::to_string(kTokens) + " rows do not sum this product");
}

template <class F>
void launch_tiles(const ProductArgs& args, bool silu, const TileChoice& choice, int blocks,
                  const Launch& launch) {
  // Rows that lie elsewhere than in order are gathered.
  const bool gather = !args.x_in_order && (args.plan.first != nullptr || args.index != nullptr);
  const int shape = choice.groups * 1000 + choice.tokens;
  if (gather) {
    if (shape == 1064) return launch_tile_shape<F, 1, 64, true>(args, silu, blocks, launch);
    if (shape == 2064) return launch_tile_shape<F, 2, 64, true>(args, silu, blocks, launch);
  } else {
    if (shape == 1064) return launch_tile_shape<F, 1, 64, false>(args, silu, blocks, launch);
    if (shape == 2064) return launch_tile_shape<F, 2, 64, false>(args, silu, blocks, launch);
    if (shape == 2128) return launch_tile_shape<F, 2, 128, false>(args, silu, blocks, launch);
    if constexpr (F::kTileK == 64) {
      if (shape == 2256) return launch_tile_shape<F, 2, 256, false>(args, silu, blocks, launch);
    }
  }
  throw CudaError("no tile of " + std::to_string(choice.groups) + " x 64 outputs and " +
                  std::to_string(choice.tokens) + " rows for this product");
}

template <class F>
void launch_portable_tiles(const ProductArgs& args, bool silu, int blocks, const Launch& launch) {
  using Tile = PortableTile<F>;
  auto run = [&](auto kernel) {
    launch.run(kernel, dim3(static_cast<unsigned>(blocks)), Tile::kThreads, Tile::kSharedBytes, 1,
               args);
  };
  const bool chunks = args.chunks > 1 || args.block_scales;
  if (silu) {
    if constexpr (F::kOutputScales) {
      run(chunks ? portable_tile_kernel<F, true, true> : portable_tile_kernel<F, false, true>);
    } else {
      run(portable_tile_kernel<F, false, true>);
    }
  } else if (!chunks) {
    run(portable_tile_kernel<F, false, false>);
  } else {
    run(portable_tile_kernel<F, true, false>);
  }
}

}  // namespace moesaic::backend::cuda
