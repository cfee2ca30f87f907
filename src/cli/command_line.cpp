#include "cli/command_line.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/nearest.h"
#include "base/printable.h"
#include "base/strict_json.h"

namespace moesaic::cli {
namespace {

using base::SettingRow;
using base::SettingState;
using base::SettingType;
using base::UsageError;

/// What a spelling on the command line stands for.
struct Flag {
  const SettingRow* row = nullptr;
  const CommandOption* option = nullptr;
  bool negated = false;
};

/// "a", "b" and "c" of "a|b|c".
std::vector<std::string_view> parts_of(std::string_view choices) {
  std::vector<std::string_view> parts;
  while (!choices.empty()) {
    const size_t bar = choices.find('|');
    parts.push_back(choices.substr(0, bar));
    choices = bar == std::string_view::npos ? std::string_view{} : choices.substr(bar + 1);
  }
  return parts;
}

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

bool takes(const Command& command, const SettingRow& row) {
  return std::any_of(command.groups.begin(), command.groups.end(),
                     [&](std::string_view group) { return group == "*" || group == row.group; });
}

/// Every spelling that `command` knows, "--no-" forms included.
std::map<std::string, Flag> known_flags(const Command& command) {
  std::map<std::string, Flag> flags;
  for (const CommandOption& option : command.options) {
    flags["--" + std::string(option.name)] = {nullptr, &option, false};
    if (!option.spelling.empty()) flags[std::string(option.spelling)] = {nullptr, &option, false};
  }
  for (const SettingRow& row : base::setting_rows()) {
    if (!takes(command, row)) continue;
    flags["--" + std::string(row.name)] = {&row, nullptr, false};
    if (row.type == SettingType::kBool) {
      flags["--no-" + std::string(row.name)] = {&row, nullptr, true};
    }
    for (std::string_view rest = row.aliases; !rest.empty();) {
      const size_t comma = rest.find(',');
      flags[std::string(rest.substr(0, comma))] = {&row, nullptr, false};
      rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    }
  }
  return flags;
}

Flag resolve(const std::map<std::string, Flag>& flags, const std::string& spelling,
             const Command& command) {
  if (const auto found = flags.find(spelling); found != flags.end()) return found->second;
  std::vector<const std::pair<const std::string, Flag>*> matches;
  if (spelling.size() > 3) {
    for (const auto& entry : flags) {
      if (entry.first.starts_with(spelling)) matches.push_back(&entry);
    }
  }
  // Several spellings of one setting are no choice to make.
  const bool same = std::all_of(matches.begin(), matches.end(), [&](const auto* match) {
    return match->second.row == matches[0]->second.row &&
           match->second.option == matches[0]->second.option &&
           match->second.negated == matches[0]->second.negated;
  });
  if (!matches.empty() && same) return matches[0]->second;
  if (matches.size() > 1) {
    throw UsageError(fmt::format("{} could be {} or {}; write more of it", spelling,
                                 matches[0]->first, matches[1]->first));
  }
  // Nobody means a flag this long, and comparing it with all others would take its time.
  if (spelling.size() > 200) throw UsageError("unknown flag " + spelling.substr(0, 80) + "...");
  std::string nearest;
  size_t best = std::max<size_t>(3, spelling.size() / 3);
  for (const auto& [name, flag] : flags) {
    if (const size_t distance = base::edit_distance(spelling, name); distance < best) {
      best = distance;
      nearest = name;
    }
  }
  throw UsageError(fmt::format("unknown flag {}{}; see 'moesaic {} --help'", spelling,
                               nearest.empty() ? "" : ", did you mean " + nearest + "?",
                               command.name));
}

bool is_flag(const std::string& argument) {
  return argument.size() > 1 && argument[0] == '-' && !(argument[1] >= '0' && argument[1] <= '9') &&
         argument[1] != '.';
}

bool is_bool_word(const std::string& word) {
  return word == "true" || word == "false" || word == "True" || word == "False";
}

/// Parses a JSON setting; throws UsageError naming `origin`.
boost::json::value parse_json_setting(const std::string& text, const std::string& origin) {
  try {
    return base::parse_strict_json(text, {.max_depth = 32});
  } catch (const base::JsonError& error) {
    const std::string name =
        error.name().empty() ? "" : fmt::format(" ('{}')", base::printable(error.name()));
    throw UsageError(
        fmt::format("{}: '{}' is not JSON: {}{}", origin, text.substr(0, 40), error.what(), name));
  }
}

/// Sets `keys` ("a.b", or "a.b+" to append to a list) of the object `text` to `item`, which is JSON
/// or else a string.
std::string with_json_key(const std::string& text, std::string_view keys, const std::string& item,
                          const std::string& origin) {
  boost::json::value root =
      text.empty() ? boost::json::value(boost::json::object()) : parse_json_setting(text, origin);
  const bool append = keys.ends_with('+');
  if (append) keys.remove_suffix(1);
  boost::json::value* place = &root;
  for (size_t depth = 0; !keys.empty(); ++depth) {
    if (place->is_null()) *place = boost::json::object();
    if (!place->is_object() || depth > 16) {
      throw UsageError(origin + ": there is a value already where this wants an object");
    }
    const size_t dot = keys.find('.');
    place = &place->get_object()[keys.substr(0, dot)];
    keys = dot == std::string_view::npos ? std::string_view{} : keys.substr(dot + 1);
  }
  boost::system::error_code error;
  boost::json::value value = boost::json::parse(item, error);
  if (error) value = boost::json::value(item);
  if (append) {
    if (!place->is_array()) *place = boost::json::array();
    place->get_array().push_back(std::move(value));
  } else {
    *place = std::move(value);
  }
  return boost::json::serialize(root);
}

/// Walks the arguments; `config` receives the path of --config.
class Parser {
 public:
  Parser(const Command& command, std::span<const std::string> arguments)
      : command_(command), arguments_(arguments), flags_(known_flags(command)) {}

