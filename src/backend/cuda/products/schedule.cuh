#pragma once

// Which tile a block computes: the walk over experts, tiles of rows and tiles of outputs that all
// tile kernels share. Blocks take tiles round robin.

#include "backend/cuda/products/args.cuh"

namespace moesaic::backend::cuda {

inline constexpr int kMaxExperts = 512;

/// A tile of the product: output tile `outputs` (in units of the kernel's) for
/// `tokens` pairs from place `first` of the plan's list, or rows from `first` without a plan.
struct TileWork {
  int expert;
  int outputs;
  int first;
  int tokens;
};

/// In shared memory: the plan's lists, and what all threads of the block must agree on.
struct PlanLists {
  int rows;
  int tiles;  ///< in all
  int first[kMaxExperts + 1];
  int token_tiles[kMaxExperts + 1];
};

/// The same where shared memory is scarce: `first` stays in the plan.
struct ShortPlanLists {
  int rows;
  int tiles;
  int token_tiles[kMaxExperts + 1];
};

/// `kOutputs` and `kTokens` are a tile's.
template <int kOutputs, int kTokens, class Lists = PlanLists>
struct Schedule {
  static constexpr bool kFirstShared = requires(Lists l) { l.first; };
  const ProductArgs& a;
  const Lists& lists;

  /// All threads of the block take part and may read the lists afterwards.
  __device__ Schedule(const ProductArgs& args, Lists& shared) : a(args), lists(shared) {
    if (routed()) {
      for (int i = threadIdx.x; i <= a.experts; i += blockDim.x) {
        if constexpr (kFirstShared) shared.first[i] = a.plan.first[i];
        shared.token_tiles[i] = a.plan.tiles[i];
      }
    }
    if (threadIdx.x == 0) {
      shared.rows = a.row_count();
      const int tiles = routed() ? a.plan.tiles[a.experts] : (shared.rows + kTokens - 1) / kTokens;
      shared.tiles = tiles * output_tiles();
    }
    __syncthreads();
  }

  __device__ bool routed() const { return a.plan.first != nullptr; }
  __device__ int tiles() const { return lists.tiles; }
  __device__ int output_tiles() const { return (a.tiles_n * kTileRows + kOutputs - 1) / kOutputs; }

  /// Outputs ascend slowly, rows fast, so that the blocks at work share weights; in bands of 2048
  /// rows, so that what the rows occupy stays in the L2 beside them.
  __device__ TileWork locate(int tile) const {
    constexpr int kBand = 2048 / kTokens;
    TileWork w{};
    int begin = 0;
    int end = lists.rows;
    int token_tiles = (end + kTokens - 1) / kTokens;
    const int output_tiles = this->output_tiles();
    if (routed()) {
      int low = 0;
      int high = a.experts;  // the first expert whose tiles end after `tile`
      while (low < high) {
        const int middle = (low + high) / 2;
        if (lists.token_tiles[middle + 1] * output_tiles > tile) {
          high = middle;
        } else {
          low = middle + 1;
        }
      }
      w.expert = low;
      tile -= lists.token_tiles[low] * output_tiles;
      token_tiles = lists.token_tiles[low + 1] - lists.token_tiles[low];
      if constexpr (kFirstShared) {
        begin = lists.first[low];
        end = lists.first[low + 1];
      } else {
        begin = __ldg(a.plan.first + low);
        end = __ldg(a.plan.first + low + 1);
      }
    }
    const int band = tile / (kBand * output_tiles);
    tile -= band * kBand * output_tiles;
    const int width = min(kBand, token_tiles - band * kBand);
    w.outputs = tile / width;
    w.first = begin + (band * kBand + tile % width) * kTokens;
    w.tokens = min(kTokens, end - w.first);
    return w;
  }

  /// The pair at place i of the list.
  __device__ int pair(int i) const { return routed() ? __ldg(a.plan.pairs + i) : i; }
  /// The row of activations that it reads.
  __device__ int x_row(int i) const {
    if (a.x_in_order) return i;
    const int row = a.x_row(pair(i));
    return a.index == nullptr ? row : __ldg(a.index + row);
  }
};

}  // namespace moesaic::backend::cuda
