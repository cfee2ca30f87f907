#include "base/error.h"
#include "model/decoder.h"

namespace moesaic::model {

namespace {

/// Layers start at a cache line whatever the block size.
constexpr size_t kAlignment = 64;

backend::KvDesc describe(const LayerSpec& layer, const Shard& shard, tensor::DType dtype,
                         int64_t block_size) {
  return {.kv_heads = LayerShare(layer, shard).kv_heads.count,
          .head_dim = layer.attention.head_dim,
          .block_size = block_size,
          .dtype = dtype};
}

size_t layer_block_bytes(const backend::Backend& backend, const backend::KvDesc& desc) {
  const size_t bytes = backend.kv_block_bytes(desc);
  // Rounding the block and not the layer keeps the total an exact multiple of the block count,
  // which is how memory_needs() counts it.
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

KvCache::KvCache(const ModelSpec& spec, const Shard& shard, backend::Backend& backend,
                 tensor::DType dtype, int64_t block_size, int64_t num_blocks)
    : block_size_(block_size), num_blocks_(num_blocks) {
  MOESAIC_ASSERT(block_size > 0 && num_blocks > 0);
  const size_t per_block = block_bytes(spec, shard, backend, dtype, block_size);
  buffer_ =
      backend.allocate(base::MemoryTag::kKvCache, per_block * static_cast<size_t>(num_blocks));
  backend::Address at = buffer_.address();
  for (const LayerSpec& layer : spec.layers) {
    const backend::KvDesc desc = describe(layer, shard, dtype, block_size);
    layers_.push_back({.desc = desc, .data = at, .num_blocks = num_blocks});
    at = at + layer_block_bytes(backend, desc) * static_cast<size_t>(num_blocks);
  }
}

size_t KvCache::block_bytes(const ModelSpec& spec, const Shard& shard,
                            const backend::Backend& backend, tensor::DType dtype,
                            int64_t block_size) {
  size_t bytes = 0;
  for (const LayerSpec& layer : spec.layers) {
    bytes += layer_block_bytes(backend, describe(layer, shard, dtype, block_size));
  }
  return bytes;
}

}  // namespace moesaic::model
