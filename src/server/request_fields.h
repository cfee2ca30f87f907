#pragma once

// The members of request bodies as a table: every endpoint checks its bodies against it, and
// /openapi.json is made from it. What depends on more than one member, or on the prompt, is checked
// by code beside it.

#include <boost/json/object.hpp>
#include <cstdint>
#include <span>
#include <string_view>

#include "server/openai_request.h"

namespace moesaic::server {

/// Bodies that endpoints take; a set of them is their sum.
enum Body : unsigned {
  kNoBody = 0,
  kCompletion = 1,
  kChat = 2,
  kTokenizeText = 4,
  kTokenizeChat = 8,
  kDetokenize = 16,
};

enum class FieldType : uint8_t {
  kBool,
  kInteger,
  kNumber,
  kString,
  kName,         ///< a string without control characters
  kChoice,       ///< a string, one of the row's choices
  kObject,       ///< its members have rows of their own, or are not looked at
  kArray,        ///< of anything
  kObjects,      ///< an array of objects
  kStrings,      ///< an array of strings that are not empty
  kStop,         ///< a string that is not empty, or an array of such
  kTokenIds,     ///< an array of token ids
  kBias,         ///< an object of numbers, named by token ids
  kPrompt,       ///< text, token ids, or an array of either
  kUnsupported,  ///< only null; the help says why
  kNotYet,       ///< null or false: a feature that comes later
  kAny,          ///< any shape, looked at where it is read
  kToolChoice,   ///< a string, one of the row's choices, or an object that names a function
  kConstraint,   ///< null, false, "", "none" or []: a kind of structured output that comes later
};

/// An end of a range: a number, or one of the server's limits.
struct Bound {
  constexpr Bound() = default;
  constexpr Bound(double value) : number(value), open(false) {}
  constexpr Bound(int64_t RequestLimits::*member, std::string_view origin)
      : limit(member), name(origin), open(false) {}
  double value(const RequestLimits& limits) const {
    return limit == nullptr ? number : static_cast<double>(limits.*limit);
  }

  double number = 0;
  int64_t RequestLimits::*limit = nullptr;
  std::string_view name;  ///< of the limit, for messages: "--max-n"
  bool open = true;       ///< there is no bound
};

struct FieldRow {
  std::string_view name;  ///< "stream_options.include_usage" is a member of stream_options
  unsigned bodies;
  FieldType type;
  std::string_view help;
  Bound low = {};  ///< of a number, and of each number of a kBias
  Bound high = {};
  size_t least = 0;               ///< entries of an array
  Bound most = {};                ///< entries of an array or object
  std::string_view choices = {};  ///< "left|right"
  std::string_view later = {};    ///< what other choices wait for; "" = they never will be
  bool required = false;
  bool above = false;  ///< `low` itself is outside of the range
};

/// All rows, in the order of the documentation.
std::span<const FieldRow> field_rows();
/// The row of a member in one of `bodies`; null when there is none.
const FieldRow* find_field(std::string_view name, unsigned bodies);

/// Throws RequestError for the first member of a body that its row does not allow. Token ids, and
/// what is in messages and tools, are looked at when they are read.
void check_fields(const boost::json::object& body, Body kind, const RequestLimits& limits);
/// The same for the member of one row, at the top of `object`.
void check_field(const boost::json::object& object, const FieldRow& row,
                 const RequestLimits& limits);

/// What a body has to be, as JSON Schema.
boost::json::object body_schema(Body kind, const RequestLimits& limits);

}  // namespace moesaic::server
