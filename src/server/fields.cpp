#include "server/fields.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "server/json_strict.h"
#include "server/request_fields.h"

namespace moesaic::server {

namespace json = boost::json;

namespace {

[[noreturn]] void unknown_token(std::string_view param, int64_t id, int64_t vocab_size) {
  value_error(param, fmt::format("{}: token id {} is outside the model's vocabulary of {} ids",
                                 param, id, vocab_size));
}

}  // namespace

void schema_error(std::string_view where, const std::string& message) {
  const std::string path = where.empty() ? "body" : fmt::format("body.{}", where);
  throw base::RequestError(400, "Bad Request", fmt::format("{}: {}", path, message), path);
}

void value_error(std::string_view param, const std::string& message) {
  throw base::RequestError(400, "BadRequestError", message, std::string(param));
}

void not_yet(std::string_view param, const std::string& what) {
  throw base::RequestError(400, "BadRequestError",
                           fmt::format("{} is not supported yet; leave it out", what),
                           std::string(param));
}

const json::value* Fields::find(std::string_view name) const {
  MOESAIC_ASSERT(bodies_ == 0 || find_field(name, bodies_) != nullptr);
  const json::value* value = object_.if_contains(json::string_view(name.data(), name.size()));
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::string Fields::path(std::string_view name) const {
  return where_.empty() ? std::string(name) : fmt::format("{}.{}", where_, name);
}

std::optional<bool> Fields::boolean(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_bool()) schema_error(path(name), "must be true or false");
  return value->get_bool();
}

bool is_nothing(const json::value& value) {
  return value.is_null() || (value.is_bool() && !value.get_bool()) ||
         (value.is_string() && (value.get_string().empty() || value.get_string() == "none")) ||
         (value.is_array() && value.get_array().empty());
}

std::optional<int64_t> whole_number(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (!value.is_double()) return std::nullopt;
  const double number = value.get_double();
  // 2^63 is the first double above the range. -2^63 is within it, but also what integers just below
  // become when they are read as a double. The comparison is false for NaN.
  if (!(number > -0x1p63 && number < 0x1p63) || number != std::floor(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

std::optional<int64_t> Fields::integer(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  const auto number = whole_number(*value);
  if (!number) schema_error(path(name), "must be a whole number of at most 64 bits");
  return number;
}

std::optional<double> Fields::number(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (const auto text = written_number(*value)) {
    double number = text->front() == '-' ? -HUGE_VAL : HUGE_VAL;
    std::from_chars(text->data(), text->data() + text->size(), number);
    return number;
  }
  if (!value->is_number()) schema_error(path(name), "must be a number");
  return value->to_number<double>();
}

std::optional<std::string> Fields::string(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) schema_error(path(name), "must be a string");
  const json::string& text = value->get_string();
  return std::string(text.data(), text.size());
}

std::optional<std::string> Fields::name(std::string_view name) const {
  auto text = string(name);
  if (!text) return text;
  for (const char c : *text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      schema_error(path(name), "must not have control characters");
    }
  }
  return text;
}

const json::object* Fields::object(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return nullptr;
  if (!value->is_object() || written_number(*value)) {
    schema_error(path(name), "must be an object");
  }
  return &value->get_object();
}

const json::array* Fields::array(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return nullptr;
  if (!value->is_array()) schema_error(path(name), "must be an array");
  return &value->get_array();
}

void check_token_ids(const std::vector<int32_t>& ids, std::string_view param, int64_t vocab_size) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size) unknown_token(param, id, vocab_size);
  }
}

std::vector<int32_t> read_token_ids(const json::array& array, std::string_view where,
                                    int64_t vocab_size) {
  std::vector<int32_t> ids;
  ids.reserve(array.size());
  for (size_t i = 0; i < array.size(); ++i) {
    const auto id = whole_number(array[i]);
    if (!id) schema_error(fmt::format("{}.{}", where, i), "must be a token id");
    if (*id < 0) schema_error(fmt::format("{}.{}", where, i), "must not be negative");
    if (*id >= vocab_size) unknown_token(where, *id, vocab_size);
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

std::optional<std::vector<int32_t>> Fields::token_ids(std::string_view name,
                                                      int64_t vocab_size) const {
  const json::array* list = array(name);
  if (list == nullptr) return std::nullopt;
  return read_token_ids(*list, path(name), vocab_size);
}

}  // namespace moesaic::server
