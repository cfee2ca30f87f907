#include "base/strict_json.h"

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/error.hpp>
#include <boost/json/value_stack.hpp>
#include <charconv>
#include <cmath>
#include <optional>
#include <vector>

namespace moesaic::base {
namespace {

namespace json = boost::json;
using Code = boost::system::error_code;

/// Builds a value as Boost.JSON's own parser does, counts values, and keeps each open object's
/// names to find one that is there twice, of which that parser silently keeps the last.
class StrictHandler {
 public:
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);

  StrictHandler(int64_t max_nodes, const json::storage_ptr& memory, JsonNumbers numbers)
      : stack_(memory), nodes_left_(max_nodes), numbers_(numbers) {
    stack_.reset(memory);
  }

  bool on_document_begin(Code&) { return true; }
  bool on_document_end(Code&) { return true; }
  bool on_object_begin(Code& error) {
    open_.emplace_back(Container{true, {}});
    return count(error);
  }
  bool on_object_end(size_t count, Code& error) {
    // Sorting, not hashing: no input can make it quadratic.
    std::vector<std::string>& names = open_.back().names;
    std::sort(names.begin(), names.end());
    const auto twin = std::adjacent_find(names.begin(), names.end());
    if (twin != names.end()) {
      twin_ = *twin;
      return fail(JsonFault::kDuplicate, error);
    }
    open_.pop_back();
    stack_.push_object(count);
    return true;
  }
  bool on_array_begin(Code& error) {
    open_.emplace_back(Container{false, {}});
    return count(error);
  }
  bool on_array_end(size_t count, Code&) {
    open_.pop_back();
    stack_.push_array(count);
    return true;
  }
  bool on_key_part(json::string_view part, size_t, Code&) {
    name_.append(part.data(), part.size());
    stack_.push_chars(part);
    return true;
  }
  bool on_key(json::string_view part, size_t, Code&) {
    name_.append(part.data(), part.size());
    open_.back().names.push_back(std::move(name_));
    name_.clear();
    stack_.push_key(part);
    return true;
  }
  bool on_string_part(json::string_view part, size_t, Code&) {
    stack_.push_chars(part);
    return true;
  }
  bool on_string(json::string_view part, size_t, Code& error) {
    stack_.push_string(part);
    return count(error);
  }
  bool on_number_part(json::string_view, Code&) { return true; }
  bool on_int64(int64_t value, json::string_view text, Code& error) {
    if (numbers_ == JsonNumbers::kAsWritten && text == "-0") return push_written(text, error);
    stack_.push_int64(value);
    return count_number(error);
  }
  bool on_uint64(uint64_t value, json::string_view, Code& error) {
    stack_.push_uint64(value);
    return count_number(error);
  }
  bool on_double(double value, json::string_view text, Code& error) {
    const bool whole = text.find_first_of(".eE") == json::string_view::npos;
    if (numbers_ == JsonNumbers::kAsWritten || (whole && numbers_ != JsonNumbers::kValues)) {
      return push_written(text, error);
    }
    // Boost's own reading is off by a unit in the last place for one number in ten.
    std::from_chars(text.data(), text.data() + text.size(), value);
    if (!std::isfinite(value)) return fail(JsonFault::kNumber, error);
    stack_.push_double(value);
    return count_number(error);
  }
  bool on_bool(bool value, Code& error) {
    stack_.push_bool(value);
    return count(error);
  }
  bool on_null(Code& error) {
    stack_.push_null();
    return count(error);
  }
  bool on_comment_part(json::string_view, Code&) { return true; }
  bool on_comment(json::string_view, Code&) { return true; }

  json::value release() { return stack_.release(); }
  std::optional<JsonFault> fault() const { return fault_; }
  const std::string& twin() const { return twin_; }

 private:
  struct Container {
    bool object;
    std::vector<std::string> names;
  };

  bool push_written(json::string_view text, Code& error) {
    stack_.push_key({kWrittenNumber.data(), kWrittenNumber.size()});
    stack_.push_string(text);
    stack_.push_object(1);
    return count(error);
  }
  bool count(Code& error) { return --nodes_left_ >= 0 || fail(JsonFault::kTooMany, error); }
  bool count_number(Code& error) {
    return (!open_.empty() && !open_.back().object) || count(error);
  }
  bool fail(JsonFault fault, Code& error) {
    fault_ = fault;
    error = json::error::syntax;
    return false;
  }

  json::value_stack stack_;
  std::vector<Container> open_;
  std::string name_, twin_;
  int64_t nodes_left_;
  JsonNumbers numbers_;
  std::optional<JsonFault> fault_;
};

JsonFault fault_of(const Code& error) {
  if (error == json::error::too_deep) return JsonFault::kTooDeep;
  if (error == json::error::incomplete) return JsonFault::kTruncated;
  if (error == json::error::exponent_overflow) return JsonFault::kNumber;
  if (error == json::error::illegal_leading_surrogate ||
      error == json::error::illegal_trailing_surrogate ||
      error == json::error::expected_utf16_escape) {
    return JsonFault::kSurrogate;
  }
  return JsonFault::kSyntax;
}

const char* describe(JsonFault fault) {
  switch (fault) {
    case JsonFault::kEmpty:
      return "there is no JSON here";
    case JsonFault::kByteOrder:
      return "the JSON starts with a byte order mark";
    case JsonFault::kTruncated:
      return "the JSON ends in the middle of a value";
    case JsonFault::kTrailing:
      return "there is something after the JSON";
    case JsonFault::kTooDeep:
      return "the JSON is nested too deep";
    case JsonFault::kTooMany:
      return "the JSON has too many values";
    case JsonFault::kDuplicate:
      return "an object has the same name twice";
    case JsonFault::kNumber:
      return "the JSON has a number too large for a double";
    case JsonFault::kSurrogate:
      return "the JSON has a \\u escape that is half of a surrogate pair";
    case JsonFault::kSyntax:
      break;
  }
  return "the JSON is not valid";
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

}  // namespace

json::value parse_strict_json(std::string_view text, const JsonLimits& limits,
                              const json::storage_ptr& memory, JsonNumbers numbers) {
  const auto refuse = [](JsonFault fault, size_t offset, const std::string& name = {}) {
    throw JsonError(fault, describe(fault), offset, name);
  };
  if (std::all_of(text.begin(), text.end(), is_space)) refuse(JsonFault::kEmpty, 0);
  if (text.starts_with("\xEF\xBB\xBF")) refuse(JsonFault::kByteOrder, 0);
  json::parse_options options;
  options.max_depth = limits.max_depth;
  json::basic_parser<StrictHandler> parser(options, limits.max_nodes, memory, numbers);
  Code error;
  size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (error) {
    refuse(parser.handler().fault().value_or(fault_of(error)), used, parser.handler().twin());
  }
  while (used < text.size() && is_space(text[used])) ++used;
  if (used != text.size()) refuse(JsonFault::kTrailing, used);
  return parser.handler().release();
}

}  // namespace moesaic::base
