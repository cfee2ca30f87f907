#pragma once

// The load of `bench serve`: requests that arrive at a rate, or so many at a time.

#include <boost/json/object.hpp>
#include <chrono>
#include <cstdint>
#include <string>

#include "cli/bench_client.h"
#include "cli/bench_figures.h"
#include "cli/bench_prompts.h"

namespace moesaic::cli {

struct LoadPlan {
  Endpoint endpoint = Endpoint::kCompletions;
  std::string model;
  int64_t requests = 0;
  int64_t concurrency = 0;  ///< 0: they arrive at `rate`
  double rate = 0;          ///< requests per second, Poisson
  NumberRange output_len;
  boost::json::object extra;  ///< members of every request's body, before those of the bench
  std::chrono::milliseconds timeout{0};
  uint64_t seed = 0;
};

/// The one model that the server has. Throws UsageError when there are several, UnavailableError
/// when it does not say.
std::string only_model(boost::asio::io_context& io, HttpClient& client,
                       std::chrono::milliseconds timeout);

/// Runs the plan and shows on stderr how far it is. Ctrl-C ends it early, with what was measured.
LoadFigures run_load(boost::asio::io_context& io, HttpClient& client, const LoadPlan& plan,
                     Prompts& prompts);

}  // namespace moesaic::cli
