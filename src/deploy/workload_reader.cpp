#include "deploy/workload_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "deploy/json_reader.h"
#include "deploy/server_start.h"

namespace moesaic::deploy {
namespace {

namespace json = boost::json;
using Fate = Finding::Fate;

/// Each is looked up among all settings; no server has as many.
constexpr size_t kMostWords = 1000;

/// An object of the file, whatever its kind.
struct Object {
  const json::object* body;
  Place place;
  std::string kind;
  std::string name;
  mutable bool used = false;
};

/// Where a kind keeps its pod template; "" for a Pod, which is one.
struct Kind {
  std::string_view name;
  std::string_view pod;
};
constexpr Kind kKinds[] = {
    {"Deployment", "spec.template"},
    {"StatefulSet", "spec.template"},
    {"ReplicaSet", "spec.template"},
    {"DaemonSet", "spec.template"},
    {"Job", "spec.template"},
    {"LeaderWorkerSet", "spec.leaderWorkerTemplate.leaderTemplate"},
    {"Pod", ""},
};

std::string_view pod_path(const Object& object) {
  for (const Kind& kind : kKinds) {
    if (kind.name == object.kind) return kind.pod;
  }
  return "none";
}

void add_object(const json::object& body, int line, const std::string& file,
                std::vector<Object>& objects) {
  Place place{file, line, "the object"};
  Object object{&body, place, text_at(body, "kind", place), text_at(body, "metadata.name", place)};
  object.place.object = object.kind.empty()   ? "an object without kind"
                        : object.name.empty() ? object.kind
                                              : fmt::format("{} {}", object.kind, object.name);
  if (object.kind.ends_with("List") && body.contains("items")) {
    for (const json::object* item : objects_at(body, "items", object.place)) {
      add_object(*item, line, file, objects);
    }
    return;
  }
  objects.push_back(std::move(object));
}

/// Whether every label of `selector` stands among `labels`.
bool selects(const json::object& selector, const json::object& labels) {
  return !selector.empty() && std::all_of(selector.begin(), selector.end(), [&](const auto& label) {
    const json::value* found = labels.if_contains(label.key());
    return found != nullptr && *found == label.value();
  });
}

/// Reads one workload; its parts are filled into `out_`.
class WorkloadReader {
 public:
  WorkloadReader(const Object& object, const std::vector<Object>& all)
      : object_(object), all_(all), place_(object.place) {
    const std::string_view path = pod_path(object);
    pod_ = path.empty() ? object.body : &object_at(*object.body, path, place_);
    spec_ = &object_at(*pod_, "spec", place_);
  }

  /// Whether a container of it runs a server.
  bool find() {
    for (const json::object* container : objects_at(*spec_, "containers", place_)) {
      read_environment(*container);
      auto start =
          find_server(texts_at(*container, "command", place_), texts_at(*container, "args", place_),
                      text_at(*container, "image", place_), out_.environment);
      if (!start) continue;
      if (start->arguments.size() > kMostWords || out_.environment.size() > kMostWords) {
        wrong(place_, fmt::format("more than {} arguments or variables", kMostWords));
      }
      container_ = container;
      start_ = std::move(*start);
      return true;
    }
    return false;
  }

  Workload read() {
    object_.used = true;
    out_.where = fmt::format("{}, line {}", place_.object, place_.line);
    out_.engine = start_.engine;
    out_.arguments = start_.arguments;
    for (const auto& [name, value] : start_.assignments) out_.environment[name] = value;
    for (const std::string& command : start_.other_commands) {
      left_out(fmt::format("the script's command '{}'", command.substr(0, 60)));
    }
    out_.service.ranks_in_args = true;
    read_names();
    read_image();
    read_resources();
    read_volumes();
    read_probes();
    read_pod();
    read_replicas();
    read_service();
    read_claim();
    read_autoscaler();
    read_route();
    return std::move(out_);
  }

 private:
  void kept(std::string text) { out_.findings.push_back({Fate::kKept, std::move(text)}); }
  void changed(std::string text) { out_.findings.push_back({Fate::kChanged, std::move(text)}); }
  void left_out(std::string text) { out_.findings.push_back({Fate::kLeftOut, std::move(text)}); }

  void read_environment(const json::object& container);
  void read_names();
  void read_image();
  void read_resources();
  void read_volumes();
  void take_volume(const json::object& mount, const json::object& volume);
  void take_cache(const std::string& path, const std::string& claim);
  void read_probes();
  void read_pod();
  void read_replicas();
  void read_service();
  void read_claim();
  void read_autoscaler();
  void read_route();

