#pragma once

// Which experts are busy and how fast the server is: since start, and in the last moments, for the
// web page.

#include <chrono>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/server.h"

namespace moesaic::server {

/// The model's layers that have experts, in the order in which the engine counts them.
std::vector<int64_t> moe_layer_numbers(const model::ModelSpec& spec);

class ExpertLoad {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// Remembers the counters of `now`; call a few times a second.
  void sample(const engine::EngineStats& stats, TimePoint now);

  /// {"layers", "experts", "top_k", "total", "recent", "recent_seconds", "model", ...}: token
  /// counts per MoE layer and expert, since start and over about the last two seconds, and the
  /// speed over the latter. `started` in Unix seconds tells one run of the server from the next.
  std::string json(const engine::EngineStats& stats, const ServedModel& model, int64_t started,
                   TimePoint now) const;

 private:
  struct Sample {
    TimePoint time;
    engine::EngineStats stats;
  };
  mutable std::mutex mutex_;
  std::deque<Sample> samples_;  ///< oldest first
};

}  // namespace moesaic::server
