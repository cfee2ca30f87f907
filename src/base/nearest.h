#pragma once

#include <span>
#include <string>
#include <string_view>

namespace moesaic::base {

/// Insertions, deletions and substitutions that turn `a` into `b`.
size_t edit_distance(std::string_view a, std::string_view b);

/// The one of `names` most like `asked`, letter case aside: the least edit distance, where lacking
/// the rest of a longer name counts little. Empty when there are no names.
std::string nearest(std::string_view asked, std::span<const std::string> names);

}  // namespace moesaic::base
