#pragma once

// Which part of a model a rank holds: the one place that decides it. Attention is cut by heads, a
// dense or shared feed-forward part by its width, the vocabulary by rows; the routed experts by
// their width or, with expert parallelism, dealt out whole. Shares differ by at most one unit, and
// any of them may be empty.

#include <cstdint>

#include "model/spec.h"

namespace moesaic::model {

/// One rank among those that share a model.
struct Shard {
  int64_t ranks = 1;
  int64_t rank = 0;
  bool expert_parallel = false;  ///< routed experts are dealt out instead of cut
};

/// Units [first, first + count).
struct Share {
  int64_t first = 0;
  int64_t count = 0;
};

/// A rank's share of `total` units: the first ranks have one more where it does not divide.
Share share_of(int64_t total, const Shard& shard);

/// What a rank holds of a layer. Where there are fewer KV heads than ranks, several ranks hold
/// copies of one and share its query heads.
struct LayerShare {
  Share heads, kv_heads;
  bool kv_copies = false;  ///< an earlier rank holds the same KV head
  Share experts;           ///< of the routed ones, or of the one of a dense layer
  Share width;             ///< of each of those
  Share shared_width;      ///< of the shared expert

  LayerShare(const LayerSpec& layer, const Shard& shard);
};

}  // namespace moesaic::model
