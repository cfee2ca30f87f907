#include "deploy/service.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace moesaic::deploy {
namespace {

using base::ConfigError;
using base::UsageError;

constexpr int64_t kGiB = int64_t{1} << 30;
/// An estimate: what one connection to the Hub brings on a cloud node, 1 Gbit/s.
constexpr double kDownloadBytesPerSecond = 125e6;

/// Seconds that a first start on Neuron may take, as it compiles the model before anything answers:
/// what AWS's own samples for vLLM on Trainium give it (570 probes of 30 s).
constexpr int64_t kNeuronStart = 17'100;

struct EngineFacts {
  Engine engine;
  std::string_view name;
  std::string_view image;
};

// vLLM and TGI: the tags whose flags and metrics were read. Neuron: the image that the Neuron SDK
// 2.33 documentation names, for Trainium 2 and later.
constexpr EngineFacts kEngines[] = {
    {Engine::kMoesaic, "moesaic", "moesaic:0.1.0"},
    {Engine::kVllm, "vllm", "vllm/vllm-openai:v0.32.0"},
    {Engine::kTgi, "tgi", "ghcr.io/huggingface/text-generation-inference:3.3.7"},
    {Engine::kNeuron, "neuron",
     "public.ecr.aws/neuron/pytorch-inference-vllm-neuronx:"
     "0.29.0.1.2.0-neuronx-py314-sdk2.33.0-ubuntu26.04"},
};

/// The last image for Trainium 1 and Inferentia 2: the newer ones are for later chips (Neuron SDK
/// documentation, "Configure and deploy a vLLM server").
constexpr std::string_view kOldNeuronImage =
    "public.ecr.aws/neuron/pytorch-inference-vllm-neuronx:"
    "0.16.0-neuronx-py312-sdk2.30.0-ubuntu24.04";

/// Ours with the CUDA backend (the Dockerfile's target cuda).
constexpr std::string_view kCudaImage = "moesaic:0.1.0-cuda";

const EngineFacts& facts(Engine engine) {
  return *std::find_if(std::begin(kEngines), std::end(kEngines),
                       [&](const EngineFacts& row) { return row.engine == engine; });
}

void check_label(std::string_view what, const std::string& text, size_t longest) {
  if (is_dns_label(text, longest)) return;
  throw UsageError(
      fmt::format("{} '{}' is no DNS label (a-z, 0-9 and '-', a letter first, at most {} "
                  "characters); '{}' would be",
                  what, text.substr(0, 80), longest, dns_label(text).substr(0, longest)));
}

void check_object_name(std::string_view what, const std::string& text, bool dots) {
  if (text.empty()) return;
  if (is_dns_subdomain(text) && (dots || (text.size() <= 63 && text.find('.') == text.npos)))
    return;
  throw UsageError(
      fmt::format("{} '{}' is no name of an object (a-z, 0-9, '-'{}; a letter or digit "
                  "at both ends)",
                  what, text.substr(0, 80), dots ? ", '.'" : ""));
}

/// A label's value: "a-z, A-Z, 0-9, '-', '_', '.'", at most 63.
bool is_label_value(std::string_view text) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  if (text.empty()) return true;
  return text.size() <= 63 && letter(text[0]) && letter(text.back()) &&
         std::all_of(text.begin(), text.end(),
                     [&](char c) { return letter(c) || c == '-' || c == '_' || c == '.'; });
}

void check_names(const Service& service) {
  check_label("--name", service.name, kMaxNameLength);
  check_object_name("--namespace", service.name_space, false);
  check_object_name("--gateway-namespace", service.gateway_space, false);
  check_object_name("--monitoring-namespace", service.monitor_space, false);
  check_object_name("--gateway", service.gateway, true);
  check_object_name("--endpoint-picker", service.endpoint_picker, true);
  check_object_name("--hub-secret", service.hf_secret, true);
  check_object_name("--storage-class", service.storage_class, true);
  check_object_name("--cache-claim", service.cache_claim, true);
  std::string_view host = service.hostname;
  if (host.starts_with("*.")) host.remove_prefix(2);
  check_object_name("--hostname", std::string(host), true);
  if (!is_label_value(service.monitor_label)) {
    throw UsageError(fmt::format("--prometheus-release '{}' is no label's value",
                                 service.monitor_label.substr(0, 80)));
  }
  if (service.model.empty()) throw UsageError("there is no model to serve");
  for (const std::string& text : {service.model, service.image}) {
    const bool odd = std::any_of(text.begin(), text.end(), [](char c) {
      return static_cast<unsigned char>(c) <= ' ' || static_cast<unsigned char>(c) >= 0x7f;
    });
    if (odd && text.find("{{") != std::string::npos) {
      throw UsageError(fmt::format("'{}' is a template's; render it first, as 'helm template' does",
                                   text.substr(0, 80)));
    }
    if (odd) throw UsageError(fmt::format("'{}' has spaces or odd characters", text.substr(0, 80)));
  }
  const std::string& prefix = service.path_prefix;
  if (!prefix.empty() &&
      (prefix[0] != '/' || prefix.find("//") != std::string::npos ||
       prefix.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "-._~/") != std::string::npos)) {
    throw UsageError(
        fmt::format("--path-prefix '{}' is no plain path; write it as '/mixtral'", prefix));
  }
}

