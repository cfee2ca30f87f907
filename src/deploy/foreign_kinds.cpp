#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "deploy/shell_words.h"
#include "deploy/workload_parts.h"

// KServe's and Ray's objects say what to serve, and a controller makes the pods: here a Deployment
// is made of each, which then is read as any other.

namespace moesaic::deploy {

namespace json = boost::json;

namespace {

using Fate = Finding::Fate;

/// Where KServe mounts a model, whatever its address.
constexpr std::string_view kMounted = "/mnt/models";

/// Fields of KServe's predictor and runtime that are no pod's.
constexpr std::string_view kNotOfPods[] = {"model",
                                           "minReplicas",
                                           "maxReplicas",
                                           "scaleTarget",
                                           "scaleMetric",
                                           "scaleMetricType",
                                           "autoScaling",
                                           "containerConcurrency",
                                           "canaryTrafficPercent",
                                           "logger",
                                           "batcher",
                                           "workerSpec",
                                           "labels",
                                           "annotations",
                                           "deploymentStrategy",
                                           "supportedModelFormats",
                                           "multiModel",
                                           "protocolVersions",
                                           "builtInAdapter",
                                           "storageHelper",
                                           "grpcEndpoint",
                                           "grpcDataEndpoint",
                                           "httpDataEndpoint",
                                           "disabled",
                                           "replicas",
                                           "timeout"};

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

json::array words(const std::vector<std::string>& texts) {
  json::array out;
  for (const std::string& text : texts) out.emplace_back(text);
  return out;
}

/// The fields of `over` in the place of those of `under`; entries of lists with names likewise.
json::object merged(const json::object& under, const json::object& over) {
  json::object out = under;
  for (const auto& field : over) {
    json::value& value = out[field.key()];
    if (value.is_object() && field.value().is_object()) {
      value = merged(value.get_object(), field.value().get_object());
    } else if (value.is_array() && field.value().is_array() && field.key() == "args") {
      for (const json::value& word : field.value().get_array()) value.get_array().push_back(word);
    } else if (value.is_array() && field.value().is_array() && field.key() != "command") {
      for (const json::value& item : field.value().get_array()) {
        const json::value* name =
            item.is_object() ? item.get_object().if_contains("name") : nullptr;
        json::array& list = value.get_array();
        auto* same = std::find_if(list.begin(), list.end(), [&](const json::value& other) {
          const json::value* its =
              other.is_object() ? other.get_object().if_contains("name") : nullptr;
          return name != nullptr && its != nullptr && *its == *name;
        });
        if (same == list.end()) {
          list.push_back(item);
        } else {
          *same = merged(same->as_object(), item.get_object());
        }
      }
    } else {
      value = field.value();
    }
  }
  return out;
}

/// "{{.Name}}" in a runtime's texts, as KServe fills it in.
void fill_name(json::value& value, const std::string& name) {
  if (value.is_object()) {
    for (auto& field : value.get_object()) fill_name(field.value(), name);
  } else if (value.is_array()) {
    for (json::value& item : value.get_array()) fill_name(item, name);
  } else if (value.is_string()) {
    std::string text(value.get_string());
    for (const std::string_view form : {"{{.Name}}", "{{ .Name }}"}) {
      for (size_t at = text.find(form); at != std::string::npos;
           at = text.find(form, at + name.size())) {
        text.replace(at, form.size(), name);
      }
    }
    value = text;
  }
}

json::object pod_fields(const json::object& from) {
  json::object pod;
  for (const auto& field : from) {
    const bool other = std::find(std::begin(kNotOfPods), std::end(kNotOfPods), field.key()) !=
                       std::end(kNotOfPods);
    if (!other) pod.insert(field);
  }
  return pod;
}

/// A Deployment of one pod.
json::object deployment(const Object& object, const std::string& name, json::value replicas,
                        json::object pod) {
  json::object metadata = {{"name", name}};
  if (!object.name_space.empty()) metadata["namespace"] = object.name_space;
  const json::object labels = {{"app", name}};
  json::object spec = {{"selector", json::object{{"matchLabels", labels}}},
                       {"template", json::object{{"metadata", json::object{{"labels", labels}}},
                                                 {"spec", std::move(pod)}}}};
  if (!replicas.is_null()) spec["replicas"] = std::move(replicas);
  return {{"apiVersion", "apps/v1"},
          {"kind", "Deployment"},
          {"metadata", std::move(metadata)},
          {"spec", std::move(spec)}};
}

class Maker {
 public:
  Maker(const Object& object, const std::vector<Object>& all) : object_(object), all_(all) {}

