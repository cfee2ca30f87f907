#pragma once

// Reading of Kubernetes objects that may have any shape: what is absent is empty, what has the
// wrong type is ModelFileError with the file, the line and the path.

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::deploy {

/// Where errors point to.
struct Place {
  std::string file;
  int line = 1;
  std::string object;  ///< "Deployment mixtral"
};

[[noreturn]] void wrong(const Place& place, std::string_view what);

/// The member `path` ("spec.template.spec") of `root`; null when a part is absent or null. Throws
/// when a part on the way is no mapping.
const boost::json::value* find_path(const boost::json::object& root, std::string_view path,
                                    const Place& place);
/// As above; an absent one is empty.
const boost::json::object& object_at(const boost::json::object& root, std::string_view path,
                                     const Place& place);
const boost::json::array& array_at(const boost::json::object& root, std::string_view path,
                                   const Place& place);
/// Text, or a number or bool as it would be written; "" when absent.
std::string text_at(const boost::json::object& root, std::string_view path, const Place& place);
int64_t integer_at(const boost::json::object& root, std::string_view path, int64_t fallback,
                   const Place& place);
std::vector<std::string> texts_at(const boost::json::object& root, std::string_view path,
                                  const Place& place);
/// The items of a list of mappings.
std::vector<const boost::json::object*> objects_at(const boost::json::object& root,
                                                   std::string_view path, const Place& place);

}  // namespace moesaic::deploy
