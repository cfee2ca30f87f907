#include "base/terminal.h"

#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace moesaic::base {

bool is_smart_terminal(int fd) {
  const char* kind = std::getenv("TERM");
  return ::isatty(fd) != 0 && kind != nullptr && *kind != '\0' && std::string_view(kind) != "dumb";
}

}  // namespace moesaic::base
