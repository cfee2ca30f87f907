#pragma once

// What `deploy` and `migrate` say about the folder they wrote.

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "deploy/service.h"

namespace moesaic::cli {

/// --help of --without, which both commands take.
constexpr std::string_view kWithoutHelp =
    "Files not to write: httproute, servicemonitor, rules, ...";

/// The words between commas.
std::vector<std::string> split_list(const std::string& text);

/// A key of a Secret that a pod cannot start without.
struct SecretKey {
  std::string secret;
  std::string key;
};

/// Why `moesaic serve` would not start with these manifests today, a line each: settings that it
/// refuses, with the words of --dry-run, a model that it cannot fetch or serve. Empty for other
/// engines' containers.
std::vector<std::string> reasons_not_to_start(const deploy::Service& service);

/// Prints the files, then the commands that apply them and what must be there before them; with
/// `reasons` these instead, as nothing is to be applied then.
void print_written(const deploy::Service& service, const std::filesystem::path& folder,
                   const std::vector<std::filesystem::path>& written,
                   const std::vector<SecretKey>& secrets, const std::vector<std::string>& reasons);

/// Prints `text` wrapped at 80 columns, every line indented.
void print_wrapped(const std::string& text, size_t indent);

}  // namespace moesaic::cli
