#pragma once

#include <boost/json/object.hpp>
#include <optional>
#include <string>

#include "cli/command_line.h"

namespace moesaic::cli {

/// The config.json of a published model by its Hub name, where this program carries one.
std::optional<boost::json::object> shipped_config(const std::string& name);

/// `serve --dry-run`: prints what becomes of each setting and the memory plan; touches no weights
/// and no network. Returns 0; throws ConfigError where the settings contradict each other or the
/// model, MissingFileError where the model is a path and nothing is there.
int dry_run(const Invocation& invocation);

}  // namespace moesaic::cli
