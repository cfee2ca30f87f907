#include "base/settings.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdint>

#include "base/error.h"
#include "base/nearest.h"
#include "base/settings_table.h"

namespace moesaic::base {

std::optional<int64_t> parse_integer(std::string_view text) {
  if (text == "auto") return -1;
  double unit = 1;
  if (!text.empty()) {
    switch (text.back()) {
      case 'k':
        unit = 1e3;
        break;
      case 'm':
        unit = 1e6;
        break;
      case 'g':
        unit = 1e9;
        break;
      case 't':
        unit = 1e12;
        break;
      case 'K':
        unit = 1024.0;
        break;
      case 'M':
        unit = 1024.0 * 1024;
        break;
      case 'G':
        unit = 1024.0 * 1024 * 1024;
        break;
      case 'T':
        unit = 1024.0 * 1024 * 1024 * 1024;
        break;
      default:
        break;
    }
  }
  if (unit == 1) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
  }
  text.remove_suffix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if (!(std::abs(value * unit) < 9e18)) return std::nullopt;
  return static_cast<int64_t>(std::llround(value * unit));
}

namespace {

std::optional<double> parse_float(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

std::optional<bool> parse_bool(std::string_view text) {
  for (std::string_view yes : {"1", "true", "True", "TRUE", "yes", "on"}) {
    if (text == yes) return true;
  }
  for (std::string_view no : {"0", "false", "False", "FALSE", "no", "off"}) {
    if (text == no) return false;
  }
  return std::nullopt;
}

[[noreturn]] void refuse(const SettingRow& row, std::string_view text, const std::string& origin,
                         std::string_view expected) {
  throw UsageError(fmt::format(
      "{}: '{}' is not {}{}", origin, text.substr(0, 80), expected,
      row.fallback.empty() ? std::string() : fmt::format(" (default {})", row.fallback)));
}

bool among(std::string_view text, std::string_view choices) {
  for (std::string_view choice : split(choices, '|')) {
    if (choice == text) return true;
  }
  return false;
}

/// Checks a number against "low..high", parsed by `parse`; an empty side is open.
template <typename Number>
bool in_range(Number value, std::string_view range,
              std::optional<Number> (*parse)(std::string_view)) {
  const size_t dots = range.find("..");
  if (dots == std::string_view::npos) return true;
  const auto low = parse(range.substr(0, dots));
  const auto high = parse(range.substr(dots + 2));
  return !(low && value < *low) && !(high && value > *high);
}

/// "one of a|b|c", and of a long list the nearest.
std::string expected_choice(const SettingRow& row, std::string_view text) {
  if (row.range.size() <= 120) return fmt::format("one of {}", row.range);
  std::vector<std::string> choices;
  for (std::string_view choice : split(row.range, '|')) choices.emplace_back(choice);
  return fmt::format("a known value; the nearest is {}, docs/flags.md has them all",
                     nearest(text, choices));
}

void validate(const SettingRow& row, std::string_view text, const std::string& origin) {
  switch (row.type) {
    case SettingType::kBool:
      if (!parse_bool(text)) refuse(row, text, origin, "true or false");
      return;
    case SettingType::kInt: {
      const auto value = parse_integer(text);
      if (!value) refuse(row, text, origin, "a whole number (1k = 1000, 1K = 1024)");
      if (!in_range(*value, row.range, parse_integer)) {
        refuse(row, text, origin, fmt::format("in {}", row.range));
      }
      if (row.range.find('|') != std::string_view::npos && !among(text, row.range)) {
        refuse(row, text, origin, expected_choice(row, text));
      }
      return;
    }
    case SettingType::kFloat: {
      const auto value = parse_float(text);
      if (!value) refuse(row, text, origin, "a number");
      if (!in_range(*value, row.range, parse_float)) {
        refuse(row, text, origin, fmt::format("in {}", row.range));
      }
      return;
    }
    case SettingType::kString: {
      if (!row.range.empty() && !among(text, row.range)) {
        refuse(row, text, origin, expected_choice(row, text));
      }
      return;
    }
    case SettingType::kStringList:
    case SettingType::kJson:
      return;
  }
}

}  // namespace

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
  }
  return parts;
}

const SettingRow* find_setting(std::string_view name) {
  static const std::map<std::string_view, const SettingRow*> kByName = [] {
    std::map<std::string_view, const SettingRow*> rows;
    for (const SettingRow& row : setting_rows()) rows[row.name] = &row;
    return rows;
  }();
  const auto found = kByName.find(name);
  return found == kByName.end() ? nullptr : found->second;
}

Settings::Settings() {
  for (const SettingRow& row : setting_rows()) {
    values_[std::string(row.name)] = {std::string(row.fallback), ""};
  }
}

void Settings::set(std::string_view name, std::string_view text, const std::string& origin) {
  const SettingRow* row = find_setting(name);
  if (row == nullptr) throw UsageError(fmt::format("{}: there is no setting '{}'", origin, name));
  // vLLM reads both as None where a setting may have no value.
  if (row->fallback.empty() && row->type != SettingType::kBool &&
      (text.empty() || text == "None")) {
    values_.find(name)->second = {"", origin};
    return;
  }
  validate(*row, text, origin);
  values_.find(name)->second = {std::string(text), origin};
}

void Settings::apply_environment(const std::function<const char*(const char*)>& getenv) {
  for (const SettingRow& row : setting_rows()) {
    if (is_set(row.name)) continue;
    for (std::string_view name : split(row.env, ',')) {
      const char* text = getenv(std::string(name).c_str());
      if (text == nullptr || *text == '\0') continue;
      if (is_service_link(text)) continue;
      set(row.name, text, std::string(name));
      break;
    }
  }
}

const std::string& Settings::text(std::string_view name) const {
  const auto found = values_.find(name);
  MOESAIC_ASSERT(found != values_.end());
  return found->second.text;
}

const Settings::Value& Settings::value(std::string_view name, SettingType type) const {
  const SettingRow* row = find_setting(name);
  MOESAIC_ASSERT(row != nullptr && row->type == type);
  return values_.find(name)->second;
}

bool Settings::is_set(std::string_view name) const { return !origin(name).empty(); }

std::string Settings::origin(std::string_view name) const {
  const auto found = values_.find(name);
  MOESAIC_ASSERT(found != values_.end());
  return found->second.origin;
}

bool Settings::get_bool(std::string_view name) const {
  return parse_bool(value(name, SettingType::kBool).text).value_or(false);
}
int64_t Settings::get_int(std::string_view name) const {
  return parse_integer(value(name, SettingType::kInt).text).value_or(0);
}
double Settings::get_float(std::string_view name) const {
  return parse_float(value(name, SettingType::kFloat).text).value_or(0.0);
}
std::string Settings::get_string(std::string_view name) const {
  const SettingRow* row = find_setting(name);
  MOESAIC_ASSERT(row != nullptr &&
                 (row->type == SettingType::kString || row->type == SettingType::kJson));
  return values_.find(name)->second.text;
}
std::vector<std::string> Settings::get_list(std::string_view name) const {
  std::vector<std::string> items;
  for (std::string_view item : split(value(name, SettingType::kStringList).text, ',')) {
    if (!item.empty()) items.emplace_back(item);
  }
  return items;
}

std::vector<std::string> Settings::set_names() const {
  std::vector<std::string> names;
  for (const SettingRow& row : setting_rows()) {
    if (is_set(row.name)) names.emplace_back(row.name);
  }
  return names;
}

}  // namespace moesaic::base
