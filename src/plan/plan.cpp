#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/algorithm/string/predicate.hpp>
#include <cmath>

#include "base/error.h"
#include "base/nearest.h"
#include "plan/render.h"

namespace moesaic::plan {

namespace {

constexpr int64_t kUsualContext = 4096;
constexpr int64_t kUsualTokens = 256;  ///< of a prompt, and of an answer
constexpr int64_t kMostConcurrency = 1 << 20;

[[noreturn]] void refuse(const std::string& message) { throw base::UsageError(message); }

void check_range(const char* flag, const std::optional<int64_t>& value, int64_t lowest,
                 int64_t highest, const std::string& why) {
  if (!value || (*value >= lowest && *value <= highest)) return;
  refuse(fmt::format("{} {} is {}; the nearest valid value is {}", flag, *value, why,
                     std::clamp(*value, lowest, highest)));
}

double kv_bytes_of(const PlanInputs& inputs) {
  const std::string& name = inputs.kv_cache_dtype;
  if (name == "auto") return inputs.dtype == "float32" ? 4 : 2;
  if (name == "bfloat16" || name == "float16" || name == "bf16" || name == "fp16") return 2;
  if (name == "float32") return 4;
  if (name == "fp8" || name == "fp8_e4m3" || name == "fp8_e5m2" || name == "fp8_e4m3fn") return 1;
  const std::vector<std::string> known = {"auto", "bfloat16", "float16", "float32",
                                          "fp8",  "fp8_e4m3", "fp8_e5m2"};
  refuse(fmt::format("--kv-cache-dtype {}: unknown; the nearest known one is {} (known: {})", name,
                     base::nearest(name, known), fmt::join(known, ", ")));
}

/// One name for each type.
std::string canonical_dtype(const std::string& name) {
  if (name == "half" || name == "fp16") return "float16";
  if (name == "float" || name == "fp32") return "float32";
  if (name == "bf16") return "bfloat16";
  const std::vector<std::string> known = {"auto",    "bfloat16", "float16",
                                          "float32", "half",     "float"};
  if (std::find(known.begin(), known.end(), name) != known.end()) return name;
  refuse(fmt::format("--dtype {}: unknown; the nearest known one is {} (known: {})", name,
                     base::nearest(name, known), fmt::join(known, ", ")));
}

/// What to say of an instance that is not known: those with the accelerator of that name, or else
/// the nearest.
std::string known_instances(const Catalog& catalog, const std::string& name) {
  std::vector<std::string> known;
  std::vector<std::string> carriers;
  for (const Instance& instance : catalog.instances) {
    known.push_back(instance.name);
    const bool carries = boost::algorithm::istarts_with(instance.accelerator, name);
    if (carries) carriers.push_back(instance.name);
  }
  if (!carriers.empty()) {
    return fmt::format("an accelerator; the instances with it are {}", fmt::join(carriers, ", "));
  }
  known.emplace_back(kHostInstance);
  return fmt::format(
      "unknown; the nearest known one is {} (known: {}; more can be given with --hardware FILE)",
      base::nearest(name, known), fmt::join(known, ", "));
}

std::vector<const Instance*> instances_of(const PlanInputs& inputs) {
  std::vector<const Instance*> found;
  if (inputs.instances.empty()) {
    const auto asked = [&](const std::string& cloud) {
      const auto& clouds = inputs.clouds;
      return cloud == "own" || std::find(clouds.begin(), clouds.end(), cloud) != clouds.end() ||
             std::find(clouds.begin(), clouds.end(), "all") != clouds.end();
    };
    for (const Instance& instance : inputs.catalog.instances) {
      if (asked(instance.cloud)) found.push_back(&instance);
    }
    return found;
  }
  for (const std::string& name : inputs.instances) {
    if (name == kHostInstance && inputs.host) continue;
    const Instance* instance = inputs.catalog.find_instance(name);
    if (instance == nullptr) {
      refuse(fmt::format("--instance {}: {}", name, known_instances(inputs.catalog, name)));
    }
    if (std::find(found.begin(), found.end(), instance) == found.end()) found.push_back(instance);
  }
  return found;
}

void check_budget(const PlanInputs& inputs, const std::vector<const Instance*>& instances) {
  if (!inputs.budget || *inputs.budget > 0) return;
  const Instance* cheapest = nullptr;
  for (const Instance* instance : instances) {
    if (!instance->usd_per_hour) continue;
    if (cheapest == nullptr || *instance->usd_per_hour < *cheapest->usd_per_hour) {
      cheapest = instance;
    }
  }
  const std::string least = cheapest == nullptr
                                ? ""
                                : fmt::format("; the cheapest, {}, costs {:.2f}", cheapest->name,
                                              *cheapest->usd_per_hour);
  refuse(fmt::format(
      "--budget {:g}: nothing can be rented for that; give US dollars an hour above 0{}",
      *inputs.budget, least));
}

void check_clouds(const PlanInputs& inputs) {
  std::vector<std::string> known = inputs.catalog.clouds();
  known.emplace_back("all");
  for (const std::string& cloud : inputs.clouds) {
    if (std::find(known.begin(), known.end(), cloud) != known.end()) continue;
    refuse(fmt::format("--cloud {}: unknown; the nearest known one is {} (known: {})", cloud,
                       base::nearest(cloud, known), fmt::join(known, ", ")));
  }
}

void check_ranks(const PlanInputs& inputs) {
  constexpr int64_t kMost = 1024;
  check_range("--tp", inputs.tp, 1, kMost, "out of range");
  check_range("--ep", inputs.ep, 1, kMost, "out of range");
  check_range("--pp", inputs.pp, 1, kMost, "out of range");
  const int64_t devices = inputs.tp.value_or(1) * inputs.ep.value_or(1) * inputs.pp.value_or(1);
  if (devices > kMost) {
    refuse(fmt::format("--tp, --ep and --pp multiply to {} devices; at most {} are planned",
                       devices, kMost));
  }
}

void check_utilization(double share) {
  constexpr double kLeast = 0.05;
  // Written so that NaN fails too.
  if (share >= kLeast && share <= 1) return;
  refuse(
      fmt::format("--utilization {:g} is not a share from {} to 1; the nearest valid value is "
                  "{}, and 0.9 is usual",
                  share, kLeast, share > 1 ? 1 : kLeast));
}

/// Values that every head for itself would cache a token, were there no sharing.
double full_values(const model::ModelSpec& spec) {
  double values = 0;
  for (const model::LayerSpec& layer : spec.layers) {
    const model::AttentionSpec& attention = layer.attention;
    values += static_cast<double>(attention.heads * attention.head_dim + attention.output_width());
  }
  return values;
}

/// Bytes of a token in all layers; past windows, in those that keep it.
double cached_bytes(const model::ModelSpec& spec, double value_bytes, bool past_windows) {
  double bytes = 0;
  for (const model::LayerSpec& layer : spec.layers) {
    const int64_t window = layer.attention.sliding_window;
    if (past_windows && window > 0 && window < spec.max_position) continue;
    bytes += layer.attention.cached_bytes(value_bytes);
  }
  return bytes;
}

/// Cheaper by what is billed, that is by whole instances; then faster; then fewer devices.
bool better(const Candidate& a, const Candidate& b) {
  const auto key = [](const Candidate& candidate) {
    return std::tuple(!candidate.usd_per_hour_instances.has_value(),
                      candidate.usd_per_hour_instances.value_or(0), -candidate.served_tokens_per_s,
                      candidate.devices);
  };
  return key(a) < key(b);
}

/// The unfitting candidate that lacks least, in parts of its device; one that could be asked for,
/// if there is any.
std::optional<size_t> nearest_miss(const std::vector<Candidate>& candidates,
                                   const std::string& engine) {
  const Efficiency asked = find_efficiency(engine);
  std::optional<size_t> best;
  std::pair<bool, double> least;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& candidate = candidates[i];
    if (candidate.fits || candidate.vendor == "cpu") continue;
    if (candidate.per_device.weights() == 0) continue;
    const bool foreign = !candidate.engine_runs && candidate.engine != asked.instead;
    const std::pair need(foreign, static_cast<double>(candidate.per_device.total()) /
                                      static_cast<double>(candidate.device_bytes));
    if (!best || need < least) {
      best = i;
      least = need;
    }
  }
  return best;
}

void add_notes(Plan& plan) {
  const ResolvedModel& model = plan.inputs.model;
  if (!model.relation.empty()) plan.notes.push_back(model.asked + " " + model.relation);
  if (!model.spec.not_served.empty()) {
    plan.notes.push_back(
        fmt::format("moesaic serve cannot run this model yet: {}", model.spec.not_served));
  }
  if (!model.recalled.empty()) {
    plan.notes.push_back(
        fmt::format("written from general knowledge: {}; check against config.json",
                    fmt::join(model.recalled, ", ")));
  }
}

/// Rules of thumb that this plan contradicts, and why.
void add_disagreements(Plan& plan) {
  const auto total = static_cast<double>(plan.parameters.total);
  const auto active = static_cast<double>(plan.parameters.active);
  if (active > 0.9 * total) return;
  plan.notes.push_back(
      fmt::format("all {} parameters must be in memory although a token uses {}: sizing by the "
                  "active ones would ask for {} of 16-bit weights instead of {}",
                  parameters_text(total), parameters_text(active), bytes_text(active * 2),
                  bytes_text(total * 2)));
}

/// Why there is no recommendation, as the first of the notes.
void note_nothing_recommended(Plan& plan, bool any_fits) {
  const auto first = [&](const std::string& note) { plan.notes.insert(plan.notes.begin(), note); };
  if (!any_fits) {
    first("nothing that was looked at holds this load");
    return;
  }
  const Candidate* cheapest = nullptr;
  for (const Candidate& candidate : plan.candidates) {
    if (!candidate.fits || !candidate.usd_per_hour_instances) continue;
    if (cheapest == nullptr ||
        *candidate.usd_per_hour_instances < *cheapest->usd_per_hour_instances) {
      cheapest = &candidate;
    }
  }
  const std::string least =
      cheapest == nullptr
          ? "; of what fits, no list price is known"
          : fmt::format("; of what fits, {} is billed least: {:.2f} USD an hour, and {} runs on it",
                        cheapest->instance, *cheapest->usd_per_hour_instances, cheapest->engine);
  first(fmt::format("nothing that fits is {}one that {} runs on{}",
                    plan.inputs.budget ? "within the budget and " : "", plan.inputs.engine, least));
}

}  // namespace