  Invocation run(std::string& config) {
    bool only_positional = false;
    while (next_ < arguments_.size()) {
      const std::string& argument = arguments_[next_++];
      if (only_positional || !is_flag(argument)) {
        result_.arguments.push_back(argument);
      } else if (argument == "--") {
        only_positional = true;
      } else {
        take_flag(argument, config);
      }
    }
    return std::move(result_);
  }

 private:
  void take_flag(const std::string& argument, std::string& config) {
    const size_t equals = argument.find('=');
    std::string spelling = argument.substr(0, equals);
    std::optional<std::string> inline_value;
    if (equals != std::string::npos) inline_value = argument.substr(equals + 1);
    // "-O3" is "-O 3"; only where no flag is spelled like that.
    if (spelling.size() > 2 && spelling[1] != '-' && !inline_value && !flags_.contains(spelling) &&
        std::isdigit(static_cast<unsigned char>(spelling[2])) != 0 &&
        flags_.contains(spelling.substr(0, 2))) {
      inline_value = spelling.substr(2);
      spelling.resize(2);
    }
    // "--compilation-config.mode 3" sets one key of a JSON setting; keys keep their underscores.
    std::string keys;
    if (const size_t dot = spelling.find('.'); dot != std::string::npos) {
      keys = spelling.substr(dot + 1);
      spelling.resize(dot);
    }
    if (spelling.size() > 2) std::replace(spelling.begin() + 2, spelling.end(), '_', '-');
    if (!command_.groups.empty() && spelling == "--config") {
      config = value_of(spelling, inline_value);
      return;
    }
    const Flag flag = resolve(flags_, spelling, command_);
    if (!keys.empty()) {
      take_json_key(flag, spelling, keys, inline_value);
    } else if (flag.option != nullptr) {
      std::string& value = result_.options[std::string(flag.option->name)];
      const std::string before = flag.option->repeats && !value.empty() ? value + "\n" : "";
      value = before + (flag.option->value.empty() ? "true" : value_of(spelling, inline_value));
    } else if (flag.row->type == SettingType::kBool) {
      take_bool(flag, spelling, inline_value);
    } else if (flag.row->type == SettingType::kStringList) {
      std::string list = value_of(spelling, inline_value);
      while (!inline_value && next_ < arguments_.size() && !is_flag(arguments_[next_])) {
        list += "," + arguments_[next_++];
      }
      store(*flag.row, list, spelling);
    } else {
      store(*flag.row, value_of(spelling, inline_value), spelling);
    }
  }

