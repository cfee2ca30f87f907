#include "text/guard.h"

#include <cstdint>

namespace moesaic::text {

size_t character_length(std::string_view bytes, bool &cut_short) {
  cut_short = false;
  const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t first = at(0);
  if (first < 0x80)
    return 1;
  // Ranges of the second byte exclude overlong forms, surrogates and what lies
  // past U+10FFFF (Unicode, table 3-7).
  size_t length = 0;
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0)
      low = 0xA0;
    if (first == 0xED)
      high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0)
      low = 0x90;
    if (first == 0xF4)
      high = 0x8F;
  } else {
    return 0;
  }
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) {
      cut_short = true;
      return 0;
    }
    if (at(i) < low || at(i) > high)
      return 0;
    low = 0x80;
    high = 0xBF;
  }
  return length;
}

std::string with_replacements(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    bool cut_short = false;
    const size_t length = character_length(bytes, cut_short);
    if (length == 0) {
      text += "\xEF\xBF\xBD";
      bytes.remove_prefix(1);
    } else {
      text += bytes.substr(0, length);
      bytes.remove_prefix(length);
    }
  }
  return text;
}

} // namespace moesaic::text
