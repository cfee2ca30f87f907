#pragma once

// Buffers and errors of the Rust library as C++ values. Only the .cpp files of this room include
// this.

#include <cstdint>
#include <string>
#include <string_view>

#include "text/rust/moesaic_text.h"

namespace moesaic::text {

/// An empty error for a call to fill. Passing it to raise() frees it.
inline MoesaicTextError no_error() { return MoesaicTextError{}; }

/// Throws the typed exception that `error` stands for, after freeing it.
[[noreturn]] void raise(const MoesaicTextError& error);

/// The bytes as a string; frees them.
std::string take(MoesaicBytes bytes);

/// The start of the text as the C interface wants it.
inline const uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

}  // namespace moesaic::text
