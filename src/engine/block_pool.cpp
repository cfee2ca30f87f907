#include "engine/block_pool.h"

#include <algorithm>

#include "base/error.h"

namespace moesaic::engine {
namespace {

/// Finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

BlockKey chain_key(const BlockKey& parent, const int32_t* tokens, int64_t count) {
  BlockKey key{mix(parent.high + 0x9e3779b97f4a7c15ULL), mix(parent.low + 0xd1b54a32d192ed03ULL)};
  for (int64_t i = 0; i < count; ++i) {
    const auto token = static_cast<uint64_t>(static_cast<uint32_t>(tokens[i]));
    key.high = mix(key.high ^ (token + 0x632be59bd9b4e019ULL));
    key.low = mix(key.low + (token + 1) * 0x9e3779b97f4a7c15ULL);
  }
  return key;
}

BlockPool::BlockPool(int64_t blocks, int64_t block_size)
    : block_size_(block_size), blocks_(static_cast<size_t>(blocks)) {
  for (int64_t block = blocks; block-- > 0;) free_.push_back(static_cast<BlockId>(block));
}

void BlockPool::forget(Block& block) {
  if (!block.published) return;
  published_.erase(block.key);
  block.published = false;
  block.tokens.clear();
  // Blocks published as followers of this content can no longer be reached through it.
  ++block.life;
}

BlockId BlockPool::take() {
  MOESAIC_ASSERT(available() > 0);
  BlockId block;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else {
    block = lru_.front();
    lru_.pop_front();
    forget(at(block));
  }
  MOESAIC_ASSERT(at(block).references == 0);
  at(block).references = 1;
  return block;
}

void BlockPool::retain(BlockId block) {
  Block& entry = at(block);
  if (entry.references++ == 0) {
    MOESAIC_ASSERT(entry.published);
    lru_.erase(entry.place);
  }
}

void BlockPool::release(BlockId block) {
  Block& entry = at(block);
  MOESAIC_ASSERT(entry.references > 0);
  if (--entry.references > 0) return;
  if (entry.published) {
    entry.place = lru_.insert(lru_.end(), block);
  } else {
    free_.push_back(block);
  }
}

std::optional<BlockId> BlockPool::publish(BlockId block, const BlockKey& key, BlockId parent,
                                          const BlockKey& parent_key, const int32_t* tokens) {
  if (parent >= 0 && !(at(parent).published && at(parent).key == parent_key)) return std::nullopt;
  if (published_.contains(key)) return find(key, parent, tokens);
  Block& entry = at(block);
  MOESAIC_ASSERT(entry.references > 0 && !entry.published);
  entry.published = true;
  entry.key = key;
  entry.parent = parent;
  entry.parent_life = parent < 0 ? 0 : at(parent).life;
  entry.tokens.assign(tokens, tokens + block_size_);
  published_.emplace(key, block);
  return block;
}

std::optional<BlockId> BlockPool::find(const BlockKey& key, BlockId parent,
                                       const int32_t* tokens) const {
  const auto found = published_.find(key);
  if (found == published_.end()) return std::nullopt;
  const Block& entry = at(found->second);
  if (!std::equal(entry.tokens.begin(), entry.tokens.end(), tokens)) return std::nullopt;
  // Equal tokens after equal content: the parent found by the caller must be the very block this
  // one followed, still with the content it had.
  if (entry.parent != parent) return std::nullopt;
  if (parent >= 0 && at(parent).life != entry.parent_life) return std::nullopt;
  return found->second;
}

}  // namespace moesaic::engine
