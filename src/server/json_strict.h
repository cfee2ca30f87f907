#pragma once

// JSON of clients, read strictly and into memory that is counted.

#include <boost/json/storage_ptr.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/strict_json.h"
#include "server/byte_budget.h"

namespace moesaic::server {

/// Of a body; --max-json-depth and --max-json-nodes set others.
inline constexpr base::JsonLimits kBodyLimits{.max_depth = 64, .max_nodes = 250000};

/// base::parse_strict_json whose errors are RequestError(400), with a message that never quotes the
/// input. `param` names the place in the request ("body"). All memory that this takes comes
/// from `memory`, which may refuse it by an exception of its own. A whole number beyond 64 bits is
/// no number for fields that want one, and reaches a chat template digit by digit.
boost::json::value parse_json(std::string_view text, const base::JsonLimits& limits,
                              std::string_view param, const boost::json::storage_ptr& memory = {},
                              base::JsonNumbers numbers = base::JsonNumbers::kWholeAsWritten);

/// The text of a number that was read as written; nothing for any other value.
std::optional<std::string_view> written_number(const boost::json::value& value);

/// Whether a \\u escape in the text is half of a surrogate pair: a string that nobody can write out
/// again.
bool has_half_character(std::string_view text);

/// Memory that is counted in a share of its own, of the same budget as `like`; more than it may
/// have is RequestError.
boost::json::storage_ptr counted_memory(const ByteShare& like);

}  // namespace moesaic::server
