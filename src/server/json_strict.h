#pragma once

// JSON of clients, read strictly (RFC 8259): what two parsers could understand differently is an
// error here.

#include <boost/json/storage_ptr.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string_view>

#include "server/byte_budget.h"

namespace moesaic::server {

struct JsonLimits {
  size_t max_depth = 64;
  /// Values in the document; numbers that are elements of an array do not count, so that a long
  /// list of token ids is a legal prompt.
  int64_t max_nodes = 250000;
};

/// A whole number beyond 64 bits, which json::value cannot hold, is read as an object of this one
/// member: its text. So it reaches a chat template digit by digit, and is no number for fields that
/// want one. (U+FDD3, a noncharacter.)
inline constexpr std::string_view kWrittenNumber = "\xEF\xB7\x93";
/// The text of such a number; nothing for any other value.
std::optional<std::string_view> written_number(const boost::json::value& value);

/// kAsWritten: every number whose value is not all of its text becomes such an object, as 2.50.
enum class Numbers : uint8_t { kValues, kAsWritten };

/// Parses one document. Throws RequestError(400), whose message never quotes the input, for
/// anything but exactly one JSON value in valid UTF-8: a byte order mark, trailing data, comments,
/// NaN, numbers beyond double, lone surrogates, a name twice in an object, and
/// more depth or values than `limits`. `param` names the place in the request ("body"). All memory
/// that this takes comes from `memory`, which may refuse it by an exception of its own.
boost::json::value parse_json(std::string_view text, const JsonLimits& limits,
                              std::string_view param, const boost::json::storage_ptr& memory = {},
                              Numbers numbers = Numbers::kValues);

/// Whether a \\u escape in the text is half of a surrogate pair: a string that nobody can write out
/// again.
bool has_half_character(std::string_view text);

/// Memory that is counted in a share of its own, of the same budget as `like`; more than it may
/// have is RequestError.
boost::json::storage_ptr counted_memory(const ByteShare& like);

}  // namespace moesaic::server
