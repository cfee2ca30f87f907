#pragma once

// Ranks of one model as threads of this process, on backends whose memory is the host's.

#include <atomic>
#include <memory>
#include <stdexcept>
#include <vector>

#include "backend/communicator.h"

namespace moesaic::backend {

/// Thrown from a collective to the ranks that wait there for one that has failed.
class RankLost : public std::runtime_error {
 public:
  RankLost() : std::runtime_error("another rank has failed") {}
};

/// Joins `ranks` threads, each of which calls the collectives of its own communicator. Sums are
/// added in rank order, so they are the same on every rank and in every run.
class HostRanks {
 public:
  explicit HostRanks(int64_t ranks);
  ~HostRanks();
  HostRanks(const HostRanks&) = delete;
  HostRanks& operator=(const HostRanks&) = delete;

  Communicator& communicator(int64_t rank);

  /// A rank will make no more calls of this step: the others' calls throw RankLost.
  void fail();
  /// After fail(), when no rank is in a collective any more.
  void reset();

 private:
  class Rank;
  void meet();

  std::vector<std::unique_ptr<Rank>> ranks_;
  std::vector<float*> values_;  ///< of the collective under way, by rank
  alignas(64) std::atomic<int64_t> waiting_{0};
  alignas(64) std::atomic<uint32_t> meetings_{0};
  std::atomic<bool> failed_{false};
};

}  // namespace moesaic::backend
