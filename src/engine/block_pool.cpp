#include "engine/block_pool.h"

#include <algorithm>

#include "base/error.h"
#include "base/hash.h"

namespace moesaic::engine {

BlockKey chain_key(const BlockKey& parent, const int32_t* tokens, int64_t count) {
  BlockKey key{base::mix_bits(parent.high + 0x9e3779b97f4a7c15ULL),
               base::mix_bits(parent.low + 0xd1b54a32d192ed03ULL)};
  for (int64_t i = 0; i < count; ++i) {
    const auto token = static_cast<uint64_t>(static_cast<uint32_t>(tokens[i]));
    key.high = base::mix_bits(key.high ^ (token + 0x632be59bd9b4e019ULL));
    key.low = base::mix_bits(key.low + (token + 1) * 0x9e3779b97f4a7c15ULL);
  }
  return key;
}

BlockPool::BlockPool(int64_t blocks, int64_t block_size)
    : block_size_(block_size), blocks_(static_cast<size_t>(blocks)) {
  free_.reserve(blocks_.size());
  for (int64_t block = blocks; block-- > 0;) free_.push_back(static_cast<BlockId>(block));
}

void BlockPool::link_newest(BlockId block) {
  Block& entry = at(block);
  entry.older = newest_;
  entry.newer = kNone;
  (newest_ == kNone ? oldest_ : at(newest_).newer) = block;
  newest_ = block;
  ++cached_;
}

void BlockPool::unlink(BlockId block) {
  Block& entry = at(block);
  (entry.older == kNone ? oldest_ : at(entry.older).newer) = entry.newer;
  (entry.newer == kNone ? newest_ : at(entry.newer).older) = entry.older;
  --cached_;
}

/// Ends a published content; what was published as following it can no longer be reached.
void BlockPool::forget(Block& block) {
  block.published = false;
  block.tokens.clear();
  ++block.life;
}

BlockId BlockPool::take() {
  MOESAIC_ASSERT(available() > 0);
  BlockId block;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else {
    block = oldest_;
    unlink(block);
    published_.erase(at(block).key);
    forget(at(block));
  }
  MOESAIC_ASSERT(at(block).references == 0 && !at(block).published);
  at(block).references = 1;
  return block;
}

void BlockPool::retain(BlockId block) {
  Block& entry = at(block);
  if (entry.references == 0) {
    MOESAIC_ASSERT(entry.published);
    unlink(block);
  }
  ++entry.references;
}

void BlockPool::release(BlockId block) {
  Block& entry = at(block);
  MOESAIC_ASSERT(entry.references > 0);
  if (--entry.references > 0) return;
  if (entry.published) {
    link_newest(block);
  } else {
    free_.push_back(block);
  }
}

std::optional<Content> BlockPool::publish(BlockId block, const BlockKey& key, const Content& parent,
                                          const int32_t* tokens) {
  if (!stands(parent)) return std::nullopt;
  if (const auto equal = find(key, parent, tokens)) return equal;
  Block& entry = at(block);
  MOESAIC_ASSERT(entry.references > 0 && !entry.published);
  entry.tokens.assign(tokens, tokens + block_size_);
  const auto [place, fresh] = published_.try_emplace(key, block);
  if (!fresh) {
    // What has this key follows a content that is gone, or collides: nobody can find it any more.
    const BlockId stale = place->second;
    place->second = block;
    forget(at(stale));
    if (at(stale).references == 0) {
      unlink(stale);
      free_.push_back(stale);
    }
  }
  entry.published = true;
  entry.key = key;
  entry.parent = parent;
  return Content{block, entry.life};
}

std::optional<Content> BlockPool::find(const BlockKey& key, const Content& parent,
                                       const int32_t* tokens) const {
  if (!stands(parent)) return std::nullopt;
  const auto found = published_.find(key);
  if (found == published_.end()) return std::nullopt;
  const Block& entry = at(found->second);
  if (entry.parent != parent) return std::nullopt;
  if (!std::equal(entry.tokens.begin(), entry.tokens.end(), tokens)) return std::nullopt;
  return Content{found->second, entry.life};
}

void BlockPool::check_invariants() const {
  std::vector<int> places(blocks_.size());
  for (BlockId block : free_) {
    MOESAIC_ASSERT(at(block).references == 0 && !at(block).published);
    ++places[static_cast<size_t>(block)];
  }
  int64_t cached = 0;
  for (BlockId block = oldest_; block != kNone; block = at(block).newer) {
    MOESAIC_ASSERT(at(block).references == 0 && at(block).published);
    ++places[static_cast<size_t>(block)];
    ++cached;
  }
  MOESAIC_ASSERT(cached == cached_);
  int64_t published = 0;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    MOESAIC_ASSERT(places[i] + (blocks_[i].references > 0 ? 1 : 0) == 1);
    if (!blocks_[i].published) continue;
    ++published;
    MOESAIC_ASSERT(published_.at(blocks_[i].key) == static_cast<BlockId>(i));
  }
  MOESAIC_ASSERT(published == static_cast<int64_t>(published_.size()));
}

}  // namespace moesaic::engine
