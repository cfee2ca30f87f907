#include "checkpoint/strict_json.h"

#include <fmt/format.h>

#include <boost/json/value.hpp>

#include "base/error.h"
#include "base/printable.h"
#include "base/strict_json.h"

namespace moesaic::checkpoint {
namespace {

using base::JsonFault;

std::string explain(const base::JsonError& error, const base::JsonLimits& limits) {
  switch (error.fault()) {
    case JsonFault::kByteOrder:
      return "starts with a byte order mark; save it as plain UTF-8";
    case JsonFault::kDuplicate:
      return fmt::format("the key '{}' appears twice in one object", base::printable(error.name()));
    case JsonFault::kEmpty:
    case JsonFault::kTruncated:
      return "the JSON text ends too early; is it truncated?";
    case JsonFault::kTrailing:
      return "there is text after the JSON value";
    case JsonFault::kTooDeep:
      return fmt::format("values are nested deeper than {}", limits.max_depth);
    case JsonFault::kSyntax:
      return "not valid JSON";
    default:
      return fmt::format("not valid JSON: {}", error.what());
  }
}

}  // namespace

boost::json::object parse_strict_object(std::string_view text, const std::string& file,
                                        uint64_t base_offset) {
  const base::JsonLimits limits;
  boost::json::value value;
  try {
    value = base::parse_strict_json(text, limits);
  } catch (const base::JsonError& error) {
    throw base::ModelFileError(file, explain(error, limits), {}, base_offset + error.offset());
  }
  if (!value.is_object()) {
    throw base::ModelFileError(file, "expected a JSON object at the top", {}, base_offset);
  }
  return std::move(value.as_object());
}

}  // namespace moesaic::checkpoint
