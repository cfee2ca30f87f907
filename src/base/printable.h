#pragma once

#include <string>
#include <string_view>

namespace moesaic::base {

/// Text from a file or a client made fit for a message: control characters and bytes beyond ASCII
/// become '?', and what is longer than 200 bytes is cut and ends in "...".
std::string printable(std::string_view text);

}  // namespace moesaic::base
