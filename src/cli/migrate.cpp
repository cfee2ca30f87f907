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

/// Numbers that the manifest did not have; `sized`: it had the new claim's.
void report_derived(Workload& workload, bool sized) {
  const deploy::Service& service = workload.service;
  const bool same_image = workload.image == service.image;
  workload.findings.push_back(
      {same_image ? Finding::Fate::kKept : Finding::Fate::kChanged,
       same_image ? "image " + service.image
                  : fmt::format("image {} -> {}",
                                workload.image.empty() ? "(none)" : workload.image.substr(0, 120),
                                service.image)});
  workload.findings.push_back(
      {Finding::Fate::kChanged,
       fmt::format("terminationGracePeriodSeconds {}: {} s for the endpoints (preStop), {} s for "
                   "running requests, {} s to end",
                   deploy::grace_seconds(service), deploy::kPreStopSeconds, service.drain_seconds,
                   deploy::kEndSeconds)});
  if (!service.has_cache || !service.cache_claim.empty()) return;
  workload.findings.push_back(
      {Finding::Fate::kChanged,
       fmt::format("PersistentVolumeClaim {} is new: {} GiB ({}), to be mounted by {}, at {}",
                   deploy::cache_claim(service), (service.cache_bytes + (1 << 30) - 1) >> 30,
                   sized                       ? "as the volume before"
                   : service.weights_bytes > 0 ? "twice the model and 20"
                                               : "as the model's size is not known here",
                   deploy::shares_cache(service) ? "several nodes" : "one node",
                   service.cache_path)});
}

std::string described(const deploy::OtherObject& object) {
  return object.name.empty() ? object.kind : fmt::format("{} {}", object.kind, object.name);
}

/// What the file has beside the workloads stays as it is: an object of ours that would take its
/// place is left out, or, where the pods need it, has another name.
void keep_others(Workload& workload, const std::vector<deploy::OtherObject>& others) {
  deploy::Service& service = workload.service;
  const auto in_the_way = [&](const boost::json::value& body) {
    const boost::json::value& name = body.at("metadata").at("name");
    return std::find_if(others.begin(), others.end(), [&](const deploy::OtherObject& other) {
      return body.at("kind") == boost::json::value(other.kind) &&
             name == boost::json::value(other.name) &&
             deploy::shares_namespace(other.name_space, service.name_space);
    });
  };
  for (const deploy::Manifest& file : deploy::manifests(service)) {
    if (file.file == "kustomization.yaml") continue;
    const auto other = in_the_way(file.body);
    if (other == others.end()) continue;
    const std::string part = file.file.substr(0, file.file.rfind('.'));
    if (part == "cache") {
      service.cache_claim_name = service.name + "-moesaic";
      continue;
    }
    service.without.push_back(part);
    workload.findings.push_back(
        {Finding::Fate::kLeftOut,
         fmt::format("{}: the file's own {} stays in its place", file.file, described(*other))});
  }
}

void print_others(const std::vector<deploy::OtherObject>& others) {
  std::vector<std::string> lines;
  lines.reserve(others.size());
  for (const deploy::OtherObject& other : others) {
    lines.push_back(other.why.empty() ? described(other)
                                      : fmt::format("{}: {}", described(other), other.why));
  }
  print_part("Not touched; keep applying your own", lines);
}

/// Why there is nothing at the model's path: only what a volume holds is there in another image.
std::string no_model_there(const deploy::Service& service) {
  const std::string& model = service.model;
  if (!model.starts_with('/')) return "";
  const bool old_claim = service.has_cache && !service.cache_claim.empty();
  if (old_claim && deploy::is_below(model, service.cache_path)) return "";
  for (const boost::json::value& mount : service.kept.volume_mounts) {
    const boost::json::value* path = mount.as_object().if_contains("mountPath");
    if (path != nullptr && path->is_string() &&
        deploy::is_below(model, std::string(path->get_string()))) {
      return "";
    }
  }
  return fmt::format(
      "Nothing of the file is mounted at {}: the model lies in the old image, or went "
      "with its pod. Put its folder on {}.",
      model,
      old_claim ? "claim " + service.cache_claim
                : fmt::format("the new claim {}, at {}", deploy::cache_claim(service),
                              service.cache_path));
}

