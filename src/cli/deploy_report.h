#pragma once

// What `deploy` and `migrate` say about the folder they wrote.

#include <filesystem>
#include <string>
#include <vector>

#include "deploy/service.h"

namespace moesaic::cli {

/// Lines for what `moesaic serve` would refuse of the container's arguments today, as --dry-run
/// says them. Empty for other engines' containers.
std::vector<std::string> refused_today(const deploy::Service& service);

/// Prints the files, what must be there before them, and the commands that apply them.
void print_written(const deploy::Service& service, const std::filesystem::path& folder,
                   const std::vector<std::filesystem::path>& written);

/// Prints `text` wrapped at 80 columns, every line indented.
void print_wrapped(const std::string& text, size_t indent);

}  // namespace moesaic::cli
