#pragma once

// The one reader of JSON from files, clients and settings (RFC 8259): what two parsers could
// understand differently is an error here. Callers word the error as theirs (error.h).

#include <boost/json/storage_ptr.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

namespace moesaic::base {

struct JsonLimits {
  size_t max_depth = 64;
  /// Values in the document; numbers that are elements of an array do not count, so that a long
  /// list of token ids is a legal prompt.
  int64_t max_nodes = std::numeric_limits<int64_t>::max();
};

/// How numbers are read. One that is read as written is an object of one member, kWrittenNumber,
/// whose value is its text.
enum class JsonNumbers : uint8_t {
  kValues,          ///< as numbers; a whole one beyond 64 bits as the nearest double
  kWholeAsWritten,  ///< a whole one beyond 64 bits, which json::value cannot hold, as written
  kAsWritten,       ///< every one whose value is not all of its text as written, such as 2.50
};
inline constexpr std::string_view kWrittenNumber = "\xEF\xB7\x93";  ///< U+FDD3, a noncharacter

enum class JsonFault : uint8_t {
  kEmpty,      ///< nothing but blanks
  kByteOrder,  ///< begins with a byte order mark
  kTruncated,  ///< ends in the middle of a value
  kTrailing,   ///< something follows the value
  kTooDeep,
  kTooMany,    ///< values
  kDuplicate,  ///< a name twice in one object
  kNumber,     ///< beyond double
  kSurrogate,  ///< a \u escape that is half of a pair
  kSyntax,
};

/// Its message quotes nothing of the text; `name` does.
class JsonError : public std::runtime_error {
 public:
  JsonError(JsonFault fault, const std::string& problem, size_t offset, std::string name = {})
      : std::runtime_error(problem), fault_(fault), offset_(offset), name_(std::move(name)) {}
  JsonFault fault() const { return fault_; }
  size_t offset() const { return offset_; }          ///< near this byte
  const std::string& name() const { return name_; }  ///< of kDuplicate, as it stands there

 private:
  JsonFault fault_;
  size_t offset_;
  std::string name_;
};

/// Parses exactly one JSON value in valid UTF-8. Throws JsonError. All memory of the value comes
/// from `memory`, which may refuse it by an exception of its own.
boost::json::value parse_strict_json(std::string_view text, const JsonLimits& limits = {},
                                     const boost::json::storage_ptr& memory = {},
                                     JsonNumbers numbers = JsonNumbers::kValues);

}  // namespace moesaic::base
