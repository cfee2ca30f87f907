#pragma once

// The typed errors of the program. A caller's mistake is one of these exceptions; it becomes an
// exit code in cli/main.cpp and an HTTP answer in server/, each in exactly one place. A bug is an
// assertion (MOESAIC_ASSERT), never an exception.

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace moesaic::base {

/// Exit codes of the program, after sysexits.h.
enum class ExitCode : int {
  kOk = 0,            ///< clean end or drained
  kUsage = 64,        ///< a flag or an argument is wrong
  kBadModel = 65,     ///< model data is malformed
  kMissingFile = 66,  ///< a file is absent or unreadable
  kUnavailable = 69,  ///< a device, memory or a port cannot be had
  kInternal = 70,     ///< a bug, or a dead engine
  kOs = 71,           ///< the operating system refused a call
  kConfig = 78,       ///< settings contradict each other or the model
};

/// Base of all typed errors: a message for a person and the exit code it ends the program with.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode exit_code() const { return code_; }

 private:
  ExitCode code_;
};

/// A wrong flag, argument or environment value (exit 64).
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(ExitCode::kUsage, message) {}
};

/// Settings that contradict each other or the model (exit 78).
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& message) : Error(ExitCode::kConfig, message) {}
};

/// A file that is absent or cannot be read (exit 66).
class MissingFileError : public Error {
 public:
  explicit MissingFileError(const std::string& message) : Error(ExitCode::kMissingFile, message) {}
};

/// A device, port or amount of memory that cannot be had (exit 69).
class UnavailableError : public Error {
 public:
  explicit UnavailableError(const std::string& message) : Error(ExitCode::kUnavailable, message) {}
};

/// A refused system call (exit 71). `what` names the operation; errno text is appended.
class OsError : public Error {
 public:
  OsError(const std::string& operation, int errno_value);
};

/// Malformed model data (exit 65): names the file and, where known, the tensor and byte offset.
class ModelFileError : public Error {
 public:
  ModelFileError(std::string file, const std::string& problem, std::string tensor = {},
                 std::optional<uint64_t> offset = std::nullopt);
  const std::string& file() const { return file_; }
  const std::string& tensor() const { return tensor_; }
  std::optional<uint64_t> offset() const { return offset_; }

 private:
  std::string file_;
  std::string tensor_;
  std::optional<uint64_t> offset_;
};

/// A request that cannot be served: HTTP status, OpenAI error `type`, and the field at fault.
class RequestError : public std::runtime_error {
 public:
  RequestError(int status, std::string type, const std::string& message, std::string param = {},
               std::string code = {})
      : std::runtime_error(message),
        status_(status),
        type_(std::move(type)),
        param_(std::move(param)),
        code_(std::move(code)) {}
  int status() const { return status_; }
  const std::string& type() const { return type_; }
  const std::string& param() const { return param_; }
  const std::string& code() const { return code_; }

 private:
  int status_;
  std::string type_;
  std::string param_;
  std::string code_;
};

/// Prints the failed condition and aborts; used by MOESAIC_ASSERT.
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace moesaic::base

/// Checks an invariant. Always on: the checks are cheap beside a forward pass, and a broken
/// invariant must end the process rather than answer wrongly.
#define MOESAIC_ASSERT(condition) \
  ((condition) ? (void)0 : ::moesaic::base::assertion_failed(#condition, __FILE__, __LINE__))
