// This machine as a candidate: planned by the very function that the server sizes its KV pool with.

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "model/memory_needs.h"
#include "model/weights.h"
#include "plan/plan.h"

namespace moesaic::plan {

namespace {

tensor::DType weight_type(const PlanInputs& inputs) {
  if (inputs.dtype == "auto") return inputs.model.spec.dtype;
  return tensor::dtype_from_torch(inputs.dtype).value_or(tensor::DType::kBF16);
}

/// What the server cannot do on a CPU; empty when it can.
std::string refusal(const Setting& setting) {
  const PlanInputs& inputs = *setting.inputs;
  if (!inputs.model.spec.not_served.empty()) return inputs.model.spec.not_served;
  if (!setting.format.plain() && !as_published(inputs)) {
    return "weights are not quantised while they are loaded yet";
  }
  if (setting.kv_element_bytes < 2) return "an fp8 KV cache is not supported yet";
  if (inputs.tp.value_or(1) * inputs.ep.value_or(1) * inputs.pp.value_or(1) > 1) {
    return "more than one rank is not supported yet";
  }
  return "";
}

}  // namespace

Candidate plan_host(const Setting& setting) {
  const PlanInputs& inputs = *setting.inputs;
  const HostDevice& host = *inputs.host;
  const model::ModelSpec& spec = inputs.model.spec;
  Candidate candidate;
  candidate.instance = kHostInstance;
  candidate.accelerator = "this CPU";
  candidate.vendor = "cpu";
  candidate.engine = "moesaic";
  candidate.device_bytes = host.memory_bytes;
  candidate.engine_runs = inputs.engine == candidate.engine;
  candidate.price_date = candidate.price_source = "not rented";
  candidate.reason = refusal(setting);
  if (!candidate.reason.empty()) return candidate;
  model::MemoryInputs wanted;
  wanted.format = weight_type(inputs);
  wanted.kv_dtype = setting.kv_element_bytes > 2 ? tensor::DType::kF32 : wanted.format.base;
  wanted.max_rows = inputs.step_rows;
  wanted.max_sequences = setting.load.concurrency.value_or(kUsualLoad);
  wanted.max_model_len = setting.load.context;
  wanted.device_bytes = host.memory_bytes;
  wanted.utilization = setting.utilization;
  const model::WeightLayout layout = lay_out_weights(spec, *host.backend, wanted.format);
  const model::WeightParts parts = weight_parts(layout);
  MemoryTerms& terms = candidate.per_device;
  terms.attention = parts.attention;
  terms.experts = parts.experts;
  terms.shared_experts = parts.shared;
  terms.embeddings = parts.embeddings;
  try {
    const model::MemoryNeeds plan = memory_needs(spec, *host.backend, wanted);
    terms.kv_cache = plan.kv_cache;
    terms.activations = plan.activations;
    terms.runtime = plan.requests + plan.runtime;
    terms.margin = host.memory_bytes - plan.total();
    candidate.kv_tokens = plan.kv_tokens;
    candidate.max_model_len = std::min(plan.kv_tokens, spec.max_position);
    candidate.sequences = plan.kv_tokens / setting.load.usual();
    candidate.concurrency =
        std::min(wanted.max_sequences, std::max<int64_t>(1, candidate.sequences));
    const int64_t needed = setting.load.concurrency.value_or(1) * setting.load.usual();
    candidate.kv_needed = plan.kv_cache;
    candidate.fits = plan.kv_tokens >= needed;
    candidate.reason =
        candidate.fits
            ? fmt::format("the server would allocate exactly this; {} KV blocks", plan.kv_blocks)
            : fmt::format("the KV cache holds {} tokens, the load takes {}", plan.kv_tokens,
                          needed);
  } catch (const base::UnavailableError& error) {
    candidate.reason = error.what();
  }
  candidate.recommendable = candidate.fits && candidate.engine_runs;
  if (const std::string stored = spec.quantization.stored_as(); !stored.empty()) {
    std::string held;
    for (const auto& [name, bytes] : format_bytes(layout, *host.backend)) {
      held += (held.empty() ? "" : ", ") + name;
    }
    candidate.notes.push_back(fmt::format("stored as {}; held in {}", stored, held));
  }
  candidate.notes.emplace_back(
      "no speed is given for a CPU: 'moesaic bench' measures it, beside its own roofline");
  return candidate;
}

}  // namespace moesaic::plan
