#pragma once

// What the engine knows of a request and its sequences while they live.

#include <memory>
#include <unordered_map>

#include "engine/block_pool.h"
#include "engine/request.h"

namespace moesaic::engine {

struct LiveRequest;

/// One stream of tokens. It runs when it holds blocks or is in the running list, else it waits.
struct Sequence {
  LiveRequest* request = nullptr;
  int32_t index = 0;
  std::vector<int32_t> tokens;  ///< prompt, then what was generated
  int64_t computed = 0;         ///< positions whose K and V are in the cache
  std::vector<BlockId> blocks;
  std::vector<BlockKey> keys;  ///< of the full blocks, as far as they were needed
  int64_t published = 0;       ///< leading blocks offered to the prefix cache
  Content chain_end;           ///< what stands for the last of those there
  bool chain_broken = false;   ///< nothing more can be offered
  bool running = false;
  bool finished = false;
  uint64_t seed = 0;
  std::unordered_map<int32_t, int32_t> output_counts;  ///< kept only when a penalty wants it
  TimePoint last_token;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t uncomputed() const { return size() - computed; }
};

/// A request between admission and its end.
struct LiveRequest {
  Request request;
  uint64_t arrival = 0;  ///< order of arrival
  TimePoint arrived, started, first_token;
  bool has_started = false, has_first_token = false;
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<PositionLogprobs> prompt_logprobs;
  int64_t cached_tokens = 0;
  int64_t generated = 0;
  int32_t unfinished = 0;
  FinishReason reason = FinishReason::kNone;  ///< of the first sequence to end otherwise than kStop

  int64_t prompt_size() const { return static_cast<int64_t>(request.prompt.size()); }
  /// Whether sequences after the first may start: the prompt's blocks are there to be shared.
  bool prompt_done() const {
    return sequences[0]->finished || sequences[0]->size() > prompt_size();
  }
};

/// Order in which sequences are served: by priority, then arrival, then index.
struct ServedBefore {
  bool by_priority = false;
  bool operator()(const Sequence* a, const Sequence* b) const {
    const LiveRequest& x = *a->request;
    const LiveRequest& y = *b->request;
    if (by_priority && x.request.priority != y.request.priority) {
      return x.request.priority < y.request.priority;
    }
    if (x.arrival != y.arrival) return x.arrival < y.arrival;
    return a->index < b->index;
  }
};

}  // namespace moesaic::engine
