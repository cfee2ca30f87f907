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

/// One line for each setting that `moesaic serve` knows but does not do yet, so that nobody finds
/// out from a pod that will not start. Empty for other engines.
std::vector<std::string> later_notes(const Service& service);

}  // namespace moesaic::deploy
