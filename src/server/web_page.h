#pragma once

#include <string_view>

namespace moesaic::server {

// The files of web/ as they were when the program was built.

std::string_view web_page();   ///< index.html
std::string_view docs_page();  ///< docs.html
std::string_view web_icon();   ///< icon.svg

}  // namespace moesaic::server
