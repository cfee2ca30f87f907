#include "deploy/server_args.h"

#include <fmt/format.h>

namespace moesaic::deploy {
namespace {

using Args = std::vector<std::string>;

void add(Args& args, std::string_view flag, const std::string& value) {
  if (value.empty()) return;
  args.emplace_back(flag);
  args.push_back(value);
}

void add(Args& args, std::string_view flag, int64_t value, int64_t unless) {
  if (value == unless) return;
  args.emplace_back(flag);
  args.push_back(fmt::to_string(value));
}

/// Logical NeuronCores of a device: two on Trainium 1 and Inferentia 2; later ones have eight
/// physical ones that the runtime pairs unless told otherwise (Neuron documentation, "logical
/// NeuronCore configuration").
int64_t neuron_cores(const std::string& instance) {
  return instance.starts_with("trn1") || instance.starts_with("inf") ? 2 : 4;
}

/// What moesaic calls the backend of an accelerator; empty = it finds none by itself, and takes the
/// processor.
std::string backend_of(const std::string& accelerator) {
  if (is_nvidia(accelerator)) return "cuda";
  if (accelerator == "amd.com/gpu") return "rocm";
  return accelerator.starts_with("aws.amazon.com/neuron") ? "neuron" : "";
}

/// The flags that vLLM and moesaic share; moesaic's settings table has vLLM's names.
Args vllm_flags(const Service& service, bool worker) {
  Args args;
  if (service.engine == Engine::kMoesaic) add(args, "--backend", backend_of(service.accelerator));
  add(args, "--served-model-name", service.served_name);
  add(args, "--port", service.port, 0);
  const int64_t cores =
      service.engine == Engine::kNeuron ? neuron_cores(service.instance) : int64_t{1};
  // vLLM cuts attention over all ranks of a stage and, with expert parallelism, deals whole experts
  // out over the same ranks.
  add(args, "--tensor-parallel-size", service.tp * service.ep * cores, 1);
  add(args, "--pipeline-parallel-size", service.pp, 1);
  if (service.ep > 1 || service.whole_experts) args.emplace_back("--enable-expert-parallel");
  add(args, "--dtype", service.dtype);
  add(args, "--kv-cache-dtype", service.kv_cache_dtype);
  add(args, "--quantization", service.quantization);
  add(args, "--max-model-len", service.max_model_len, 0);
  add(args, "--max-num-seqs", service.max_num_seqs, 0);
  if (service.gpu_memory_utilization > 0 && service.engine != Engine::kNeuron) {
    add(args, "--gpu-memory-utilization", fmt::format("{:.4g}", service.gpu_memory_utilization));
  }
  if (service.engine != Engine::kNeuron) {
    add(args, "--shutdown-timeout", service.drain_seconds, -1);
  }
  if (service.nodes > 1) {
    // Kubernetes fills in $(...) from the environment that LeaderWorkerSet gives every container.
    for (const char* argument : {"--nnodes", "$(LWS_GROUP_SIZE)", "--node-rank",
                                 "$(LWS_WORKER_INDEX)", "--master-addr", "$(LWS_LEADER_ADDRESS)"}) {
      args.emplace_back(argument);
    }
    if (worker) args.emplace_back("--headless");
  }
  return args;
}

Args tgi_flags(const Service& service) {
  Args args = {"--model-id", service.model, "--hostname", "0.0.0.0"};
  add(args, "--port", service.port, 0);
  // TGI splits expert matrices like all others, so every device is a shard.
  add(args, "--num-shard", service.devices_per_node, 0);
  if (service.quantization.empty()) {
    add(args, "--dtype", service.dtype == "auto" ? "" : service.dtype);
  }
  add(args, "--quantize", service.quantization);
  const bool fp8 = service.kv_cache_dtype == "fp8" || service.kv_cache_dtype == "fp8_e4m3";
  const bool own = service.kv_cache_dtype.starts_with("fp8_e5");
  add(args, "--kv-cache-dtype", fp8 ? "fp8_e4m3fn" : own ? service.kv_cache_dtype : "");
  if (service.max_model_len > 0) {
    add(args, "--max-total-tokens", service.max_model_len, 0);
    add(args, "--max-input-tokens", service.max_model_len - 1, 0);
  }
  add(args, "--max-batch-size", service.max_num_seqs, 0);
  if (service.gpu_memory_utilization > 0) {
    add(args, "--cuda-memory-fraction", fmt::format("{:.4g}", service.gpu_memory_utilization));
  }
  add(args, "--graceful-termination-timeout", service.drain_seconds, -1);
  args.emplace_back("--json-output");
  return args;
}

std::vector<EnvVar> environment(const Service& service) {
  std::vector<EnvVar> env = service.env;
  const auto set = [&](std::string_view name, std::string value) {
    for (const EnvVar& given : env) {
      if (given.name == name) return;
    }
    env.push_back({std::string(name), std::move(value), {}});
  };
  if (!service.hf_secret.empty()) {
    std::erase_if(env, [](const EnvVar& given) { return given.name == "HF_TOKEN"; });
    env.push_back({"HF_TOKEN",
                   "",
                   {{"secretKeyRef",
                     {{"name", service.hf_secret},
                      {"key", service.hf_secret_key},
                      // A public model needs no token, and the pod should start without one.
                      {"optional", true}}}}});
  }
  if (service.has_cache) set("HF_HOME", service.cache_path + "/huggingface");
  if (service.engine == Engine::kMoesaic) {
    set("MOESAIC_PREPARED_CACHE", service.has_cache ? service.cache_path + "/prepared" : "off");
    return env;
  }
  // Their images expect root: a home that can be written, and a name for the user id.
  set("HOME", "/tmp");
  set("USER", "server");
  if (service.engine == Engine::kTgi) {
    set("HUGGINGFACE_HUB_CACHE", service.cache_path + "/huggingface/hub");
  }
  if (service.engine == Engine::kNeuron) {
    set("NEURON_COMPILE_CACHE_URL", service.cache_path + "/neuron");
  }
  return env;
}

}  // namespace

ServerCommand server_command(const Service& service, bool worker) {
  ServerCommand result;
  result.env = environment(service);
  switch (service.engine) {
    case Engine::kMoesaic:
      result.args = {"serve", service.model};
      break;
    case Engine::kVllm:
    case Engine::kNeuron:
      // Named outright: the entry point differs between versions of the image.
      result.command = {"vllm", "serve"};
      result.args = {service.model};
      break;
    case Engine::kTgi:
      result.command = {"text-generation-launcher"};
      break;
  }
  const Args flags =
      service.engine == Engine::kTgi ? tgi_flags(service) : vllm_flags(service, worker);
  result.args.insert(result.args.end(), flags.begin(), flags.end());
  result.args.insert(result.args.end(), service.extra_args.begin(), service.extra_args.end());
  return result;
}

}  // namespace moesaic::deploy
