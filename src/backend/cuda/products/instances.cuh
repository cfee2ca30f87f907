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
  constexpr int kInFlight = 96 << 10;  // of weights
  const int most = std::min(184 << 10, (220 << 10) - part_bytes);
  return std::min({kInFlight / kSlabBytes, most / stage, kStreamSlots}) * stage;
}

template <class F>
void launch_stream(const ProductArgs& args, Role role, bool bulk, int blocks, int part_bytes,
                   const Launch& launch) {
  const int ring = stream_ring_bytes<F>(args.rows, bulk, part_bytes);
  auto run = [&](auto kernel) {
    launch.run(kernel, dim3(static_cast<unsigned>(blocks)), kStreamThreads, ring + part_bytes, args,
               ring);
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

template <class F, int kGroups, int kTokens>
void launch_tile_shape(const ProductArgs& args, bool silu, int blocks, const Launch& launch) {
  using Shape = TileShape<F, kGroups, kTokens>;
  auto run = [&](auto kernel) {
    launch.run(kernel, dim3(static_cast<unsigned>(blocks)), Shape::kThreads, Shape::kSharedBytes,
               args);
  };
  const bool chunks = args.chunks > 1 || args.block_scales;
  if (silu) {
    if constexpr (F::kOutputScales) {
      run(chunks ? tile_kernel<F, kGroups, kTokens, true, true>
                 : tile_kernel<F, kGroups, kTokens, false, true>);
    } else {
      run(tile_kernel<F, kGroups, kTokens, false, true>);
    }
  } else if (!chunks) {
    run(tile_kernel<F, kGroups, kTokens, false, false>);
  } else {
    if constexpr (kTokens <= 128) {  // two sets of sums for 256 rows do not fit the registers
      run(tile_kernel<F, kGroups, kTokens, true, false>);
    } else {
      throw CudaError("tiles of 256 rows do not sum in chunks");
    }
  }
}

template <class F>
void launch_tiles(const ProductArgs& args, bool silu, const TileChoice& choice, int blocks,
                  const Launch& launch) {
  const int shape = choice.groups * 1000 + choice.tokens;
  switch (shape) {
    case 1064: return launch_tile_shape<F, 1, 64>(args, silu, blocks, launch);
    case 1128: return launch_tile_shape<F, 1, 128>(args, silu, blocks, launch);
    case 2064: return launch_tile_shape<F, 2, 64>(args, silu, blocks, launch);
    case 2128: return launch_tile_shape<F, 2, 128>(args, silu, blocks, launch);
    case 2256:
      if constexpr (F::kTileK == 64) {
        return launch_tile_shape<F, 2, 256>(args, silu, blocks, launch);
      }
      break;
    default: break;
  }
  throw CudaError("no tile of " + std::to_string(choice.groups) + " x 64 outputs and " +
                  std::to_string(choice.tokens) + " rows for this format");
}

template <class F>
void launch_portable_tiles(const ProductArgs& args, bool silu, int blocks, const Launch& launch) {
  using Tile = PortableTile<F>;
  auto run = [&](auto kernel) {
    launch.run(kernel, dim3(static_cast<unsigned>(blocks)), Tile::kThreads, Tile::kSharedBytes,
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
