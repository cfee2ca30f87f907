#pragma once

// Marks in a text that arrives in pieces.

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace moesaic::server {

/// Bytes at the end of `text` that may be the beginning of `mark`.
inline size_t partial_mark(std::string_view text, std::string_view mark) {
  for (size_t size = std::min(mark.size() - 1, text.size()); size > 0; --size) {
    if (text.ends_with(mark.substr(0, size))) return size;
  }
  return 0;
}

}  // namespace moesaic::server
