#include "checkpoint/strict_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/error.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_stack.hpp>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/printable.h"

namespace moesaic::checkpoint {
namespace {

namespace json = boost::json;
using base::printable;
using json::error_code;
using json::string_view;

constexpr size_t kMaxDepth = 64;

/// Builds a value as Boost.JSON's own parser does, and keeps each open object's keys to find
/// duplicates, of which that parser silently keeps the last.
class StrictHandler {
 public:
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);

  StrictHandler() { stack_.reset(); }

  const std::string& problem() const { return problem_; }
  json::value release() { return stack_.release(); }

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_array_begin(error_code&) { return true; }
  bool on_array_end(size_t count, error_code&) {
    stack_.push_array(count);
    return true;
  }
  bool on_object_begin(error_code&) {
    keys_.emplace_back();
    return true;
  }
  bool on_object_end(size_t count, error_code& error) {
    // Sorting, not hashing: no input can make it quadratic.
    std::vector<std::string>& keys = keys_.back();
    std::sort(keys.begin(), keys.end());
    const auto twin = std::adjacent_find(keys.begin(), keys.end());
    if (twin != keys.end()) {
      return refuse(fmt::format("the key '{}' appears twice in one object", printable(*twin)),
                    error);
    }
    keys_.pop_back();
    stack_.push_object(count);
    return true;
  }
  bool on_key_part(string_view part, size_t, error_code&) {
    key_.append(part.data(), part.size());
    stack_.push_chars(part);
    return true;
  }
  bool on_key(string_view part, size_t, error_code&) {
    key_.append(part.data(), part.size());
    keys_.back().push_back(std::move(key_));
    key_.clear();
    stack_.push_key(part);
    return true;
  }
  bool on_string_part(string_view part, size_t, error_code&) {
    stack_.push_chars(part);
    return true;
  }
  bool on_string(string_view part, size_t, error_code&) {
    stack_.push_string(part);
    return true;
  }
  bool on_number_part(string_view, error_code&) { return true; }
  bool on_int64(int64_t value, string_view, error_code&) {
    stack_.push_int64(value);
    return true;
  }
  bool on_uint64(uint64_t value, string_view, error_code&) {
    stack_.push_uint64(value);
    return true;
  }
  bool on_double(double value, string_view, error_code& error) {
    if (!std::isfinite(value)) return refuse("a number is too large", error);
    stack_.push_double(value);
    return true;
  }
  bool on_bool(bool value, error_code&) {
    stack_.push_bool(value);
    return true;
  }
  bool on_null(error_code&) {
    stack_.push_null();
    return true;
  }
  bool on_comment_part(string_view, error_code&) { return true; }
  bool on_comment(string_view, error_code&) { return true; }

 private:
  bool refuse(std::string problem, error_code& error) {
    problem_ = std::move(problem);
    error = json::error::syntax;
    return false;
  }

  json::value_stack stack_;
  std::vector<std::vector<std::string>> keys_;
  std::string key_;
  std::string problem_;
};

std::string explain(const error_code& error) {
  if (error == json::error::too_deep) {
    return fmt::format("values are nested deeper than {}", kMaxDepth);
  }
  if (error == json::error::incomplete) return "the JSON text ends too early; is it truncated?";
  return "not valid JSON: " + error.message();
}

}  // namespace

json::object parse_strict_object(std::string_view text, const std::string& file,
                                 uint64_t base_offset) {
  if (text.starts_with("\xef\xbb\xbf")) {
    throw base::ModelFileError(file, "starts with a byte order mark; save it as plain UTF-8", {},
                               base_offset);
  }
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::basic_parser<StrictHandler> parser(options);
  error_code error;
  const size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (error) {
    const std::string& problem = parser.handler().problem();
    throw base::ModelFileError(file, problem.empty() ? explain(error) : problem, {},
                               base_offset + used);
  }
  if (used < text.size()) {
    throw base::ModelFileError(file, "there is text after the JSON value", {}, base_offset + used);
  }
  json::value value = parser.handler().release();
  if (!value.is_object()) {
    throw base::ModelFileError(file, "expected a JSON object at the top", {}, base_offset);
  }
  return std::move(value.as_object());
}

}  // namespace moesaic::checkpoint
