#pragma once

// Which experts are busy: since start, and in the last moments, for the web page.

#include <chrono>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/server.h"

namespace moesaic::server {

class ExpertLoad {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// Remembers the counters of `now`; call a few times a second.
  void sample(const engine::EngineStats& stats, TimePoint now);

  /// {"layers", "experts", "top_k", "total", "recent", "recent_seconds", "model", ...}: token
  /// counts per MoE layer and expert, since start and over about the last two seconds.
  std::string json(const engine::EngineStats& stats, const ServedModel& model, TimePoint now) const;

 private:
  struct Sample {
    TimePoint time;
    uint64_t generated = 0;
    std::vector<uint64_t> counts;
  };
  mutable std::mutex mutex_;
  std::deque<Sample> samples_;  ///< oldest first
};

}  // namespace moesaic::server
