#pragma once

// What the engine knows of a request and its sequences while they live.

#include <memory>
#include <set>
#include <vector>

#include "engine/block_pool.h"
#include "engine/request.h"

namespace moesaic::engine {

struct Group;
struct LiveRequest;

/// One stream of tokens. It runs, or it waits, or it has ended; one that ended while steps in
/// flight had rows of it is retired: it holds its blocks until they have landed.
struct Sequence {
  LiveRequest* request = nullptr;
  int32_t index = 0;
  std::vector<int32_t> output;  ///< generated; before it stands the prompt, which is the request's
  int64_t computed = 0;         ///< positions whose K and V are in the cache
  int64_t scheduled = 0;        ///< those, and the ones that steps in flight compute
  int64_t pending = 0;          ///< tokens that steps in flight choose
  uint64_t pending_step = 0;    ///< the step that chooses the last of them,
  int32_t pending_row = 0;      ///< and by which of its wanted rows
  bool may_follow = false;      ///< whether the step after that one may have it before it is known
  int64_t flights = 0;          ///< steps in flight that it has rows in
  int32_t slot = -1;            ///< of its sampling state; -1 = none
  std::unique_ptr<Constraint::Path> path;  ///< through the request's constraint
  std::vector<BlockId> blocks;
  std::vector<BlockKey> keys;  ///< of the full blocks, as far as they were needed
  int64_t published = 0;       ///< leading blocks offered to the prefix cache
  Content chain_end;           ///< what stands for the last of those there
  bool chain_broken = false;   ///< nothing more can be offered
  bool running = false;
  bool finished = false;
  uint64_t seed = 0;
  TimePoint last_token;

  /// Of prompt and output together, as every position here; what is known of it.
  int64_t size() const;
  /// With the tokens that are being chosen.
  int64_t length() const { return size() + pending; }
  int32_t token(int64_t position) const;
  /// `count` tokens from `first` on, in place; where prompt and output meet, copied to `scratch`.
  const int32_t* tokens(int64_t first, int64_t count, std::vector<int32_t>& scratch) const;
};

/// A request between admission and its end, or the landing of the last step that has rows of it.
struct LiveRequest : std::enable_shared_from_this<LiveRequest> {
  Request request;
  Group* group = nullptr;  ///< while the scheduler knows a sequence of it
  uint64_t arrival = 0;    ///< order of arrival
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
  bool prompt_done() const { return sequences[0]->finished || !sequences[0]->output.empty(); }
};

inline int64_t Sequence::size() const {
  return request->prompt_size() + static_cast<int64_t>(output.size());
}

inline int32_t Sequence::token(int64_t position) const {
  const std::vector<int32_t>& prompt = request->request.prompt;
  const auto at = static_cast<size_t>(position);
  return at < prompt.size() ? prompt[at] : output[at - prompt.size()];
}

inline const int32_t* Sequence::tokens(int64_t first, int64_t count,
                                       std::vector<int32_t>& scratch) const {
  const std::vector<int32_t>& prompt = request->request.prompt;
  const int64_t after_prompt = first - static_cast<int64_t>(prompt.size());
  if (after_prompt >= 0) return output.data() + after_prompt;
  if (after_prompt + count <= 0) return prompt.data() + first;
  scratch.assign(prompt.begin() + first, prompt.end());
  scratch.insert(scratch.end(), output.begin(), output.begin() + after_prompt + count);
  return scratch.data();
}

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

/// What the scheduler has of the requests that take turns as one.
struct Group {
  uint64_t id = 0;
  int32_t priority = 0;
  uint64_t arrival = 0;  ///< of its first request
  int64_t running = 0;   ///< sequences
  std::set<Sequence*, ServedBefore> waiting;
};

}  // namespace moesaic::engine
