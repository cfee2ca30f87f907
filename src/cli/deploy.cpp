#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/deploy_report.h"
#include "deploy/manifests.h"
#include "plan/plan.h"

namespace moesaic::cli {
namespace {

using base::UsageError;
using deploy::Service;

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int64_t kMostReplicas = 10000;
constexpr int64_t kMostTokens = int64_t{1} << 30;

/// What a container may have of its node: the kubelet, the system and the node's own pods need the
/// rest. An estimate, on the safe side of EKS's reservations for large nodes.
constexpr double kMemoryShare = 0.8;
/// Fits the smallest instances with one accelerator, which have four, less what the node keeps.
constexpr int64_t kCpusPerDevice = 3;

double share_option(const Invocation& invocation, const std::string& name, double fallback) {
  if (!invocation.has(name)) return fallback;
  const std::string text = invocation.option(name, "");
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !(value > 0 && value <= 1)) {
    throw UsageError(fmt::format("--{}: '{}' is not a share in 0..1", name, text.substr(0, 40)));
  }
  return value;
}

plan::PlanInputs plan_inputs(const Invocation& invocation, const Service& service) {
  plan::PlanInputs inputs;
  std::optional<std::filesystem::path> hardware;
  if (invocation.has("hardware")) hardware = invocation.option("hardware", "");
  inputs.catalog = plan::load_catalog(hardware);
  inputs.model = plan::resolve_model(invocation.option("model-config", service.model));
  inputs.instances = {service.instance};
  inputs.engine = deploy::engine_name(service.engine);
  if (service.max_model_len > 0) inputs.context = service.max_model_len;
  if (invocation.has("concurrency")) {
    inputs.concurrency = invocation.integer("concurrency", 0, 1, 1 << 20);
  }
  if (!service.dtype.empty()) inputs.dtype = service.dtype;
  if (!service.quantization.empty()) inputs.quantization = service.quantization;
  if (!service.kv_cache_dtype.empty()) inputs.kv_cache_dtype = service.kv_cache_dtype;
  const auto ranks = [&](const std::string& name) -> std::optional<int64_t> {
    if (!invocation.has(name)) return std::nullopt;
    return invocation.integer(name, 1, 1, 65536);
  };
  inputs.tp = ranks("tp");
  inputs.ep = ranks("ep");
  inputs.pp = ranks("pp");
  inputs.utilization = share_option(invocation, "utilization", inputs.utilization);
  return inputs;
}

/// The plan's one candidate; throws ConfigError with the remedies when it does not fit.
const plan::Candidate& fitting(const plan::Plan& plan) {
  const plan::Candidate& candidate = plan.candidates.at(0);
  if (candidate.fits) return candidate;
  std::string message = fmt::format("{} does not fit on {}: {}", plan.inputs.model.name,
                                    candidate.instance, candidate.reason);
  for (const plan::Remedy& remedy : plan.remedies) {
    message += fmt::format("\n  {}: {}", remedy.change, remedy.effect);
  }
  throw base::ConfigError(message);
}

/// Elastic Fabric Adapters of an instance: its network cards, as AWS's list of EFA instance types
/// has them (recalled, November 2026; --efa wins). A node whose first card carries its address
/// alone offers one fewer.
struct Fabric {
  std::string_view instance;
  int64_t interfaces;
};
constexpr Fabric kFabrics[] = {
    {"p4d.24xlarge", 4},      {"p4de.24xlarge", 4},  {"p5.48xlarge", 32},
    {"p5e.48xlarge", 32},     {"p5en.48xlarge", 16}, {"p6-b200.48xlarge", 8},
    {"p6-b300.48xlarge", 16}, {"g5.48xlarge", 1},    {"g6.48xlarge", 1},
    {"g6e.48xlarge", 4},      {"trn1.32xlarge", 8},  {"trn1n.32xlarge", 16},
    {"trn2.48xlarge", 16},
};

/// Chips that a pod may have of a Trainium 1 instance: they lie on a torus, and its scheduler deals
/// out these numbers (Neuron documentation, "Neuron scheduler extension").
constexpr int64_t kTorusChips[] = {1, 4, 8, 16};

bool is_torus(const std::string& instance) { return instance.starts_with("trn1"); }

bool may_have(const std::string& instance, int64_t chips) {
  return !is_torus(instance) ||
         std::find(std::begin(kTorusChips), std::end(kTorusChips), chips) != std::end(kTorusChips);
}

/// A plan whose pod can be had: of Trainium 1, the next number of chips that is dealt out.
plan::Plan plan_that_is_dealt_out(plan::PlanInputs inputs) {
  plan::Plan plan = plan::make_plan(inputs);
  const plan::Candidate& first = plan.candidates.at(0);
  const int64_t chips = first.devices / std::max<int64_t>(1, first.nodes);
  if (!first.fits || may_have(first.instance, chips)) return plan;
  if (inputs.tp || inputs.ep || inputs.pp) {
    throw base::ConfigError(
        fmt::format("a pod has 1, 4, 8 or 16 chips of {}, not {}; leave --tp, "
                    "--ep and --pp out, or choose them so",
                    first.instance, chips));
  }
  for (const int64_t more : kTorusChips) {
    if (more < chips) continue;
    inputs.pp = 1;
    inputs.ep = 1;
    inputs.tp = more;
    plan = plan::make_plan(inputs);
    if (plan.candidates.at(0).fits) break;
  }
  return plan;
}

/// What several nodes, or a part of a Trainium node, need of the cluster.
void fill_fabric(const Invocation& invocation, const plan::Candidate& candidate, Service& service) {
  if (service.nodes > 1) {
    const auto* row =
        std::find_if(std::begin(kFabrics), std::end(kFabrics),
                     [&](const Fabric& fabric) { return fabric.instance == service.instance; });
    service.efa_interfaces = row == std::end(kFabrics) ? 0 : row->interfaces;
  }
  service.efa_interfaces = invocation.integer("efa", service.efa_interfaces, 0, 64);
  const bool part = service.accelerator == "aws.amazon.com/neuron" &&
                    service.devices_per_node > 1 &&
                    service.devices_per_node < candidate.instance_devices;
  service.scheduler = invocation.option("scheduler", part ? "my-scheduler" : "");
  if (part && !invocation.has("scheduler")) {
    print_wrapped(
        fmt::format("Note: {} of {} chips have to lie side by side, which the Neuron "
                    "scheduler extension sees to; its name here is {}, and --scheduler "
                    "gives another.",
                    service.devices_per_node, candidate.instance_devices, service.scheduler),
        0);
  }
  if (service.efa_interfaces > 0) {
    print_wrapped(
        fmt::format("Note: the nodes talk over {} Elastic Fabric Adapters each, which the "
                    "EFA device plugin offers and the container's NCCL or Neuron "
                    "libraries must know; --efa 0 leaves them out.",
                    service.efa_interfaces),
        0);
  }
}

/// vLLM and TGI cut an expert in equal parts and cannot pad them to the blocks of its scales.
void fill_experts(const plan::Plan& plan, const plan::Candidate& candidate, Service& service) {
  const plan::Layout cut{candidate.tp, candidate.ep, candidate.pp};
  if (plan::expert_widths_divide(plan.inputs.model.spec, cut, plan.format)) return;
  if (service.engine == deploy::Engine::kTgi) {
    throw base::ConfigError(fmt::format(
        "TGI cannot cut the experts of {} {} ways, as their quantisation is in blocks; give --tp, "
        "or another --engine",
        plan.inputs.model.name, candidate.tp));
  }
  if (service.engine != deploy::Engine::kVllm) return;
  service.whole_experts = true;
  print_wrapped(
      fmt::format("Note: vLLM cannot cut the experts {} ways, as their quantisation is in "
                  "blocks; so each of its ranks has whole ones "
                  "(--enable-expert-parallel).",
                  candidate.tp),
      0);
}

/// The seam between plan and manifests: fills what the plan decides.
void fill_from(const plan::Plan& plan, const plan::Candidate& candidate, Service& service) {
  const plan::Instance& instance = *plan.inputs.catalog.find_instance(candidate.instance);
  service.instance = instance.name;
  service.accelerator =
      candidate.vendor == "aws-neuron" ? "aws.amazon.com/neuron" : "nvidia.com/gpu";
  service.nodes = candidate.nodes;
  service.devices_per_node = candidate.devices / candidate.nodes;
  service.tp = candidate.tp;
  service.ep = candidate.ep;
  service.pp = candidate.pp;
  service.gpu_memory_utilization = plan.inputs.utilization;
  if (service.max_model_len == 0) {
    // Said outright, so that a server that measures a little less memory does not refuse to start.
    service.max_model_len = std::min(plan.inputs.model.spec.max_position, candidate.max_model_len);
  }
  service.weights_bytes =
      static_cast<int64_t>(plan::weight_bytes(plan.inputs.model.spec, plan.format));
  service.load_seconds = candidate.load_seconds;
  const double part = static_cast<double>(service.devices_per_node) /
                      static_cast<double>(std::max<int64_t>(1, candidate.instance_devices));
  service.memory_bytes =
      static_cast<int64_t>(kMemoryShare * part * static_cast<double>(instance.host_memory_bytes));
  service.cpus = kCpusPerDevice * service.devices_per_node;
  // Four times the plan is a fault, not noise.
  service.alerts.first_token_seconds =
      std::max(service.alerts.first_token_seconds, std::ceil(4 * candidate.first_token_seconds));
}

void print_plan(const plan::Plan& plan, const plan::Candidate& candidate) {
  print_wrapped(
      fmt::format("{} on {}: {} x {} over {} node(s), tp {}, ep {}, pp {}; room for {} tokens of "
                  "KV cache; about {:.0f} s to load.",
                  plan.inputs.model.name, candidate.instance, candidate.devices,
                  candidate.accelerator, candidate.nodes, candidate.tp, candidate.ep, candidate.pp,
                  candidate.kv_tokens, candidate.load_seconds),
      0);
  if (!plan.inputs.model.relation.empty()) {
    print_wrapped(plan.inputs.model.asked + " " + plan.inputs.model.relation, 0);
  }
  for (const std::string& note : candidate.notes) print_wrapped("Note: " + note, 0);
}

/// What flags say, before and over the plan.
Service service_of(const Invocation& invocation) {
  Service service;
  service.model = invocation.arguments[0];
  service.engine = deploy::engine_from(invocation.option("engine", "moesaic"));
  if (service.engine == deploy::Engine::kTgi) {
    // The image's Python lies in root's home, where no other user may look.
    service.run_as = 0;
    service.run_as_group = 0;
  }
  service.name = invocation.option("name", deploy::dns_label(service.model));
  service.name_space = invocation.option("namespace", "");
  service.image = invocation.option("image", "");
  service.instance = invocation.option("instance", "");
  service.served_name = invocation.option("served-model-name", "");
  service.replicas = invocation.integer("replicas", 1, 1, kMostReplicas);
  service.max_replicas =
      invocation.integer("max-replicas", 2 * service.replicas, service.replicas, 2 * kMostReplicas);
  service.dtype = invocation.option("dtype", "");
  service.quantization = invocation.option("quantization", "");
  service.kv_cache_dtype = invocation.option("kv-cache-dtype", "");
  service.max_model_len = invocation.integer("max-model-len", 0, 1, kMostTokens);
  service.max_num_seqs = invocation.integer("max-num-seqs", 0, 1, 65536);
  service.port = invocation.integer("port", 8000, 1024, 65535);
  service.path_prefix = invocation.option("path-prefix", "/" + service.name);
  service.hostname = invocation.option("hostname", "");
  service.gateway = invocation.option("gateway", "");
  service.gateway_space = invocation.option("gateway-namespace", "");
  service.endpoint_picker = invocation.option("endpoint-picker", "");
  service.allow_from = split_list(invocation.option("allow-from", ""));
  service.monitor_space = invocation.option("monitoring-namespace", "");
  service.monitor_label = invocation.option("prometheus-release", "");
  service.hf_secret = invocation.option("hub-secret", "hf-token");
  service.storage_class = invocation.option("storage-class", "");
  service.cache_claim = invocation.option("cache-claim", "");
  service.drain_seconds = invocation.integer("drain-seconds", 60, 0, 86400);
  service.without = split_list(invocation.option("without", ""));
  service.queue_target = invocation.integer("queue-target", service.queue_target, 1, 1 << 20);
  for (size_t i = 1; i < invocation.arguments.size(); ++i) {
    service.extra_args.push_back(invocation.arguments[i]);
  }
  return service;
}

void apply_sizes(const Invocation& invocation, Service& service) {
  constexpr int64_t kMostGiB = 1 << 20;
  service.cpus = invocation.integer("cpus", service.cpus, 1, 4096);
  const auto gibibytes = [&](const std::string& name, int64_t& bytes) {
    if (invocation.has(name)) bytes = invocation.integer(name, 1, 1, kMostGiB) * kGiB;
  };
  gibibytes("memory-gib", service.memory_bytes);
  gibibytes("shm-gib", service.shm_bytes);
  gibibytes("cache-gib", service.cache_bytes);
  gibibytes("weights-gib", service.weights_bytes);
  service.load_seconds = static_cast<double>(invocation.integer(
      "load-seconds", static_cast<int64_t>(std::ceil(service.load_seconds)), 1, 86400));
}

void print_notes(const Service& service) {
  if (!service.gateway_space.empty()) {
    print_wrapped(
        fmt::format("Note: the Gateway's listener must take routes of {} "
                    "(allowedRoutes). Where its pods run in yet another namespace, or its "
                    "load balancer is outside the cluster, name that with --allow-from.",
                    service.name_space.empty() ? "this namespace" : service.name_space),
        0);
  }
  if (deploy::shares_cache(service) && service.cache_claim.empty() &&
      service.storage_class.empty()) {
    print_wrapped(
        "Note: The cache is shared by several pods, so its storage class must offer ReadWriteMany "
        "(EFS, FSx for Lustre, NFS); name it with --storage-class, or give --max-replicas 1.",
        0);
  }
}

int run_deploy(const Invocation& invocation) {
  if (invocation.arguments.empty()) {
    throw UsageError(
        "deploy which model? Give a Hub name such as mistralai/Mixtral-8x7B-Instruct-v0.1, or the "
        "path of a folder on the cache volume");
  }
  if (!invocation.has("output")) throw UsageError("deploy needs -o DIR, the folder to write");
  Service service = service_of(invocation);
  if (!service.instance.empty()) {
    const plan::Plan plan = plan_that_is_dealt_out(plan_inputs(invocation, service));
    const plan::Candidate& candidate = fitting(plan);
    fill_from(plan, candidate, service);
    print_plan(plan, candidate);
    fill_experts(plan, candidate, service);
    fill_fabric(invocation, candidate, service);
  }
  apply_sizes(invocation, service);
  deploy::complete(service);
  print_notes(service);
  const std::filesystem::path folder = invocation.option("output", "");
  const auto written = deploy::write_manifests(folder, deploy::manifests(service));
  fmt::print("\n");
  std::vector<std::string> reasons = reasons_not_to_start(service);
  if (!reasons.empty()) reasons.emplace_back("Another container can: --engine vllm, tgi, neuron.");
  print_written(service, folder, written, {}, reasons);
  return 0;
}

}  // namespace

