#include "cli/migrate_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"

namespace moesaic::cli {
namespace {

using base::SettingFate;
using base::SettingReport;
using base::SettingRow;
using base::SettingType;
using deploy::Service;
using deploy::Workload;

constexpr std::string_view kApiKey = "api-key";
constexpr std::array<std::string_view, 4> kHubTokens = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
                                                        "HF_API_TOKEN", "HUGGINGFACE_HUB_TOKEN"};
/// Settings that the manifest says in another way.
struct Elsewhere {
  std::string_view name;
  std::string_view where;
};
constexpr Elsewhere kElsewhere[] = {
    {"host", "a pod listens on all addresses anyway"},
    {"download-dir", "HF_HUB_CACHE"},
    {"shutdown-timeout", "--shutdown-timeout, with the grace period around it"},
    {"hf-token", "the Secret of HF_TOKEN"},
};

bool is_flag(const std::string& word) {
  return word.size() > 1 && word[0] == '-' && !(word[1] >= '0' && word[1] <= '9') && word[1] != '.';
}

/// A flag with the words behind it, or words that stand alone.
std::vector<std::vector<std::string>> groups_of(const std::vector<std::string>& arguments) {
  std::vector<std::vector<std::string>> groups;
  for (const std::string& word : arguments) {
    if (groups.empty() || is_flag(word)) groups.emplace_back();
    groups.back().push_back(word);
  }
  return groups;
}

std::string shown(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
  }
  return text.size() > 100 ? text.substr(0, 97) + "..." : text;
}

