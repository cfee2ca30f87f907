#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/settings.h"
#include "base/settings_table.h"

namespace moesaic::base {
namespace {

/// Longer values are cut in reports; JSON and URLs can have any length.
constexpr size_t kShownBytes = 48;

bool is_secret(std::string_view name) {
  return name == "api-key" || name == "hf-token" || name == "ngrok-authtoken";
}

/// The value as a report may show it: cut, and without anything that could steer a terminal.
std::string shown(const SettingRow& row, const std::string& text) {
  if (text.empty()) return "(none)";
  if (is_secret(row.name)) return "(hidden)";
  std::string out;
  for (char c : text.substr(0, kShownBytes)) {
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  }
  if (text.size() <= kShownBytes) return out;
  // Not inside a UTF-8 sequence.
  while (!out.empty() && (static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();
  if (!out.empty() && static_cast<unsigned char>(out.back()) >= 0xc0) out.pop_back();
  return out + "...";
}

/// "--port 80", "PORT=80", "port in f.yaml: 80"; a switch is only its name.
std::string as_written(const SettingRow& row, const Settings& settings) {
  const std::string origin = settings.origin(row.name);
  const std::string text = shown(row, settings.text(row.name));
  if (origin.starts_with('-')) {
    const bool plain_switch = row.type == SettingType::kBool &&
                              settings.get_bool(row.name) != origin.starts_with("--no-");
    return plain_switch ? origin : origin + " " + text;
  }
  if (origin.find(' ') == std::string::npos) return origin + "=" + text;
  return origin + ": " + text;
}

/// A value that asks for nothing beyond the default.
bool is_default(const SettingRow& row, const Settings& settings) {
  static const Settings kDefaults;
  switch (row.type) {
    case SettingType::kBool:
      return settings.get_bool(row.name) == kDefaults.get_bool(row.name);
    case SettingType::kInt:
      return settings.text(row.name).empty() ||
             settings.get_int(row.name) == kDefaults.get_int(row.name);
    case SettingType::kFloat:
      return settings.text(row.name).empty() ||
             settings.get_float(row.name) == kDefaults.get_float(row.name);
    case SettingType::kJson: {
      const std::string& text = settings.text(row.name);
      return text.empty() || text == "{}" || text == "[]" || text == "null";
    }
    case SettingType::kString:
    case SettingType::kStringList:
      return settings.text(row.name) == row.fallback;
  }
  return false;
}

bool works(const SettingRow& row, const std::string& text) {
  if (row.works.empty() || text.empty()) return true;
  const auto values = split(row.works, '|');
  return std::find(values.begin(), values.end(), text) != values.end();
}

/// Why a value that works alone has to wait beside the others; "" when it need not.
std::string_view later_beside_others(const SettingRow& row, const Settings& settings) {
  if (row.name == "tensor-parallel-size" && settings.get_int(row.name) > 1 &&
      settings.get_string("backend") == "cuda") {
    return "Ranks on several CUDA devices come later.";
  }
  return {};
}

}  // namespace

SettingReport report_setting(const Settings& settings, std::string_view name) {
  const SettingRow& row = *find_setting(name);
  SettingReport report;
  report.line = as_written(row, settings);
  if (row.state == SettingState::kNoop) {
    report.fate = SettingFate::kNoEffect;
    report.line += fmt::format(": {}", row.help);
  } else if (row.state == SettingState::kLater && !is_default(row, settings)) {
    report.fate = SettingFate::kLater;
    report.line += fmt::format(": {}", row.help);
  } else if (row.state == SettingState::kActive && !works(row, settings.text(name))) {
    report.fate = SettingFate::kLater;
    report.line += fmt::format(": {}", row.later);
  } else if (const std::string_view why = later_beside_others(row, settings); !why.empty()) {
    report.fate = SettingFate::kLater;
    report.line += fmt::format(": {}", why);
  }
  return report;
}

bool is_service_link(std::string_view value) {
  return value.starts_with("tcp://") || value.starts_with("udp://") || value.starts_with("sctp://");
}

std::vector<std::string> unread_environment(std::span<const std::string> environment) {
  // CUDA's own are read by its driver: CUDA_VISIBLE_DEVICES, CUDA_CACHE_PATH.
  static constexpr std::array<std::string_view, 8> kPrefixes = {
      "VLLM_", "NCCL_", "HF_", "HUGGING", "NEURON_", "TGI_", "RAY_", "LWS_"};
  std::vector<std::string_view> known;
  for (const SettingRow& row : setting_rows()) {
    for (std::string_view name : split(row.env, ',')) known.push_back(name);
  }
  std::vector<std::string> unread;
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    if (equals == std::string::npos || equals + 1 == entry.size()) continue;
    const std::string_view name = std::string_view(entry).substr(0, equals);
    const std::string_view value = std::string_view(entry).substr(equals + 1);
    const bool meant = std::any_of(kPrefixes.begin(), kPrefixes.end(),
                                   [&](std::string_view start) { return name.starts_with(start); });
    // Of a Service "vllm": VLLM_PORT, VLLM_SERVICE_HOST, VLLM_SERVICE_PORT,
    // VLLM_PORT_80_TCP_ADDR...
    const bool link = is_service_link(value) || name.find("_SERVICE_HOST") != name.npos ||
                      name.find("_SERVICE_PORT") != name.npos || name.find("_TCP") != name.npos ||
                      name.find("_UDP") != name.npos;
    if (!meant || link) continue;
    if (std::find(known.begin(), known.end(), name) == known.end()) unread.emplace_back(name);
  }
  std::sort(unread.begin(), unread.end());
  return unread;
}

}  // namespace moesaic::base
