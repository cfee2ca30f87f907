#include <fmt/format.h>

#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"

namespace {

using namespace moesaic;

std::string overview(const std::vector<cli::Command>& commands) {
  std::string out =
      "moesaic serves Mixture-of-Experts language models.\n\n"
      "Usage: moesaic COMMAND [arguments]\n\nCommands:\n";
  for (const cli::Command& command : commands) {
    out += fmt::format("  {:<10}{}\n", command.name, cli::wrapped(command.summary, 12));
  }
  return out +
         "\n'moesaic COMMAND --help' says more. A first try:\n"
         "  moesaic serve models/demo\n";
}

int run(const std::vector<std::string>& arguments) {
  const std::vector<cli::Command> commands = {
      cli::serve_command(), cli::chat_command(), cli::inspect_command(), cli::bench_command(),
      cli::docs_command(),  cli::plan_command(), cli::deploy_command(),  cli::migrate_command()};
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h" ||
      arguments[0] == "help") {
    std::cout << overview(commands);
    return 0;
  }
  if (arguments[0] == "--version" || arguments[0] == "version") {
    std::cout << "moesaic " MOESAIC_VERSION "\n";
    return 0;
  }
  for (const cli::Command& command : commands) {
    if (arguments[0] != command.name) continue;
    const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
    for (const std::string& argument : rest) {
      if (argument == "--") break;
      if (argument == "--help" || argument == "-h") {
        std::cout << cli::help_text(command);
        return 0;
      }
    }
    return command.run(cli::parse_command_line(command, rest));
  }
  throw base::UsageError(
      fmt::format("unknown command '{}'; 'moesaic --help' lists them", arguments[0]));
}

}  // namespace

// The one place where an error becomes an exit code.
int main(int argc, char** argv) {
  try {
    base::init_logging("info");
    return run({argv + 1, argv + argc});
  } catch (const base::Error& error) {
    std::cerr << "moesaic: " << error.what() << "\n";
    return static_cast<int>(error.exit_code());
  } catch (const std::bad_alloc&) {
    std::cerr << "moesaic: out of memory\n";
    return static_cast<int>(base::ExitCode::kUnavailable);
  } catch (const std::exception& error) {
    std::cerr << "moesaic: internal error: " << error.what() << "\n";
    return static_cast<int>(base::ExitCode::kInternal);
  }
}
