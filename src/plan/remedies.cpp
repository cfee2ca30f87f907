#include <fmt/format.h>

#include <algorithm>

#include "plan/plan.h"

namespace moesaic::plan {

namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr double kHighUtilization = 0.95;
constexpr int64_t kMostDevices = 64;

double gib(uint64_t bytes) { return static_cast<double>(bytes) / kGiB; }

/// What `setting` gives on the candidate's instance, in the candidate's own layout.
Candidate again(const Setting& setting, const Candidate& candidate) {
  Setting pinned = setting;
  PlanInputs inputs = *setting.inputs;
  inputs.tp = candidate.tp;
  inputs.ep = candidate.ep;
  inputs.pp = candidate.pp;
  pinned.inputs = &inputs;
  return plan_instance(pinned, *inputs.catalog.find_instance(candidate.instance));
}

std::string outcome(const Candidate& candidate) {
  if (candidate.fits) {
    return fmt::format("it fits, with {:.1f} GiB of KV cache a device for {} tokens",
                       gib(candidate.per_device.kv_cache), candidate.kv_tokens);
  }
  return fmt::format("still {:.1f} GiB a device short",
                     gib(candidate.per_device.total()) - gib(candidate.device_bytes));
}

Remedy raise_utilization(const Setting& setting, const Candidate& candidate) {
  Setting changed = setting;
  changed.utilization = kHighUtilization;
  const Candidate found = again(changed, candidate);
  const double gained = (kHighUtilization - setting.utilization) * gib(candidate.device_bytes);
  return {fmt::format("--utilization {}", kHighUtilization),
          fmt::format("{:.1f} GiB more a device; {}. (Lowering it, the usual advice, cures running "
                      "out of memory outside this plan, not a plan that does not fit.)",
                      gained, outcome(found)),
          found.fits};
}

/// The inputs with a context of `length`; a usual request that was given and is longer shrinks
/// with it, the prompt first.
PlanInputs shortened(const Setting& setting, int64_t length) {
  PlanInputs inputs = *setting.inputs;
  inputs.context = length;
  const bool request = inputs.prompt || inputs.output;
  if (request && setting.load.usual() > length) {
    inputs.output = std::min(setting.load.output, length / 2);
    inputs.prompt = length - *inputs.output;
  }
  return inputs;
}

/// The flags by which `inputs` differs from what was asked.
std::string length_flags(const PlanInputs& inputs, const PlanInputs& asked) {
  std::string flags = fmt::format("--context {}", *inputs.context);
  if (inputs.prompt != asked.prompt) flags += fmt::format(" --prompt-tokens {}", *inputs.prompt);
  if (inputs.output != asked.output) flags += fmt::format(" --output-tokens {}", *inputs.output);
  return flags;
}

Remedy shorten_context(const Setting& setting, const Candidate& candidate) {
  constexpr int64_t kShortest = 16;
  const int64_t running = setting.load.concurrency.value_or(1);
  const auto fits = [&](int64_t length) {
    const PlanInputs inputs = shortened(setting, length);
    Setting changed = setting;
    changed.inputs = &inputs;
    changed.load = workload_of(inputs);
    return again(changed, candidate).fits;
  };
  int64_t low = kShortest - 1;
  int64_t high = std::max(low, setting.load.context);
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  if (low < kShortest) {
    return {"--context N",
            candidate.max_model_len < kShortest
                ? "no context fits: the weights and what stands beside them are too much"
                : fmt::format("no context fits: {} sequences of even {} tokens are too much",
                              running, kShortest),
            false};
  }
  return {length_flags(shortened(setting, low), *setting.inputs),
          fmt::format("the longest that fits with {} sequence{} at once", running,
                      running == 1 ? "" : "s"),
          true};
}

Remedy quantize_cache(const Setting& setting, const Candidate& candidate) {
  Setting changed = setting;
  changed.kv_element_bytes = 1;
  const Candidate found = again(changed, candidate);
  return {"--kv-cache-dtype fp8",
          fmt::format("the load's KV cache shrinks from {:.1f} to {:.1f} GiB a device; {}",
                      gib(candidate.kv_needed), gib(found.kv_needed), outcome(found)),
          found.fits};
}

Remedy quantize_weights(const Setting& setting, const Candidate& candidate, const char* name) {
  Setting changed = setting;
  changed.format = find_format(name);
  const Candidate found = again(changed, candidate);
  return {fmt::format("--quantization {}", name),
          fmt::format("weights shrink from {:.1f} to {:.1f} GiB a device; {}",
                      gib(candidate.per_device.weights()), gib(found.per_device.weights()),
                      outcome(found)),
          found.fits};
}

/// The least count of the same device that fits, on instances that have as many.
Remedy more_devices(const Setting& setting, const Candidate& candidate) {
  PlanInputs inputs = *setting.inputs;
  inputs.tp = inputs.ep = inputs.pp = std::nullopt;
  Setting changed = setting;
  changed.inputs = &inputs;
  Instance wanted = *inputs.catalog.find_instance(candidate.instance);
  for (wanted.devices = 1; wanted.devices <= kMostDevices; wanted.devices *= 2) {
    if (wanted.devices <= candidate.devices) continue;
    const Candidate found = plan_instance(changed, wanted);
    if (!found.fits || found.devices > kMostDevices) continue;
    return {"more devices",
            fmt::format("{} x {} (tp {}, ep {}, pp {}); {}", found.devices, candidate.accelerator,
                        found.tp, found.ep, found.pp, outcome(found)),
            true};
  }
  return {"more devices",
          fmt::format("up to {} x {} do not hold it", kMostDevices, candidate.accelerator), false};
}

}  // namespace

std::vector<Remedy> find_remedies(const Setting& setting, const Candidate& candidate) {
  std::vector<Remedy> remedies;
  if (setting.utilization < kHighUtilization) {
    remedies.push_back(raise_utilization(setting, candidate));
  }
  remedies.push_back(shorten_context(setting, candidate));
  if (setting.kv_element_bytes > 1) remedies.push_back(quantize_cache(setting, candidate));
  if (setting.format.value_bits > 8) {
    remedies.push_back(quantize_weights(setting, candidate, "fp8"));
  }
  if (setting.format.value_bits > 4) {
    remedies.push_back(quantize_weights(setting, candidate, "awq"));
  }
  remedies.push_back(more_devices(setting, candidate));
  return remedies;
}

}  // namespace moesaic::plan
