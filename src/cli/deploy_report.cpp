#include "cli/deploy_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cli/commands.h"
#include "deploy/server_args.h"
#include "model/family.h"
#include "plan/names.h"

namespace moesaic::cli {

void print_wrapped(const std::string& text, size_t indent) {
  fmt::print("{:{}}{}\n", "", indent, wrapped(text, indent));
}

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> words;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    if (comma > at) words.push_back(text.substr(at, comma - at));
    at = comma + 1;
  }
  return words;
}

namespace {

/// Settings that a real start refuses.
std::vector<std::string> refused_settings(const deploy::Service& service) {
  std::vector<std::string> arguments = deploy::server_command(service).args;
  arguments.erase(arguments.begin());  // "serve"
  // What LeaderWorkerSet fills in on each node is no number yet.
  for (std::string& argument : arguments) {
    if (argument == "$(LWS_GROUP_SIZE)") argument = fmt::to_string(service.nodes);
    if (argument == "$(LWS_WORKER_INDEX)") argument = "0";
  }
  const Invocation invocation =
      parse_command_line(serve_command(), arguments, [](const char*) { return nullptr; });
  std::vector<std::string> lines;
  for (const std::string& name : invocation.settings.set_names()) {
    const base::SettingReport report = base::report_setting(invocation.settings, name);
    if (report.fate == base::SettingFate::kLater) lines.push_back(report.line);
  }
  return lines;
}

/// What a text stands for that somebody was to fill in; "" when it is none.
std::string_view placeholder(const std::string& text) {
  if (text.find("{{") != std::string::npos) return "a template's; render it first (helm template)";
  if (text.find("$(") != std::string::npos) return "known to the cluster alone";
  if (text.find('$') != std::string::npos) return "a shell's; fill it in first (envsubst)";
  if (text.find('<') != std::string::npos) return "to be filled in";
  return "";
}

/// Why the model could not be loaded.
std::vector<std::string> model_reasons(const deploy::Service& service) {
  const std::string& model = service.model;
  if (const std::string_view whose = placeholder(model); !whose.empty()) {
    return {fmt::format("The model '{}' is a placeholder, {}.", model.substr(0, 120), whose)};
  }
  std::vector<std::string> lines;
  if (const auto config = plan::shipped_config(model)) {
    const model::ModelSpec spec = model::parse_spec(*config, model, model::Purpose::kPlan);
    if (!spec.not_served.empty()) {
      lines.push_back(fmt::format("A real start would refuse this model: {}.", spec.not_served));
    }
  }
  if (!model.starts_with('/')) {
    lines.push_back(fmt::format(
        "moesaic does not download yet. Put the folder of {} on {} and give its path there as the "
        "model; 'moesaic inspect FOLDER' says whether it is one that is served.",
        model, service.has_cache ? "the volume at " + service.cache_path : "a volume"));
  }
  return lines;
}

}  // namespace

std::vector<std::string> reasons_not_to_start(const deploy::Service& service) {
  if (service.engine != deploy::Engine::kMoesaic) return {};
  std::vector<std::string> lines = model_reasons(service);
  if (const std::string_view whose = placeholder(service.image); !whose.empty()) {
    lines.push_back(fmt::format("The image '{}' is a placeholder, {}.", service.image, whose));
  }
  for (std::string& line : refused_settings(service)) lines.push_back(std::move(line));
  return lines;
}

void print_written(const deploy::Service& service, const std::filesystem::path& folder,
                   const std::vector<std::filesystem::path>& written,
                   const std::vector<SecretKey>& secrets, const std::vector<std::string>& reasons) {
  fmt::print("Wrote to {}:\n", folder.string());
  std::string names;
  for (const auto& path : written) {
    names += (names.empty() ? "" : ", ") + path.filename().string();
  }
  print_wrapped(names, 2);
  if (!reasons.empty()) {
    fmt::print("\nIt cannot start today:\n");
    for (const std::string& reason : reasons) fmt::print("  - {}\n", wrapped(reason, 4));
    print_wrapped(
        "So do not apply it yet: over a running service of that name it would take that down.", 0);
    return;
  }
  const std::string space =
      service.name_space.empty() ? "" : fmt::format(" --namespace {}", service.name_space);
  fmt::print("\nApply:\n");
  if (!service.name_space.empty() && !service.kept.existing) {
    fmt::print("  kubectl create namespace {}    # once\n", service.name_space);
  }
  std::vector<SecretKey> all = secrets;
  if (!service.hf_secret.empty()) all.push_back({service.hf_secret, service.hf_secret_key});
  std::map<std::string, std::string> literals;
  for (const SecretKey& needed : all) {
    literals[needed.secret] += fmt::format(" \\\n    --from-literal={}=...", needed.key);
  }
  for (const auto& [secret, keys] : literals) {
    fmt::print("  kubectl create secret generic {}{}{}    # once\n", secret, space, keys);
  }
  fmt::print("  kubectl apply -k {}\n", folder.string());
  if (service.nodes > 1) {
    fmt::print("  kubectl get leaderworkerset {}{} --watch\n", deploy::workload_name(service),
               space);
  } else {
    fmt::print("  kubectl rollout status deployment/{}{}\n", deploy::workload_name(service), space);
  }
  std::string kinds;
  for (const char* part : {"httproute", "servicemonitor", "rules"}) {
    if (deploy::has_part(service, part)) kinds += (kinds.empty() ? "" : ",") + std::string(part);
  }
  if (kinds.empty()) return;
  fmt::print("Where the cluster lacks the Gateway API or the Prometheus operator:\n");
  fmt::print("  --without {}\n", kinds);
}

}  // namespace moesaic::cli
