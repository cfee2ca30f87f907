#pragma once

// C++ helpers over rust/moesaic_text.h.

#include <string>
#include <string_view>

#include "text/rust/moesaic_text.h"

namespace moesaic::text {

inline const uint8_t *bytes_of(std::string_view text) {
  return reinterpret_cast<const uint8_t *>(text.data());
}

/// A buffer that Rust filled; given back when it goes out of scope.
class RustBuffer {
public:
  RustBuffer() = default;
  ~RustBuffer() { moesaic_text_free(buffer_); }
  RustBuffer(const RustBuffer &) = delete;
  RustBuffer &operator=(const RustBuffer &) = delete;

  MoesaicBuffer *out() { return &buffer_; }
  std::string_view view() const {
    return {reinterpret_cast<const char *>(buffer_.data), buffer_.size};
  }
  std::string str() const { return std::string(view()); }

private:
  MoesaicBuffer buffer_{nullptr, 0, 0};
};

/// Turns a status into the exception it stands for; `file` is the model's file
/// at fault.
void check(int status, const RustBuffer &error, const std::string &file);

/// A whole file of at most `max_bytes`; empty when it does not exist and need
/// not.
std::string read_text_file(const std::string &path, size_t max_bytes,
                           bool required);

inline constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
inline constexpr size_t kMaxConfigBytes = size_t{32} << 20;

} // namespace moesaic::text
