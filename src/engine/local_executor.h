#pragma once

#include "engine/executor.h"

namespace moesaic::engine {

/// Runs steps in this process: model::Decoder over one backend. All arguments outlive it.
class LocalExecutor : public Executor {
 public:
  LocalExecutor(const model::ModelSpec& spec, const model::LoadedWeights& weights,
                backend::Backend& backend, model::KvCache& cache, int64_t max_rows)
      : spec_(spec), backend_(backend), cache_(cache), decoder_(spec, weights, backend, max_rows) {}

  void execute(const model::StepBatch& batch, const model::LogitsSink& sink,
               model::ExpertCounts& counts) override {
    decoder_.forward(batch, cache_, sink, counts);
  }
  int64_t vocab_size() const override { return spec_.vocab_size; }
  void parallel_for(int64_t tasks, const std::function<void(int64_t)>& body) override {
    backend_.parallel_for(tasks, [&](int64_t task, int) { body(task); });
  }

 private:
  const model::ModelSpec& spec_;
  backend::Backend& backend_;
  model::KvCache& cache_;
  model::Decoder decoder_;
};

}  // namespace moesaic::engine
