#pragma once

#include "cli/command_line.h"

namespace moesaic::cli {

/// `serve --dry-run`: prints what becomes of each setting and the memory needs; touches no weights
/// and no network. Returns 0; throws ConfigError where the settings contradict each other or the
/// model, MissingFileError where the model is a path and nothing is there.
int dry_run(const Invocation& invocation);

}  // namespace moesaic::cli