  std::vector<MadeDeployment> make() {
    if (object_.kind == "InferenceService") return inference_service();
    if (object_.kind == "LLMInferenceService") return llm_inference_service();
    if (object_.kind == "RayService") return ray_service();
    if (object_.kind == "ServingRuntime" || object_.kind == "ClusterServingRuntime") {
      object_.why = "a template: put the InferenceService that uses it into the file";
    } else if (object_.kind == "LLMInferenceServiceConfig") {
      object_.why = "a template, which an LLMInferenceService names in baseRefs";
    } else if (object_.kind == "RayCluster" || object_.kind == "RayJob") {
      object_.why = "what Ray is to run there is not in the file";
    }
    return {};
  }

 private:
  const json::object& at(const char* path) const {
    return object_at(*object_.body, path, object_.place);
  }

  void note(MadeDeployment& made, Fate fate, std::string text) const {
    made.findings.push_back({fate, std::move(text)});
  }

  /// The model at a KServe address: a Hub name, or a folder under kMounted.
  std::string model_of(const std::string& address, json::object& pod, json::object& container,
                       MadeDeployment& made) const {
    if (address == "hf://" || address == "pvc://")
      wrong(object_.place, address + " names no model");
    if (address.starts_with("hf://")) {
      const std::string name = address.substr(5);
      return name.substr(0, name.find(':'));
    }
    if (address.starts_with("pvc://")) {
      const std::string rest = address.substr(6);
      const size_t slash = rest.find('/');
      json::object mount = {{"name", "model"}, {"mountPath", kMounted}, {"readOnly", true}};
      if (slash != std::string::npos && slash + 1 < rest.size()) {
        mount["subPath"] = rest.substr(slash + 1);
      }
      pod = merged(pod, {{"volumes", json::array{json::object{
                                         {"name", "model"},
                                         {"persistentVolumeClaim",
                                          json::object{{"claimName", rest.substr(0, slash)}}}}}}});
      container = merged(container, {{"volumeMounts", json::array{std::move(mount)}}});
      return std::string(kMounted);
    }
    if (!address.empty()) {
      made.blockers.push_back(
          fmt::format("the model was fetched from {} by KServe; put its folder on a volume and "
                      "mount that at {}",
                      address.substr(0, 120), kMounted));
    }
    return std::string(kMounted);
  }

  /// The runtime of that name, or without one the first for that format of models.
  const Object* runtime(const std::string& name, const std::string& format) const {
    for (const Object& other : all_) {
      if (other.kind != "ServingRuntime" && other.kind != "ClusterServingRuntime") continue;
      if (!name.empty()) {
        if (other.name == name) return &other;
        continue;
      }
      for (const json::object* supported :
           objects_at(*other.body, "spec.supportedModelFormats", other.place)) {
        if (text_at(*supported, "name", other.place) == format) return &other;
      }
    }
    return nullptr;
  }

  /// Arguments of KServe's own runtime for Hugging Face models, which starts vLLM, as vLLM's.
  static json::array without_wrapper(const std::vector<std::string>& args) {
    std::vector<std::string> out;
    for (size_t i = 0; i < args.size(); ++i) {
      std::string word = args[i];
      std::replace(
          word.begin(),
          word.begin() + static_cast<std::ptrdiff_t>(std::min(word.find('='), word.size())), '_',
          '-');
      const std::string flag = word.substr(0, word.find('='));
      const std::string tail = word.substr(flag.size());
      if (flag == "--backend" || flag == "--task" || flag == "--enable-docs-url") {
        i += tail.empty() && i + 1 < args.size() && !args[i + 1].starts_with('-') ? 1 : 0;
      } else if (flag == "--model-name") {
        out.push_back("--served-model-name" + tail);
      } else if (flag == "--model-id" || flag == "--model-dir") {
        out.push_back("--model" + tail);
      } else if (flag == "--max-length") {
        out.push_back("--max-model-len" + tail);
      } else {
        out.push_back(word);
      }
    }
    return words(out);
  }