Command deploy_command() {
  return {
      "deploy",
      "MODEL",
      "Write the Kubernetes manifests that serve a model.",
      "The plan for MODEL on --instance decides devices, memory and delays; without --instance the "
      "pods ask for processors only. Arguments after -- go to the server as they stand. "
      "docs/deploy.md says what each file is for.",
      {{"output", "DIR", "Folder to write; files of other makers in it are left alone.", "-o"},
       {"instance", "NAME", "Instance type of the nodes, as in 'moesaic plan'."},
       {"hardware", "FILE", "YAML file of more accelerators and instances."},
       {"model-config", "FILE", "What to plan from, when MODEL is a path inside the pod."},
       {"engine", "NAME", "moesaic (default), vllm, tgi or neuron: whose container serves."},
       {"image", "IMAGE", "The container image."},
       {"name", "NAME", "Name of all objects (default: from MODEL)."},
       {"namespace", "NAME", "Namespace of all objects."},
       {"served-model-name", "NAME", "Name that the API answers to."},
       {"replicas", "N", "Replicas to start with and never to go below (default 1)."},
       {"max-replicas", "N", "Most replicas (default: twice as many)."},
       {"tp", "N", "Ways in which each expert is cut (default: planned)."},
       {"ep", "N", "Groups over which experts are dealt out (default: planned)."},
       {"pp", "N", "Pipeline stages (default: planned)."},
       {"max-model-len", "N", "Longest prompt plus output in tokens (default: planned)."},
       {"max-num-seqs", "N", "Sequences that run at once."},
       {"concurrency", "N", "Sequences of that length that must fit at once."},
       {"dtype", "TYPE", "Type of plain weights: auto, bfloat16, float16."},
       {"quantization", "NAME", "How the checkpoint is quantised: fp8, awq, gptq, ..."},
       {"kv-cache-dtype", "TYPE", "auto, bfloat16, float16, fp8."},
       {"utilization", "SHARE", "Share of each device's memory to use (default 0.9)."},
       {"efa", "N", "Elastic Fabric Adapters of a pod on several nodes (default: all)."},
       {"scheduler", "NAME", "Scheduler of the pods (part of a Trainium node: my-scheduler)."},
       {"cpus", "N", "Processors of a pod (default: 3 for each device, else 8)."},
       {"memory-gib", "N", "Host memory of a pod."},
       {"shm-gib", "N", "Size of /dev/shm (default: 1 for each device)."},
       {"cache-gib", "N", "Size of the cache volume (default: two checkpoints and 20)."},
       {"weights-gib", "N", "Size of the checkpoint, when there is no plan."},
       {"load-seconds", "N", "Seconds a start takes, for the probes (default: planned, or 120)."},
       {"drain-seconds", "N", "Seconds that running requests have to end (default 60)."},
       {"queue-target", "N", "Waiting requests per pod that the autoscaler aims at (default 4)."},
       {"port", "N", "Port of the container (default 8000)."},
       {"path-prefix", "PATH", "Path of the route, cut off before the server (default: /NAME)."},
       {"hostname", "HOST", "Host name of the route (default: any)."},
       {"gateway", "NAME", "Gateway that the route belongs to (default: gateway)."},
       {"gateway-namespace", "NAME", "Namespace of the Gateway (default: the same)."},
       {"endpoint-picker", "NAME", "Route by an InferencePool whose picker is this Service."},
       {"allow-from", "LIST", "More clients: namespaces, and address ranges as 10.0.0.0/8."},
       {"monitoring-namespace", "NAME", "Where Prometheus runs (default: monitoring)."},
       {"prometheus-release", "NAME", "Label 'release' that Prometheus selects by."},
       {"without", "LIST", kWithoutHelp},
       {"hub-secret", "NAME", "Secret with the Hub token under 'token' (default: hf-token)."},
       {"storage-class", "NAME", "Storage class of the cache volume."},
       {"cache-claim", "NAME", "A volume claim that exists already, instead of a new one."}},
      {},
      run_deploy};
}

}  // namespace moesaic::cli
