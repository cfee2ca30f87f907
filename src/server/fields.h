#pragma once

// Typed reading of a request's JSON members. Types are strict: a string is never a number, true is
// never 1. A wrong type is RequestError(400, "Bad Request") with param "body.<name>", as vLLM
// answers schema errors; a value out of range is "BadRequestError" with the bare name.

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::server {

/// Schema error at body.`where`.
[[noreturn]] void schema_error(std::string_view where, const std::string& message);
/// A value of the right type that cannot be served.
[[noreturn]] void value_error(std::string_view param, const std::string& message);
/// A feature that belongs to later work; never quietly left out.
[[noreturn]] void not_yet(std::string_view param, const std::string& what);

class Fields {
 public:
  /// `where` is the path of `object` below the body, "" for the body itself.
  explicit Fields(const boost::json::object& object, std::string where = {})
      : object_(object), where_(std::move(where)) {}
  /// A body of one of these kinds (request_fields.h): only members that have a row can be read.
  Fields(const boost::json::object& body, unsigned bodies) : object_(body), bodies_(bodies) {}

  /// The member; null when it is absent or null.
  const boost::json::value* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }

  std::optional<bool> boolean(std::string_view name) const;
  /// A whole number within int64; 3.0 is one, 3.5 is not.
  std::optional<int64_t> integer(std::string_view name) const;
  std::optional<double> number(std::string_view name) const;
  std::optional<std::string> string(std::string_view name) const;
  /// string() without control characters, for names that end up in logs and labels.
  std::optional<std::string> name(std::string_view name) const;
  const boost::json::object* object(std::string_view name) const;
  const boost::json::array* array(std::string_view name) const;
  std::optional<std::vector<int32_t>> token_ids(std::string_view name, int64_t vocab_size) const;

  /// Path of a member below the body.
  std::string path(std::string_view name) const;

 private:
  const boost::json::object& object_;
  std::string where_;
  unsigned bodies_ = 0;  ///< 0: not a body, or of no table
};

/// null, false, "", "none" and [] are how clients write that they want no constraint.
bool is_nothing(const boost::json::value& value);

/// The whole number in `value`, or nothing.
std::optional<int64_t> whole_number(const boost::json::value& value);

/// Refuses ids outside [0, vocab_size), naming `param` and the first such id.
void check_token_ids(const std::vector<int32_t>& ids, std::string_view param, int64_t vocab_size);

/// Token ids of a JSON array, each in [0, vocab_size); `where` names the array.
std::vector<int32_t> read_token_ids(const boost::json::array& array, std::string_view where,
                                    int64_t vocab_size);

}  // namespace moesaic::server
