#include "base/settings.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "base/error.h"

namespace moesaic::base {
namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
  }
  return parts;
}

/// "2048", "2k" (2000), "2K" (2048), "25.6k"; empty when it is none of these.
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

/// Checks a number against "low..high"; an empty side is open.
bool in_range(double value, std::string_view range) {
  const size_t dots = range.find("..");
  if (dots == std::string_view::npos) return true;
  const auto low = parse_float(range.substr(0, dots));
  const auto high = parse_float(range.substr(dots + 2));
  return !(low && value < *low) && !(high && value > *high);
}

void validate(const SettingRow& row, std::string_view text, const std::string& origin) {
  switch (row.type) {
    case SettingType::kBool:
      if (!parse_bool(text)) refuse(row, text, origin, "true or false");
      return;
    case SettingType::kInt: {
      const auto value = parse_integer(text);
      if (!value) refuse(row, text, origin, "a whole number (1k = 1000, 1K = 1024)");
      if (!in_range(static_cast<double>(*value), row.range)) {
        refuse(row, text, origin, fmt::format("in {}", row.range));
      }
      return;
    }
    case SettingType::kFloat: {
      const auto value = parse_float(text);
      if (!value) refuse(row, text, origin, "a number");
      if (!in_range(*value, row.range)) refuse(row, text, origin, fmt::format("in {}", row.range));
      return;
    }
    case SettingType::kString: {
      if (row.range.empty()) return;
      for (std::string_view choice : split(row.range, '|')) {
        if (choice == text) return;
      }
      refuse(row, text, origin, fmt::format("one of {}", row.range));
    }
    case SettingType::kStringList:
    case SettingType::kJson:
      return;
  }
}

std::string_view type_name(SettingType type) {
  switch (type) {
    case SettingType::kBool:
      return "bool";
    case SettingType::kInt:
      return "int";
    case SettingType::kFloat:
      return "float";
    case SettingType::kString:
      return "string";
    case SettingType::kStringList:
      return "list";
    case SettingType::kJson:
      return "JSON";
  }
  return "";
}

/// Text that is safe inside a Markdown table cell.
std::string cell(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

const SettingRow* find_setting(std::string_view name) {
  for (const SettingRow& row : setting_rows()) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

Settings::Settings() {
  for (const SettingRow& row : setting_rows()) {
    values_[std::string(row.name)] = {std::string(row.fallback), ""};
  }
}

void Settings::set(std::string_view name, std::string_view text, const std::string& origin) {
  const SettingRow* row = find_setting(name);
  if (row == nullptr) throw UsageError(fmt::format("{}: there is no setting '{}'", origin, name));
  validate(*row, text, origin);
  values_.find(name)->second = {std::string(text), origin};
}

void Settings::apply_environment(const std::function<const char*(const char*)>& getenv) {
  for (const SettingRow& row : setting_rows()) {
    if (is_set(row.name)) continue;
    for (std::string_view name : split(row.env, ',')) {
      const char* text = getenv(std::string(name).c_str());
      if (text == nullptr || *text == '\0') continue;
      // A Kubernetes Service named "vllm" injects VLLM_PORT=tcp://10.0.0.1:8000 into every pod.
      if (std::string_view(text).starts_with("tcp://")) continue;
      set(row.name, text, std::string(name));
      break;
    }
  }
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

std::string settings_markdown() {
  std::string out =
      "# Settings of `moesaic serve`\n\n"
      "Written from the table in `src/base/settings_table.cpp` by `moesaic docs flags`; a test "
      "fails\n"
      "when the two differ. The command line wins over the environment, the environment over a\n"
      "`--config` file. In flag names `_` and `-` mean the same, an unambiguous beginning is "
      "enough,\n"
      "and a bool has a `--no-` form.\n\n"
      "State: *active* does what it says; *no effect* is accepted because manifests carry it and "
      "has\n"
      "no meaning here; *later* is known, its feature does not exist yet, and a real start "
      "refuses\n"
      "any value but the default.\n";
  std::string_view group;
  for (const SettingRow& row : setting_rows()) {
    if (row.group != group) {
      group = row.group;
      out += fmt::format(
          "\n## {}\n\n| flag | type | default | allowed | environment | state | "
          "meaning |\n|---|---|---|---|---|---|---|\n",
          group);
    }
    std::string flags = fmt::format("`--{}`", row.name);
    for (std::string_view alias : split(row.aliases, ',')) flags += fmt::format(" `{}`", alias);
    std::string env;
    for (std::string_view name : split(row.env, ',')) {
      env += fmt::format("{}`{}`", env.empty() ? "" : " ", name);
    }
    const std::string_view state = row.state == SettingState::kActive ? "active"
                                   : row.state == SettingState::kNoop ? "no effect"
                                                                      : "later";
    out += fmt::format("| {} | {} | {} | {} | {} | {} | {} |\n", flags, type_name(row.type),
                       cell(row.fallback), cell(row.range), env, state, cell(row.help));
  }
  return out;
}

}  // namespace moesaic::base