Invocation parse(const std::vector<std::string>& arguments,
                 const std::map<std::string, std::string>& environment) {
  return parse_command_line(serve_command(), arguments, [&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

/// The words that `serve` understands; the others are reported. A file that only the container has
/// is not read here, and what LeaderWorkerSet fills in is written again by the manifests.
std::vector<std::string> understood(const std::vector<std::string>& arguments,
                                    MigratedSettings& out) {
  std::vector<std::string> words;
  bool has_model = false;
  for (const std::vector<std::string>& group : groups_of(arguments)) {
    std::string text;
    for (const std::string& word : group) text += (text.empty() ? "" : " ") + word;
    if (group[0] == "--config" || group[0].starts_with("--config=")) {
      out.not_understood.push_back(shown(text) + ": give the file's settings as flags");
      continue;
    }
    if (text.find("$(LWS_") != std::string::npos || group[0] == "--headless") {
      out.renamed.push_back(shown(text) + " -> set again for each node of the group");
      continue;
    }
    std::vector<std::string> taken = group;
    try {
      const Invocation parsed = parse(group, {});
      // What an unknown variable of the shell holds may be nothing, or anything.
      const bool given = has_model || parsed.settings.is_set("model");
      for (const std::string& word : parsed.arguments) {
        if (given && word.find("$(") != std::string::npos) {
          out.not_understood.push_back(shown(word) + ": not known what it stands for");
          std::erase(taken, word);
        }
      }
      has_model = given || !parsed.arguments.empty();
    } catch (const base::Error& problem) {
      out.not_understood.push_back(shown(problem.what()));
      continue;
    }
    words.insert(words.end(), taken.begin(), taken.end());
  }
  return words;
}

/// Values of the environment that their settings cannot take are reported and dropped.
void drop_bad_values(std::map<std::string, std::string>& environment, MigratedSettings& out) {
  std::vector<std::string> bad;
  for (const auto& [name, value] : environment) {
    try {
      (void)parse({}, {{name, value}});
    } catch (const base::Error& problem) {
      out.not_understood.push_back(shown(problem.what()));
      bad.push_back(name);
    }
  }
  for (const std::string& name : bad) environment.erase(name);
}

/// "--name value" as the command line of the new container has it.
void add_flag(const SettingRow& row, const base::Settings& settings,
              std::vector<std::string>& arguments) {
  const std::string flag = "--" + std::string(row.name);
  const std::string& text = settings.text(row.name);
  if (row.type == SettingType::kBool) {
    arguments.push_back(settings.get_bool(row.name) ? flag : "--no-" + std::string(row.name));
  } else if (text.empty() || text[0] == '-' || row.type == SettingType::kStringList) {
    arguments.push_back(flag + "=" + text);
  } else {
    arguments.push_back(flag);
    arguments.push_back(text);
  }
}

/// Whether the setting was already spelled as ours.
bool is_own_spelling(const std::string& origin, const SettingRow& row) {
  std::string spelling = origin;
  std::replace(spelling.begin(), spelling.end(), '_', '-');
  return origin.starts_with("--") &&
         (spelling == "--" + std::string(row.name) || spelling == "--no-" + std::string(row.name));
}

void take_api_key(Workload& workload, MigratedSettings& out, const std::string& origin) {
  const std::string secret = workload.service.name + "-api-key";
  workload.service.env.push_back(
      {"VLLM_API_KEY", "", {{"secretKeyRef", {{"name", secret}, {"key", "key"}}}}});
  out.secrets.push_back(
      fmt::format("{}: the key stood in the manifest and is not copied; put it into the Secret {}",
                  origin, secret));
  out.needed.push_back({secret, "key"});
}

void take_settings(const base::Settings& settings, Workload& workload, MigratedSettings& out) {
  Service& service = workload.service;
  for (const std::string& name : settings.set_names()) {
    const SettingRow& row = *base::find_setting(name);
    const SettingReport report = base::report_setting(settings, name);
    const std::string origin = settings.origin(name);
    if (name == kApiKey) {
      if (settings.text(name).find("$(") == std::string::npos) {
        take_api_key(workload, out, origin);
        continue;
      }
    }
    const auto* elsewhere =
        std::find_if(std::begin(kElsewhere), std::end(kElsewhere),
                     [&](const Elsewhere& entry) { return entry.name == name; });
    if (elsewhere != std::end(kElsewhere)) {
      if (name == "shutdown-timeout") service.drain_seconds = settings.get_int(name);
      if (name == "download-dir") service.env.push_back({"HF_HUB_CACHE", settings.text(name), {}});
      const std::string line = report.line.substr(0, report.line.find(": "));
      out.renamed.push_back(fmt::format("{} -> {}", line, elsewhere->where));
      continue;
    }
    if (report.fate == SettingFate::kNoEffect) {
      out.without_meaning.push_back(report.line);
      continue;
    }
    const bool own = is_own_spelling(origin, row) || name == "model";
    if (report.fate == SettingFate::kLater) {
      out.later.push_back(report.line);
    } else if (own) {
      out.kept.push_back(report.line);
    }
    if (!own) {
      const std::string line = report.line.substr(0, report.line.find(": "));
      out.renamed.push_back(fmt::format("{} -> --{}", line, name));
    }
    if (name == "port") {
      service.port = settings.get_int(name);
    } else if (name != "model") {
      add_flag(row, settings, service.extra_args);
    }
  }
}

/// Python's and its libraries' own variables.
bool is_for_python(const std::string& name) {
  static constexpr std::array<std::string_view, 7> kPrefixes = {
      "PYTHON", "PYTORCH", "TORCH", "TRANSFORMERS_", "TOKENIZERS_", "TRITON_", "OMP_"};
  return std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [&](std::string_view start) { return name.starts_with(start); }) ||
         name == "LD_LIBRARY_PATH" || name == "HOME" || name == "PATH" || name == "USER" ||
         name == "HOSTNAME";
}

/// Whether a row of the settings table answers to the variable.
bool is_read(std::string_view variable) {
  for (const SettingRow& row : base::setting_rows()) {
    for (std::string_view names = row.env; !names.empty();) {
      const size_t comma = names.find(',');
      if (names.substr(0, comma) == variable) return true;
      names = comma == std::string_view::npos ? std::string_view{} : names.substr(comma + 1);
    }
  }
  return false;
}

/// A variable that by its name holds a secret: a text of that kind is not copied.
bool looks_secret(const std::string& name) {
  static constexpr std::array<std::string_view, 6> kEnds = {
      "_TOKEN", "_PASSWORD", "_SECRET", "_API_KEY", "_ACCESS_KEY", "_CREDENTIALS"};
  return std::any_of(kEnds.begin(), kEnds.end(),
                     [&](std::string_view end) { return name.ends_with(end); });
}

void take_secret(const std::string& name, Workload& workload, MigratedSettings& out) {
  const std::string secret = workload.service.name + "-environment";
  workload.service.env.push_back({name, "", {{"secretKeyRef", {{"name", secret}, {"key", name}}}}});
  out.secrets.push_back(
      fmt::format("{}: it stood in the manifest and is not copied; put it into the Secret {}",
                  shown(name), secret));
  out.needed.push_back({secret, name});
}

/// HF_HOME stays where it lies on a volume; elsewhere there is nothing to write to.
void take_home(const std::string& home, Service& service, MigratedSettings& out) {
  bool mounted = (service.has_cache && deploy::is_below(home, service.cache_path)) ||
                 deploy::is_below(home, "/tmp");
  for (const boost::json::value& mount : service.kept.volume_mounts) {
    const boost::json::value* path = mount.as_object().if_contains("mountPath");
    mounted |= path != nullptr && path->is_string() &&
               deploy::is_below(home, std::string(path->get_string()));
  }
  if (!mounted) {
    out.renamed.push_back(
        fmt::format("HF_HOME={} -> {}", shown(home),
                    service.has_cache ? "on the cache volume" : "left out, as no volume is there"));
    return;
  }
  std::erase_if(service.env, [](const deploy::EnvVar& entry) { return entry.name == "HF_HOME"; });
  service.env.push_back({"HF_HOME", home, {}});
  out.kept.push_back("HF_HOME=" + shown(home));
}

/// A Hub token among the arguments: a text is not copied, a variable becomes HF_TOKEN.
void take_token_flag(const base::Settings& settings, Workload& workload, MigratedSettings& out) {
  if (!settings.is_set("hf-token") || !settings.origin("hf-token").starts_with('-')) return;
  Service& service = workload.service;
  const std::string& text = settings.text("hf-token");
  if (text.find("$(") != std::string::npos) {
    service.hf_secret.clear();
    service.env.push_back({"HF_TOKEN", text, {}});
    return;
  }
  if (service.hf_secret.empty()) service.hf_secret = "hf-token";
  out.secrets.push_back(fmt::format(
      "{}: the token stood in the manifest and is not copied; it is read from the Secret {} now",
      settings.origin("hf-token"), service.hf_secret));
}

/// What remains of the environment: other people's variables stay, a server's that nothing here
/// reads go.
void take_environment(Workload& workload, const base::Settings& settings, MigratedSettings& out) {
  std::set<std::string> read;
  for (const std::string& name : settings.set_names()) read.insert(settings.origin(name));
  std::vector<std::string> entries;
  entries.reserve(workload.environment.size());
  for (const auto& [name, value] : workload.environment) {
    entries.push_back(fmt::format("{}={}", name, value));
  }
  const std::vector<std::string> unread = base::unread_environment(entries);
  for (const auto& [name, value] : workload.environment) {
    if (read.contains(name)) continue;
    const bool token = std::find(kHubTokens.begin(), kHubTokens.end(), name) != kHubTokens.end();
    if (token) continue;
    if (name == "HF_HOME") {
      take_home(value, workload.service, out);
      continue;
    }
    if (std::find(unread.begin(), unread.end(), name) != unread.end() || is_for_python(name)) {
      out.without_meaning.push_back(fmt::format("{}: nothing here reads it", shown(name)));
      continue;
    }
    if (is_read(name)) {
      if (!value.empty()) {
        out.without_meaning.push_back(
            fmt::format("{}: another flag or variable says the same", shown(name)));
      }
      continue;
    }
    if (!value.empty() && looks_secret(name)) {
      take_secret(name, workload, out);
      continue;
    }
    workload.service.env.push_back({name, value, {}});
    out.kept.push_back(fmt::format("{}, as it stands", shown(name)));
  }
}

/// The Hub token and other references to Secrets and fields.
void take_references(Workload& workload, MigratedSettings& out) {
  Service& service = workload.service;
  for (const deploy::EnvVar& variable : workload.references) {
    const bool token =
        std::find(kHubTokens.begin(), kHubTokens.end(), variable.name) != kHubTokens.end();
    const boost::json::value* secret = variable.from.if_contains("secretKeyRef");
    if (!token || secret == nullptr || !secret->is_object()) {
      service.env.push_back(variable);
      out.kept.push_back(fmt::format("{}, from where it came", shown(variable.name)));
      continue;
    }
    const boost::json::object& reference = secret->get_object();
    const auto text = [&](const char* key) -> std::string {
      const boost::json::value* value = reference.if_contains(key);
      return value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
    };
    service.hf_secret = text("name");
    service.hf_secret_key = text("key");
    const std::string line =
        fmt::format("{} from Secret {}", variable.name, shown(service.hf_secret));
    if (variable.name == "HF_TOKEN") {
      out.kept.push_back(line);
    } else {
      out.renamed.push_back(line + " -> HF_TOKEN");
    }
  }
  for (std::string_view name : kHubTokens) {
    const auto found = workload.environment.find(std::string(name));
    if (found == workload.environment.end() || found->second.empty()) continue;
    if (service.hf_secret.empty()) service.hf_secret = "hf-token";
    out.secrets.push_back(
        fmt::format("{}: the token stood in the manifest and is not copied; it is read from the "
                    "Secret {} now",
                    name, service.hf_secret));
  }
}

/// Replaces the path `from` in `text`, where it stands as a whole, by `to`.
void move_path(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at)) {
    const char next = at + from.size() < text.size() ? text[at + from.size()] : '/';
    if (next == '/') text.replace(at, from.size(), to);
    at += next == '/' ? to.size() : from.size();
  }
}