Workload workload_of(const PlanInputs& inputs) {
  const int64_t longest = inputs.model.spec.max_position;
  const std::string beyond =
      fmt::format("outside 1 to {}, the positions that {} has", longest, inputs.model.name);
  check_range("--concurrency", inputs.concurrency, 1, kMostConcurrency, "out of range");
  check_range("--context", inputs.context, 1, longest, beyond);
  check_range("--prompt-tokens", inputs.prompt, 1, longest, beyond);
  check_range("--output-tokens", inputs.output, 1, longest, beyond);
  Workload load;
  load.concurrency = inputs.concurrency;
  const bool request = inputs.prompt || inputs.output;
  if (request) {
    load.prompt = inputs.prompt.value_or(kUsualTokens);
    load.output = inputs.output.value_or(kUsualTokens);
    load.context = inputs.context.value_or(load.usual());
    if (load.usual() > longest) {
      refuse(
          fmt::format("--prompt-tokens {} and --output-tokens {} make {} tokens, more than the {} "
                      "positions of {}; the nearest valid choice is --prompt-tokens {}",
                      load.prompt, load.output, load.usual(), longest, inputs.model.name,
                      std::max<int64_t>(1, longest - load.output)));
    }
    if (load.usual() > load.context) {
      refuse(
          fmt::format("--context {} is shorter than a request of {} prompt and {} output tokens; "
                      "the nearest valid choice is --context {}",
                      load.context, load.prompt, load.output, load.usual()));
    }
    return load;
  }
  load.context = inputs.context.value_or(std::min(kUsualContext, longest));
  // With --context alone every sequence is taken to be that long; with nothing, short requests.
  const int64_t usual = inputs.context ? load.context : std::min(2 * kUsualTokens, load.context);
  load.output = std::max<int64_t>(1, std::min(kUsualTokens, usual / 2));
  load.prompt = std::max<int64_t>(1, usual - load.output);
  load.context = std::max(load.context, load.usual());
  return load;
}

