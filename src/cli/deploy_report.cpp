#include "cli/deploy_report.h"

#include <fmt/format.h>

#include "cli/commands.h"
#include "deploy/server_args.h"

namespace moesaic::cli {

void print_wrapped(const std::string& text, size_t indent) {
  fmt::print("{:{}}{}\n", "", indent, wrapped(text, indent));
}

std::vector<std::string> refused_today(const deploy::Service& service) {
  std::vector<std::string> lines;
  if (service.engine != deploy::Engine::kMoesaic) return lines;
  std::vector<std::string> arguments = deploy::server_command(service).args;
  arguments.erase(arguments.begin());  // "serve"
  // What LeaderWorkerSet fills in on each node is no number yet.
  for (std::string& argument : arguments) {
    if (argument == "$(LWS_GROUP_SIZE)") argument = fmt::to_string(service.nodes);
    if (argument == "$(LWS_WORKER_INDEX)") argument = "0";
  }
  const Invocation invocation =
      parse_command_line(serve_command(), arguments, [](const char*) { return nullptr; });
  for (const std::string& name : invocation.settings.set_names()) {
    const base::SettingReport report = base::report_setting(invocation.settings, name);
    if (report.fate == base::SettingFate::kLater) lines.push_back(report.line);
  }
  return lines;
}

void print_written(const deploy::Service& service, const std::filesystem::path& folder,
                   const std::vector<std::filesystem::path>& written) {
  fmt::print("Wrote to {}:\n", folder.string());
  std::string names;
  for (const auto& path : written) {
    names += (names.empty() ? "" : ", ") + path.filename().string();
  }
  print_wrapped(names, 2);
  const std::string space =
      service.name_space.empty() ? "" : fmt::format(" --namespace {}", service.name_space);
  fmt::print("\nApply:\n");
  if (!service.name_space.empty()) {
    fmt::print("  kubectl create namespace {}    # once\n", service.name_space);
  }
  if (!service.hf_secret.empty()) {
    fmt::print("  kubectl create secret generic {}{} \\\n    --from-literal={}=...    # once\n",
               service.hf_secret, space, service.hf_secret_key);
  }
  fmt::print("  kubectl apply -k {}\n", folder.string());
  if (service.nodes > 1) {
    fmt::print("  kubectl get leaderworkerset {}{} --watch\n", service.name, space);
  } else {
    fmt::print("  kubectl rollout status deployment/{}{}\n", service.name, space);
  }
}

}  // namespace moesaic::cli