void check_parallel(const Service& service) {
  if (service.accelerator.empty() || service.ranks_in_args) return;
  const int64_t devices = service.devices_per_node * service.nodes;
  const int64_t ranks = service.tp * service.ep * service.pp;
  if (ranks == devices) return;
  throw ConfigError(fmt::format(
      "tp {} x ep {} x pp {} are {} ranks, but each replica has {} devices ({} node(s) of {}); "
      "choose --tp, --ep, --pp, --nodes or --devices so that they agree",
      service.tp, service.ep, service.pp, ranks, devices, service.nodes, service.devices_per_node));
}

void check_engine(const Service& service) {
  const std::string_view name = engine_name(service.engine);
  const bool vllm = service.engine == Engine::kVllm || service.engine == Engine::kMoesaic;
  if (service.nodes > 1 && !vllm) {
    throw ConfigError(fmt::format(
        "{} runs one replica on one node, and this plan takes {}; use --engine moesaic or vllm, "
        "or an instance that holds the model",
        name, service.nodes));
  }
  if (service.pp > 1 && !vllm) {
    throw ConfigError(fmt::format("{} has no pipeline parallelism; give --pp 1", name));
  }
  if (service.engine == Engine::kNeuron && service.accelerator != "aws.amazon.com/neuron") {
    throw ConfigError(
        "--engine neuron needs a Trainium or Inferentia instance, such as "
        "trn1.32xlarge or trn2.48xlarge");
  }
  if (vllm && service.engine == Engine::kVllm && service.accelerator == "aws.amazon.com/neuron") {
    throw ConfigError("the vLLM image is for NVIDIA GPUs; for Trainium use --engine neuron");
  }
  if (service.engine == Engine::kTgi && service.accelerator != "nvidia.com/gpu") {
    throw ConfigError("the TGI image needs NVIDIA GPUs; name such an instance");
  }
}

/// "10.0.0.0/8" or "2001:db8::/32", as far as a policy needs it told from a namespace.
bool is_address_range(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return false;
  const std::string address = text.substr(0, slash);
  int64_t bits = -1;
  const auto [end, error] =
      std::from_chars(text.data() + slash + 1, text.data() + text.size(), bits);
  unsigned char bytes[16];
  const bool four = inet_pton(AF_INET, address.c_str(), bytes) == 1;
  const bool six = inet_pton(AF_INET6, address.c_str(), bytes) == 1;
  return error == std::errc{} && end == text.data() + text.size() && bits >= 0 &&
         ((four && bits <= 32) || (six && bits <= 128));
}

void check_clients(const Service& service) {
  for (const std::string& client : service.allow_from) {
    if (is_address_range(client)) continue;
    if (client.find('/') != std::string::npos) {
      throw UsageError(fmt::format("--allow-from '{}' is no address range such as 10.0.0.0/8",
                                   client.substr(0, 60)));
    }
    check_object_name("--allow-from", client, false);
  }
}

}  // namespace

void check_parts(const std::vector<std::string>& without) {
  for (const std::string& part : without) {
    const auto parts = optional_parts();
    if (std::find(parts.begin(), parts.end(), part) != parts.end()) continue;
    throw UsageError(fmt::format("--without '{}': it is none of {}", part.substr(0, 40),
                                 fmt::join(parts, ", ")));
  }
}

namespace {

/// The image that a service runs when nobody names one.
std::string_view default_image(const Service& service) {
  const bool old_chips =
      service.instance.starts_with("trn1") || service.instance.starts_with("inf");
  if (service.engine == Engine::kNeuron && old_chips) return kOldNeuronImage;
  if (service.engine == Engine::kMoesaic && is_nvidia(service.accelerator)) return kCudaImage;
  return facts(service.engine).image;
}

void derive(Service& service) {
  if (service.image.empty()) service.image = default_image(service);
  if (service.gateway.empty()) service.gateway = "gateway";
  if (service.monitor_space.empty()) service.monitor_space = "monitoring";
  if (service.hf_secret_key.empty()) service.hf_secret_key = "token";
  if (service.cache_path.empty()) service.cache_path = "/models";
  service.max_replicas = std::max(service.max_replicas, service.replicas);
  // NCCL's shared-memory transport and the engines' worker queues live in /dev/shm; 1 GiB is what
  // TGI's documentation asks for and more ranks get a gigabyte each.
  if (service.shm_bytes == 0) {
    service.shm_bytes = std::max<int64_t>(1, service.devices_per_node) * kGiB;
  }
  if (service.cache_bytes == 0) {
    // The checkpoint, and once more for a new revision beside it or for prepared weights.
    service.cache_bytes =
        service.weights_bytes > 0 ? 2 * service.weights_bytes + 20 * kGiB : 500 * kGiB;
  }
  if (service.memory_bytes == 0) {
    // /dev/shm counts against the limit. Without an accelerator the weights live here too.
    const int64_t weights = service.accelerator.empty() ? 2 * service.weights_bytes : 0;
    service.memory_bytes = 16 * kGiB + service.shm_bytes + weights;
  }
}

}  // namespace

