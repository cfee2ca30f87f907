#include "text/rust_error.h"

#include <cerrno>
#include <stdexcept>

#include "base/error.h"

namespace moesaic::text {

std::string take(MoesaicBytes bytes) {
  std::string text;
  try {
    if (bytes.size > 0) text.assign(reinterpret_cast<const char*>(bytes.data), bytes.size);
  } catch (...) {
    moesaic_bytes_free(bytes);
    throw;
  }
  moesaic_bytes_free(bytes);
  return text;
}

void raise(const MoesaicTextError& error) {
  const std::string file = take(error.file);
  const std::string message = take(error.message);
  switch (error.kind) {
    case MOESAIC_TEXT_MODEL_FILE:
      throw base::ModelFileError(file, message);
    case MOESAIC_TEXT_MISSING_FILE:
      throw base::MissingFileError(message);
    case MOESAIC_TEXT_REQUEST:
    case MOESAIC_TEXT_CANCELLED:
      throw base::RequestError(400, "BadRequestError", message);
    case MOESAIC_TEXT_MEMORY:
      throw base::UnavailableError(message);
    case MOESAIC_TEXT_THREAD:
      throw base::OsError(message, EAGAIN);
    default:
      throw std::runtime_error(message);
  }
}

}  // namespace moesaic::text
