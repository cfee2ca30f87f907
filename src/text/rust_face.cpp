#include "text/rust_face.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace moesaic::text {

void check(int status, const RustBuffer &error, const std::string &file) {
  switch (status) {
  case MOESAIC_TEXT_OK:
    return;
  case MOESAIC_TEXT_BAD_FILE:
    throw base::ModelFileError(file, error.str());
  default:
    throw base::RequestError(400, "BadRequestError", error.str());
  }
}

std::string read_text_file(const std::string &path, size_t max_bytes,
                           bool required) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    if (!required)
      return {};
    throw base::MissingFileError(fmt::format("cannot read {}", path));
  }
  const auto size = std::filesystem::file_size(path, error);
  if (!error && size > max_bytes) {
    throw base::ModelFileError(
        path, fmt::format("{} bytes, more than {}", size, max_bytes));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(size), '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file)
    throw base::MissingFileError(fmt::format("cannot read {}", path));
  return text;
}

} // namespace moesaic::text
