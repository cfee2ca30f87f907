#include "base/printable.h"

namespace moesaic::base {

std::string printable(std::string_view text) {
  constexpr size_t kMost = 200;
  std::string out(text.substr(0, kMost));
  for (char& c : out) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) c = '?';
  }
  return text.size() > kMost ? out + "..." : out;
}

}  // namespace moesaic::base
