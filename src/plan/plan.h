#pragma once

// The planner: what a model needs, does and costs on each instance of the catalogue.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/spec.h"
#include "plan/formats.h"
#include "plan/hardware.h"
#include "plan/memory.h"
#include "plan/names.h"
#include "plan/throughput.h"

namespace moesaic::backend {
class Backend;
}

namespace moesaic::plan {

/// This machine, as the server would use it.
struct HostDevice {
  const backend::Backend* backend = nullptr;
  uint64_t memory_bytes = 0;
};

struct PlanInputs {
  ResolvedModel model;
  Catalog catalog;
  std::vector<std::string> instances;         ///< empty = all of `clouds`
  std::vector<std::string> clouds = {"aws"};  ///< "all" = every one; "own" ones always
  std::string engine = "moesaic";
  std::optional<int64_t> concurrency;     ///< sequences that must be held at once
  std::optional<int64_t> context;         ///< longest sequence, in tokens
  std::optional<int64_t> prompt, output;  ///< a usual request
  std::string dtype = "auto";             ///< auto, bfloat16, float16, float32
  std::string quantization = "auto";      ///< auto = as published; none; a WeightFormat
  std::string kv_cache_dtype = "auto";    ///< auto, bfloat16, float16, fp8
  std::optional<int64_t> tp, ep, pp;
  std::optional<double> budget;    ///< USD an hour for whole instances
  double utilization = 0.9;        ///< share of a device's memory this server may use
  int64_t step_rows = 2048;        ///< tokens of one step (--max-num-batched-tokens)
  std::optional<HostDevice> host;  ///< needed where `instances` has kHostInstance
};

/// The load that speed and fit are reckoned for.
struct Workload {
  int64_t context = 0;                 ///< the longest sequence
  int64_t prompt = 0, output = 0;      ///< the usual request
  std::optional<int64_t> concurrency;  ///< must be held; none = as many as fit, up to kUsualLoad
  int64_t usual() const { return prompt + output; }
};
constexpr int64_t kUsualLoad = 32;

struct Candidate {
  std::string instance;
  std::string accelerator;
  std::string vendor;
  std::string engine;        ///< whose efficiency was used
  bool engine_runs = false;  ///< the engine that was asked for runs on this device
  int64_t nodes = 1;
  int64_t tp = 1, ep = 1, pp = 1;
  int64_t devices = 1;           ///< used, over all nodes
  int64_t instance_devices = 1;  ///< that one instance has
  bool fits = false;
  bool recommendable = false;        ///< fits, within the budget, and can be asked for
  std::string reason;                ///< why it fits or does not, in one line
  std::vector<std::string> smaller;  ///< what smaller layouts failed on
  std::vector<std::string> notes;
  uint64_t device_bytes = 0;
  MemoryTerms per_device;
  uint64_t kv_needed = 0;     ///< of per_device.kv_cache, what the load takes
  int64_t kv_tokens = 0;      ///< tokens the pool holds, in sequences of the longest length
  int64_t max_model_len = 0;  ///< the longest single sequence the pool holds
  int64_t sequences = 0;      ///< usual requests the pool holds at once
  /// Sequences of each length that the pool holds, for lengths that double.
  std::vector<std::pair<int64_t, int64_t>> capacity;
  int64_t concurrency = 0;  ///< the load of the estimates below
  Estimate decode, prefill;
  std::vector<std::pair<int64_t, Estimate>> decode_at;  ///< 1, 8, 32, 128, 256 as far as they fit
  double first_token_seconds = 0;
  /// Generated tokens/s of the load when each request's prompt is read too: a request of P + O
  /// tokens takes the engine P / prefill rate + O / decode rate.
  double served_tokens_per_s = 0;
  double share = 1;                              ///< devices used / devices paid for
  std::optional<double> usd_per_hour;            ///< of the devices used
  std::optional<double> usd_per_hour_instances;  ///< of the whole instances
  /// Generated at `concurrency`, prompts read along the way; of the bill, and of the share.
  std::optional<double> usd_per_million_tokens, usd_per_million_tokens_share;
  std::string price_date, price_source;
  double load_seconds = 0;
  Layout layout() const { return {tp, ep, pp}; }
};

/// A change that would make an unfitting plan fit, or bring it nearer.
struct Remedy {
  std::string change;  ///< e.g. "--kv-cache-dtype fp8"
  std::string effect;  ///< with its number
  bool enough = false;
};

struct Plan {
  PlanInputs inputs;
  Workload load;
  WeightFormat format;
  double kv_element_bytes = 2;
  model::ParameterCount parameters;
  uint64_t bf16_bytes = 0, int8_bytes = 0, int4_bytes = 0;
  double kv_bytes_per_token = 0;     ///< of a token, on one device that holds all layers
  double kv_bytes_past_windows = 0;  ///< of one more token of a sequence longer than any window
  double state_bytes = 0;            ///< of a sequence of any length: recurrent layers' states
  double mha_bytes_per_token = 0;    ///< the same if every head kept its own keys and values
  std::vector<Candidate> candidates;
  std::optional<size_t> recommended;
  std::vector<Remedy> remedies;    ///< when nothing fits
  std::optional<size_t> remedied;  ///< the candidate that the remedies are reckoned for
  std::vector<std::string> notes;
  /// Something can be had that holds the load: `recommended` is set.
  bool found() const { return recommended.has_value(); }
};

/// The weights are to be as the files have them; an engine's flag for what these already say is no
/// other wish.
bool as_published(const PlanInputs& inputs);

/// Plans. Throws UsageError (exit 64) for an unknown instance, engine or type, a budget of zero, a
/// context beyond the model's, each with the nearest valid choice.
Plan make_plan(const PlanInputs& asked);

/// The load that is meant. Throws UsageError like make_plan.
Workload workload_of(const PlanInputs& inputs);

/// What candidates are made from; shared by the search and the remedies.
struct Setting {
  const PlanInputs* inputs = nullptr;
  Workload load;
  WeightFormat format;
  double kv_element_bytes = 2;
  double utilization = 0.9;
};

/// The smallest layout that fits on `instance`, or the most promising one that does not.
Candidate plan_instance(const Setting& setting, const Instance& instance);

/// This machine's CPU, by the server's own memory function.
Candidate plan_host(const Setting& setting);

/// The remedies for `candidate`, in the order in which they should be tried.
std::vector<Remedy> find_remedies(const Setting& setting, const Candidate& candidate);

/// The three faces of a plan.
std::string to_text(const Plan& plan);  ///< at most 80 columns
std::string to_json(const Plan& plan);  ///< docs/plan.schema.json
std::string to_html(const Plan& plan);  ///< one page that needs nothing else

}  // namespace moesaic::plan