  std::vector<MadeDeployment> inference_service() {
    const json::object& predictor = at("spec.predictor");
    const json::object& model = object_at(predictor, "model", object_.place);
    MadeDeployment made;
    json::object pod = pod_fields(predictor);
    if (!model.empty()) {
      if (!serve_model(model, pod, made)) return {};
    } else if (array_at(predictor, "containers", object_.place).empty()) {
      object_.why = "its predictor is no vLLM, TGI or Hugging Face model";
      return {};
    }
    const int64_t least = integer_at(predictor, "minReplicas", 1, object_.place);
    note(made, Fate::kChanged,
         fmt::format("InferenceService {0} -> Deployment {0}; its controller's Service and address "
                     "are not ours. Move the clients, then delete it",
                     object_.name));
    if (find_path(predictor, "maxReplicas", object_.place) != nullptr || least == 0) {
      note(made, Fate::kLeftOut,
           "minReplicas, maxReplicas and scaling down to none: an autoscaler does that");
    }
    for (const char* part : {"transformer", "explainer"}) {
      if (!at("spec").contains(part)) continue;
      note(made, Fate::kLeftOut, fmt::format("spec.{}", part));
      made.blockers.push_back(
          fmt::format("clients reach the model through the {}, which is not "
                      "written",
                      part));
    }
    if (predictor.contains("workerSpec")) {
      note(made, Fate::kLeftOut, "workerSpec: one node is written");
      made.blockers.emplace_back(
          "the model is served by several nodes (workerSpec), and one is "
          "written");
    }
    made.body = deployment(object_, object_.name, std::max<int64_t>(1, least), std::move(pod));
    return {std::move(made)};
  }

