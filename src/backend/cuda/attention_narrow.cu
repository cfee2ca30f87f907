// Attention for tiles of 16 query rows: four warps on one tile, for decode.

#include "backend/cuda/attention_kernel.cuh"

namespace moesaic::backend::cuda {
namespace {

template <KvType kType>
void start(const AttentionParams& params, int dim, cudaStream_t stream) {
  // Blocks a multiprocessor: as registers and shared memory allow.
  switch (dim) {
    case 64:
      return start_attention<TileShape<64, kType, 1, 4, true>, 4>(params, stream);
    case 80:
      return start_attention<TileShape<80, kType, 1, 4, true>, 3>(params, stream);
    case 96:
      return start_attention<TileShape<96, kType, 1, 4, true>, 3>(params, stream);
    case 128:
      return start_attention<TileShape<128, kType, 1, 4, true>, 3>(params, stream);
    default:
      return start_attention<TileShape<256, kType, 1, 4, true>, 1>(params, stream);
  }
}

}  // namespace

void attention_narrow(const AttentionParams& params, KvType type, int dim, cudaStream_t stream) {
  type == KvType::kBF16 ? start<KvType::kBF16>(params, dim, stream)
                        : start<KvType::kE4M3>(params, dim, stream);
}

}  // namespace moesaic::backend::cuda
