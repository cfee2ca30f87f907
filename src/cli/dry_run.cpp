#include "cli/dry_run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "cli/loaded_model.h"
#include "cli/memory_table.h"
#include "model/family.h"
#include "plan/names.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

void print(const std::string& text, size_t indent) {
  fmt::print("{:{}}{}\n", "", indent, wrapped(text, indent));
}

/// "organisation/model", as the Hub has it; a path never looks like that unless it exists.
bool is_hub_name(const std::string& name) {
  const size_t slash = name.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == name.size()) return false;
  if (name.find('/', slash + 1) != std::string::npos || name.size() > 200) return false;
  if (name[0] == '.' || name[0] == '~' || name[slash + 1] == '.') return false;
  return std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '/' || c == '-' || c == '_' || c == '.';
  });
}

/// Prints every setting under what becomes of it; returns how many a real start would refuse.
size_t print_settings(const base::Settings& settings) {
  struct Part {
    base::SettingFate fate;
    const char* heading;
  };
  constexpr Part kParts[] = {
      {base::SettingFate::kKept, "Kept:"},
      {base::SettingFate::kNoEffect, "Without effect here:"},
      {base::SettingFate::kLater, "For later; a real start refuses them with these lines:"},
  };
  size_t refused = 0;
  for (const Part& part : kParts) {
    bool any = false;
    for (const std::string& name : settings.set_names()) {
      const base::SettingReport report = base::report_setting(settings, name);
      if (report.fate != part.fate) continue;
      if (!any) fmt::print("{}\n", part.heading);
      any = true;
      if (part.fate == base::SettingFate::kLater) ++refused;
      print(report.line, 2);
    }
  }
  return refused;
}

void print_environment() {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) entries.emplace_back(*entry);
  std::string names;
  for (const std::string& name : base::unread_environment(entries)) {
    names += (names.empty() ? "" : " ") + name;
  }
  if (names.empty()) return;
  fmt::print("Variables that nothing here reads:\n");
  print(names, 2);
}

struct FoundModel {
  std::optional<model::ModelSpec> spec;  ///< none: a name whose config is not known here
  std::string source;                    ///< one sentence
};

FoundModel find_model(const std::string& name, const base::Settings& settings) {
  const boost::json::object overrides = config_overrides(settings);
  std::error_code error;
  if (fs::exists(name, error)) {
    model::ModelSpec spec = model::load_spec(name, overrides, model::Purpose::kPlan);
    const char* source = spec.gguf ? "its metadata" : "its config.json";
    return {std::move(spec), source};
  }
  if (auto config = plan::shipped_config(name)) {
    model::merge_config(overrides, *config);
    return {model::parse_spec(*config, name, model::Purpose::kPlan),
            "the config facts that moesaic carries"};
  }
  // A volume of the pod that this command line is for.
  const bool elsewhere = name.starts_with('/') && name.size() <= 4096;
  if (is_hub_name(name) || elsewhere) return {};
  throw base::MissingFileError(
      fmt::format("there is no folder '{}', and it is no Hub name such as "
                  "mistralai/Mixtral-8x7B-Instruct-v0.1",
                  name));
}

/// What a real start would not refuse. Ranks of a backend that comes later are not this machine's.
base::Settings without_later(const base::Settings& settings) {
  const auto later = [&](std::string_view name) {
    return base::report_setting(settings, name).fate == base::SettingFate::kLater;
  };
  base::Settings out;
  for (const std::string& name : settings.set_names()) {
    if (later(name) || (name == "tensor-parallel-size" && later("backend"))) continue;
    out.set(name, settings.text(name), settings.origin(name));
  }
  return out;
}

/// The plan for this machine. A model that does not fit here may fit where the manifest goes, so
/// that is said and is no error.
void print_plan(const FoundModel& found, const base::Settings& settings) {
  if (!found.spec) {
    print(
        "No memory needs: there is no folder of that name here, and moesaic carries no config "
        "facts for it. With the folder, or its config.json alone, this would plan.",
        0);
    return;
  }
  if (!found.spec->not_served.empty()) {
    print(fmt::format("A real start would refuse this model: {}. 'moesaic plan' sizes it.",
                      found.spec->not_served),
          0);
    return;
  }
  const std::string_view heading = "Memory on this machine, one rank:\n";
  try {
    const auto model = plan_model(*found.spec, without_later(settings), {});
    fmt::print("{}", heading);
    for (const std::string& line : memory_table(model->memory)) fmt::print("  {}\n", line);
  } catch (const base::UnavailableError& problem) {
    fmt::print("{}", heading);
    print(problem.what(), 2);
  }
}

}  // namespace

int dry_run(const Invocation& invocation) {
  const base::Settings& settings = invocation.settings;
  const std::string name = model_name(invocation);
  const FoundModel found = find_model(name, settings);
  print(
      fmt::format(
          "Model: {}{}", name.substr(0, 200),
          found.spec ? fmt::format(" ({}, from {})", found.spec->architecture, found.source) : ""),
      0);
  const size_t refused = print_settings(settings);
  print_environment();
  std::fflush(stdout);
  check_contradictions(settings, found.spec ? &*found.spec : nullptr);
  print_plan(found, settings);
  if (refused > 0 && found.spec) {
    print("The plan is of one rank with the config's own types; what comes later is left out.", 0);
  }
  if (refused > 0) {
    print(
        fmt::format("A real start would refuse {} of these settings, with exit code 78.", refused),
        0);
  }
  return 0;
}

}  // namespace moesaic::cli
