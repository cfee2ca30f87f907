#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "deploy/workload_parts.h"

namespace moesaic::deploy {

namespace json = boost::json;

namespace {

/// The names of the volumes that every pod of ours has.
bool is_ours(std::string_view volume) {
  return volume == "cache" || volume == "shm" || volume == "tmp";
}

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
  std::string path = text_at(mount, "mountPath", place);
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

}  // namespace

void WorkloadReader::read_processors(const std::string& text) {
  const bool milli = text.ends_with('m');
  const int64_t value = quantity_bytes(milli ? text.substr(0, text.size() - 1) : text);
  if (value <= 0 || value > (milli ? 4'096'000 : 4096)) wrong(place_, "cpu is no amount");
  out_.service.cpus = milli ? (value + 999) / 1000 : value;
  if (fmt::to_string(out_.service.cpus) == text) {
    kept(fmt::format("cpu {}", text));
  } else {
    changed(fmt::format("cpu {} -> {}", text, out_.service.cpus));
  }
}

void WorkloadReader::read_amount(const std::string& name, const std::string& text) {
  Service& service = out_.service;
  if (name == "cpu") {
    read_processors(text);
  } else if (name == "memory") {
    service.memory_bytes = quantity_bytes(text);
    if (service.memory_bytes <= 0) wrong(place_, "memory is no amount of bytes");
    kept(fmt::format("memory {}", text));
  } else if (name.starts_with("nvidia.com/") || name.starts_with("aws.amazon.com/neuron") ||
             name.starts_with("amd.com/gpu")) {
    const int64_t devices = quantity_bytes(text);
    if (devices < 0 || devices > 1024) wrong(place_, fmt::format("{} is no count", name));
    service.accelerator = name;
    service.devices_per_node = devices;
    kept(fmt::format("{} {}", name, text));
  } else {
    left_out(fmt::format("resource {} {}", name.substr(0, 80), text.substr(0, 40)));
  }
}

void WorkloadReader::read_resources() {
  const json::object& requests = object_at(*container_, "resources.requests", place_);
  const json::object& limits = object_at(*container_, "resources.limits", place_);
  const auto text_of = [&](const json::value& value, std::string_view name) -> std::string {
    if (value.is_null()) return "";
    if (value.is_string()) return std::string(value.get_string());
    if (value.is_int64()) return fmt::to_string(value.get_int64());
    wrong(place_, fmt::format("resources: {} must be a quantity", name));
  };
  json::object amounts = requests;
  for (const auto& limit : limits) amounts[limit.key()] = limit.value();
  for (const auto& amount : amounts) {
    const std::string name(amount.key());
    const std::string text = text_of(amount.value(), name);
    const json::value* asked = requests.if_contains(name);
    if (asked != nullptr && text_of(*asked, name) != text) {
      changed(fmt::format("{}: asked {}, limit {}; both are the limit now", name.substr(0, 80),
                          text_of(*asked, name).substr(0, 40), text.substr(0, 40)));
    }
    read_amount(name, text);
  }
  if (!amounts.contains("cpu")) {
    changed(fmt::format("cpu: {}, as the manifest had none", out_.service.cpus));
  }
  if (!amounts.contains("memory")) changed("memory: a limit, as the manifest had none");
  report_rest(object_at(*container_, "resources", place_), "resources.", {"requests", "limits"});
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

/// The mount that becomes the cache: a claim by preference, and where the server looks for models.
void WorkloadReader::choose_cache() {
  const json::object* best = nullptr;
  int most = 0;
  for (const json::object* mount : objects_at(*container_, "volumeMounts", place_)) {
    const std::string path = path_of(*mount, place_);
    const auto found = volumes_.find(text_at(*mount, "name", place_));
    if (found == volumes_.end() || path == "/dev/shm" || path == "/tmp") continue;
    if (!text_at(*mount, "subPath", place_).empty()) continue;
    const json::object& volume = *found->second;
    const bool lasting = volume.contains("persistentVolumeClaim") || volume.contains("spec");
    if (!lasting && !is_passing(volume)) continue;
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

void WorkloadReader::take_cache(const json::object& mount) {
  Service& service = out_.service;
  const std::string name = text_at(mount, "name", place_);
  const std::string path = path_of(mount, place_);
  const json::object& volume = *volumes_[name];
  volume_names_[name] = "cache";
  cache_mount_ = path;
  service.cache_path = path;
  // A user of its own cannot go through root's home.
  if (path.starts_with("/root")) {
    out_.moved_from = path;
    const auto mounts = objects_at(*container_, "volumeMounts", place_);
    const bool taken = std::any_of(mounts.begin(), mounts.end(), [&](const json::object* other) {
      return path_of(*other, place_) == "/models";
    });
    service.cache_path = taken ? "/cache" : "/models";
  }
  const std::string claim = text_at(volume, "persistentVolumeClaim.claimName", place_);
  const std::string where =
      path == service.cache_path ? path : fmt::format("{} -> {}", path, service.cache_path);
  if (claim.empty()) {
    changed(
        fmt::format("volume {} at {}: a claim of its own for all pods, so that a new pod "
                    "finds the checkpoint",
                    name, where));
    return;
  }
  service.cache_claim = claim;
  service.env.push_back({"HF_HOME", service.cache_path, {}});
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

void WorkloadReader::take_mount(const json::object& mount) {
  Service& service = out_.service;
  const std::string path = path_of(mount, place_);
  const std::string name = text_at(mount, "name", place_);
  const auto found = volumes_.find(name);
  if (found == volumes_.end()) wrong(place_, fmt::format("there is no volume '{}'", name));
  const json::object& volume = *found->second;
  if (path == cache_mount_ && volume_names_[name] == "cache") return;
  if (path == "/dev/shm" || path == "/tmp") {
    const std::string size = text_at(volume, "emptyDir.sizeLimit", place_);
    if (path == "/dev/shm" && !size.empty()) {
      service.shm_bytes = std::max<int64_t>(0, quantity_bytes(size));
    }
    if (volume.contains("emptyDir")) {
      volume_names_[name] = path == "/tmp" ? "tmp" : "shm";
      kept(fmt::format("{}{}{}", path, size.empty() ? "" : " ", path == "/tmp" ? "" : size));
    } else {
      changed(fmt::format("volume {} at {}: an empty one of the pod's own", name, path));
    }
    return;
  }
  if (volume.contains("spec")) {
    left_out(fmt::format("volumeClaimTemplate {} at {}: a Deployment has none", name, path));
    return;
  }
  service.kept.volume_mounts.push_back(mount);
  kept(fmt::format("volume {} at {}", name, path));
}

void WorkloadReader::read_volumes() {
  for (const json::object* claim : objects_at(*object_.body, "spec.volumeClaimTemplates", place_)) {
    volumes_[text_at(*claim, "metadata.name", place_)] = claim;
  }
  for (const json::object* volume : objects_at(*spec_, "volumes", place_)) {
    volumes_[text_at(*volume, "name", place_)] = volume;
  }
  choose_cache();
  for (const json::object* mount : objects_at(*container_, "volumeMounts", place_)) {
    take_mount(*mount);
  }
  for (const auto& [name, volume] : volumes_) {
    if (is_ours(name) && !volume_names_.contains(name)) volume_names_[name] = "own-" + name;
  }
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
    if (is_ours(now) || volume->contains("spec")) continue;
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

void WorkloadReader::read_probes() {
  int64_t longest = 0;
  bool any = false;
  for (const char* name : {"startupProbe", "readinessProbe", "livenessProbe"}) {
    const json::object& probe = object_at(*container_, name, place_);
    if (probe.empty()) continue;
    any = true;
    int64_t time = integer_at(probe, "initialDelaySeconds", 0, place_);
    if (std::string_view(name) == "startupProbe") {
      time += integer_at(probe, "periodSeconds", 10, place_) *
              std::min<int64_t>(100000, integer_at(probe, "failureThreshold", 3, place_));
    }
    longest = std::max(longest, std::min<int64_t>(time, 86400));
  }
  if (longest > 0) {
    // Half of it: startup_budget doubles what a load takes.
    out_.service.load_seconds = std::max<double>(30, static_cast<double>(longest) / 2);
  }
  if (any) {
    changed(fmt::format("probes: all on /health; {} s for a start as before, now by startupProbe",
                        longest));
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
