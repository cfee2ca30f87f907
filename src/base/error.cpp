#include "base/error.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>

#include "base/log.h"

namespace moesaic::base {

OsError::OsError(const std::string& operation, int errno_value)
    : Error(ExitCode::kOs, fmt::format("{}: {}", operation, std::strerror(errno_value))) {}

namespace {
std::string describe(const std::string& file, const std::string& problem, const std::string& tensor,
                     std::optional<uint64_t> offset) {
  std::string text = file;
  if (!tensor.empty()) text += fmt::format(": tensor '{}'", tensor);
  if (offset) text += fmt::format(" at byte {}", *offset);
  return text + ": " + problem;
}
}  // namespace

ModelFileError::ModelFileError(std::string file, const std::string& problem, std::string tensor,
                               std::optional<uint64_t> offset)
    : Error(ExitCode::kBadModel, describe(file, problem, tensor, offset)),
      file_(std::move(file)),
      tensor_(std::move(tensor)),
      offset_(offset) {}

void assertion_failed(const char* condition, const char* file, int line) {
  flush_log();
  write_last_words(
      fmt::format("moesaic: internal error: {} is false ({}:{})\n", condition, file, line));
  std::abort();
}

}  // namespace moesaic::base
