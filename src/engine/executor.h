#pragma once

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
};

}  // namespace moesaic::engine