bool as_published(const PlanInputs& inputs) {
  return inputs.quantization == "auto" ||
         inputs.quantization == inputs.model.spec.quantization.method;
}

Plan make_plan(const PlanInputs& asked) {
  Plan plan;
  plan.inputs = asked;
  plan.inputs.dtype = canonical_dtype(asked.dtype);
  const PlanInputs& inputs = plan.inputs;
  check_ranks(inputs);
  check_utilization(inputs.utilization);
  find_efficiency(inputs.engine);  // an unknown engine is refused before any work
  check_clouds(inputs);
  const std::vector<const Instance*> instances = instances_of(inputs);
  check_budget(inputs, instances);
  plan.load = workload_of(inputs);
  const model::ModelSpec& spec = inputs.model.spec;
  plan.format = as_published(inputs)
                    ? published_format(spec.quantization, inputs.model.name, inputs.dtype)
                    : find_format(inputs.quantization, inputs.dtype);
  plan.kv_element_bytes = kv_bytes_of(inputs);
  plan.parameters = count_parameters(spec);
  plan.bf16_bytes = weight_bytes(spec, find_format("none"));
  plan.int8_bytes = weight_bytes(spec, find_format("int8"));
  plan.int4_bytes = weight_bytes(spec, find_format("int4"));
  plan.kv_bytes_per_token = cached_bytes(spec, plan.kv_element_bytes, false);
  plan.kv_bytes_past_windows = cached_bytes(spec, plan.kv_element_bytes, true);
  plan.state_bytes = sequence_bytes(spec, {}, plan.kv_element_bytes, 0);
  plan.mha_bytes_per_token = full_values(spec) * plan.kv_element_bytes;
  const Setting setting{.inputs = &inputs,
                        .load = plan.load,
                        .format = plan.format,
                        .kv_element_bytes = plan.kv_element_bytes,
                        .utilization = inputs.utilization};
  for (const Instance* instance : instances) {
    plan.candidates.push_back(plan_instance(setting, *instance));
  }
  if (std::find(inputs.instances.begin(), inputs.instances.end(), kHostInstance) !=
      inputs.instances.end()) {
    plan.candidates.push_back(plan_host(setting));
  }
  bool any_fits = false;
  for (size_t i = 0; i < plan.candidates.size(); ++i) {
    any_fits |= plan.candidates[i].fits;
    if (!plan.candidates[i].recommendable) continue;
    if (!plan.recommended || better(plan.candidates[i], plan.candidates[*plan.recommended])) {
      plan.recommended = i;
    }
  }
  if (!any_fits) {
    plan.remedied = nearest_miss(plan.candidates, inputs.engine);
    if (plan.remedied) plan.remedies = find_remedies(setting, plan.candidates[*plan.remedied]);
  }
  add_notes(plan);
  add_disagreements(plan);
  if (!plan.recommended) note_nothing_recommended(plan, any_fits);
  return plan;
}

}  // namespace moesaic::plan
