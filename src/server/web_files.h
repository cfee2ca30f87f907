#pragma once

#include <span>
#include <string_view>

namespace moesaic::server {

/// A file of web/ as it was when the program was built.
struct WebFile {
  std::string_view path;  ///< of its URL, "/web/NAME" for those that have no route of their own
  std::string_view content_type;
  std::string_view body;
};

/// All of them. The page asks for the others by relative URLs.
std::span<const WebFile> web_files();

}  // namespace moesaic::server
