#pragma once

#include <string_view>

namespace moesaic::server {

/// web/index.html as it was when the program was built.
std::string_view web_page();

}  // namespace moesaic::server
