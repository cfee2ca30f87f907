#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <string_view>

namespace moesaic::checkpoint {

/// Parses one JSON object, strictly: duplicate keys, nesting over 64, numbers that overflow,
/// invalid UTF-8, a byte order mark, comments and text after the object are ModelFileError.
/// `file` names the text in messages; `base_offset` is where the text begins in that file.
boost::json::object parse_strict_object(std::string_view text, const std::string& file,
                                        uint64_t base_offset = 0);

}  // namespace moesaic::checkpoint
