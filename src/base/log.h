#pragma once

// One logger for the program: spdlog to stderr. Prompts and answers are never logged.
//
// A thread of its own writes the lines, so that nobody who logs ever waits: not for a pipe that is
// not read, a terminal that is stopped or a disk that is full. What cannot be written is dropped
// and counted, and the log says how many lines are missing where they are.

#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace moesaic::base {

/// How a line looks: "2026-11-27 18:04:05.123 info  text" in local time, or an object of time
/// (UTC), level and message, one to a line.
enum class LogFormat : uint8_t { kText, kJson };

/// Sets the level ("trace" ... "critical", "off"; Python's "DEBUG", "WARNING" are understood) and
/// the line format. Throws UsageError on an unknown level. Levels have colours on a terminal,
/// unless NO_COLOR is set.
void init_logging(std::string_view level, LogFormat format = LogFormat::kText);

/// The format that was set last.
LogFormat log_format();

/// Text for standard output or standard error as it is, in order with the log's lines and like them
/// dropped rather than waited for.
void print_with_log(int fd, std::string text);

/// Waits until all that was logged is written, at most so long.
void flush_log(std::chrono::milliseconds patience = std::chrono::seconds(1));

/// Lines that were dropped since the program started.
uint64_t dropped_log_lines();

/// The error that ends the program, at once: "moesaic: message", or a critical line of JSON.
void write_last_error(const std::string& message);

/// Writes to standard error at once, before the process ends; gives a full pipe a second. May be
/// called from a signal handler.
void write_last_words(std::string_view text) noexcept;

}  // namespace moesaic::base
