#include "model/config_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cmath>

#include "base/error.h"
#include "base/printable.h"

namespace moesaic::model {

namespace {

constexpr size_t kMaxShownBytes = 60;
constexpr const char* kName = "a string of at most 200 characters without control characters";

/// The value as it stands in the file, cut to a length that fits an error message.
std::string shown(const boost::json::value& value) {
  std::string text = boost::json::serialize(value);
  if (text.size() <= kMaxShownBytes) return text;
  size_t cut = kMaxShownBytes;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0u) == 0x80u) --cut;
  return text.substr(0, cut) + "...";
}

std::string integer_range(int64_t lowest, int64_t highest) {
  return fmt::format("an integer from {} to {}", lowest, highest);
}

/// Strings here are names of types and the like, and end up in messages and answers.
std::optional<std::string> as_name(const boost::json::value& value) {
  constexpr size_t kLongest = 200;
  if (!value.is_string() || value.get_string().size() > kLongest) return std::nullopt;
  std::string name(value.get_string());
  const bool plain = std::none_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  return plain ? std::optional(std::move(name)) : std::nullopt;
}

std::optional<int64_t> as_integer(const boost::json::value& value) {
  if (value.is_int64()) return value.get_int64();
  return std::nullopt;  // an unsigned value is one past int64, out of every range here
}

}  // namespace

ConfigReader::ConfigReader(const boost::json::object& object, std::string file, std::string path)
    : object_(&object), file_(std::move(file)), path_(std::move(path)) {}

const boost::json::value* ConfigReader::find(std::string_view key) const {
  const boost::json::value* value = object_->if_contains({key.data(), key.size()});
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool ConfigReader::has(std::string_view key) const { return find(key) != nullptr; }

bool ConfigReader::is_null(std::string_view key) const {
  const boost::json::value* value = object_->if_contains({key.data(), key.size()});
  return value != nullptr && value->is_null();
}

void ConfigReader::fail(std::string_view key, const std::string& problem) const {
  const std::string place = path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  throw base::ModelFileError(file_, fmt::format("\"{}\" {}", base::printable(place), problem));
}

void ConfigReader::missing(std::string_view key, const std::string& allowed) const {
  fail(key, fmt::format("is missing; it must be {}", allowed));
}

int64_t ConfigReader::integer(std::string_view key, int64_t lowest, int64_t highest,
                              std::optional<int64_t> fallback) const {
  const boost::json::value* value = find(key);
  if (value == nullptr) {
    if (fallback) return *fallback;
    missing(key, integer_range(lowest, highest));
  }
  const std::optional<int64_t> found = as_integer(*value);
  if (!found || *found < lowest || *found > highest) {
    fail(key, fmt::format("is {}; it must be {}", shown(*value), integer_range(lowest, highest)));
  }
  return *found;
}

double ConfigReader::number(std::string_view key, double lowest, double highest,
                            std::optional<double> fallback) const {
  const std::string allowed = fmt::format("a number from {:g} to {:g}", lowest, highest);
  const boost::json::value* value = find(key);
  if (value == nullptr) {
    if (fallback) return *fallback;
    missing(key, allowed);
  }
  double found = 0;
  if (value->is_double()) {
    found = value->get_double();
  } else if (const std::optional<int64_t> whole = as_integer(*value)) {
    found = static_cast<double>(*whole);
  } else {
    fail(key, fmt::format("is {}; it must be {}", shown(*value), allowed));
  }
  // Written so that NaN fails too.
  if (!(found >= lowest && found <= highest)) {
    fail(key, fmt::format("is {}; it must be {}", shown(*value), allowed));
  }
  return found;
}

bool ConfigReader::boolean(std::string_view key, std::optional<bool> fallback) const {
  const boost::json::value* value = find(key);
  if (value == nullptr) {
    if (fallback) return *fallback;
    missing(key, "true or false");
  }
  if (!value->is_bool()) fail(key, fmt::format("is {}; it must be true or false", shown(*value)));
  return value->get_bool();
}

std::string ConfigReader::string(std::string_view key,
                                 const std::optional<std::string>& fallback) const {
  const boost::json::value* value = find(key);
  if (value == nullptr) {
    if (fallback) return *fallback;
    missing(key, "a string");
  }
  const std::optional<std::string> name = as_name(*value);
  if (!name) fail(key, fmt::format("is {}; it must be {}", shown(*value), kName));
  return *name;
}

std::vector<int64_t> ConfigReader::integers(std::string_view key, int64_t lowest, int64_t highest,
                                            size_t max_count) const {
  const boost::json::value* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {integer(key, lowest, highest)};
  const boost::json::array& array = value->get_array();
  if (array.size() > max_count) {
    fail(key, fmt::format("has {} entries; at most {} are allowed", array.size(), max_count));
  }
  std::vector<int64_t> found;
  found.reserve(array.size());
  for (const boost::json::value& entry : array) {
    const std::optional<int64_t> whole = as_integer(entry);
    if (!whole || *whole < lowest || *whole > highest) {
      fail(key, fmt::format("has the entry {}; each must be {}", shown(entry),
                            integer_range(lowest, highest)));
    }
    found.push_back(*whole);
  }
  return found;
}

std::vector<std::string> ConfigReader::strings(std::string_view key, size_t max_count) const {
  const boost::json::value* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array() || value->get_array().size() > max_count) {
    fail(key,
         fmt::format("is {}; it must be a list of at most {} strings", shown(*value), max_count));
  }
  std::vector<std::string> found;
  for (const boost::json::value& entry : value->get_array()) {
    const std::optional<std::string> name = as_name(entry);
    if (!name) fail(key, fmt::format("has the entry {}; each must be {}", shown(entry), kName));
    found.push_back(*name);
  }
  return found;
}

std::optional<ConfigReader> ConfigReader::object(std::string_view key) const {
  const boost::json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) fail(key, fmt::format("is {}; it must be an object", shown(*value)));
  const std::string place = path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  return ConfigReader(value->get_object(), file_, place);
}

std::vector<std::string> ConfigReader::keys() const {
  std::vector<std::string> names;
  for (const auto& member : *object_) names.emplace_back(member.key());
  return names;
}

}  // namespace moesaic::model
