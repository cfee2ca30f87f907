#pragma once

// YAML for Kubernetes, written from JSON values: block style, keys in the order they were added,
// strings quoted wherever a YAML 1.1 or 1.2 reader would see something else in them.

#include <boost/json.hpp>
#include <string>
#include <string_view>

namespace moesaic::deploy {

/// `value` as a YAML document without "---", ending in a newline.
std::string to_yaml(const boost::json::value& value);
/// `text` as it may stand in YAML: plain when nothing can misread it, else in double quotes.
std::string yaml_scalar(std::string_view text);
/// `value` as JSON on many lines, indented by two.
std::string pretty_json(const boost::json::value& value);

}  // namespace moesaic::deploy
