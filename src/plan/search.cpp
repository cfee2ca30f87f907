#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "plan/plan.h"

namespace moesaic::plan {

namespace {

using model::ModelSpec;

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr int64_t kMostNodes = 4;
/// The batch sizes whose speed is shown.
constexpr int64_t kShownBatches[] = {1, 8, 32, 128, 256};

double gib(uint64_t bytes) { return static_cast<double>(bytes) / kGiB; }

const ModelSpec& spec_of(const Setting& setting) { return setting.inputs->model.spec; }

bool allowed(const Setting& setting, const Layout& layout) {
  const PlanInputs& inputs = *setting.inputs;
  return layout.tp == inputs.tp.value_or(layout.tp) && layout.ep == inputs.ep.value_or(layout.ep) &&
         layout.pp == inputs.pp.value_or(layout.pp);
}

/// A count of devices of one instance or of several whole ones.
struct Size {
  int64_t nodes = 1;
  int64_t devices = 1;
};

/// Counts of devices to try, the smallest first: those that the ranks asked for multiply to,
/// doubled up to one instance, then whole instances.
std::vector<Size> sizes_of(const Setting& setting, const Instance& instance) {
  const PlanInputs& inputs = *setting.inputs;
  const int64_t unit = inputs.tp.value_or(1) * inputs.ep.value_or(1) * inputs.pp.value_or(1);
  std::vector<Size> sizes;
  const auto add = [&](int64_t devices) {
    const int64_t nodes = (devices + instance.devices - 1) / instance.devices;
    if (nodes > 1 && instance.network_bandwidth == 0) return;
    if (devices % unit != 0 || (!sizes.empty() && devices <= sizes.back().devices)) return;
    sizes.push_back({nodes, devices});
  };
  add(unit);
  if (inputs.tp && inputs.ep && inputs.pp) return sizes;
  for (int64_t devices = 2 * unit; devices < instance.devices; devices *= 2) add(devices);
  for (int64_t nodes = 1; nodes <= kMostNodes; nodes *= 2) add(nodes * instance.devices);
  return sizes;
}

/// How far a layout is from what every engine can do; lower is better.
int awkwardness(const Setting& setting, const Layout& layout) {
  const bool divides = expert_widths_divide(spec_of(setting), layout, setting.format);
  if (layout.ep == 1) return divides ? 0 : 3;
  if (layout.tp == 1) return 1;
  return divides ? 2 : 4;
}

/// Layouts on `size` that the model allows, the usual one first: cut over the devices of a node,
/// one pipeline stage a node; experts whole where cutting would pad them; more stages where heads
/// do not divide. `refused` gets why the usual one is not possible.
std::vector<Layout> layouts_for(const Setting& setting, const Size& size, std::string& refused) {
  const ModelSpec& spec = spec_of(setting);
  const int64_t most_stages =
      std::min<int64_t>(size.devices, static_cast<int64_t>(spec.layers.size()));
  std::vector<Layout> layouts;
  for (int64_t pp = 1; pp <= most_stages; ++pp) {
    if (size.devices % pp != 0) continue;
    // A stage stays inside a node unless --pp says otherwise.
    if (!setting.inputs->pp && pp < size.nodes) continue;
    const int64_t stage = size.devices / pp;
    std::vector<Layout> cuts;
    for (int64_t ep = 1; ep <= stage; ++ep) {
      if (stage % ep == 0) cuts.push_back({stage / ep, ep, pp});
    }
    // Cut where that divides, else experts whole, else both at once, else padding.
    std::stable_sort(cuts.begin(), cuts.end(), [&](const Layout& a, const Layout& b) {
      return awkwardness(setting, a) < awkwardness(setting, b);
    });
    for (const Layout& layout : cuts) {
      if (!allowed(setting, layout)) continue;
      const std::string problem = check_layout(spec, layout);
      if (problem.empty()) {
        layouts.push_back(layout);
      } else if (refused.empty()) {
        refused = problem;
      }
    }
    if (!layouts.empty()) break;  // no more stages than needed
  }
  return layouts;
}

double kv_bytes(const Setting& setting, const Layout& layout, int64_t length) {
  return sequence_bytes(spec_of(setting), layout, setting.kv_element_bytes,
                        static_cast<double>(length));
}

/// The longest sequence, up to the model's, that `pool` holds.
int64_t longest(const Setting& setting, const Layout& layout, double pool) {
  int64_t low = 0;
  int64_t high = spec_of(setting).max_position;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (kv_bytes(setting, layout, middle) <= pool) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

int64_t held(const Setting& setting, const Layout& layout, double pool, int64_t length) {
  return static_cast<int64_t>(pool / std::max(1.0, kv_bytes(setting, layout, length)));
}

/// The terms for one layout; kv_cache is what the utilisation leaves, or what the load needs when
/// that is more.
void fill_memory(const Setting& setting, const Efficiency& efficiency, const Layout& layout,
                 Candidate& candidate) {
  const ModelSpec& spec = spec_of(setting);
  const Workload& load = setting.load;
  MemoryTerms terms = weight_terms(spec, layout, setting.format);
  const int64_t running = load.concurrency.value_or(kUsualLoad);
  const int64_t rows = std::max(setting.inputs->step_rows, running);
  terms.activations = activation_bytes(spec, layout, rows, running);
  terms.graphs = efficiency.graphs_bytes;
  terms.communication = layout.devices() > 1 ? efficiency.communication_bytes : 0;
  terms.runtime = efficiency.runtime_bytes;
  const auto budget =
      static_cast<uint64_t>(static_cast<double>(candidate.device_bytes) * setting.utilization);
  terms.margin = candidate.device_bytes - budget;
  const double usual =
      kv_bytes(setting, layout, load.usual()) * static_cast<double>(load.concurrency.value_or(1));
  const double needed = std::max(usual, kv_bytes(setting, layout, load.context));
  candidate.kv_needed = static_cast<uint64_t>(std::ceil(needed));
  const uint64_t fixed = terms.total() - terms.margin;
  const uint64_t left = budget > fixed ? budget - fixed : 0;
  candidate.fits = left >= candidate.kv_needed;
  terms.kv_cache = candidate.fits ? left : candidate.kv_needed;
  candidate.per_device = terms;
  const auto pool = static_cast<double>(left);
  candidate.max_model_len = longest(setting, layout, pool);
  // Where windows or states make long sequences cheaper by the token, one may hold more than many.
  const double of_longest = pool / std::max(1.0, kv_bytes(setting, layout, load.context));
  candidate.kv_tokens =
      std::max(candidate.max_model_len,
               static_cast<int64_t>(of_longest * static_cast<double>(load.context)));
  candidate.sequences = held(setting, layout, pool, load.usual());
  candidate.capacity.clear();
  for (int64_t length = std::min<int64_t>(1024, spec.max_position); length <= spec.max_position;
       length *= 2) {
    candidate.capacity.emplace_back(length, held(setting, layout, pool, length));
  }
}

std::string describe(const Layout& layout) {
  std::string text = fmt::format("tp {}", layout.tp);
  if (layout.ep > 1) text += fmt::format(" x ep {}", layout.ep);
  if (layout.pp > 1) text += fmt::format(" x pp {}", layout.pp);
  return text;
}

/// Why it does not fit, with the numbers.
std::string shortfall(const Candidate& candidate) {
  const MemoryTerms& terms = candidate.per_device;
  const double short_by = gib(terms.total()) - gib(candidate.device_bytes);
  const uint64_t fixed = terms.total() - terms.kv_cache;
  if (fixed >= candidate.device_bytes) {
    return fmt::format("weights {:.1f} GiB a device and {:.1f} GiB beside them exceed {:.1f} GiB",
                       gib(terms.weights()), gib(fixed - terms.weights()),
                       gib(candidate.device_bytes));
  }
  return fmt::format(
      "{:.1f} GiB short: the load's KV cache takes {:.1f} GiB a device, {:.1f} are left", short_by,
      gib(candidate.kv_needed), gib(candidate.device_bytes - fixed));
}

void note_widths(const Setting& setting, const Layout& layout, Candidate& candidate) {
  const ModelSpec& spec = spec_of(setting);
  const Layout cut{layout.stage_devices(), 1, layout.pp};
  int64_t width = 0;
  for (const model::LayerSpec& layer : spec.layers) {
    if (layer.ffn.moe) width = layer.ffn.width;
  }
  if (width == 0 || layout.stage_devices() == 1) return;
  if (layout.ep > 1 && !expert_widths_divide(spec, cut, setting.format)) {
    candidate.notes.push_back(
        fmt::format("experts stay whole (ep {}): a width of {} does not cut {} ways in multiples "
                    "of {}",
                    layout.ep, width, cut.tp, setting.format.granule));
  } else if (!expert_widths_divide(spec, layout, setting.format)) {
    const int64_t padded = expert_share(width, layout, setting.format) * layout.tp;
    candidate.notes.push_back(fmt::format(
        "each expert's width of {} is padded to {} to cut it {} ways: {:.0f}% more memory for them",
        width, padded, layout.tp,
        100.0 * (static_cast<double>(padded) / static_cast<double>(width) - 1)));
  }
  for (const model::LayerSpec& layer : spec.layers) {
    const model::AttentionSpec& attention = layer.attention;
    if (attention.kind == model::AttentionKind::kMla) {
      candidate.notes.push_back("the latent KV cache is whole on every device of a stage");
      return;
    }
    if (attention.kind != model::AttentionKind::kGqa) continue;
    if (attention.kv_heads < layout.stage_devices()) {
      candidate.notes.push_back(fmt::format("{} KV heads on {} devices: each is kept {} times",
                                            attention.kv_heads, layout.stage_devices(),
                                            layout.stage_devices() / attention.kv_heads));
      return;
    }
  }
}

void fill_speed(const Setting& setting, const Instance& instance, const Accelerator& device,
                const Efficiency& efficiency, Candidate& candidate) {
  const ModelSpec& spec = spec_of(setting);
  const Workload& load = setting.load;
  const Layout layout = candidate.layout();
  const Machine machine{
      .device = &device,
      .efficiency = &efficiency,
      .node_devices = instance.devices,
      .network_bandwidth =
          std::max(1.0, instance.network_bandwidth / static_cast<double>(instance.devices))};
  const double context = static_cast<double>(load.prompt) + static_cast<double>(load.output) / 2;
  const auto decode = [&](int64_t sequences) {
    return decode_estimate(spec, layout, setting.format, setting.kv_element_bytes, machine,
                           static_cast<double>(sequences), context);
  };
  candidate.concurrency =
      load.concurrency.value_or(std::max<int64_t>(1, std::min(kUsualLoad, candidate.sequences)));
  candidate.decode = decode(candidate.concurrency);
  const auto prompt = static_cast<double>(load.prompt);
  const auto rows = static_cast<double>(setting.inputs->step_rows);
  candidate.prefill = prefill_estimate(spec, layout, setting.format, setting.kv_element_bytes,
                                       machine, prompt, rows);
  candidate.first_token_seconds = first_token_seconds(
      spec, layout, setting.format, setting.kv_element_bytes, machine, prompt, rows);
  candidate.served_tokens_per_s =
      served_rate(candidate.prefill, candidate.decode, prompt, static_cast<double>(load.output));
  for (const int64_t batch : kShownBatches) {
    if (batch <= candidate.sequences) candidate.decode_at.emplace_back(batch, decode(batch));
  }
  const double per_node = static_cast<double>(weight_bytes(spec, setting.format)) /
                          static_cast<double>(candidate.nodes);
  candidate.load_seconds = efficiency.start_seconds + per_node / efficiency.load_bytes_per_s;
}

void fill_cost(const Instance& instance, Candidate& candidate) {
  candidate.price_date = instance.price_date;
  candidate.price_source = instance.price_source;
  candidate.share = static_cast<double>(candidate.devices) /
                    static_cast<double>(candidate.nodes * instance.devices);
  if (!instance.usd_per_hour) return;
  const double whole = *instance.usd_per_hour * static_cast<double>(candidate.nodes);
  candidate.usd_per_hour_instances = whole;
  candidate.usd_per_hour = whole * candidate.share;
  const double millions_per_hour = candidate.served_tokens_per_s * 3600 / 1e6;
  candidate.usd_per_million_tokens = whole / millions_per_hour;
  candidate.usd_per_million_tokens_share = *candidate.usd_per_hour / millions_per_hour;
}

void take(const Layout& layout, const Size& size, Candidate& candidate) {
  candidate.tp = layout.tp;
  candidate.ep = layout.ep;
  candidate.pp = layout.pp;
  candidate.nodes = size.nodes;
  candidate.devices = layout.devices();
}

std::string ranks_asked(const PlanInputs& inputs) {
  std::string text;
  const auto add = [&](const char* flag, const std::optional<int64_t>& value) {
    if (value) text += fmt::format(" {} {}", flag, *value);
  };
  add("--tp", inputs.tp);
  add("--ep", inputs.ep);
  add("--pp", inputs.pp);
  return text;
}

/// Tries sizes from the smallest; stops at the first layout that fits and leaves that, or the last
/// one tried, in `candidate`, and in `smaller` why the others do not fit. False when the model
/// cannot be laid out at all.
bool search(const Setting& setting, const Instance& instance, const Efficiency& efficiency,
            Candidate& candidate) {
  bool any = false;
  size_t own = 0;  // in `smaller`, the entry of the layout in `candidate`
  for (const Size& size : sizes_of(setting, instance)) {
    std::string refused;
    const std::vector<Layout> layouts = layouts_for(setting, size, refused);
    if (layouts.empty()) {
      const std::string why = !refused.empty()
                                  ? refused
                                  : fmt::format(
                                        "no layout has{}; a stage stays inside a node unless --pp "
                                        "says otherwise",
                                        ranks_asked(*setting.inputs));
      candidate.smaller.push_back(
          fmt::format("{} x {}: {}", size.devices, instance.accelerator, why));
      if (!any) candidate.reason = why;
      continue;
    }
    any = true;
    Candidate best;
    for (const Layout& layout : layouts) {
      Candidate tried = candidate;
      take(layout, size, tried);
      fill_memory(setting, efficiency, layout, tried);
      if (best.instance.empty() || tried.fits) best = tried;
      if (tried.fits) break;
    }
    candidate = best;
    if (candidate.fits) return true;
    own = candidate.smaller.size();
    candidate.smaller.push_back(fmt::format("{} x {} ({}): {}", size.devices, instance.accelerator,
                                            describe(candidate.layout()), shortfall(candidate)));
  }
  if (!any && candidate.reason.empty()) {
    candidate.reason = fmt::format("has {} device{} and no fast network between instances",
                                   instance.devices, instance.devices == 1 ? "" : "s");
  }
  // What `candidate` itself lacks is its reason.
  if (any) candidate.smaller.erase(candidate.smaller.begin() + static_cast<ptrdiff_t>(own));
  return any;
}

std::string fit_reason(const Candidate& candidate) {
  return fmt::format("{:.1f} of {:.1f} GiB a device are weights, {:.1f} are left for the KV cache",
                     gib(candidate.per_device.weights()), gib(candidate.device_bytes),
                     gib(candidate.per_device.kv_cache));
}

}  // namespace

Candidate plan_instance(const Setting& setting, const Instance& instance) {
  const PlanInputs& inputs = *setting.inputs;
  const Accelerator& device = *inputs.catalog.find_accelerator(instance.accelerator);
  const bool neuron = device.vendor == "aws-neuron";
  const Efficiency asked = find_efficiency(inputs.engine);
  const Efficiency efficiency = efficiency_on(inputs.engine, device.vendor);
  Candidate candidate;
  candidate.instance = instance.name;
  candidate.accelerator = device.name;
  candidate.vendor = device.vendor;
  candidate.engine = efficiency.engine;
  candidate.engine_runs = asked.runs_on(device.vendor);
  candidate.instance_devices = instance.devices;
  candidate.device_bytes = device.memory_bytes;
  if (!search(setting, instance, efficiency, candidate)) {
    candidate.price_date = instance.price_date;
    candidate.price_source = instance.price_source;
    return candidate;
  }
  const Layout layout = candidate.layout();
  candidate.reason = candidate.fits ? fit_reason(candidate) : shortfall(candidate);
  note_widths(setting, layout, candidate);
  if (setting.format.fp8_arithmetic && device.fp8_flops == 0) {
    candidate.notes.push_back(fmt::format(
        "{} has no fp8 arithmetic: weights are widened as they are read, which saves memory and "
        "bandwidth but no arithmetic",
        device.name));
  }
  fill_speed(setting, instance, device, efficiency, candidate);
  fill_cost(instance, candidate);
  if (neuron) {
    candidate.notes.emplace_back("devices are chips; Neuron's tp_degree counts NeuronCores");
  }
  // moesaic's own plans are for devices that it is to run on: those of the engine named instead.
  const bool wanted = candidate.engine_runs || efficiency.engine == asked.instead;
  if (!candidate.engine_runs) {
    candidate.notes.push_back(
        fmt::format("no figures of {} are known for this device: these are {}'s", inputs.engine,
                    efficiency.engine));
  }
  candidate.recommendable = candidate.fits && wanted;
  if (!inputs.budget) return candidate;
  if (!candidate.usd_per_hour_instances) {
    if (instance.cloud == "own") return candidate;
    candidate.recommendable = false;
    candidate.notes.emplace_back(
        "no list price is known, and so not whether it is within the budget; give the price with "
        "--hardware");
  } else if (*candidate.usd_per_hour_instances > *inputs.budget) {
    candidate.recommendable = false;
    candidate.notes.push_back(
        fmt::format("over the budget: whole instances cost {:.2f} USD an hour",
                    *candidate.usd_per_hour_instances));
  }
  return candidate;
}

}  // namespace moesaic::plan