  /// The first unused object of a kind for which `fits` holds; null when there is none.
  template <typename Fits>
  const Object* other(std::string_view kind, Fits fits) const {
    for (const Object& object : all_) {
      if (object.kind == kind && !object.used && fits(object)) return &object;
    }
    return nullptr;
  }

  const Object& object_;
  const std::vector<Object>& all_;
  Place place_;
  const json::object* pod_ = nullptr;
  const json::object* spec_ = nullptr;
  const json::object* container_ = nullptr;
  ServerStart start_;
  Workload out_;
};

void WorkloadReader::read_environment(const json::object& container) {
  out_.environment.clear();
  out_.references.clear();
  for (const json::object* entry : objects_at(container, "env", place_)) {
    const std::string name = text_at(*entry, "name", place_);
    const json::object& from = object_at(*entry, "valueFrom", place_);
    if (name.empty()) wrong(place_, "an entry of env has no name");
    if (from.empty()) {
      out_.environment[name] = text_at(*entry, "value", place_);
    } else {
      out_.references.push_back({name, "", from});
    }
  }
}

void WorkloadReader::read_names() {
  Service& service = out_.service;
  const std::string name = object_.name.empty() ? "server" : object_.name;
  service.name = is_dns_label(name, kMaxNameLength) ? name : dns_label(name);
  if (service.name == name) {
    kept(fmt::format("name {}", name));
  } else {
    changed(fmt::format("name {} -> {}", name.substr(0, 80), service.name));
  }
  service.name_space = text_at(*object_.body, "metadata.namespace", place_);
  if (!service.name_space.empty()) kept(fmt::format("namespace {}", service.name_space));
  const json::object& labels = object_at(*pod_, "metadata.labels", place_);
  const json::object& selector = object_at(*object_.body, "spec.selector.matchLabels", place_);
  // A LeaderWorkerSet has no selector of its own.
  if (!selector.empty()) {
    service.kept.selector = selector;
    kept(
        fmt::format("the selector, which cannot be changed in place ({} labels)", selector.size()));
  }
  for (const auto& label : labels) {
    if (!selector.contains(label.key())) service.kept.pod_labels.insert(label);
  }
  for (const auto& note : object_at(*pod_, "metadata.annotations", place_)) {
    // Ours are found by ServiceMonitor.
    if (std::string_view(note.key()).starts_with("prometheus.io/")) {
      left_out(fmt::format("annotation {}: Prometheus comes by servicemonitor.yaml",
                           std::string_view(note.key())));
    } else {
      service.kept.pod_annotations.insert(note);
    }
  }
}

void WorkloadReader::read_image() {
  const std::string image = text_at(*container_, "image", place_);
  if (out_.engine == Engine::kMoesaic) {
    out_.service.image = image;
    kept(fmt::format("image {}", image));
  } else {
    changed(fmt::format("image {} -> {}", image.empty() ? "(none)" : image.substr(0, 120),
                        default_image(Engine::kMoesaic)));
  }
  if (!text_at(*container_, "workingDir", place_).empty()) left_out("workingDir");
  out_.service.kept.env_from = array_at(*container_, "envFrom", place_);
  if (!out_.service.kept.env_from.empty()) kept("envFrom, as it stands");
}

void WorkloadReader::read_resources() {
  Service& service = out_.service;
  json::object amounts = object_at(*container_, "resources.requests", place_);
  for (const auto& limit : object_at(*container_, "resources.limits", place_)) {
    amounts[limit.key()] = limit.value();
  }
  const auto amount_of = [&](std::string_view name) -> std::string {
    const json::value* value = amounts.if_contains(name);
    if (value == nullptr || value->is_null()) return "";
    if (value->is_string()) return std::string(value->get_string());
    if (value->is_int64()) return fmt::to_string(value->get_int64());
    wrong(place_, fmt::format("resources: {} must be a quantity", name));
  };
  for (const auto& amount : amounts) {
    const std::string name(amount.key());
    const std::string text = amount_of(name);
    if (name == "cpu") {
      const bool milli = text.ends_with('m');
      const int64_t value = quantity_bytes(milli ? text.substr(0, text.size() - 1) : text);
      if (value <= 0 || value > (milli ? 4'096'000 : 4096)) wrong(place_, "cpu is no amount");
      service.cpus = milli ? (value + 999) / 1000 : value;
      kept(fmt::format("cpu {}", text));
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
}

/// Volumes by name, so that mounts find theirs.
void WorkloadReader::read_volumes() {
  std::map<std::string, const json::object*> volumes;
  for (const json::object* volume : objects_at(*spec_, "volumes", place_)) {
    volumes[text_at(*volume, "name", place_)] = volume;
  }
  for (const json::object* claim : objects_at(*object_.body, "spec.volumeClaimTemplates", place_)) {
    left_out(fmt::format("volumeClaimTemplate {}: the cache is one claim for all pods",
                         text_at(*claim, "metadata.name", place_)));
  }
  for (const json::object* mount : objects_at(*container_, "volumeMounts", place_)) {
    const auto found = volumes.find(text_at(*mount, "name", place_));
    if (found != volumes.end()) take_volume(*mount, *found->second);
  }
}

/// A place where servers keep checkpoints.
bool looks_like_cache(const std::string& path) {
  static constexpr std::array<std::string_view, 6> kParts = {"cache", "huggingface", "model",
                                                             "/data", "hub",         "weights"};
  return std::any_of(kParts.begin(), kParts.end(),
                     [&](std::string_view part) { return path.find(part) != std::string::npos; });
}

void WorkloadReader::take_volume(const json::object& mount, const json::object& volume) {
  Service& service = out_.service;
  const std::string path = text_at(mount, "mountPath", place_);
  const std::string name = text_at(volume, "name", place_);
  const std::string claim = text_at(volume, "persistentVolumeClaim.claimName", place_);
  if (path == "/dev/shm" && volume.contains("emptyDir")) {
    const std::string size = text_at(volume, "emptyDir.sizeLimit", place_);
    service.shm_bytes = size.empty() ? 0 : std::max<int64_t>(0, quantity_bytes(size));
    kept(fmt::format("/dev/shm {}", size.empty() ? "(now with a size)" : size));
  } else if (path == "/tmp" && volume.contains("emptyDir")) {
    kept("/tmp");
  } else if (!claim.empty() && service.cache_claim.empty() &&
             text_at(mount, "subPath", place_).empty()) {
    take_cache(path, claim);
  } else if (claim.empty() && looks_like_cache(path) &&
             (volume.contains("emptyDir") || volume.contains("hostPath") ||
              volume.contains("ephemeral"))) {
    changed(
        fmt::format("volume {} at {}: a claim of its own, so that a new pod finds the "
                    "checkpoint",
                    name, path));
    if (path.starts_with("/root")) {
      out_.moved_from = path;
    } else {
      service.cache_path = path;
    }
  } else if (name == "cache" || name == "shm" || name == "tmp") {
    left_out(fmt::format("volume {} at {}: the name is taken by ours", name, path));
  } else {
    service.kept.volume_mounts.push_back(mount);
    const bool there =
        std::any_of(service.kept.volumes.begin(), service.kept.volumes.end(),
                    [&](const json::value& other) { return other == json::value(volume); });
    if (!there) service.kept.volumes.push_back(volume);
    kept(fmt::format("volume {} at {}", name, path));
  }
}

void WorkloadReader::take_cache(const std::string& path, const std::string& claim) {
  Service& service = out_.service;
  service.cache_claim = claim;
  // A user of its own cannot go through root's home.
  const bool hidden = path.starts_with("/root");
  service.cache_path = hidden ? "/models" : path;
  service.env.push_back({"HF_HOME", service.cache_path, {}});
  if (hidden) {
    out_.moved_from = path;
    changed(fmt::format("claim {} at {} -> {}", claim, path, service.cache_path));
  } else {
    kept(fmt::format("claim {} at {}", claim, path));
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
                        std::max<int64_t>(longest, 0)));
  }
}

void WorkloadReader::read_pod() {
  Kept& keep = out_.service.kept;
  const json::object& nodes = object_at(*spec_, "nodeSelector", place_);
  for (const auto& label : nodes) {
    keep.node_selector.insert(label);
    kept(fmt::format("nodeSelector {}", std::string_view(label.key())));
  }
  keep.tolerations = array_at(*spec_, "tolerations", place_);
  for (const json::value& item : keep.tolerations) {
    if (!item.is_object()) wrong(place_, "tolerations must be a list of mappings");
  }
  keep.affinity = object_at(*spec_, "affinity", place_);
  keep.pull_secrets = array_at(*spec_, "imagePullSecrets", place_);
  keep.init_containers = array_at(*spec_, "initContainers", place_);
  keep.service_account = text_at(*spec_, "serviceAccountName", place_);
  keep.priority_class = text_at(*spec_, "priorityClassName", place_);
  keep.runtime_class = text_at(*spec_, "runtimeClassName", place_);
  for (const char* name : {"tolerations", "affinity", "imagePullSecrets", "initContainers",
                           "serviceAccountName", "priorityClassName", "runtimeClassName"}) {
    if (find_path(*spec_, name, place_) != nullptr) kept(name);
  }
  for (const json::object* container : objects_at(*spec_, "containers", place_)) {
    if (container == container_) continue;
    keep.sidecars.push_back(*container);
    kept(fmt::format("container {}, as it stands", text_at(*container, "name", place_)));
  }
  // Volumes that only those containers mount.
  for (const json::object* volume : objects_at(*spec_, "volumes", place_)) {
    const std::string name = text_at(*volume, "name", place_);
    const std::string used = json::serialize(keep.sidecars) + json::serialize(keep.init_containers);
    const bool there = std::any_of(keep.volumes.begin(), keep.volumes.end(),
                                   [&](const json::value& v) { return v == json::value(*volume); });
    if (!there && used.find("\"name\":\"" + name + "\",\"mountPath\"") != std::string::npos &&
        name != "cache" && name != "shm" && name != "tmp") {
      keep.volumes.push_back(*volume);
    }
  }
  for (const char* name : {"hostNetwork", "hostIPC", "hostPID", "shareProcessNamespace"}) {
    if (find_path(*spec_, name, place_) != nullptr) left_out(name);
  }
  keep.container = text_at(*container_, "name", place_);
  keep.open = true;
  changed("the server runs as user 10001, without privileges");
  changed(
      "networkpolicy.yaml lets anybody reach the server's port, and no other; name the clients");
  if (find_path(*spec_, "terminationGracePeriodSeconds", place_) != nullptr) {
    const int64_t grace = integer_at(*spec_, "terminationGracePeriodSeconds", 30, place_);
    out_.service.drain_seconds = std::max<int64_t>(1, grace - 30);
    changed(
        fmt::format("terminationGracePeriodSeconds {}: 10 s for the endpoints, {} s for "
                    "running requests, 20 s to end",
                    grace, out_.service.drain_seconds));
  }
}

void WorkloadReader::read_replicas() {
  Service& service = out_.service;
  service.replicas =
      std::clamp<int64_t>(integer_at(*object_.body, "spec.replicas", 1, place_), 1, 10000);
  service.max_replicas = service.replicas;
  kept(fmt::format("replicas {}", service.replicas));
  if (object_.kind == "LeaderWorkerSet") {
    service.nodes = std::clamp<int64_t>(
        integer_at(*object_.body, "spec.leaderWorkerTemplate.size", 1, place_), 1, 1024);
    kept(fmt::format("{} nodes a replica", service.nodes));
  } else if (object_.kind != "Deployment") {
    changed(fmt::format("{} -> Deployment", object_.kind));
  }
}

void WorkloadReader::read_service() {
  Service& service = out_.service;
  json::object labels = object_at(*pod_, "metadata.labels", place_);
  const Object* found = other("Service", [&](const Object& object) {
    return selects(object_at(*object.body, "spec.selector", object.place), labels);
  });
  std::vector<std::string> names;
  int64_t container_port = 0;
  for (const json::object* port : objects_at(*container_, "ports", place_)) {
    names.push_back(text_at(*port, "name", place_));
    if (container_port == 0) container_port = integer_at(*port, "containerPort", 0, place_);
  }
  if (container_port >= 1024) service.port = container_port;
  if (found == nullptr) return;
  found->used = true;
  service.kept.service_name = found->name;
  service.kept.service_type = text_at(*found->body, "spec.type", found->place);
  bool first = true;
  for (const json::object* port : objects_at(*found->body, "spec.ports", found->place)) {
    json::object entry = *port;
    const int64_t number = integer_at(entry, "port", 0, found->place);
    if (number < 1 || number > 65535) wrong(found->place, "spec.ports: port is no port");
    const std::string target = text_at(entry, "targetPort", found->place);
    const bool ours = target.empty() || target == fmt::to_string(container_port) ||
                      std::find(names.begin(), names.end(), target) != names.end();
    if (ours || first) entry["targetPort"] = "http";
    first = false;
    service.kept.service_ports.push_back(std::move(entry));
  }
  kept(fmt::format("Service {}, its type and ports", found->name));
}

void WorkloadReader::read_claim() {
  Service& service = out_.service;
  if (service.cache_claim.empty()) return;
  const Object* found = other("PersistentVolumeClaim", [&](const Object& object) {
    return object.name == service.cache_claim;
  });
  if (found == nullptr) return;
  found->used = true;
  service.kept.claim = *found->body;
  kept(fmt::format("PersistentVolumeClaim {}, as it stands", found->name));
}

void WorkloadReader::read_autoscaler() {
  Service& service = out_.service;
  const Object* found = other("HorizontalPodAutoscaler", [&](const Object& object) {
    return text_at(*object.body, "spec.scaleTargetRef.name", object.place) == object_.name;
  });
  if (found == nullptr) return;
  found->used = true;
  service.replicas = std::clamp<int64_t>(
      integer_at(*found->body, "spec.minReplicas", service.replicas, found->place), 1, 10000);
  service.max_replicas = std::clamp<int64_t>(
      integer_at(*found->body, "spec.maxReplicas", service.replicas, found->place),
      service.replicas, 10000);
  changed(fmt::format("HorizontalPodAutoscaler {}: {} to {} replicas as before, now by the queue{}",
                      found->name, service.replicas, service.max_replicas,
                      found->name == service.name ? "" : "; delete the old one"));
}

void WorkloadReader::read_route() {
  Service& service = out_.service;
  const Object* found = other("HTTPRoute", [&](const Object& object) {
    for (const json::object* rule : objects_at(*object.body, "spec.rules", object.place)) {
      for (const json::object* to : objects_at(*rule, "backendRefs", object.place)) {
        if (text_at(*to, "name", object.place) == service.kept.service_name) return true;
      }
    }
    return false;
  });
  if (found == nullptr) return;
  found->used = true;
  const auto parents = objects_at(*found->body, "spec.parentRefs", found->place);
  if (!parents.empty()) {
    service.gateway = text_at(*parents[0], "name", found->place);
    service.gateway_space = text_at(*parents[0], "namespace", found->place);
  }
  const auto hosts = texts_at(*found->body, "spec.hostnames", found->place);
  if (!hosts.empty()) service.hostname = hosts[0];
  for (const json::object* rule : objects_at(*found->body, "spec.rules", found->place)) {
    for (const json::object* match : objects_at(*rule, "matches", found->place)) {
      if (service.path_prefix.empty()) {
        service.path_prefix = text_at(*match, "path.value", found->place);
      }
    }
  }
  kept(fmt::format("HTTPRoute {}: its gateway, host and path", found->name));
}

}  // namespace

int64_t quantity_bytes(std::string_view text) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {{"Ki", 1024.0},
                                                                   {"Mi", 1048576.0},
                                                                   {"Gi", 1073741824.0},
                                                                   {"Ti", 1099511627776.0},
                                                                   {"Pi", 1.125899907e15},
                                                                   {"k", 1e3},
                                                                   {"M", 1e6},
                                                                   {"G", 1e9},
                                                                   {"T", 1e12},
                                                                   {"P", 1e15}};
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

std::vector<Workload> read_workloads(const std::vector<YamlDocument>& documents,
                                     const std::string& file) {
  std::vector<Object> objects;
  for (const YamlDocument& document : documents) {
    if (!document.value.is_object()) {
      throw base::ModelFileError(
          file, fmt::format("line {}: this is no Kubernetes object", document.line));
    }
    add_object(document.value.get_object(), document.line, file, objects);
  }
  std::vector<Workload> workloads;
  std::string seen;
  for (const Object& object : objects) {
    if (seen.size() < 200) seen += (seen.empty() ? "" : ", ") + object.place.object;
    if (pod_path(object) == "none") continue;
    WorkloadReader reader(object, objects);
    if (reader.find()) workloads.push_back(reader.read());
  }
  if (workloads.empty()) {
    throw base::ModelFileError(
        file, fmt::format("line {}: no container that runs an inference server. Looked in {} for "
                          "{}",
                          documents.empty() ? 1 : documents[0].line,
                          seen.empty() ? "an empty file" : seen, servers_looked_for()));
  }
  for (const Object& object : objects) {
    if (object.used) continue;
    workloads[0].findings.push_back(
        {Fate::kLeftOut,
         fmt::format("{}: not touched; keep applying your own", object.place.object)});
  }
  return workloads;
}

}  // namespace moesaic::deploy