  void store(const SettingRow& row, const std::string& text, const std::string& spelling) {
    if (result_.settings.is_set(row.name) && result_.settings.text(row.name) != text) {
      spdlog::warn("--{} is given twice; the last one counts", row.name);
    }
    result_.settings.set(row.name, text, spelling);
  }

  void take_json_key(const Flag& flag, const std::string& spelling, const std::string& keys,
                     const std::optional<std::string>& inline_value) {
    if (flag.row == nullptr ||
        (flag.row->type != SettingType::kJson && flag.row->type != SettingType::kString)) {
      throw UsageError(fmt::format("{}.{}: {} is no JSON setting", spelling, keys, spelling));
    }
    result_.settings.set(flag.row->name,
                         with_json_key(result_.settings.text(flag.row->name), keys,
                                       value_of(spelling, inline_value), spelling),
                         spelling);
  }

  void take_bool(const Flag& flag, const std::string& spelling,
                 const std::optional<std::string>& inline_value) {
    std::string text = inline_value.value_or("true");
    if (!inline_value && next_ < arguments_.size() && is_bool_word(arguments_[next_])) {
      text = arguments_[next_++];
    }
    if (flag.negated) {
      if (text != "true") throw UsageError(spelling + " takes no value");
      text = "false";
    }
    store(*flag.row, text, spelling);
  }

  std::string value_of(const std::string& spelling,
                       const std::optional<std::string>& inline_value) {
    if (inline_value) return *inline_value;
    if (next_ == arguments_.size() || arguments_[next_].starts_with("--")) {
      throw UsageError(spelling + " needs a value");
    }
    return arguments_[next_++];
  }

