#pragma once

// One logger for the program: spdlog to stderr. Prompts and answers are never logged.

#include <spdlog/spdlog.h>

#include <string_view>

namespace moesaic::base {

/// Sets the level ("trace" ... "critical", "off"; Python's "DEBUG", "WARNING" are understood) and
/// the line format. Throws UsageError on an unknown level.
void init_logging(std::string_view level);

}  // namespace moesaic::base
