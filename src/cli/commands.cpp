#include "cli/commands.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/nearest.h"
#include "base/printable.h"

namespace moesaic::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> kCommands = {
      serve_command(), chat_command(),      inspect_command(), bench_command(),
      plan_command(),  deploy_command(),    migrate_command(), cache_command(),
      docs_command(),  completion_command()};
  return kCommands;
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (command.name == name) return command;
    names.emplace_back(command.name);
  }
  // A model's folder in place of a command is a common slip.
  const std::string guess = base::nearest(name, names);
  const bool near = name.size() < 40 && base::edit_distance(name, guess) <= guess.size() / 2;
  throw base::UsageError(fmt::format("unknown command '{}'{}; 'moesaic --help' lists them",
                                     base::printable(name),
                                     near ? fmt::format(", did you mean {}?", guess) : ""));
}

}  // namespace moesaic::cli
