#pragma once

// An executor for tests of what stands above it: one step in flight, computed when it is waited for
// by a function that makes logits.

#include <functional>
#include <mutex>
#include <span>

#include "engine/executor.h"

namespace moesaic::engine {

class TestExecutor : public Executor {
 public:
  void submit(std::shared_ptr<const Step> step) override { step_ = std::move(step); }

  std::vector<Sampled> wait() override {
    const std::shared_ptr<const Step> step = std::move(step_);
    std::vector<Sampled> sampled(step->samples.size());
    compute(step->batch, [&](size_t wanted, std::span<float> logits) {
      const SampleRow& row = step->samples[wanted];
      backend::SamplingState* state =
          row.state < 0 ? nullptr : &states_.at(static_cast<size_t>(row.state));
      sampled[wanted] = backend::sample(logits, row, state);
      if (state != nullptr && !sampled[wanted].broken) state->append(sampled[wanted].token);
    });
    return sampled;
  }

  void set_sampling_state(const SampleRow& row, backend::SamplingState state) override {
    const auto slot = static_cast<size_t>(row.state);
    if (slot >= states_.size()) states_.resize(slot + 1);
    states_[slot] = std::move(state);
  }

  ExpertCounts expert_counts() const override {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

 protected:
  /// Takes the logits of one wanted row, and may write over them.
  using Choose = std::function<void(size_t wanted, std::span<float> logits)>;
  virtual void compute(const StepBatch& batch, const Choose& choose) = 0;

  void count(int64_t layers, int64_t experts, int64_t layer, int64_t expert, int64_t rows = 1) {
    const std::lock_guard lock(mutex_);
    counts_.layers = layers;
    counts_.experts = experts;
    counts_.counts.resize(static_cast<size_t>(layers * experts));
    counts_.counts[static_cast<size_t>(layer * experts + expert)] += static_cast<uint64_t>(rows);
  }

 private:
  std::shared_ptr<const Step> step_;
  std::vector<backend::SamplingState> states_;
  mutable std::mutex mutex_;
  ExpertCounts counts_;
};

}  // namespace moesaic::engine
