#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/sampling/sampling.h"
#include "backend/step.h"

namespace moesaic::engine {

using backend::Sampled;
using backend::SampleRow;
using backend::StepBatch;

/// What an executor runs at once: rows of tokens, and what is wanted of each logit row. A token id
/// of -1 - k stands for what wanted row k of the step submitted before chose.
struct Step {
  StepBatch batch;
  std::vector<SampleRow>
      samples;  ///< [batch.logit_rows], or none: logits are computed, and dropped
};

/// Rows routed to each expert since the start, [layers, experts].
struct ExpertCounts {
  int64_t layers = 0;
  int64_t experts = 0;
  std::vector<uint64_t> counts;
};

/// The seam under the engine: runs steps somewhere. The local one wraps model::Decoder; the
/// simulator's pretends; whole-graph devices and multi-rank runs plug in here. Called by one thread
/// but for expert_counts().
///
/// Steps are computed in the order in which they are submitted. A step that fails throws
/// std::bad_alloc or base::RequestError, from submit() and is then not in flight, or from wait();
/// anything else means that the executor can do no more.
class Executor {
 public:
  virtual ~Executor() = default;

  /// Steps that may be in flight: submitted and not waited for.
  virtual int depth() const { return 1; }
  virtual void submit(std::shared_ptr<const Step> step) = 0;
  /// The result of the oldest step in flight, by wanted row.
  virtual std::vector<Sampled> wait() = 0;

  /// Gives slot `row.state` to a sequence whose rows are like `row`, for the steps submitted after.
  virtual void set_sampling_state(const SampleRow& row, backend::SamplingState state) = 0;
  /// Whether the next step may have what such a row chooses among its tokens before it is known.
  virtual bool chooses_ahead(const SampleRow&) const { return true; }

  virtual int64_t vocab_size() const = 0;
  /// Thread-safe; of a step in flight some layers may be counted and others not.
  virtual ExpertCounts expert_counts() const = 0;
};

}  // namespace moesaic::engine