/// All that keeps the result from serving as the old one does.
std::vector<std::string> reasons(const Workload& workload, bool has_image) {
  std::vector<std::string> lines = reasons_not_to_start(workload.service);
  if (std::string line = no_model_there(workload.service); !line.empty()) {
    lines.push_back(std::move(line));
  }
  lines.insert(lines.end(), workload.blockers.begin(), workload.blockers.end());
  if (!has_image && workload.engine != deploy::Engine::kMoesaic) {
    lines.push_back(fmt::format(
        "The image {} is in no registry that the nodes know; push it and give its name with "
        "--image.",
        workload.service.image));
  }
  return lines;
}

/// The old object where the new one is of another kind, and both would run.
void print_deletion(const Workload& workload) {
  const bool same =
      workload.kind == (workload.service.nodes > 1 ? "LeaderWorkerSet" : "Deployment");
  if (same) return;
  const std::string& space = workload.service.name_space;
  print_wrapped(
      fmt::format("{0} {1} would run beside it. Delete it when the new one serves, or "
                  "before where both need the same devices or volume: kubectl delete "
                  "{0} {1}{2}",
                  workload.kind, workload.name, space.empty() ? "" : " --namespace " + space),
      0);
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

struct Migration {
  deploy::Workload workload;
  MigratedSettings settings;
};

/// Two workloads of one name have objects of different names around them.
void name_apart(deploy::Service& service, const std::vector<Migration>& others) {
  const std::string name = service.name;
  const auto taken = [&](const Migration& other) {
    return other.workload.service.name == service.name &&
           deploy::shares_namespace(other.workload.service.name_space, service.name_space);
  };
  for (int i = 2; std::any_of(others.begin(), others.end(), taken); ++i) {
    const std::string suffix = fmt::format("-{}", i);
    service.name = name.substr(0, deploy::kMaxNameLength - suffix.size()) + suffix;
  }
}

/// All of them are understood before anything is written.
std::vector<Migration> understand(deploy::ManifestFile read, const Invocation& invocation,
                                  const std::string& file) {
  std::vector<Migration> all;
  std::vector<std::string> without;
  if (invocation.has("without")) without = split_list(invocation.option("without", ""));
  deploy::check_parts(without);
  for (Workload& workload : read.workloads) {
    Migration migration{std::move(workload), {}};
    Workload& moved = migration.workload;
    if (invocation.has("image")) moved.service.image = invocation.option("image", "");
    name_apart(moved.service, all);
    const bool sized = moved.service.cache_bytes > 0;
    moved.service.without.insert(moved.service.without.end(), without.begin(), without.end());
    try {
      migration.settings = migrate_settings(moved);
      size_from_model(moved.service);
      deploy::complete(moved.service);
    } catch (const base::UsageError& problem) {
      throw base::ModelFileError(file, fmt::format("{}: {}", moved.where, problem.what()));
    }
    keep_others(moved, read.others);
    report_derived(moved, sized);
    all.push_back(std::move(migration));
  }
  return all;
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
  deploy::ManifestFile read =
      deploy::read_workloads(deploy::read_yaml(deploy::read_manifest_file(file), file), file);
  const std::vector<deploy::OtherObject> others = read.others;
  const std::vector<Migration> migrations = understand(std::move(read), invocation, file);
  std::set<std::string> names;
  for (size_t i = 0; i < migrations.size(); ++i) {
    const Workload& workload = migrations[i].workload;
    const MigratedSettings& settings = migrations[i].settings;
    fs::path folder = invocation.option("output", "");
    if (migrations.size() > 1) {
      // Two namespaces may use one name.
      std::string name = workload.service.name;
      if (names.contains(name)) name += fmt::format("-{}", i + 1);
      names.insert(name);
      folder /= name;
    }
    if (i > 0) fmt::print("\n{:-<80}\n", "");
    print_report(workload, settings);
    if (i == 0) print_others(others);
    const auto written = deploy::write_manifests(folder, deploy::manifests(workload.service));
    fmt::print("\n");
    print_written(workload.service, folder, written, settings.needed,
                  reasons(workload, invocation.has("image")));
    print_deletion(workload);
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
      "and route are read together, and what the file does not have is not added. Every setting is "
      "listed as kept, renamed or without meaning. "
      "Nothing in the file is executed, and no secret is copied.",
      {{"output", "DIR", "Folder to write; files of other makers in it are left alone.", "-o"},
       {"image", "IMAGE", "The container image of moesaic."},
       {"without", "LIST", kWithoutHelp}},
      {},
      run_migrate};
}

}  // namespace moesaic::cli
