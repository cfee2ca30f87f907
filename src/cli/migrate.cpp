#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/deploy_report.h"
#include "cli/migrate_settings.h"
#include "deploy/manifests.h"
#include "plan/plan.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;
using deploy::Finding;
using deploy::Workload;

void print_part(std::string_view heading, const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  fmt::print("\n{}:\n", heading);
  for (const std::string& line : lines) {
    fmt::print("  - {}\n", wrapped(line, 4));
  }
}

std::vector<std::string> findings(const Workload& workload, Finding::Fate fate) {
  std::vector<std::string> lines;
  for (const Finding& finding : workload.findings) {
    if (finding.fate == fate) lines.push_back(finding.text);
  }
  return lines;
}

void print_report(const Workload& workload, const MigratedSettings& settings) {
  print_wrapped(fmt::format("{}: {} serving {}", workload.where,
                            deploy::engine_name(workload.engine), workload.service.model),
                0);
  print_part("Settings kept", settings.kept);
  print_part("Settings renamed", settings.renamed);
  print_part("Settings kept for later; the server refuses them today", settings.later);
  print_part("Settings without meaning here, left out", settings.without_meaning);
  print_part("Settings not understood, left out", settings.not_understood);
  print_part("Of the manifest, kept", findings(workload, Finding::Fate::kKept));
  print_part("Of the manifest, changed", findings(workload, Finding::Fate::kChanged));
  print_part("Of the manifest, left out", findings(workload, Finding::Fate::kLeftOut));
  print_part("Secrets", settings.secrets);
}

/// What is known of the model, where its name says it: how much there is to download and to load.
void size_from_model(deploy::Service& service) {
  if (service.model.starts_with('/') || service.model.starts_with('.')) return;
  try {
    const plan::ResolvedModel model = plan::resolve_model(service.model);
    service.weights_bytes = static_cast<int64_t>(plan::weight_bytes(
        model.spec, plan::published_format(model.spec.quantization, model.name)));
  } catch (const base::Error&) {
    return;  // A model whose size is not known here is none the worse for it.
  }
}

int run_migrate(const Invocation& invocation) {
  if (invocation.arguments.size() != 1) {
    throw base::UsageError(
        "migrate takes one FILE.yaml with the Deployment of a vLLM, TGI or "
        "Neuron server");
  }
  if (!invocation.has("output"))
    throw base::UsageError("migrate needs -o DIR, the folder to write");
  const std::string file = invocation.arguments[0];
  std::vector<Workload> workloads =
      deploy::read_workloads(deploy::read_yaml(deploy::read_manifest_file(file), file), file);
  std::vector<MigratedSettings> settings;
  // All of them are understood before anything is written.
  for (Workload& workload : workloads) {
    if (invocation.has("image")) workload.service.image = invocation.option("image", "");
    try {
      settings.push_back(migrate_settings(workload));
      size_from_model(workload.service);
      deploy::complete(workload.service);
    } catch (const base::UsageError& problem) {
      throw base::ModelFileError(file, fmt::format("{}: {}", workload.where, problem.what()));
    }
  }
  std::set<std::string> names;
  for (size_t i = 0; i < workloads.size(); ++i) {
    fs::path folder = invocation.option("output", "");
    if (workloads.size() > 1) {
      // Two namespaces may use one name.
      std::string name = workloads[i].service.name;
      if (names.contains(name)) name += fmt::format("-{}", i + 1);
      names.insert(name);
      folder /= name;
    }
    if (i > 0) fmt::print("\n{:-<80}\n", "");
    print_report(workloads[i], settings[i]);
    const auto written = deploy::write_manifests(folder, deploy::manifests(workloads[i].service));
    fmt::print("\n");
    print_written(workloads[i].service, folder, written);
  }
  return 0;
}

}  // namespace

Command migrate_command() {
  return {
      "migrate",
      "FILE.yaml",
      "Turn a vLLM, TGI or Neuron Deployment into one of moesaic.",
      "FILE.yaml may hold several documents: the workload, its Service, volume claim, autoscaler "
      "and route are read together. Every setting is listed as kept, renamed or without meaning. "
      "Nothing in the file is executed, and no secret is copied.",
      {{"output", "DIR", "Folder to write; files of other makers in it are left alone.", "-o"},
       {"image", "IMAGE", "The container image of moesaic."}},
      {},
      run_migrate};
}

}  // namespace moesaic::cli
