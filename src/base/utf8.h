#pragma once

#include <cstddef>
#include <string_view>

namespace moesaic::base {

/// Bytes of the character that `text` begins with: 1 to 4, or 0 when it is empty or no UTF-8 (RFC
/// 3629: neither overlong nor a surrogate).
size_t utf8_size(std::string_view text);

/// Whether all of `text` is UTF-8.
bool is_utf8(std::string_view text);

}  // namespace moesaic::base
