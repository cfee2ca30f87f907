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

/// Sets the level ("trace" ... "critical", "off"; Python's "DEBUG", "WARNING" are understood) and
/// the line format. Throws UsageError on an unknown level.
void init_logging(std::string_view level);

/// Text for standard output or standard error as it is, in order with the log's lines and like them
/// dropped rather than waited for.
void print_with_log(int fd, std::string text);

/// Waits until all that was logged is written, at most so long.
void flush_log(std::chrono::milliseconds patience = std::chrono::seconds(1));

/// Lines that were dropped since the program started.
uint64_t dropped_log_lines();

/// Writes to standard error at once, before the process ends; gives a full pipe a second. May be
/// called from a signal handler.
void write_last_words(std::string_view text) noexcept;

}  // namespace moesaic::base
