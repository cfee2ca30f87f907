#pragma once

#include <functional>

#include "model/decoder.h"

namespace moesaic::engine {

/// The seam under the engine: runs steps somewhere. The local one wraps model::Decoder; the
/// simulator's pretends; whole-graph devices and multi-rank runs plug in here.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void execute(const model::StepBatch& batch, const model::LogitsSink& sink,
                       model::ExpertCounts& counts) = 0;
  virtual int64_t vocab_size() const = 0;
  /// Runs body(task) for every task, on compute threads where there are some. Called from the sink.
  virtual void parallel_for(int64_t tasks, const std::function<void(int64_t)>& body) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
  }
};

}  // namespace moesaic::engine
