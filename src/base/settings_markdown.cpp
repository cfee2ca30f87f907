#include <fmt/format.h>

#include "base/settings.h"
#include "base/settings_table.h"

namespace moesaic::base {
namespace {

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

/// The help; of a row that takes some values only later, also which work today.
std::string meaning(const SettingRow& row) {
  std::string out = cell(row.help);
  if (row.works.empty()) return out;
  std::string works;
  for (std::string_view value : split(row.works, '|')) {
    works += fmt::format("{}{}", works.empty() ? "" : ", ", value);
  }
  return out + fmt::format(" Today: {}. {}", works, row.later);
}

}  // namespace

std::string settings_markdown() {
  std::string out =
      "# Settings of `moesaic serve`\n\n"
      "Written from the table in `src/base/settings_table*.cpp` by `moesaic docs flags`; a test\n"
      "fails when the two differ, or when a flag of vLLM 0.32 is missing. The command line wins\n"
      "over the environment, the environment over a `--config` file. In flag names `_` and `-`\n"
      "mean the same, an unambiguous beginning is enough, and a bool has a `--no-` form. A JSON\n"
      "setting can be written in parts, `--speculative-config.method ngram`. Where a setting has\n"
      "no default, an empty value or `None` unsets it; an empty environment variable is as good\n"
      "as none.\n\n"
      "State: *active* does what it says; *no effect* is accepted because manifests carry it and\n"
      "has no meaning here; *later* is known, its feature does not exist yet, and a real start\n"
      "refuses any value but the default. `moesaic serve ... --dry-run` takes them all, and says\n"
      "of each which of these it is.\n";
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
                       cell(row.fallback), cell(row.range), env, state, meaning(row));
  }
  return out;
}

}  // namespace moesaic::base
