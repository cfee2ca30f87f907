#pragma once

// The KV blocks of the pool: who holds each, and which hold content that a later request may reuse.

#include <cstdint>
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

/// A published content: the block, and which of the contents it has had. The start of every chain
/// is the default.
struct Content {
  BlockId block = -1;
  uint64_t life = 0;
  bool operator==(const Content&) const = default;
};

/// Reference-counted blocks. A block is free (no content), cached (published content that nobody
/// holds, taken back least recently used first) or held. free + cached + held = size, always.
///
/// Nothing but publish() allocates memory after construction, so a step's schedule can be carried
/// out without failing half-way.
class BlockPool {
 public:
  BlockPool(int64_t blocks, int64_t block_size);

  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t block_size() const { return block_size_; }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  int64_t cached() const { return cached_; }
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

  /// Publishes the content of a held, full block: `tokens` after the content `parent`. Returns the
  /// content that now stands for it: this block's, or an equal one published before; none when the
  /// parent's content is gone.
  std::optional<Content> publish(BlockId block, const BlockKey& key, const Content& parent,
                                 const int32_t* tokens);
  /// The content with that key, compared token by token after the very content `parent`, so that a
  /// collision of hashes cannot give one request what another computed.
  std::optional<Content> find(const BlockKey& key, const Content& parent,
                              const int32_t* tokens) const;

  /// The content that a published block has now.
  Content content(BlockId block) const { return {block, at(block).life}; }

  /// Counts blocks anew and asserts that every one is free, cached or held and nothing else.
  void check_invariants() const;

 private:
  static constexpr BlockId kNone = -1;
  struct Block {
    int32_t references = 0;
    bool published = false;
    BlockKey key;
    Content parent;
    uint64_t life = 0;  ///< contents this block has had before
    std::vector<int32_t> tokens;
    BlockId older = kNone, newer = kNone;  ///< neighbours among the cached
  };
  struct KeyHash {
    size_t operator()(const BlockKey& key) const { return static_cast<size_t>(key.low); }
  };

  Block& at(BlockId block) { return blocks_[static_cast<size_t>(block)]; }
  const Block& at(BlockId block) const { return blocks_[static_cast<size_t>(block)]; }
  bool stands(const Content& content) const {
    return content.block == kNone ||
           (at(content.block).published && at(content.block).life == content.life);
  }
  void forget(Block& block);
  void link_newest(BlockId block);
  void unlink(BlockId block);

  int64_t block_size_;
  std::vector<Block> blocks_;
  std::vector<BlockId> free_;
  BlockId oldest_ = kNone, newest_ = kNone;  ///< ends of the list of cached blocks
  int64_t cached_ = 0;
  std::unordered_map<BlockKey, BlockId, KeyHash> published_;
};

}  // namespace moesaic::engine
