#pragma once

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "backend/host/host_ranks.h"
#include "base/thread_pool.h"
#include "engine/local_executor.h"

namespace moesaic::engine {

/// Runs every step on all ranks of a model at once, one or more, each a thread of this process with
/// a backend of its own. Rank 0 is the caller's thread, and chooses. What is passed outlives it.
class RankedExecutor : public Executor {
 public:
  struct Rank {
    const model::LoadedWeights* weights;
    backend::Backend* backend;
    const model::KvCache* cache;
    const base::ThreadPool* pool;  ///< of the backend, whose first core the rank's thread takes
  };
  /// The first of `ranks` is rank 0.
  RankedExecutor(const model::ModelSpec& spec, const std::vector<Rank>& ranks, int64_t max_rows);
  ~RankedExecutor() override;

  void submit(std::shared_ptr<const Step> step) override;
  std::vector<Sampled> wait() override { return first_.wait(); }
  void set_sampling_state(const SampleRow& row, backend::SamplingState state) override {
    first_.set_sampling_state(row, std::move(state));
  }
  bool chooses_ahead(const SampleRow& row) const override { return first_.chooses_ahead(row); }
  int64_t vocab_size() const override { return first_.vocab_size(); }
  /// Every rank routes every row, so one of them has counted all.
  ExpertCounts expert_counts() const override { return first_.expert_counts(); }

 private:
  void follow(const Rank& rank, model::Decoder& decoder);
  void keep(std::exception_ptr failure);
  void stop();

  backend::HostRanks group_;
  LocalExecutor first_;
  std::vector<std::unique_ptr<model::Decoder>> decoders_;  ///< of the ranks after the first
  std::vector<std::thread> threads_;
  const base::ThreadPool* unbound_;  ///< of rank 0, until its thread is known

  std::mutex mutex_;  ///< guards what follows
  std::condition_variable changed_;
  std::shared_ptr<const Step> step_;  ///< that the ranks compute
  uint64_t steps_ = 0;
  size_t computing_ = 0;  ///< ranks after the first that are not done with it
  std::exception_ptr failure_;
  bool stopping_ = false;
};

}  // namespace moesaic::engine
