// Attention for tiles of 64 query rows (32 with head dim 256): prompts.

#include "backend/cuda/attention_kernel.cuh"

namespace moesaic::backend::cuda {
namespace {

template <KvType kType>
void start(const AttentionParams& params, int dim, cudaStream_t stream) {
  switch (dim) {
    case 64:
      return start_attention<TileShape<64, kType, 4, 1, false>, 2>(params, stream);
    case 80:
      return start_attention<TileShape<80, kType, 4, 1, false>, 2>(params, stream);
    case 96:
      return start_attention<TileShape<96, kType, 4, 1, false>, 2>(params, stream);
    case 128:
      return start_attention<TileShape<128, kType, 4, 1, false>, 2>(params, stream);
    default:
      // Four warps a row group, since a row's values and their fold do not fit one.
      return start_attention<TileShape<256, kType, 2, 4, true>, 1>(params, stream);
  }
}

}  // namespace

void attention_wide(const AttentionParams& params, KvType type, int dim, cudaStream_t stream) {
  type == KvType::kBF16 ? start<KvType::kBF16>(params, dim, stream)
                        : start<KvType::kE4M3>(params, dim, stream);
}

}  // namespace moesaic::backend::cuda
