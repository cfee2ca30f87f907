#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <set>

#include "deploy/workload_parts.h"

namespace moesaic::deploy {

namespace json = boost::json;

namespace {

/// Seconds: less is no start, and a day is none that anybody waits for.
constexpr int64_t kShortestStart = 65;
constexpr int64_t kLongestStart = 86'400;

/// A place where servers keep checkpoints.
bool looks_like_cache(const std::string& path) {
  static constexpr std::array<std::string_view, 6> kParts = {"cache", "huggingface", "model",
                                                             "/data", "hub",         "weights"};
  return std::any_of(kParts.begin(), kParts.end(),
                     [&](std::string_view part) { return path.find(part) != std::string::npos; });
}

/// Whether what is in the volume is gone with the pod, or is the node's.
bool is_passing(const json::object& volume) {
  return volume.contains("emptyDir") || volume.contains("hostPath") || volume.contains("ephemeral");
}

std::string path_of(const json::object& mount, const Place& place) {
  const std::string path = text_at(mount, "mountPath", place);
  std::string plain = std::filesystem::path(path).lexically_normal().string();
  while (plain.size() > 1 && plain.ends_with('/')) plain.pop_back();
  return plain;
}

/// Whether the mount is the whole volume, as a cache's has to be.
bool is_whole(const json::object& mount) {
  return std::all_of(mount.begin(), mount.end(), [](const auto& field) {
    const std::string_view name = field.key();
    return name == "name" || name == "mountPath" || name == "readOnly";
  });
}

/// The quantity `value` of the resource `name`.
std::string amount_text(std::string_view name, const json::value& value, const Place& place) {
  const std::string text = text_at({{"resources", value}}, "resources", place);
  if (text.size() > 40 || (!text.empty() && quantity_bytes(text) < 0)) {
    wrong(place,
          fmt::format("resources: {} {} is no quantity", name.substr(0, 80), text.substr(0, 40)));
  }
  return text;
}

}  // namespace

bool is_accelerator(std::string_view resource) {
  return is_nvidia(resource) || resource.starts_with("aws.amazon.com/neuron") ||
         resource.starts_with("amd.com/gpu");
}

/// The accelerator, which the server has to be told of.
void WorkloadReader::read_device(const std::string& name, const std::string& text) {
  if (!is_accelerator(name)) return;
  const int64_t devices = quantity_bytes(text);
  if (devices < 0 || devices > 1024) wrong(place_, fmt::format("{} is no count", name));
  out_.service.accelerator = name;
  out_.service.devices_per_node = devices;
}

void WorkloadReader::read_resources() {
  const json::object& resources = object_at(*container_, "resources", place_);
  out_.service.kept.resources = resources;
  for (const char* part : {"requests", "limits"}) {
    std::string list;
    for (const auto& amount : object_at(*container_, fmt::format("resources.{}", part), place_)) {
      const std::string name(amount.key());
      const std::string text = amount_text(name, amount.value(), place_);
      list += fmt::format("{}{} {}", list.empty() ? "" : ", ", name.substr(0, 80), text);
      read_device(name, text);
    }
    if (!list.empty()) kept(fmt::format("{}: {}", part, list));
  }
  if (resources.contains("claims")) kept("resources.claims");
}

/// Whether the arguments name something below `path`.
bool WorkloadReader::serves_from(const std::string& path) const {
  const auto names = [&](const std::string& text) {
    const size_t at = text.find(path);
    return at != std::string::npos && is_below(text.substr(at), path);
  };
  const auto model = out_.environment.find("MODEL_ID");
  return std::any_of(out_.arguments.begin(), out_.arguments.end(), names) ||
         (model != out_.environment.end() && names(model->second));
}

/// Whether a container beside the server's mounts the volume too.
bool WorkloadReader::is_shared(const std::string& volume) const {
  for (const char* list : {"initContainers", "containers"}) {
    for (const json::object* container : objects_at(*spec_, list, place_)) {
      if (container == container_) continue;
      for (const json::object* mount : objects_at(*container, "volumeMounts", place_)) {
        if (text_at(*mount, "name", place_) == volume) return true;
      }
    }
  }
  return false;
}

/// The mount that becomes the cache: a claim by preference, and where the server looks for models.
void WorkloadReader::choose_cache() {
  const json::object* best = nullptr;
  int most = 0;
  for (const json::object* mount : objects_at(*container_, "volumeMounts", place_)) {
    const std::string path = path_of(*mount, place_);
    const auto found = volumes_.find(text_at(*mount, "name", place_));
    if (found == volumes_.end() || path == "/dev/shm" || path == "/tmp") continue;
    if (!is_whole(*mount)) continue;
    const json::object& volume = *found->second;
    const bool lasting = volume.contains("persistentVolumeClaim") || volume.contains("spec");
    if (!lasting && !is_passing(volume)) continue;
    // What another container fills is not filled elsewhere.
    if (!lasting && is_shared(found->first)) continue;
    const bool used = serves_from(path);
    // What lies on the node is not in a new claim.
    if (used && volume.contains("hostPath")) continue;
    const bool looks = looks_like_cache(path) || (lasting && looks_like_cache(found->first));
    const int score = !used && !looks ? 0 : (lasting ? 4 : 0) + (used ? 2 : 0) + (looks ? 1 : 0);
    if (score > most) best = mount;
    most = std::max(most, score);
  }
  if (best != nullptr) take_cache(*best);
}

/// Where a path below root's home lies now, as a user of its own cannot go through that.
std::string WorkloadReader::moved_path(const std::string& path) {
  if (!is_below(path, "/root")) return path;
  const std::string to = "/mnt" + path.substr(std::string_view("/root").size());
  out_.moved.emplace_back(path, to);
  return to;
}

void WorkloadReader::take_cache(const json::object& mount) {
  Service& service = out_.service;
  const std::string name = text_at(mount, "name", place_);
  const std::string path = path_of(mount, place_);
  const json::object& volume = *volumes_[name];
  volume_names_[name] = "cache";
  cache_mount_ = path;
  service.cache_path = path;
  if (is_below(path, "/root")) {
    service.cache_path = free_path();
    out_.moved.emplace_back(path, service.cache_path);
  }
  const std::string where =
      path == service.cache_path ? path : fmt::format("{} -> {}", path, service.cache_path);
  std::string claim = text_at(volume, "persistentVolumeClaim.claimName", place_);
  const bool of_template = volume.contains("spec");
  if (of_template && service.replicas == 1) {
    // The claim that the StatefulSet's controller made for its one pod.
    claim = fmt::format("{}-{}-0", name, object_.name);
    changed(fmt::format("volumeClaimTemplate {}: claim {}, which the old pod has", name, claim));
  }
  if (claim.empty()) {
    size_as(volume);
    changed(
        fmt::format("volume {} at {}: a claim of its own for all pods, so that a new pod finds "
                    "the checkpoint; what lies there now is not copied",
                    name, where));
    return;
  }
  if (!is_dns_subdomain(claim)) {
    wrong(place_, fmt::format("claimName '{}' is no name of an object; is it a placeholder?",
                              claim.substr(0, 80)));
  }
  service.cache_claim = claim;
  set_hub_home(path);
  if (path == service.cache_path) {
    kept(fmt::format("claim {} at {}", claim, where));
  } else {
    changed(fmt::format("claim {} at {}", claim, where));
  }
  const json::value* read_only = mount.if_contains("readOnly");
  if (read_only != nullptr && *read_only == json::value(true)) {
    changed(fmt::format("claim {}: mounted to be written, as prepared weights go there", claim));
  }
}

/// The new claim has the size and the storage class of the volume in whose place it is, where that
/// has such.
void WorkloadReader::size_as(const json::object& volume) {
  Service& service = out_.service;
  const char* spec = volume.contains("spec") ? "spec" : "ephemeral.volumeClaimTemplate.spec";
  const json::object& claim = object_at(volume, spec, place_);
  service.storage_class = text_at(claim, "storageClassName", place_);
  std::string size = text_at(claim, "resources.requests.storage", place_);
  if (size.empty()) size = text_at(volume, "emptyDir.sizeLimit", place_);
  service.cache_bytes = std::max<int64_t>(0, quantity_bytes(size));
}

/// The Hub's folder stays where it is in the claim that was mounted at `path`.
void WorkloadReader::set_hub_home(const std::string& path) {
  static const std::string kHome = "/root/.cache/huggingface";
  Service& service = out_.service;
  if (path == kHome + "/hub") {
    service.env.push_back({"HF_HUB_CACHE", service.cache_path, {}});
  } else if (is_below(kHome, path)) {
    service.env.push_back({"HF_HOME", service.cache_path + kHome.substr(path.size()), {}});
  } else {
    service.env.push_back({"HF_HOME", service.cache_path, {}});
  }
}

/// A path at which nothing is mounted, nor above or below it.
std::string WorkloadReader::free_path() const {
  const auto mounts = objects_at(*container_, "volumeMounts", place_);
  for (const char* path : {"/models", "/cache", "/moesaic-cache"}) {
    const bool taken = std::any_of(mounts.begin(), mounts.end(), [&](const json::object* mount) {
      const std::string other = path_of(*mount, place_);
      return is_below(other, path) || is_below(path, other);
    });
    if (!taken) return path;
  }
  return "/var/lib/moesaic";
}

void WorkloadReader::take_mount(const json::object& mount) {
  Service& service = out_.service;
  const std::string path = path_of(mount, place_);
  const std::string name = text_at(mount, "name", place_);
  const auto found = volumes_.find(name);
  if (found == volumes_.end()) wrong(place_, fmt::format("there is no volume '{}'", name));
  const json::object& volume = *found->second;
  if (path == cache_mount_ && volume_names_[name] == "cache") return;
  if (volume.contains("spec")) {
    left_out(fmt::format("volumeClaimTemplate {} at {}: a Deployment has none", name, path));
    out_.blockers.push_back(fmt::format(
        "what lies at {} on the claims of volumeClaimTemplate {} is not mounted", path, name));
    return;
  }
  serves_from_kept_ |= serves_from(path);
  json::object entry = mount;
  entry["mountPath"] = moved_path(path);
  service.kept.volume_mounts.push_back(std::move(entry));
  std::string text = fmt::format("volume {} at {}", name, path);
  for (const char* field : {"subPath", "subPathExpr"}) {
    const std::string value = text_at(mount, field, place_);
    if (!value.empty()) text += fmt::format(", {} {}", field, value.substr(0, 80));
  }
  if (is_below(path, "/root")) {
    changed(text + fmt::format(" -> {}", out_.moved.back().second));
  } else {
    kept(text);
  }
}

/// Without a volume for it, prepared weights have a claim of their own, unless the model lies on a
/// volume already: then there is nothing else to keep.
void WorkloadReader::make_cache() {
  Service& service = out_.service;
  if (!cache_mount_.empty()) return;
  service.has_cache = !serves_from_kept_;
  if (service.has_cache) {
    service.cache_path = free_path();
  } else {
    changed("prepared weights are not kept over a restart, as no volume of the file is for them");
  }
}

void WorkloadReader::read_volumes() {
  for (const json::object* claim : objects_at(*object_.body, "spec.volumeClaimTemplates", place_)) {
    volumes_[text_at(*claim, "metadata.name", place_)] = claim;
  }
  for (const json::object* volume : objects_at(*spec_, "volumes", place_)) {
    volumes_[text_at(*volume, "name", place_)] = volume;
  }
  std::set<std::string> paths;
  for (const json::object* mount : objects_at(*container_, "volumeMounts", place_)) {
    const std::string path = path_of(*mount, place_);
    if (!paths.insert(path).second) wrong(place_, fmt::format("two volumes are at {}", path));
  }
  choose_cache();
  for (const json::object* mount : objects_at(*container_, "volumeMounts", place_)) {
    take_mount(*mount);
  }
  make_cache();
  // A name of ours that another volume has is given up by that.
  const bool own_tmp = !paths.contains("/tmp");
  for (const auto& [name, volume] : volumes_) {
    if (volume_names_.contains(name)) continue;
    if ((name == "cache" && out_.service.has_cache) || (name == "tmp" && own_tmp)) {
      std::string other = "own-" + name;
      while (volumes_.contains(other)) other += "-2";
      volume_names_[name] = other;
    }
  }
  std::sort(out_.moved.begin(), out_.moved.end(),
            [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
}

/// The volumes that a container still mounts, under names that are not ours.
void WorkloadReader::keep_volumes() {
  Kept& keep = out_.service.kept;
  json::array server = {json::object{{"volumeMounts", keep.volume_mounts}}};
  rename_mounts(server);
  keep.volume_mounts = array_at(server[0].as_object(), "volumeMounts", place_);
  rename_mounts(keep.sidecars);
  rename_mounts(keep.init_containers);
  std::set<std::string> mounted;
  for (const json::array& containers : {server, keep.sidecars, keep.init_containers}) {
    for (const json::value& container : containers) {
      for (const json::object* mount : objects_at(container.as_object(), "volumeMounts", place_)) {
        mounted.insert(text_at(*mount, "name", place_));
      }
    }
  }
  for (const auto& [name, volume] : volumes_) {
    const auto renamed = volume_names_.find(name);
    const std::string now = renamed == volume_names_.end() ? name : renamed->second;
    if (now == "cache" || volume->contains("spec")) continue;
    if (!mounted.contains(now)) {
      if (now == name) left_out(fmt::format("volume {}, which nothing mounts now", name));
      continue;
    }
    json::object entry = *volume;
    entry["name"] = now;
    keep.volumes.push_back(std::move(entry));
    if (now != name) changed(fmt::format("volume {} -> {}, as ours has that name", name, now));
  }
}

void WorkloadReader::rename_mounts(json::array& containers) const {
  for (json::value& container : containers) {
    if (!container.is_object()) wrong(place_, "containers must be a list of mappings");
    json::value* mounts = container.get_object().if_contains("volumeMounts");
    if (mounts == nullptr || !mounts->is_array()) continue;
    for (json::value& mount : mounts->get_array()) {
      if (!mount.is_object()) wrong(place_, "volumeMounts must be a list of mappings");
      const auto now = volume_names_.find(text_at(mount.get_object(), "name", place_));
      if (now != volume_names_.end()) mount.get_object()["name"] = now->second;
    }
  }
}

/// The startup probe's limit for a start; without one, when the liveness probe gave up.
void WorkloadReader::read_probes() {
  int64_t limit = 0;
  bool any = false;
  for (const char* name : {"livenessProbe", "startupProbe", "readinessProbe"}) {
    const json::object& probe = object_at(*container_, name, place_);
    if (probe.empty()) continue;
    any = true;
    if (std::string_view(name) == "readinessProbe") continue;
    const int64_t period = integer_at(probe, "periodSeconds", 10, place_);
    limit = integer_at(probe, "initialDelaySeconds", 0, place_) +
            period * std::min<int64_t>(100'000, integer_at(probe, "failureThreshold", 3, place_));
  }
  int64_t& start = out_.service.kept.start_seconds;
  start = std::clamp<int64_t>(limit, kShortestStart, kLongestStart);
  if (limit == 0) {
    start = kLongestStart;
    changed(
        fmt::format("probes: {}all on /health; the manifest had no limit for a start, which may "
                    "take {} s now",
                    any ? "" : "new, ", start));
  } else {
    changed(fmt::format("probes: all on /health; a start may take {} s{}", start,
                        start == limit ? ", as before" : fmt::format(" (before: {} s)", limit)));
  }
}

int64_t quantity_bytes(std::string_view text) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {{"Ki", 1024.0},
                                                                   {"Mi", 1048576.0},
                                                                   {"Gi", 1073741824.0},
                                                                   {"Ti", 1099511627776.0},
                                                                   {"Pi", 1125899906842624.0},
                                                                   {"Ei", 1152921504606846976.0},
                                                                   {"m", 1e-3},
                                                                   {"k", 1e3},
                                                                   {"M", 1e6},
                                                                   {"G", 1e9},
                                                                   {"T", 1e12},
                                                                   {"P", 1e15},
                                                                   {"E", 1e18}};
  double unit = 1;
  for (const auto& [suffix, value] : kUnits) {
    if (!text.ends_with(suffix)) continue;
    unit = value;
    text.remove_suffix(suffix.size());
    break;
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !(value >= 0) ||
      !(value * unit < 9e18)) {
    return -1;
  }
  return static_cast<int64_t>(std::ceil(value * unit));
}

}  // namespace moesaic::deploy
