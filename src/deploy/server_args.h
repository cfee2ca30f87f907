#pragma once

// The command line and environment with which each engine's container serves the same service.

#include <string>
#include <vector>

#include "deploy/service.h"

namespace moesaic::deploy {

struct ServerCommand {
  std::vector<std::string> command;  ///< replaces the image's entry point; empty = keep it
  std::vector<std::string> args;
  std::vector<EnvVar> env;
};

/// Of the pod that answers requests, or with `worker` of the others of a replica on many nodes.
ServerCommand server_command(const Service& service, bool worker = false);

}  // namespace moesaic::deploy