std::string_view engine_name(Engine engine) { return facts(engine).name; }

Engine engine_from(std::string_view name) {
  for (const EngineFacts& row : kEngines) {
    if (row.name == name) return row.engine;
  }
  // Four names: the one that shares the longest beginning is the nearest.
  const auto shared = [&](const EngineFacts& row) {
    return std::mismatch(name.begin(), name.end(), row.name.begin(), row.name.end()).first -
           name.begin();
  };
  const auto* nearest = std::max_element(
      std::begin(kEngines), std::end(kEngines),
      [&](const EngineFacts& a, const EngineFacts& b) { return shared(a) < shared(b); });
  throw UsageError(fmt::format(
      "--engine '{}' is none of moesaic, vllm, tgi and neuron{}", name.substr(0, 40),
      shared(*nearest) > 0 ? fmt::format("; did you mean {}?", nearest->name) : std::string()));
}

bool is_nvidia(std::string_view resource) { return resource.starts_with("nvidia.com/"); }

std::string dns_label(std::string_view text) {
  while (text.ends_with('/')) text.remove_suffix(1);
  if (const size_t slash = text.rfind('/'); slash != std::string_view::npos) {
    text.remove_prefix(slash + 1);
  }
  std::string label;
  for (char c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (plain) {
      label += c;
    } else if (!label.empty() && label.back() != '-') {
      label += '-';
    }
  }
  if (label.empty() || label[0] < 'a') label.insert(0, "m-");
  label.resize(std::min(label.size(), kMaxNameLength));
  while (label.back() == '-') label.pop_back();
  return label;
}

bool is_dns_label(std::string_view text, size_t longest) {
  if (text.empty() || text.size() > longest || text[0] < 'a' || text[0] > 'z') return false;
  return text.back() != '-' && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
         });
}

bool is_dns_subdomain(std::string_view text) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  if (text.empty() || text.size() > 253 || !plain(text[0]) || !plain(text.back())) return false;
  for (size_t i = 1; i + 1 < text.size(); ++i) {
    const bool dot = text[i] == '.' && plain(text[i - 1]) && plain(text[i + 1]);
    if (!plain(text[i]) && text[i] != '-' && !dot) return false;
  }
  return true;
}

bool is_below(const std::string& path, const std::string& folder) {
  return !folder.empty() && (path == folder || path.starts_with(folder + "/"));
}

void complete(Service& service) {
  if (service.name.empty()) service.name = dns_label(service.model);
  if (service.path_prefix == "/") service.path_prefix.clear();
  while (service.path_prefix.ends_with('/')) service.path_prefix.pop_back();
  check_names(service);
  check_engine(service);
  check_parallel(service);
  check_parts(service.without);
  check_clients(service);
  derive(service);
}

std::span<const std::string_view> optional_parts() {
  static constexpr std::string_view kParts[] = {"service",    "httproute",        "networkpolicy",
                                                "autoscaler", "disruptionbudget", "servicemonitor",
                                                "rules",      "dashboard"};
  return kParts;
}

bool has_part(const Service& service, std::string_view part) {
  if (part == "inferencepool") return !service.endpoint_picker.empty();
  return std::find(service.without.begin(), service.without.end(), part) == service.without.end();
}

bool shares_cache(const Service& service) { return service.max_replicas > 1 || service.nodes > 1; }

int64_t startup_budget(const Service& service) {
  if (service.kept.start_seconds > 0) return service.kept.start_seconds;
  const double download = static_cast<double>(service.weights_bytes) / kDownloadBytesPerSecond;
  const int64_t budget = static_cast<int64_t>(std::ceil(2 * service.load_seconds + download)) + 120;
  return service.engine == Engine::kNeuron ? std::max(budget, kNeuronStart) : budget;
}

int64_t grace_seconds(const Service& service) {
  return kPreStopSeconds + service.drain_seconds + kEndSeconds;
}

std::string cache_claim(const Service& service) {
  if (!service.cache_claim.empty()) return service.cache_claim;
  return service.cache_claim_name.empty() ? service.name + "-cache" : service.cache_claim_name;
}

std::string service_name(const Service& service) {
  return service.kept.service_name.empty() ? service.name : service.kept.service_name;
}

const std::string& workload_name(const Service& service) {
  return service.kept.workload.empty() ? service.name : service.kept.workload;
}

bool writes_replicas(const Service& service) {
  return service.kept.existing ? service.kept.replicas : !has_part(service, "autoscaler");
}

}  // namespace moesaic::deploy
