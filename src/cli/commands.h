#pragma once

#include "cli/command_line.h"

namespace moesaic::cli {

// The commands; each file cli/<name>.cpp defines one.
Command serve_command();
Command chat_command();
Command inspect_command();
Command bench_command();
Command docs_command();
Command deploy_command();
Command migrate_command();
Command plan_command();

}  // namespace moesaic::cli
