#pragma once

#include <deque>

#include "engine/executor.h"
#include "model/decoder.h"

namespace moesaic::engine {

/// Runs steps in this process: model::Decoder over one backend. All arguments outlive it. `depth`
/// is how many steps may be in flight.
class LocalExecutor : public Executor {
 public:
  LocalExecutor(const model::ModelSpec& spec, const model::LoadedWeights& weights,
                backend::Backend& backend, backend::Communicator& ranks,
                const model::KvCache& cache, int64_t max_rows, int depth = 1);

  int depth() const override { return depth_; }
  void submit(std::shared_ptr<const Step> step) override;
  std::vector<Sampled> wait() override;
  void set_sampling_state(const SampleRow& row, backend::SamplingState state) override;
  bool chooses_ahead(const SampleRow& row) const override { return backend_.samples(row).empty(); }
  int64_t vocab_size() const override { return spec_.vocab_size; }
  ExpertCounts expert_counts() const override;

 private:
  /// A row that the backend does not choose for, and its logits on their way to the host.
  struct HostRow {
    size_t wanted;
    std::vector<float> logits;
  };
  struct InFlight {
    std::shared_ptr<const Step> step;
    backend::Fence end;
    std::deque<HostRow> host_rows;
  };
  void sample(const backend::StepView& step, InFlight& flight, int64_t first, int64_t count);
  void read_for_host(InFlight& flight, int64_t first, int64_t count);

  const model::ModelSpec& spec_;
  backend::Backend& backend_;
  const model::KvCache& cache_;
  model::Decoder decoder_;
  int depth_;
  std::deque<InFlight> flights_;
  std::vector<backend::SamplingState> host_states_;  ///< by slot, of rows the host chooses for
};

}  // namespace moesaic::engine
