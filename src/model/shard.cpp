#include "model/shard.h"

#include <algorithm>

namespace moesaic::model {
namespace {

void share_heads(const AttentionSpec& attention, const Shard& shard, LayerShare& share) {
  const int64_t kv_heads = attention.kv_heads;
  const int64_t group = attention.heads / kv_heads;
  if (shard.ranks <= kv_heads) {
    share.kv_heads = share_of(kv_heads, shard);
    share.heads = {share.kv_heads.first * group, share.kv_heads.count * group};
    return;
  }
  // Ranks [begin, end) share the query heads of one KV head.
  const int64_t kv_head = (shard.rank * kv_heads) / shard.ranks;
  const int64_t begin = (kv_head * shard.ranks + kv_heads - 1) / kv_heads;
  const int64_t end = ((kv_head + 1) * shard.ranks + kv_heads - 1) / kv_heads;
  const Share own = share_of(group, {.ranks = end - begin, .rank = shard.rank - begin});
  share.heads = {kv_head * group + own.first, own.count};
  share.kv_heads = {kv_head, own.count > 0 ? 1 : 0};
  share.kv_copies = own.first > 0;
}

}  // namespace

Share share_of(int64_t total, const Shard& shard) {
  const int64_t each = total / shard.ranks;
  const int64_t longer = total % shard.ranks;
  return {shard.rank * each + std::min(shard.rank, longer), each + (shard.rank < longer ? 1 : 0)};
}

LayerShare::LayerShare(const LayerSpec& layer, const Shard& shard) {
  const FfnSpec& ffn = layer.ffn;
  const int64_t all = ffn.moe ? ffn.experts : 1;
  share_heads(layer.attention, shard, *this);
  if (ffn.moe && shard.expert_parallel) {
    experts = share_of(all, shard);
    width = {0, ffn.width};
  } else {
    experts = {0, all};
    width = share_of(ffn.width, shard);
  }
  shared_width = share_of(ffn.shared_width, shard);
}

}  // namespace moesaic::model
