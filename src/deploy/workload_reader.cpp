#include "deploy/workload_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "base/error.h"
#include "deploy/shell_words.h"
#include "deploy/workload_parts.h"

namespace moesaic::deploy {

namespace json = boost::json;
using Fate = Finding::Fate;

namespace {

/// Each is looked up among all settings; no server has as many.
constexpr size_t kMostWords = 1000;

/// Kinds whose pod template is spec.template; a Pod is one, and LeaderWorkerSet has two.
constexpr std::string_view kTemplated[] = {"Deployment", "StatefulSet", "ReplicaSet", "DaemonSet",
                                           "Job"};

/// The pod of an object: its template, or itself.
const json::object& pod_of(const Object& object) {
  const json::object& body = *object.body;
  if (object.kind == "Pod") return body;
  if (object.kind != "LeaderWorkerSet") return object_at(body, "spec.template", object.place);
  const std::string group = "spec.leaderWorkerTemplate.";
  // Without a template of its own the leader is one of the workers.
  const json::object& leader = object_at(body, group + "leaderTemplate", object.place);
  return leader.empty() ? object_at(body, group + "workerTemplate", object.place) : leader;
}

void add_object(const json::object& body, int line, const std::string& file,
                std::vector<Object>& objects) {
  Place place{file, line, "the object"};
  Object object{&body, place, text_at(body, "kind", place), text_at(body, "metadata.name", place),
                text_at(body, "metadata.namespace", place)};
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

}  // namespace

bool has_pod(const Object& object) {
  return object.made || object.kind == "Pod" || object.kind == "LeaderWorkerSet" ||
         std::find(std::begin(kTemplated), std::end(kTemplated), object.kind) !=
             std::end(kTemplated);
}

bool shares_namespace(std::string_view a, std::string_view b) {
  return a == b || a.empty() || b.empty();
}

bool selects(const json::object& selector, const json::object& labels) {
  return !selector.empty() && std::all_of(selector.begin(), selector.end(), [&](const auto& label) {
    const json::value* found = labels.if_contains(label.key());
    return found != nullptr && *found == label.value();
  });
}

json::object own_annotations(const json::object& annotations) {
  json::object own;
  for (const auto& note : annotations) {
    const std::string_view key = note.key();
    if (!key.starts_with("kubectl.kubernetes.io/") &&
        !key.starts_with("deployment.kubernetes.io/") && !key.starts_with("pv.kubernetes.io/")) {
      own.insert(note);
    }
  }
  return own;
}

json::object portable(const Object& object) {
  json::object copy;
  json::object metadata;
  const json::object& all = object_at(*object.body, "metadata", object.place);
  for (const char* name : {"name", "namespace", "labels"}) {
    if (const json::value* value = all.if_contains(name)) metadata[name] = *value;
  }
  const json::object notes = own_annotations(object_at(all, "annotations", object.place));
  if (!notes.empty()) metadata["annotations"] = notes;
  for (const char* name : {"apiVersion", "kind"}) {
    copy[name] = text_at(*object.body, name, object.place);
  }
  copy["metadata"] = std::move(metadata);
  copy["spec"] = object_at(*object.body, "spec", object.place);
  return copy;
}

WorkloadReader::WorkloadReader(const Object& object, const std::vector<Object>& all)
    : object_(object), all_(all), place_(object.place) {
  pod_ = &pod_of(object);
  spec_ = &object_at(*pod_, "spec", place_);
}

void WorkloadReader::know(const MadeDeployment& made) {
  out_.findings = made.findings;
  out_.blockers = made.blockers;
}

/// An object without a namespace may be this workload's, unless another workload of the file is
/// without one too.
bool WorkloadReader::may_be_ours(const Object& object) const {
  if (object.name_space == object_.name_space ||
      !shares_namespace(object.name_space, object_.name_space)) {
    return false;
  }
  return std::none_of(all_.begin(), all_.end(), [&](const Object& workload) {
    return &workload != &object_ && has_pod(workload) && workload.name_space == object.name_space;
  });
}

void WorkloadReader::take(const Object& object) {
  object.used = true;
  if (object.name_space.empty() || !out_.service.name_space.empty()) return;
  out_.service.name_space = object.name_space;
  changed(fmt::format("namespace {}, as {} has it", object.name_space, object.place.object));
}

bool WorkloadReader::find() {
  try {
    return find_container();
  } catch (const base::UsageError& problem) {
    wrong(place_, problem.what());
  }
}

bool WorkloadReader::is_server(const json::object& container, bool by_image) {
  read_environment(container);
  auto start =
      find_server(texts_at(container, "command", place_), texts_at(container, "args", place_),
                  text_at(container, "image", place_), out_.environment, by_image);
  if (!start) return false;
  if (start->arguments.size() > kMostWords || out_.environment.size() > kMostWords) {
    wrong(place_, fmt::format("more than {} arguments or variables", kMostWords));
  }
  container_ = &container;
  start_ = std::move(*start);
  return true;
}

/// The container whose command is a server's; else the one whose image is.
bool WorkloadReader::find_container() {
  const auto containers = objects_at(*spec_, "containers", place_);
  for (const bool by_image : {false, true}) {
    for (const json::object* container : containers) {
      if (is_server(*container, by_image)) return true;
    }
  }
  for (const json::object* container : containers) note_unread(*container);
  return false;
}

/// Says why a container that looks like a server was not read as one.
void WorkloadReader::note_unread(const json::object& container) {
  const std::string image = text_at(container, "image", place_);
  const json::object& limits = object_at(container, "resources.limits", place_);
  const bool accelerated = std::any_of(
      limits.begin(), limits.end(), [](const auto& limit) { return is_accelerator(limit.key()); });
  if (!is_server_image(image) && !accelerated) return;
  const auto command = texts_at(container, "command", place_);
  object_.why = fmt::format("image {} {}", image.substr(0, 120),
                            command.empty()
                                ? "with arguments that name no model"
                                : fmt::format("starts '{}', and what that starts is not known here",
                                              command[0].substr(0, 60)));
  if (!array_at(container, "envFrom", place_).empty()) {
    object_.why += "; if a ConfigMap of envFrom says more, put that into the file too";
  }
}

Workload WorkloadReader::read() {
  object_.used = true;
  out_.kind = object_.kind;
  out_.name = object_.made ? object_.source : object_.name;
  out_.where = fmt::format("{}, line {}", place_.object, place_.line);
  out_.engine = start_.engine;
  out_.arguments = start_.arguments;
  for (const auto& [name, value] : start_.assignments) out_.environment[name] = value;
  for (const std::string& command : start_.other_commands) {
    left_out(fmt::format("the script's command '{}'", command.substr(0, 60)));
  }
  out_.service.ranks_in_args = true;
  out_.service.kept.existing = true;
  // Who reaches the pods that run, nobody has told us: a policy would shut some out.
  out_.service.without = {"networkpolicy"};
  read_names();
  read_labels();
  read_image();
  read_resources();
  read_replicas();
  read_volumes();
  read_probes();
  read_pod();
  read_security();
  read_neighbours();
  keep_volumes();
  read_grace();
  read_service();
  read_claim();
  read_autoscaler();
  read_budget();
  read_route();
  read_monitors();
  read_rest();
  return std::move(out_);
}

void WorkloadReader::kept(std::string text) {
  out_.findings.push_back({Fate::kKept, std::move(text)});
}

void WorkloadReader::changed(std::string text) {
  out_.findings.push_back({Fate::kChanged, std::move(text)});
}

void WorkloadReader::left_out(std::string text) {
  out_.findings.push_back({Fate::kLeftOut, std::move(text)});
}

/// Variables of ConfigMaps that stand in the file; what `env` says goes over them, as it does in
/// the pod.
void WorkloadReader::read_config_maps(const json::object& container) {
  for (const json::object* source : objects_at(container, "envFrom", place_)) {
    const std::string name = text_at(*source, "configMapRef.name", place_);
    const Object* map =
        other("ConfigMap", [&](const Object& object) { return object.name == name; });
    if (name.empty() || map == nullptr) {
      out_.service.kept.env_from.push_back(*source);
      continue;
    }
    const std::string prefix = text_at(*source, "prefix", place_);
    for (const auto& entry : object_at(*map->body, "data", map->place)) {
      if (!entry.value().is_string()) wrong(map->place, "data must be texts");
      out_.environment[prefix + std::string(entry.key())] = std::string(entry.value().get_string());
    }
  }
}

void WorkloadReader::read_variable(const json::object& entry) {
  const std::string name = text_at(entry, "name", place_);
  if (name.empty()) wrong(place_, "an entry of env has no name");
  const json::object& from = object_at(entry, "valueFrom", place_);
  const std::string map_name = text_at(from, "configMapKeyRef.name", place_);
  const Object* map = map_name.empty() ? nullptr : other("ConfigMap", [&](const Object& object) {
    return object.name == map_name;
  });
  const std::string key = text_at(from, "configMapKeyRef.key", place_);
  if (map != nullptr && object_at(*map->body, "data", map->place).contains(key)) {
    const json::object& data = object_at(*map->body, "data", map->place);
    if (!data.at(key).is_string()) wrong(map->place, "data must be texts");
    out_.environment[name] = std::string(data.at(key).get_string());
  } else if (!from.empty()) {
    out_.environment.erase(name);
    out_.references.push_back({name, "", from});
  } else {
    // As Kubernetes does: those that stand before it are filled in.
    out_.environment[name] =
        expand_references(text_at(entry, "value", place_), [&](const std::string& earlier) {
          const auto found = out_.environment.find(earlier);
          return found == out_.environment.end() ? std::nullopt : std::optional(found->second);
        });
  }
}

void WorkloadReader::read_environment(const json::object& container) {
  out_.environment.clear();
  out_.references.clear();
  out_.service.kept.env_from.clear();
  read_config_maps(container);
  size_t expanded = 0;
  for (const json::object* entry : objects_at(container, "env", place_)) {
    read_variable(*entry);
    const auto set = out_.environment.find(text_at(*entry, "name", place_));
    if (set != out_.environment.end()) check_expanded(expanded += set->second.size());
  }
}

namespace {

/// What the message says of objects that no server was found in.
std::string looked_in(const std::vector<Object>& objects) {
  std::string seen;
  for (const Object& object : objects) {
    if (object.made || seen.size() > 600) continue;
    seen += (seen.empty() ? "" : ", ") + object.place.object.substr(0, 120);
    if (!object.why.empty()) seen += " (" + object.why + ")";
  }
  return seen.empty() ? "an empty file" : seen;
}

}  // namespace

ManifestFile read_workloads(const std::vector<YamlDocument>& documents, const std::string& file) {
  std::vector<Object> objects;
  for (const YamlDocument& document : documents) {
    if (!document.value.is_object()) {
      throw base::ModelFileError(
          file, fmt::format("line {}: this is no Kubernetes object", document.line));
    }
    add_object(document.value.get_object(), document.line, file, objects);
  }
  // A deque, as objects point into it.
  std::deque<MadeDeployment> made;
  const size_t given = objects.size();
  std::map<const json::object*, const MadeDeployment*> known;
  std::vector<size_t> sources;
  for (size_t i = 0; i < given; ++i) {
    for (MadeDeployment& deployment : made_deployments(objects[i], objects)) {
      made.push_back(std::move(deployment));
      sources.push_back(i);
    }
  }
  for (size_t i = 0; i < made.size(); ++i) {
    Object object = objects[sources[i]];
    object.body = &made[i].body;
    object.made = true;
    object.source = object.name;
    object.name = text_at(made[i].body, "metadata.name", object.place);
    known[object.body] = &made[i];
    objects.push_back(std::move(object));
  }
  ManifestFile result;
  for (size_t i = 0; i < objects.size(); ++i) {
    const Object& object = objects[i];
    if (!has_pod(object)) continue;
    WorkloadReader reader(object, objects);
    if (const auto facts = known.find(object.body); facts != known.end()) {
      reader.know(*facts->second);
    }
    if (!reader.find()) continue;
    result.workloads.push_back(reader.read());
    if (object.made) objects[sources[i - given]].used = true;
  }
  if (result.workloads.empty()) {
    throw base::ModelFileError(
        file, fmt::format("line {}: no container that runs an inference server. Looked in {} for "
                          "{}",
                          documents.empty() ? 1 : documents[0].line, looked_in(objects),
                          servers_looked_for()));
  }
  for (size_t i = 0; i < given; ++i) {
    const Object& object = objects[i];
    if (!object.used) {
      result.others.push_back({object.kind, object.name, object.name_space, object.why});
    }
  }
  return result;
}

}  // namespace moesaic::deploy
