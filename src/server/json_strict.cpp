#include "server/json_strict.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/value_stack.hpp>
#include <charconv>
#include <cmath>
#include <new>
#include <string>
#include <vector>

#include "base/error.h"

namespace moesaic::server {
namespace {

namespace json = boost::json;
using Code = boost::system::error_code;

/// Builds the value while it counts values and looks for repeated names.
class StrictHandler {
 public:
  static constexpr std::size_t max_object_size = json::object::max_size();
  static constexpr std::size_t max_array_size = json::array::max_size();
  static constexpr std::size_t max_key_size = json::string::max_size();
  static constexpr std::size_t max_string_size = json::string::max_size();

  StrictHandler(int64_t max_nodes, const json::storage_ptr& memory, Numbers numbers)
      : stack_(memory), nodes_left_(max_nodes), numbers_(numbers) {
    stack_.reset(memory);
  }

  bool on_document_begin(Code&) { return true; }
  bool on_document_end(Code&) { return true; }
  bool on_object_begin(Code& error) {
    open_.emplace_back(Container{true, {}});
    return count(error);
  }
  bool on_object_end(std::size_t n, Code& error) {
    auto& names = open_.back().names;
    std::sort(names.begin(), names.end());
    if (std::adjacent_find(names.begin(), names.end()) != names.end()) {
      return fail(error, "an object has the same name twice");
    }
    open_.pop_back();
    stack_.push_object(n);
    return true;
  }
  bool on_array_begin(Code& error) {
    open_.emplace_back(Container{false, {}});
    return count(error);
  }
  bool on_array_end(std::size_t n, Code&) {
    open_.pop_back();
    stack_.push_array(n);
    return true;
  }
  bool on_key_part(json::string_view part, std::size_t, Code&) {
    partial_key_.append(part.data(), part.size());
    stack_.push_chars(part);
    return true;
  }
  bool on_key(json::string_view part, std::size_t, Code&) {
    partial_key_.append(part.data(), part.size());
    open_.back().names.push_back(std::move(partial_key_));
    partial_key_.clear();
    stack_.push_key(part);
    return true;
  }
  bool on_string_part(json::string_view part, std::size_t, Code&) {
    stack_.push_chars(part);
    return true;
  }
  bool on_string(json::string_view part, std::size_t, Code& error) {
    stack_.push_string(part);
    return count(error);
  }
  bool on_number_part(json::string_view, Code&) { return true; }
  bool on_int64(std::int64_t value, json::string_view text, Code& error) {
    if (numbers_ == Numbers::kAsWritten && text == "-0") return push_written(text, error);
    stack_.push_int64(value);
    return count_number(error);
  }
  bool on_uint64(std::uint64_t value, json::string_view, Code& error) {
    stack_.push_uint64(value);
    return count_number(error);
  }
  bool on_double(double value, json::string_view text, Code& error) {
    const bool whole = text.find_first_of(".eE") == json::string_view::npos;
    if (whole || numbers_ == Numbers::kAsWritten) return push_written(text, error);
    // Boost's own reading is off by a unit in the last place for one number in ten.
    std::from_chars(text.data(), text.data() + text.size(), value);
    if (!std::isfinite(value)) return fail(error, "a number is too large");
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
  const char* complaint() const { return complaint_; }

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
  bool count(Code& error) {
    return --nodes_left_ >= 0 || fail(error, "the JSON has more values than --max-json-nodes");
  }
  bool count_number(Code& error) {
    return (!open_.empty() && !open_.back().object) || count(error);
  }
  bool fail(Code& error, const char* complaint) {
    complaint_ = complaint;
    error = json::error::syntax;
    return false;
  }

  json::value_stack stack_;
  std::vector<Container> open_;
  std::string partial_key_;
  int64_t nodes_left_;
  Numbers numbers_;
  const char* complaint_ = nullptr;
};

[[noreturn]] void refuse(std::string_view param, std::string_view problem) {
  throw base::RequestError(400, "Bad Request", std::string(problem), std::string(param));
}

/// What went wrong, in our words and with none of the client's bytes.
std::string describe(const Code& error, size_t offset) {
  if (error == json::error::too_deep) return "the JSON is nested deeper than --max-json-depth";
  const char* problem = "is not valid JSON";
  if (error == json::error::illegal_leading_surrogate ||
      error == json::error::illegal_trailing_surrogate ||
      error == json::error::expected_utf16_escape) {
    problem = "has a \\u escape that is half of a surrogate pair";
  } else if (error == json::error::exponent_overflow) {
    problem = "has a number too large for a double";
  } else if (error == json::error::incomplete) {
    problem = "ends in the middle of a value";
  }
  return fmt::format("the JSON {} (near byte {})", problem, offset);
}

class CountedMemory : public json::memory_resource {
 public:
  explicit CountedMemory(ByteShare share) : share_(std::move(share)) {}

 private:
  void* do_allocate(size_t bytes, size_t alignment) override {
    share_.grow(bytes);
    return ::operator new(bytes, std::align_val_t(alignment));
  }
  void do_deallocate(void* memory, size_t bytes, size_t alignment) override {
    ::operator delete(memory, std::align_val_t(alignment));
    share_.shrink(bytes);
  }
  bool do_is_equal(const json::memory_resource& other) const noexcept override {
    return this == &other;
  }
  ByteShare share_;
};

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

}  // namespace

json::storage_ptr counted_memory(const ByteShare& like) {
  return json::make_shared_resource<CountedMemory>(like.another());
}

bool has_half_character(std::string_view text) {
  bool open = false;  // after the first half
  for (size_t at = 0; at < text.size(); ++at) {
    uint32_t code = 0;
    const char* digits = text.data() + at + 2;
    const bool escape = text.substr(at).starts_with("\\u") && at + 6 <= text.size() &&
                        std::from_chars(digits, digits + 4, code, 16).ptr == digits + 4;
    const bool second = escape && code >= 0xDC00 && code < 0xE000;
    if (second != open) return true;
    open = escape && code >= 0xD800 && code < 0xDC00;
    if (text[at] == '\\') at += escape ? 5 : 1;
  }
  return open;
}

std::optional<std::string_view> written_number(const json::value& value) {
  const json::object* object = value.if_object();
  if (object == nullptr || object->size() != 1) return std::nullopt;
  const auto& [name, text] = *object->begin();
  if (std::string_view(name.data(), name.size()) != kWrittenNumber || !text.is_string()) {
    return std::nullopt;
  }
  return std::string_view(text.get_string().data(), text.get_string().size());
}

json::value parse_json(std::string_view text, const JsonLimits& limits, std::string_view param,
                       const json::storage_ptr& memory, Numbers numbers) {
  if (std::all_of(text.begin(), text.end(), is_space)) refuse(param, "there is no JSON here");
  if (text.starts_with("\xEF\xBB\xBF")) refuse(param, "the JSON starts with a byte order mark");
  json::parse_options options;
  options.max_depth = limits.max_depth;
  json::basic_parser<StrictHandler> parser(options, limits.max_nodes, memory, numbers);
  Code error;
  size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (error) {
    const char* complaint = parser.handler().complaint();
    refuse(param, complaint ? std::string(complaint) : describe(error, used));
  }
  while (used < text.size() && is_space(text[used])) ++used;
  if (used != text.size()) refuse(param, "there is something after the JSON");
  return parser.handler().release();
}

}  // namespace moesaic::server
