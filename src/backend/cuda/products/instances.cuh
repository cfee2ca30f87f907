#pragma once

// The launches of one element format's kernels; a .cu file per format and kernel family includes
// this and instantiates one of them, so that they compile side by side.

#include <algorithm>

#include "backend/cuda/products/launch.cuh"
#include "backend/cuda/products/tile.cuh"
#include "backend/cuda/products/tile_portable.cuh"

namespace moesaic::backend::cuda {

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

inline void encode_map(CUtensorMap& map, CUtensorMapDataType type, int rank, const void* data,
                       const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                       CUtensorMapSwizzle swizzle) {
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      tensor_map_encoder()(&map, type, static_cast<cuuint32_t>(rank), const_cast<void*>(data),
                           sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw CudaError("a tensor map was refused: CUresult " + std::to_string(result));
  }
}

inline void encode_rows(CUtensorMap& map, const ProductArgs& args, int rows, bool rounded) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(rounded ? args.tiles_k * 128 : args.k),
                               static_cast<cuuint64_t>(args.x_rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(args.x_stride)};
  const cuuint32_t box[2] = {rounded ? 128u : 64u, static_cast<cuuint32_t>(rows)};
  encode_map(map, rounded ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
             args.x, sizes, strides, box, CU_TENSOR_MAP_SWIZZLE_128B);
}

/// How a stream kernel's shared memory is shared out.
struct StreamMemory {
  int ring = 0;      ///< bytes of the rings, then the parts
  int resident = 0;  ///< where the rows begin; 0: they come with the stages
  int bytes = 0;
};

template <class F>
StreamMemory stream_memory(const ProductArgs& args, Role role, bool bulk, int part_bytes) {
  StreamMemory memory;
  if (!bulk) {  // whole warps within the 99 KiB of compute capability 8.6 and 8.9
    const int stage = StageShape(1, F::kTileK * 2, args.rows).bytes;
    const int warps = std::min(kStreamWarps, (90 << 10) / (kPortableStages * stage));
    memory.ring = warps * kPortableStages * stage;
    memory.bytes = memory.ring + part_bytes;
    return memory;
  }
  // Two kernels' blocks share a multiprocessor's 227 KiB where that leaves enough in flight.
  constexpr int kShared = (227 << 10) / 2 - (6 << 10);
  constexpr int kAlone = 216 << 10;
  constexpr int kEnough = 80 << 10;  // of weights
  constexpr int kPlenty = 96 << 10;
  constexpr int kWeights = 2 * kSlabBytes;  // of the smallest stage
  const int64_t rows = int64_t{args.rows} * (role == Role::kDown ? args.top_k : 1);
  const int64_t row_bytes = rows * ResidentRows<F, Role::kLinear>::pitch_of(args);
  // Rows that come as a whole come later than a stage's: worth it where there is much to stream.
  constexpr int64_t kMuch = 32 << 20;
  const int64_t reads =
      role == Role::kLinear ? 1 : std::min<int64_t>(args.experts, int64_t{args.rows} * args.top_k);
  const int64_t read_bytes = reads * args.tiles_n * args.tiles_k * kTileBytes;
  const bool can_reside =
      read_bytes > kMuch && row_bytes <= kMostResidentBytes && part_bytes <= (16 << 10);
  auto stages_of = [&](bool resident, int bytes) {
    const int stage = StageShape(2, F::kTileK * 2, resident ? 0 : args.rows).bytes;
    return (bytes - part_bytes - (resident ? static_cast<int>(row_bytes) : 0)) / stage;
  };
  bool resident = can_reside;
  int stages = 0;
  if (can_reside && stages_of(true, kShared) * kWeights >= kEnough) {
    stages = stages_of(true, kShared);
  } else if (!(can_reside && read_bytes > 4 * kMuch) &&
             stages_of(false, kShared) * kWeights >= kEnough) {
    resident = false;
    stages = stages_of(false, kShared);
  } else {
    stages = std::min(kPlenty / kWeights, stages_of(resident, kAlone));
  }
  const int stage = StageShape(2, F::kTileK * 2, resident ? 0 : args.rows).bytes;
  memory.ring = std::min(stages, kStreamSlots) * stage;
  if (resident) memory.resident = static_cast<int>(round_up(memory.ring + part_bytes, 128));
  memory.bytes =
      resident ? memory.resident + static_cast<int>(row_bytes) : memory.ring + part_bytes;
  return memory;
}

template <class F>
void launch_stream(const ProductArgs& args, Role role, bool bulk, int blocks, int part_bytes,
                   const Launch& launch) {
  const StreamMemory memory = stream_memory<F>(args, role, bulk, part_bytes);
  auto run = [&](auto kernel) {
    launch.run(kernel, dim3(static_cast<unsigned>(blocks)), kStreamThreads, memory.bytes, 1, args,
               memory.ring, memory.resident);
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

template <class F, int kGroups, int kTokens, bool kGather>
void launch_tile_shape(const ProductArgs& args, bool silu, int blocks, const Launch& launch) {
  using Shape = TileShape<F, kGroups, kTokens>;
  TensorMaps maps{};
  if (!kGather) encode_rows(maps.rows, args, Shape::kRowBox, F::kRounded);
  auto run = [&](auto kernel) {
    launch.run(kernel, dim3(static_cast<unsigned>(blocks / Shape::kCluster * Shape::kCluster)),
               Shape::kThreads, Shape::kSharedBytes, Shape::kCluster, args, maps);
  };
  // Two sets of sums do not fit the registers, nor two of 128 rows beside widened weights.
  constexpr bool kInChunks = kTokens * F::kSteps < 256;
  const bool chunks = args.chunks > 1 || args.block_scales;
  if (chunks && !F::kRounded) {
    if constexpr (kInChunks && !F::kRounded) {
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
  const bool gather =
      !F::kRounded && !args.x_in_order && (args.plan.first != nullptr || args.index != nullptr);
  const int shape = choice.groups * 1000 + choice.tokens;
  if constexpr (!F::kRounded) {
    if (gather) {
      if (shape == 1064) return launch_tile_shape<F, 1, 64, true>(args, silu, blocks, launch);
      if (shape == 2064) return launch_tile_shape<F, 2, 64, true>(args, silu, blocks, launch);
    }
  }
  if (!gather) {
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