  const Command& command_;
  std::span<const std::string> arguments_;
  std::map<std::string, Flag> flags_;
  size_t next_ = 0;
  Invocation result_;
};

/// Sets what neither the command line nor the environment has.
void apply_config_file(const std::string& path, base::Settings& settings) {
  const std::optional<std::string> text = base::read_file(path, kMaxConfigBytes);
  if (!text) throw UsageError("--config " + path + " is larger than 1 MiB");
  YAML::Node root;
  try {
    root = YAML::Load(*text);
  } catch (const YAML::Exception& problem) {
    throw UsageError(fmt::format("--config {}: {}", path, problem.what()));
  }
  if (!root.IsMap()) throw UsageError("--config " + path + ": expected lines of 'flag: value'");
  for (const auto& entry : root) {
    if (!entry.first.IsScalar()) throw UsageError("--config " + path + ": a flag must be a word");
    std::string name = entry.first.as<std::string>();
    std::replace(name.begin(), name.end(), '_', '-');
    const std::string origin = fmt::format("{} in {}", name, path);
    if (base::find_setting(name) == nullptr) {
      std::vector<std::string> names;
      for (const base::SettingRow& row : base::setting_rows()) names.emplace_back(row.name);
      throw UsageError(fmt::format("{}: there is no such setting, did you mean {}?", origin,
                                   base::nearest(name.substr(0, 200), names)));
    }
    if (settings.is_set(name)) continue;
    std::string value;
    if (entry.second.IsSequence()) {
      for (const YAML::Node& item : entry.second) {
        if (!item.IsScalar()) throw UsageError(origin + ": a list holds words and numbers only");
        value += (value.empty() ? "" : ",") + item.as<std::string>();
      }
    } else if (entry.second.IsScalar()) {
      value = entry.second.as<std::string>();
    } else {
      throw UsageError(origin + ": expected a value or a list; write JSON settings as a string");
    }
    settings.set(name, value, origin);
  }
}

}  // namespace

std::string Invocation::option(const std::string& name, const std::string& fallback) const {
  const auto found = options.find(name);
  return found == options.end() ? fallback : found->second;
}

int64_t Invocation::integer(const std::string& name, int64_t fallback, int64_t low,
                            int64_t high) const {
  const auto found = options.find(name);
  if (found == options.end()) return fallback;
  const std::string& text = found->second;
  const std::optional<int64_t> value = text == "auto" ? std::nullopt : base::parse_integer(text);
  if (!value || *value < low || *value > high) {
    throw UsageError(
        fmt::format("--{}: '{}' is not a whole number in {}..{} (1k = 1000, 1K = 1024)", name,
                    text.substr(0, 40), low, high));
  }
  return *value;
}

double Invocation::number(const std::string& name, double fallback, double low, double high) const {
  const auto found = options.find(name);
  if (found == options.end()) return fallback;
  const std::string& text = found->second;
  const char* end = text.data() + text.size();
  double value = 0;
  const auto [last, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || last != end || !(value >= low && value <= high)) {
    throw UsageError(
        fmt::format("--{}: '{}' is not a number in {}..{}", name, text.substr(0, 40), low, high));
  }
  return value;
}

Invocation parse_command_line(const Command& command, std::span<const std::string> arguments) {
  return parse_command_line(command, arguments, [](const char* name) { return std::getenv(name); });
}

Invocation parse_command_line(const Command& command, std::span<const std::string> arguments,
                              const std::function<const char*(const char*)>& getenv) {
  std::string config;
  Invocation invocation = Parser(command, arguments).run(config);
  if (!command.groups.empty()) {
    invocation.settings.apply_environment(getenv);
    if (!config.empty()) apply_config_file(config, invocation.settings);
    for (const std::string& name : invocation.settings.set_names()) {
      const std::string& text = invocation.settings.text(name);
      if (base::find_setting(name)->type != SettingType::kJson || text.empty()) continue;
      parse_json_setting(text, invocation.settings.origin(name));
    }
  }
  return invocation;
}

std::vector<std::string> completions(const Command& command, std::span<const std::string> words) {
  const auto flags = known_flags(command);
  std::string last = words.empty() ? "" : words.back();
  std::string flag = words.size() > 1 ? words[words.size() - 2] : "";
  std::string kept;  // of the last word, before what is completed
  if (const size_t equals = last.find('='); last.starts_with('-') && equals != last.npos) {
    flag = last.substr(0, equals);
    kept = last.substr(0, equals + 1);
    last.erase(0, equals + 1);
  }
  std::vector<std::string> found;
  const auto add = [&](const std::string& word) {
    if (word.starts_with(last)) found.push_back(kept + word);
  };
  const auto known = flags.find(flag);
  if (known != flags.end() && known->second.row != nullptr) {
    const SettingRow& row = *known->second.row;
    const std::string_view choices = row.works.empty() ? row.range : row.works;
    if (row.type != SettingType::kBool) {
      if (choices.find('|') == std::string_view::npos) return {};
      for (const std::string_view choice : parts_of(choices)) add(std::string(choice));
      return found;
    }
    if (!kept.empty()) {
      add("true");
      add("false");
      return found;
    }
  } else if (known != flags.end() && !known->second.option->value.empty()) {
    return {};
  }
  if (!last.starts_with('-')) {
    // "latency|throughput MODEL": words to choose from come first.
    const std::string_view first = command.arguments.substr(0, command.arguments.find(' '));
    if (words.size() > 1 || first.find('|') == std::string_view::npos) return {};
    for (const std::string_view word : parts_of(first)) add(std::string(word));
    return found;
  }
  for (const auto& [spelling, what] : flags) {
    const bool works = what.row == nullptr || what.row->state == SettingState::kActive;
    if (works && spelling.starts_with("--")) add(spelling);
  }
  return found;
}

namespace {

/// Longer lists of values do not fit a line of 80 columns beside a flag.
constexpr size_t kWidestChoices = 56;

/// What stands for a setting's value in --help: " N", " auto|cpu", "" for a switch.
std::string placeholder(const SettingRow& row) {
  const std::string_view choices = row.works.empty() ? row.range : row.works;
  switch (row.type) {
    case SettingType::kBool:
      return fmt::format(", --no-{}", row.name);
    case SettingType::kInt:
      return choices.find('|') == std::string_view::npos ? " N" : fmt::format(" {}", choices);
    case SettingType::kFloat:
      return " X";
    case SettingType::kString:
      if (choices.size() > kWidestChoices) return " NAME";
      return choices.empty() ? " TEXT" : fmt::format(" {}", choices);
    case SettingType::kStringList:
      return " A,B,...";
    case SettingType::kJson:
      return " JSON";
  }
  return "";
}

/// "1 to 65536", " at least 1"; "" for none.
std::string range_in_words(const SettingRow& row) {
  const size_t dots = row.range.find("..");
  if (dots == std::string_view::npos) return "";
  const std::string_view high = row.range.substr(dots + 2);
  return high.empty() ? fmt::format(" At least {}.", row.range.substr(0, dots))
                      : fmt::format(" {} to {}.", row.range.substr(0, dots), high);
}

}  // namespace

std::string wrapped(std::string_view text, size_t indent, size_t width) {
  std::string out;
  size_t column = indent;
  while (!text.empty()) {
    const size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    if (column > indent && column + 1 + word.size() > width) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    }
    if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    text = space == std::string_view::npos ? std::string_view{} : text.substr(space + 1);
  }
  return out;
}

