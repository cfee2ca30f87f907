#include "deploy/manifests.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "deploy/yaml_writer.h"

namespace moesaic::deploy {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

/// The first words of every file; what does not begin so is somebody else's.
constexpr std::string_view kMark = "# Written by moesaic";
/// Every file that a folder of ours may have.
constexpr std::array<std::string_view, 12> kFiles = {
    "cache.yaml",          "deployment.yaml", "leaderworkerset.yaml",
    "service.yaml",        "httproute.yaml",  "inferencepool.yaml",
    "networkpolicy.yaml",  "autoscaler.yaml", "disruptionbudget.yaml",
    "servicemonitor.yaml", "rules.yaml",      "dashboard.yaml"};

bool is_ours(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return false;
  std::ifstream file(path);
  std::string begin(kMark.size(), '\0');
  return file.read(begin.data(), static_cast<std::streamsize>(begin.size())) && begin == kMark;
}

void write_file(const fs::path& path, const std::string& text) {
  // A new file moved into place: no half-written manifest, and a link is replaced, not followed.
  const fs::path fresh = path.string() + ".new";
  std::error_code error;
  fs::remove(fresh, error);
  base::write_file(fresh, text);
  fs::rename(fresh, path, error);
  if (error) throw base::OsError("writing " + path.string(), error.value());
}

json::object kustomization(const Service& service, const std::vector<Manifest>& files) {
  json::object body = {{"apiVersion", "kustomize.config.k8s.io/v1beta1"},
                       {"kind", "Kustomization"}};
  if (!service.name_space.empty()) body["namespace"] = service.name_space;
  json::array resources;
  for (const Manifest& file : files) resources.emplace_back(file.file);
  body["resources"] = std::move(resources);
  return body;
}

}  // namespace

json::object selector_labels(const Service& service) {
  if (!service.kept.selector.empty()) return service.kept.selector;
  // No engine's name here: a Deployment's selector cannot change, the engine behind it may.
  return {{"app.kubernetes.io/name", service.name}, {"app.kubernetes.io/component", "inference"}};
}

json::object kubernetes_object(const Service& service, std::string_view api, std::string_view kind,
                               const std::string& name) {
  json::object metadata = {{"name", name}};
  if (!service.name_space.empty()) metadata["namespace"] = service.name_space;
  metadata["labels"] = json::object{{"app.kubernetes.io/name", service.name},
                                    {"app.kubernetes.io/component", "inference"},
                                    {"app.kubernetes.io/managed-by", "moesaic"}};
  return {{"apiVersion", api}, {"kind", kind}, {"metadata", std::move(metadata)}};
}

void keep_metadata(json::object& body, const json::object& labels,
                   const json::object& annotations) {
  json::object& metadata = body["metadata"].as_object();
  json::object& all = metadata["labels"].as_object();
  for (const auto& label : labels) {
    if (label.key() != "app.kubernetes.io/managed-by") all[label.key()] = label.value();
  }
  if (!annotations.empty()) metadata["annotations"] = annotations;
}

std::vector<Manifest> manifests(const Service& service) {
  std::vector<Manifest> files;
  const auto add = [&](std::string_view name, std::string purpose, json::object body) {
    files.push_back({std::string(name) + ".yaml", std::move(purpose), std::move(body)});
  };
  const auto add_part = [&](std::string_view name, std::string purpose,
                            json::object (*body)(const Service&)) {
    if (has_part(service, name)) add(name, std::move(purpose), body(service));
  };
  const bool own_claim = service.has_cache && service.cache_claim.empty();
  if (own_claim || !service.kept.claim.empty()) {
    add("cache", "Volume for the checkpoint and prepared weights.", cache_manifest(service));
  }
  if (service.nodes > 1) {
    add("leaderworkerset", "The server: each replica is a group of pods on several nodes.",
        workload_manifest(service));
  } else {
    add("deployment", "The server: one pod per replica.", workload_manifest(service));
  }
  add_part("service", "Address inside the cluster.", service_manifest);
  add_part("httproute", "Way in through the Gateway.", route_manifest);
  add_part("inferencepool", "The pods, for the endpoint picker of the Gateway.", pool_manifest);
  add_part("networkpolicy", "Who may reach the pods, and whom they may reach.",
           network_policy_manifest);
  add_part("autoscaler", "Replicas by the length of the queue.", autoscaler_manifest);
  add_part("disruptionbudget", "Node drains take one pod at a time.", budget_manifest);
  add_part("servicemonitor", "Prometheus scrapes /metrics.", service_monitor_manifest);
  add_part("rules", "Alerts.", rules_manifest);
  add_part("dashboard", "Grafana dashboard.", dashboard_manifest);
  add("kustomization", "All of it: kubectl apply -k on this folder.",
      kustomization(service, files));
  return files;
}

std::string file_text(const Manifest& manifest) {
  return fmt::format("{}: {}\n{}", kMark, manifest.purpose, to_yaml(manifest.body));
}

std::vector<fs::path> write_manifests(const fs::path& folder, const std::vector<Manifest>& files) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw base::OsError("making the folder " + folder.string(), error.value());
  for (const Manifest& file : files) {
    const fs::path path = folder / file.file;
    if (fs::exists(fs::symlink_status(path, error)) && !is_ours(path)) {
      throw base::UsageError(path.string() +
                             " is there and was not written by moesaic; nothing has been "
                             "changed. Choose another folder with -o, or move the file away");
    }
  }
  std::vector<fs::path> written;
  for (const Manifest& file : files) {
    written.push_back(folder / file.file);
    write_file(written.back(), file_text(file));
  }
  for (std::string_view name : kFiles) {
    const fs::path path = folder / name;
    const bool current = std::any_of(files.begin(), files.end(),
                                     [&](const Manifest& file) { return file.file == name; });
    if (!current && is_ours(path)) fs::remove(path, error);
  }
  return written;
}

}  // namespace moesaic::deploy