  /// A model with a format and a runtime, as a pod with a server. False when it is none of ours.
  bool serve_model(const json::object& model, json::object& pod, MadeDeployment& made) {
    std::string format = text_at(model, "modelFormat.name", object_.place);
    const std::string wanted = text_at(model, "runtime", object_.place);
    const Object* found = runtime(wanted, format);
    std::transform(format.begin(), format.end(), format.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    if (found == nullptr && !contains(format, "vllm") && format != "huggingface") {
      object_.why = wanted.empty()
                        ? fmt::format("model format '{}' is none of vLLM's", format.substr(0, 40))
                        : fmt::format("put its ServingRuntime {} into the file", wanted);
      return false;
    }
    json::object container = {{"name", "kserve-container"}};
    if (found != nullptr) {
      found->used = true;
      const json::object& spec = object_at(*found->body, "spec", found->place);
      for (const json::object* its : objects_at(spec, "containers", found->place)) {
        if (text_at(*its, "name", found->place) == "kserve-container") container = *its;
      }
      json::object runtime_pod = pod_fields(spec);
      runtime_pod.erase("containers");
      pod = merged(runtime_pod, pod);
      note(made, Fate::kKept, fmt::format("{}: its container and pod", found->place.object));
    } else if (!wanted.empty()) {
      made.blockers.push_back(
          fmt::format("the arguments in ServingRuntime {} are not known; put it "
                      "into the file",
                      wanted));
    }
    json::object own;
    for (const char* field : {"image", "command", "args", "env", "envFrom", "resources", "ports",
                              "volumeMounts", "imagePullPolicy", "startupProbe", "readinessProbe",
                              "livenessProbe", "securityContext"}) {
      if (const json::value* value = model.if_contains(field)) own[field] = *value;
    }
    container = merged(container, own);
    json::value text = container;
    fill_name(text, object_.name);
    container = text.get_object();
    const std::string address = text_at(model, "storageUri", object_.place);
    const std::string place = model_of(address, pod, container, made);
    if (model.contains("storage")) {
      made.blockers.push_back(
          fmt::format("the model was fetched from a storage of KServe's; put its "
                      "folder on a volume and mount that at {}",
                      kMounted));
    }
    set_server(container, address.empty() ? "" : place);
    pod["containers"] = json::array{std::move(container)};
    return true;
  }

  /// Names the model, where it has an address, in the place of KServe's mount.
  void set_server(json::object& container, const std::string& model) const {
    std::vector<std::string> command = texts_at(container, "command", object_.place);
    std::vector<std::string> args = texts_at(container, "args", object_.place);
    const bool wrapped =
        command.empty() || std::any_of(command.begin(), command.end(), [](const auto& word) {
          return contains(word, "huggingfaceserver");
        });
    if (wrapped) {
      container["command"] = json::array{"vllm", "serve"};
      container["args"] = without_wrapper(args);
      args = texts_at(container, "args", object_.place);
    }
    bool named = false;
    for (std::vector<std::string>* list : {&command, &args}) {
      for (std::string& word : *list) {
        for (size_t at = word.find(kMounted); at != std::string::npos && !model.empty();
             at = word.find(kMounted, at + model.size())) {
          word.replace(at, kMounted.size(), model);
          named = true;
        }
        named |= word == "--model" || word.starts_with("--model=");
      }
    }
    if (!named && !model.empty()) args.push_back("--model=" + model);
    if (!wrapped) container["command"] = words(command);
    container["args"] = words(args);
  }

  std::vector<MadeDeployment> llm_inference_service() {
    MadeDeployment made;
    const json::object& spec = at("spec");
    json::object pod = object_at(spec, "template", object_.place);
    json::object container = {{"name", "main"}};
    json::array others;
    for (const json::object* its : objects_at(pod, "containers", object_.place)) {
      if (text_at(*its, "name", object_.place) == "main") {
        container = *its;
      } else {
        others.push_back(*its);
      }
    }
    const std::string address = text_at(spec, "model.uri", object_.place);
    if (address.empty()) {
      object_.why = "it names no model; its baseRefs may, and are not in the file";
      return {};
    }
    const std::string model = model_of(address, pod, container, made);
    std::vector<std::string> args = {model};
    if (const std::string name = text_at(spec, "model.name", object_.place); !name.empty()) {
      args.insert(args.end(), {"--served-model-name", name});
    }
    for (const char* ways : {"tensor", "pipeline", "data"}) {
      const int64_t count = integer_at(spec, fmt::format("parallelism.{}", ways), 0, object_.place);
      if (count > 1) {
        args.insert(args.end(), {fmt::format("--{}-parallel-size", ways), fmt::to_string(count)});
      }
    }
    for (const json::object* variable : objects_at(container, "env", object_.place)) {
      if (text_at(*variable, "name", object_.place) != "VLLM_ADDITIONAL_ARGS") continue;
      const auto commands = shell_commands(text_at(*variable, "value", object_.place),
                                           [](const std::string&) { return std::nullopt; });
      if (!commands.empty()) args.insert(args.end(), commands[0].begin(), commands[0].end());
    }
    const std::vector<std::string> own = texts_at(container, "args", object_.place);
    args.insert(args.end(), own.begin(), own.end());
    container["command"] = json::array{"vllm", "serve"};
    container["args"] = words(args);
    json::array containers = {std::move(container)};
    for (json::value& other : others) containers.push_back(std::move(other));
    pod["containers"] = std::move(containers);
    for (const char* part : {"worker", "prefill", "router", "baseRefs"}) {
      if (spec.contains(part)) note(made, Fate::kLeftOut, fmt::format("spec.{}", part));
    }
    note(made, Fate::kChanged,
         fmt::format("LLMInferenceService {0} -> Deployment {0}; its controller's Service and "
                     "address are not ours. Move the clients, then delete it",
                     object_.name));
    const json::value* replicas = spec.if_contains("replicas");
    made.body = deployment(object_, object_.name, replicas == nullptr ? json::value(1) : *replicas,
                           std::move(pod));
    return {std::move(made)};
  }

  std::vector<MadeDeployment> ray_service() {
    std::vector<MadeDeployment> all;
    const std::string text = text_at(*object_.body, "spec.serveConfigV2", object_.place);
    std::string code;
    for (const YamlDocument& document : read_yaml(text, object_.place.file)) {
      if (!document.value.is_object()) continue;
      const json::object& config = document.value.get_object();
      for (const json::object* app : objects_at(config, "applications", object_.place)) {
        const json::value* models = find_path(*app, "args.llm_configs", object_.place);
        if (models == nullptr || !models->is_array()) {
          code += (code.empty() ? "" : ", ") +
                  text_at(*app, "import_path", object_.place).substr(0, 80);
          continue;
        }
        for (const json::object* model : objects_at(*app, "args.llm_configs", object_.place)) {
          all.push_back(ray_model(*model, *app));
        }
      }
    }
    if (all.empty()) {
      object_.why = code.empty() ? "its serveConfigV2 has no application"
                                 : fmt::format(
                                       "it runs Python of its own ({}), and what that "
                                       "serves stands in its code",
                                       code);
    } else if (!code.empty()) {
      note(all[0], Fate::kLeftOut,
           fmt::format("applications of Python of their own: {}", code.substr(0, 200)));
    }
    return all;
  }

  /// One of ray.serve.llm's models: engine_kwargs are vLLM's arguments.
  MadeDeployment ray_model(const json::object& model, const json::object& app) {
    MadeDeployment made;
    const auto text = [&](const char* path) { return text_at(model, path, object_.place); };
    const std::string served = text("model_loading_config.model_id");
    std::string source = text("model_loading_config.model_source");
    if (source.empty()) source = served;
    std::vector<std::string> args = {source};
    if (source != served) args.insert(args.end(), {"--served-model-name", served});
    for (const auto& setting : object_at(model, "engine_kwargs", object_.place)) {
      std::string flag(setting.key());
      std::replace(flag.begin(), flag.end(), '_', '-');
      const json::value& value = setting.value();
      if (value.is_null()) continue;
      if (value.is_bool()) {
        args.push_back((value.get_bool() ? "--" : "--no-") + flag);
      } else {
        args.push_back(fmt::format(
            "--{}={}", flag,
            value.is_string() ? std::string(value.get_string()) : json::serialize(value)));
      }
    }
    json::object pod = ray_pod();
    const auto containers = objects_at(pod, "containers", object_.place);
    json::object container = containers.empty() ? json::object{} : *containers[0];
    for (const char* field :
         {"lifecycle", "ports", "startupProbe", "readinessProbe", "livenessProbe"}) {
      container.erase(field);
    }
    container["name"] = "server";
    container["command"] = json::array{"vllm", "serve"};
    container["args"] = words(args);
    container["ports"] = json::array{json::object{{"name", "http"}, {"containerPort", 8000}}};
    for (const json::object* from : {&app, &model}) {
      json::array env;
      for (const auto& variable : object_at(*from, "runtime_env.env_vars", object_.place)) {
        env.push_back(json::object{
            {"name", variable.key()},
            {"value", text_at({{"value", variable.value()}}, "value", object_.place)}});
      }
      if (!env.empty()) container = merged(container, {{"env", std::move(env)}});
    }
    pod["containers"] = json::array{std::move(container)};
    const int64_t replicas =
        integer_at(model, "deployment_config.autoscaling_config.min_replicas", 1, object_.place);
    const std::string name =
        object_.name.empty() ? dns_label(served) : object_.name + "-" + dns_label(served);
    note(made, Fate::kChanged,
         fmt::format("RayService {}: {} becomes a Deployment with the pod of its workers; Ray's "
                     "Services and address are not ours. Move the clients, then delete it",
                     object_.name, served));
    note(made, Fate::kLeftOut, "Ray's own head, autoscaling and the rest of rayClusterConfig");
    made.body = deployment(object_, name, std::max<int64_t>(1, replicas), std::move(pod));
    return made;
  }

  /// The pod of the first workers, else the head's.
  json::object ray_pod() const {
    const auto groups =
        objects_at(*object_.body, "spec.rayClusterConfig.workerGroupSpecs", object_.place);
    if (!groups.empty()) return object_at(*groups[0], "template.spec", object_.place);
    return at("spec.rayClusterConfig.headGroupSpec.template.spec");
  }

  const Object& object_;
  const std::vector<Object>& all_;
};

}  // namespace

std::vector<MadeDeployment> made_deployments(const Object& object, const std::vector<Object>& all) {
  return Maker(object, all).make();
}

}  // namespace moesaic::deploy
