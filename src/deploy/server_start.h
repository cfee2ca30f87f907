#pragma once

// Which inference server a container starts, and with which arguments.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "deploy/service.h"

namespace moesaic::deploy {

struct ServerStart {
  Engine engine = Engine::kVllm;  ///< kNeuron is for the caller to see
  std::vector<std::string> arguments;
  std::map<std::string, std::string> assignments;  ///< made by the shell before it
  std::vector<std::string> other_commands;         ///< of the script, which are not carried on
};

/// Looks for `vllm serve`, `python -m vllm...api_server`, `text-generation-launcher` and
/// `moesaic serve` in `command` (a container's command and args, or a shell script in them); with
/// `by_image` for the entry point of a known image instead. `environment` fills in variables;
/// UsageError when they expand beyond kMaxExpandedText.
std::optional<ServerStart> find_server(const std::vector<std::string>& command,
                                       const std::vector<std::string>& args,
                                       const std::string& image,
                                       const std::map<std::string, std::string>& environment,
                                       bool by_image);

/// Whether an image of that name may hold a server: a hint for messages.
bool is_server_image(const std::string& image);

/// For error messages: what find_server looks for.
std::string_view servers_looked_for();

}  // namespace moesaic::deploy