/// Paths into volumes that are mounted elsewhere now.
void move_paths(Workload& workload) {
  for (const auto& [from, to] : workload.moved) {
    for (std::string& argument : workload.arguments) move_path(argument, from, to);
    for (auto& [name, value] : workload.environment) move_path(value, from, to);
  }
}

}  // namespace

MigratedSettings migrate_settings(Workload& workload) {
  MigratedSettings out;
  move_paths(workload);
  const std::vector<std::string> words = understood(workload.arguments, out);
  drop_bad_values(workload.environment, out);
  Invocation invocation;
  try {
    invocation = parse(words, workload.environment);
  } catch (const base::Error& problem) {
    throw base::UsageError(fmt::format("{}: {}", workload.where, problem.what()));
  }
  if (invocation.arguments.empty() && !invocation.settings.is_set("model") &&
      !workload.service.kept.env_from.empty()) {
    throw base::UsageError(
        "no model is named; if a ConfigMap of envFrom names it, put that into the file too");
  }
  workload.service.model = model_name(invocation);
  if (!invocation.settings.is_set("model")) {
    out.kept.push_back(fmt::format("model {}", shown(workload.service.model)));
  }
  take_settings(invocation.settings, workload, out);
  take_references(workload, out);
  take_token_flag(invocation.settings, workload, out);
  take_environment(workload, invocation.settings, out);
  return out;
}

}  // namespace moesaic::cli
