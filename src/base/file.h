#pragma once

// Files by name. Whatever stands under the name, opening it never waits: a FIFO, a device or a
// folder is refused at once.

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace moesaic::base {

/// Opens a regular file for reading; the caller closes the descriptor. Throws MissingFileError when
/// there is none of that name, it is no regular file or may not be read, OsError when the system
/// has no descriptor or memory left for it.
int open_regular_file(const std::filesystem::path& path);

/// The whole content of a regular file, or nothing when it has more than `limit` bytes. Throws as
/// open_regular_file() does, and OsError when reading fails.
std::optional<std::string> read_file(const std::filesystem::path& path, size_t limit);

/// Creates the file, or replaces its content. A FIFO that nobody reads is refused, not waited for.
/// Throws MissingFileError when it cannot be opened, OsError when writing fails.
void write_file(const std::filesystem::path& path, std::string_view content);

}  // namespace moesaic::base
