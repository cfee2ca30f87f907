#pragma once

// The command line: settings from the table plus the few options a command has of its own. The
// rules are those of vLLM's parser, because its manifests must work: `_` and `-` mean the same in
// flag names, an unambiguous beginning is enough, `--flag value` and `--flag=value`, `--no-flag`
// for a bool, a later flag wins, `--config FILE.yaml` below everything else.

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/settings.h"

namespace moesaic::cli {

/// An option that only one command has.
struct CommandOption {
  std::string_view name;   ///< without dashes
  std::string_view value;  ///< placeholder of its value in --help; empty for a switch
  std::string_view help;
  std::string_view spelling = {};  ///< another spelling, "-o"
  bool repeats = false;            ///< each time adds a line to the value
};

struct Command {
  std::string_view name;       ///< "serve"
  std::string_view arguments;  ///< "MODEL"
  std::string_view summary;    ///< one line
  std::string_view details;    ///< paragraphs of --help
  std::vector<CommandOption> options;
  /// Groups of the settings table whose flags the command takes; "*" is all of them.
  std::vector<std::string_view> groups;
  int (*run)(const struct Invocation&) = nullptr;
};

/// A parsed command line.
struct Invocation {
  std::vector<std::string> arguments;          ///< positional ones
  std::map<std::string, std::string> options;  ///< of the command; switches are "true"
  base::Settings settings;

  bool has(const std::string& option) const { return options.contains(option); }
  std::string option(const std::string& name, const std::string& fallback) const;
  /// The option as a whole number in [low, high]; throws UsageError naming it.
  int64_t integer(const std::string& name, int64_t fallback, int64_t low, int64_t high) const;
  /// The option as a number in [low, high]; throws UsageError naming it.
  double number(const std::string& name, double fallback, double low, double high) const;
};

/// Parses what follows the command's name, then the environment, then --config. Throws UsageError
/// that names the argument and, for an unknown flag, the nearest known one.
Invocation parse_command_line(const Command& command, std::span<const std::string> arguments);

/// The same with another environment than this process's: `migrate` reads a container's.
Invocation parse_command_line(const Command& command, std::span<const std::string> arguments,
                              const std::function<const char*(const char*)>& getenv);

/// What can stand where the last of `words` stands, given those before it and its own beginning:
/// flags of the command, or values of the flag before it. Empty where only a file makes sense.
std::vector<std::string> completions(const Command& command, std::span<const std::string> words);

/// The text of `moesaic COMMAND --help`, at most 80 columns wide.
std::string help_text(const Command& command);

/// `text` cut into lines of at most `width` columns, each after the first indented by `indent`.
std::string wrapped(std::string_view text, size_t indent, size_t width = 80);

}  // namespace moesaic::cli
