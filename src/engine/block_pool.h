#pragma once

// The KV blocks of the pool: who holds each, and which hold content that a later request may reuse.

#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

namespace moesaic::engine {

using BlockId = int32_t;

/// Identity of a full block's content: a hash of every token from the sequence's start to its end.
struct BlockKey {
  uint64_t high = 0, low = 0;
  bool operator==(const BlockKey&) const = default;
};

/// The key of a block that follows `parent` (zero for the first) and holds `tokens`.
BlockKey chain_key(const BlockKey& parent, const int32_t* tokens, int64_t count);

/// Reference-counted blocks. A block is free (no content), cached (content that nobody holds, taken
/// back least recently used first) or held. free + cached + held = size, always.
class BlockPool {
 public:
  BlockPool(int64_t blocks, int64_t block_size);

  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t block_size() const { return block_size_; }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  int64_t cached() const { return static_cast<int64_t>(lru_.size()); }
  int64_t held() const { return size() - free() - cached(); }
  /// Blocks that take() can give.
  int64_t available() const { return free() + cached(); }
  int32_t references(BlockId block) const { return at(block).references; }

  /// A block with one reference; the least recently used cached one loses its content when none is
  /// free. Call only while available() > 0.
  BlockId take();
  /// One more holder of a held or cached block.
  void retain(BlockId block);
  /// One holder less; the last one leaves the block cached if its content is published, else free.
  void release(BlockId block);

  /// Publishes the content of a held, full block: `tokens` after the content `parent_key` of the
  /// published block `parent` (-1: none). Returns the block that now stands for this content: this
  /// one, or an equal one published before; none when the parent is no longer what it was.
  std::optional<BlockId> publish(BlockId block, const BlockKey& key, BlockId parent,
                                 const BlockKey& parent_key, const int32_t* tokens);
  /// The block with that content, compared token by token, so that a hash collision cannot give one
  /// request another's content.
  std::optional<BlockId> find(const BlockKey& key, BlockId parent, const int32_t* tokens) const;

 private:
  struct Block {
    int32_t references = 0;
    bool published = false;
    BlockKey key;
    BlockId parent = -1;
    uint64_t parent_life = 0;  ///< the parent's life when this was published
    uint64_t life = 0;         ///< counts the contents this block has had
    std::vector<int32_t> tokens;
    std::list<BlockId>::iterator place;  ///< in lru_ while cached
  };
  struct KeyHash {
    size_t operator()(const BlockKey& key) const { return static_cast<size_t>(key.low); }
  };

  Block& at(BlockId block) { return blocks_[static_cast<size_t>(block)]; }
  const Block& at(BlockId block) const { return blocks_[static_cast<size_t>(block)]; }
  void forget(Block& block);

  int64_t block_size_;
  std::vector<Block> blocks_;
  std::vector<BlockId> free_;
  std::list<BlockId> lru_;  ///< least recently used first
  std::unordered_map<BlockKey, BlockId, KeyHash> published_;
};

}  // namespace moesaic::engine
