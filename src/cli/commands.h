#pragma once

#include <string>
#include <vector>

#include "cli/command_line.h"

namespace moesaic::cli {

/// All commands, in the order of --help.
const std::vector<Command>& commands();
/// The command of that name; throws UsageError, which names the nearest one, when there is none.
const Command& find_command(const std::string& name);

// The commands; each file cli/<name>.cpp defines one.
Command serve_command();
Command chat_command();
Command inspect_command();
Command bench_command();
Command docs_command();
Command deploy_command();
Command migrate_command();
Command plan_command();
Command cache_command();
Command completion_command();

}  // namespace moesaic::cli
