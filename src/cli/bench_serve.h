#pragma once

// `moesaic bench serve URL`: load on a server that speaks OpenAI's protocol, ours or another.

#include <vector>

#include "cli/command_line.h"

namespace moesaic::cli {

/// Options that `bench serve` has beside those that it shares with `bench throughput`.
std::vector<CommandOption> bench_serve_options();

/// Throws UnavailableError when a request failed.
int bench_serve(const Invocation& invocation);

}  // namespace moesaic::cli