std::string help_text(const Command& command) {
  std::string out =
      fmt::format("Usage: moesaic {} {}{}\n\n{}\n", command.name, command.arguments,
                  !command.groups.empty() || !command.options.empty() ? " [flags]" : "",
                  wrapped(command.summary, 0));
  for (std::string_view rest = command.details; !rest.empty();) {
    const size_t end = rest.find('\n');
    out += "\n" + wrapped(rest.substr(0, end), 0) + "\n";
    rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
  }
  if (!command.options.empty()) out += "\nOf this command:\n";
  for (const CommandOption& option : command.options) {
    out += fmt::format("  {}{}--{}{}{}\n      {}\n", option.spelling,
                       option.spelling.empty() ? "" : ", ", option.name,
                       option.value.empty() ? "" : " ", option.value, wrapped(option.help, 6));
  }
  if (command.groups.empty()) return out;
  std::string_view group;
  for (const SettingRow& row : base::setting_rows()) {
    if (row.state != SettingState::kActive || !takes(command, row)) continue;
    if (row.group != group) {
      group = row.group;
      out += fmt::format("\n{}:\n", group);
    }
    out += fmt::format(
        "  {}\n      {}\n", wrapped(fmt::format("--{}{}", row.name, placeholder(row)), 2),
        wrapped(fmt::format("{}{}{}", row.help, range_in_words(row),
                            row.fallback.empty() ? "" : fmt::format(" Default {}.", row.fallback)),
                6));
  }
  out += "\n" +
         wrapped(
             "Every setting with its environment names, and the flags of vLLM and TGI that "
             "are accepted without meaning, stand in docs/flags.md.",
             0) +
         "\n";
  return out;
}

}  // namespace moesaic::cli
