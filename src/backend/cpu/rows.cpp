#include "backend/cpu/rows.h"

#include "backend/raw_address.h"
#include "base/error.h"

namespace moesaic::backend::cpu {

const RowTable& row_kernels(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return kRowsBaseline;
    case Isa::kAvx2:
      return kRowsAvx2;
    case Isa::kVnni:
      return kRowsVnni;
    case Isa::kAvx512:
      return kRowsAvx512;
    case Isa::kAmx:
      break;
  }
  return kRowsAmx;
}

KvView view_of(const KvLayer& layer) {
  KvType type = KvType::kF32;
  if (layer.desc.dtype == DType::kBF16) type = KvType::kBF16;
  if (layer.desc.dtype == DType::kF16) type = KvType::kF16;
  return {RawAddress::pointer(layer.data), layer.desc.kv_heads, layer.desc.head_dim,
          layer.desc.block_size, type};
}

size_t kv_block_bytes(const KvDesc& desc) {
  return static_cast<size_t>(2 * desc.block_size * desc.kv_heads * desc.head_dim) *
         tensor::size_of(desc.dtype);
}

void rms_norm(base::ThreadPool& pool, const RowTable& kernels, const float* x, const float* weight,
              float eps, int64_t rows, int64_t width, float* out) {
  over_rows(pool, rows, width, [&](int64_t first, int64_t end) {
    for (int64_t r = first; r < end; ++r) {
      kernels.rms_norm(x + r * width, weight, eps, width, out + r * width);
    }
  });
}

void add_rms_norm(base::ThreadPool& pool, const RowTable& kernels, float* residual,
                  const float* delta, const float* weight, float eps, int64_t rows, int64_t width,
                  float* out) {
  over_rows(pool, rows, width, [&](int64_t first, int64_t end) {
    for (int64_t r = first; r < end; ++r) {
      kernels.add_rms_norm(residual + r * width, delta + r * width, weight, eps, width,
                           out + r * width);
    }
  });
}

void qkv_rope_append(base::ThreadPool& pool, const RowTable& kernels, const AttentionDesc& desc,
                     const QkvInputs& inputs, int64_t rows, float* qkv, const KvLayer& cache) {
  MOESAIC_ASSERT(desc.head_dim <= kMaxHeadDim);
  const int64_t width = (desc.heads + 2 * desc.kv_heads) * desc.head_dim;
  const int64_t half = desc.rotary_dim / 2;
  over_rows(pool, rows, width, [&](int64_t first, int64_t end) {
    QkvRow row;
    row.heads = desc.heads;
    row.kv_heads = desc.kv_heads;
    row.head_dim = desc.head_dim;
    row.rotary_dim = desc.rotary_dim;
    row.norm_per_head = desc.qk_norm == QkNorm::kPerHead;
    if (desc.qk_norm != QkNorm::kNone) {
      row.q_norm = inputs.q_norm;
      row.k_norm = inputs.k_norm;
    }
    row.eps = desc.norm_eps;
    row.all_heads = desc.all_heads > 0 ? desc.all_heads : desc.heads;
    row.all_kv_heads = desc.all_kv_heads > 0 ? desc.all_kv_heads : desc.kv_heads;
    row.clip = desc.clip_qkv;
    row.kv = view_of(cache);
    for (int64_t r = first; r < end; ++r) {
      row.q = qkv + r * width;
      row.squares = inputs.squares == nullptr ? nullptr : inputs.squares + 2 * r;
      row.cos = inputs.cos + r * half;
      row.sin = inputs.sin + r * half;
      row.slot = inputs.slots[static_cast<size_t>(r)];
      kernels.qkv_row(row);
    }
  });
}

}  // namespace moesaic::backend::cpu
