#pragma once

#include <string>
#include <string_view>

namespace moesaic::text {

/// Marks around text that must never be read as a special token: U+FDD0 and
/// U+FDD1, noncharacters that ChatTemplate::render replaces in what clients
/// send.
inline constexpr std::string_view kGuardStart = "\xEF\xB7\x90";
inline constexpr std::string_view kGuardEnd = "\xEF\xB7\x91";

/// `bytes` as UTF-8, with U+FFFD for each byte that belongs to no character.
std::string with_replacements(std::string_view bytes);

/// Length of the UTF-8 character that starts `bytes`; 0 when none does.
/// `cut_short` is set when the bytes end in the middle of what may become one.
size_t character_length(std::string_view bytes, bool &cut_short);

} // namespace moesaic::text
