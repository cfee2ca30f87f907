#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <boost/system/system_error.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"

namespace {

using namespace moesaic;

std::string overview() {
  std::string out =
      "moesaic serves Mixture-of-Experts language models.\n\n"
      "Usage: moesaic COMMAND [arguments]\n\nCommands:\n";
  for (const cli::Command& command : cli::commands()) {
    out += fmt::format("  {:<12}{}\n", command.name, cli::wrapped(command.summary, 14));
  }
  return out +
         "\n'moesaic help COMMAND' says more. A first try:\n"
         "  moesaic serve models/demo\n";
}

int print(const std::string& text) {
  std::cout << text;
  return 0;
}

int run(const std::vector<std::string>& arguments) {
  const std::string first = arguments.empty() ? "help" : arguments[0];
  if (first == "--help" || first == "-h" || first == "help") {
    const bool about = first == "help" && arguments.size() > 1 && arguments[1] != "help" &&
                       !arguments[1].starts_with('-');
    return print(about ? cli::help_text(cli::find_command(arguments[1])) : overview());
  }
  if (first == "--version" || first == "version") {
    return print("moesaic " MOESAIC_VERSION " (" MOESAIC_BACKENDS ")\n");
  }
  const cli::Command& command = cli::find_command(first);
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  for (const std::string& argument : rest) {
    if (argument == "--") break;
    if (argument == "--help" || argument == "-h") return print(cli::help_text(command));
  }
  return command.run(cli::parse_command_line(command, rest));
}

/// A program started without its standard streams would take the first file or socket that it opens
/// for one of them.
void open_standard_streams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0) ::open("/dev/null", O_RDWR);
  }
}

int fail(base::ExitCode code, const std::string& message) {
  base::write_last_error(message);
  return static_cast<int>(code);
}

/// A command whose output went nowhere has not done what it says.
int checked_output(int code) {
  std::cout.flush();
  const bool written = std::cout.good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (written || code != 0) return code;
  return fail(base::ExitCode::kOs, "cannot write to standard output");
}

/// The one place where an error becomes an exit code.
int report(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const base::Error& error) {
    return fail(error.exit_code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(base::ExitCode::kUnavailable,
                "out of memory; use a smaller model or context, or give the process more memory");
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(base::ExitCode::kMissingFile, error.what());
  } catch (const std::system_error& error) {
    return fail(base::ExitCode::kOs,
                fmt::format("the operating system refused a thread or another resource: {}; raise "
                            "the process's limits",
                            error.what()));
  } catch (const boost::system::system_error& error) {
    return fail(base::ExitCode::kOs,
                fmt::format("the operating system refused a descriptor or another resource: {}; "
                            "raise the process's limits",
                            error.what()));
  } catch (const std::exception& error) {
    return fail(base::ExitCode::kInternal, fmt::format("internal error: {}", error.what()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams();
  // A file at its size limit is an error of the write to it, which says what it means; the signal
  // would end the program.
  std::signal(SIGXFSZ, SIG_IGN);
  int code = 0;
  try {
    base::init_logging("info");
    code = checked_output(run({argv + 1, argv + argc}));
  } catch (...) {
    base::flush_log();
    code = report(std::current_exception());
  }
  base::flush_log();
  return code;
}
