#include <fmt/format.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <mutex>
#include <random>

#include "backend/cpu/measure.h"
#include "backend/measure.h"
#include "base/error.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "cli/bench_serve.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"

// How fast this machine runs a model, beside the least time its memory and arithmetic allow: for a
// step of R rows that limit is max(bytes touched / bandwidth, operations / peak), both measured
// first and again around the steps.

namespace moesaic::cli {
namespace {

constexpr int64_t kPrefill = 512;
constexpr int64_t kDecode = 64;   ///< tokens after the prefill, with room
constexpr int64_t kFill = 64;     ///< tokens of each sequence in one step that fills its context
constexpr int64_t kPrompts = 32;  ///< of a device's prefill, which one does not fill
constexpr int kSeries = 16;       ///< decode steps in a row, where several may be in flight

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// The least that one step must read and compute.
struct Work {
  double bytes = 0;
  double operations = 0;
};

/// Bytes of the weights as all ranks hold them, counted value by value.
struct HeldBytes {
  double always = 0;  ///< of what every step reads but the router's: the head, attention, shared
  double expert = 0;  ///< of a routed expert, on average

  explicit HeldBytes(const LoadedModel& model) {
    double experts = 0;
    double count = 0;
    for (const LoadedRank& rank : model.ranks) {
      const model::WeightLayout& layout = rank.weights.layout;
      const bool tied = !layout.lm_head.present();
      add(tied ? layout.embed : layout.lm_head);
      for (const model::LayerLayout& layer : layout.layers) {
        for (const auto* matrix : {&layer.qkv, &layer.v, &layer.o}) add(*matrix);
        always += bytes_of(layer.shared);
        if (layer.moe) {
          experts += bytes_of(layer.experts);
          count += static_cast<double>(layer.experts.item.desc.experts);
        } else {
          always += bytes_of(layer.experts);
        }
      }
    }
    // Ranks that share experts hold a part of each.
    const auto all = static_cast<double>(model.spec.moe_layers() * model.spec.max_experts());
    if (count > 0) expert = experts / std::min(count, all);
  }

 private:
  void add(const model::Placed<model::MatrixItem>& placed) {
    if (!placed.present()) return;
    const backend::MatrixDesc& desc = placed.item.desc;
    always += static_cast<double>(desc.n * desc.k) * desc.format.bytes_per_weight();
  }
  static double bytes_of(const model::Placed<model::ExpertsItem>& placed) {
    if (!placed.present()) return 0;
    const backend::ExpertsDesc& desc = placed.item.desc;
    return static_cast<double>(desc.experts * desc.hidden * desc.width) *
           (2 * desc.format.bytes_per_weight() + desc.down().bytes_per_weight());
  }
};

/// The format of the first experts, and so of most of the weights.
const tensor::WeightFormat& main_format(const LoadedModel& model) {
  const model::WeightLayout& layout = model.ranks[0].weights.layout;
  for (const model::LayerLayout& layer : layout.layers) {
    if (layer.experts.present()) return layer.experts.item.desc.format;
  }
  return layout.format;
}

/// Bytes and operations of a step of `rows` rows, `logit_rows` of which want logits, over `kv_read`
/// cached positions read and `kv_pairs` query-key pairs per layer. Experts count as often as
/// `touched` says (distinct ones, summed over layers).
Work work_of(const LoadedModel& model, int64_t rows, int64_t logit_rows, int64_t kv_read,
             int64_t kv_pairs, int64_t touched) {
  const model::ModelSpec& spec = model.spec;
  const HeldBytes held(model);
  const auto kv_element = static_cast<double>(tensor::size_of(model.kv_dtype));
  const auto hidden = static_cast<double>(spec.hidden);
  const auto r = static_cast<double>(rows);
  Work work;
  for (const model::LayerSpec& layer : spec.layers) {
    const auto heads = static_cast<double>(layer.attention.heads * layer.attention.head_dim);
    const auto kv = static_cast<double>(layer.attention.kv_heads * layer.attention.head_dim);
    const double projections = hidden * (2 * heads + 2 * kv);
    work.bytes += 2 * kv * kv_element * static_cast<double>(kv_read);
    work.operations += 2 * r * projections + 4 * heads * static_cast<double>(kv_pairs);
    const double ffn = 3 * hidden * static_cast<double>(layer.ffn.width);
    if (layer.ffn.moe) {
      const double router = hidden * static_cast<double>(layer.ffn.experts);
      work.bytes += 4 * router;
      work.operations += 2 * r * (router + ffn * static_cast<double>(layer.ffn.router.top_k));
    } else {
      work.operations += 2 * r * ffn;
    }
    const double shared = 3 * hidden * static_cast<double>(layer.ffn.shared_width);
    work.operations += 2 * r * shared;
  }
  const double head = hidden * static_cast<double>(spec.vocab_size);
  work.bytes += held.always + static_cast<double>(touched) * held.expert;
  work.operations += 2 * static_cast<double>(logit_rows) * head;
  return work;
}

/// Runs steps of random tokens. Tokens are drawn, not chosen from the logits:
/// what a random model says collapses into repetition, which would touch few experts.
class Runner {
 public:
  explicit Runner(LoadedModel& model, int64_t max_rows)
      : model_(model), executor_(make_executor(model, max_rows)) {}

  /// Steps that may be in flight.
  int depth() const { return executor_->depth(); }

  struct Step {
    double seconds = 0;
    int64_t touched = 0;  ///< distinct experts, summed over layers
  };

  /// Appends `rows` tokens to each of `sequences` sequences of `context` cached positions; of the
  /// last row of each a token is chosen.
  Step run(int64_t sequences, int64_t rows, int64_t context) {
    const engine::ExpertCounts before = executor_->expert_counts();
    Step step{run_series(sequences, rows, context, 1), 0};
    const engine::ExpertCounts after = executor_->expert_counts();
    for (size_t i = 0; i < after.counts.size(); ++i) {
      step.touched += after.counts[i] > before.counts[i] ? 1 : 0;
    }
    return step;
  }

  /// `steps` such steps, the next submitted while the last is computed where the executor takes
  /// several: seconds of one.
  double run_series(int64_t sequences, int64_t rows, int64_t context, int steps) {
    std::vector<std::shared_ptr<const engine::Step>> made;
    for (int i = 0; i < steps; ++i) {
      engine::Step step{build(sequences, rows, context), {}};
      step.samples.assign(step.batch.logit_rows.size(), backend::SampleRow{.temperature = 0});
      made.push_back(std::make_shared<engine::Step>(std::move(step)));
    }
    const auto start = std::chrono::steady_clock::now();
    int landed = 0;
    for (int i = 0; i < steps; ++i) {
      executor_->submit(made[static_cast<size_t>(i)]);
      if (i - landed + 1 == depth()) {
        executor_->wait();
        ++landed;
      }
    }
    for (; landed < steps; ++landed) executor_->wait();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    return took.count() / steps;
  }

 private:
  engine::StepBatch build(int64_t sequences, int64_t rows, int64_t context) {
    const int64_t block = cache().block_size();
    const int64_t blocks = (context + rows + block - 1) / block;
    std::uniform_int_distribution<int32_t> token(0,
                                                 static_cast<int32_t>(model_.spec.vocab_size) - 1);
    engine::StepBatch batch;
    batch.max_blocks = blocks;
    batch.seq_starts.push_back(0);
    for (int64_t s = 0; s < sequences; ++s) {
      for (int64_t b = 0; b < blocks; ++b) {
        batch.block_tables.push_back(static_cast<int32_t>(s * blocks_each(sequences) + b));
      }
      for (int64_t p = context; p < context + rows; ++p) {
        batch.token_ids.push_back(token(random_));
        batch.positions.push_back(static_cast<int32_t>(p));
        batch.slots.push_back((s * blocks_each(sequences) + p / block) * block + p % block);
      }
      batch.seq_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
      batch.context_lens.push_back(static_cast<int32_t>(context + rows));
      batch.logit_rows.push_back(static_cast<int32_t>(batch.token_ids.size()) - 1);
    }
    return batch;
  }

  const model::KvCache& cache() const { return *model_.ranks[0].cache; }
  int64_t blocks_each(int64_t sequences) const { return cache().num_blocks() / sequences; }

  LoadedModel& model_;
  std::unique_ptr<engine::Executor> executor_;
  std::mt19937 random_{1};
};

struct Machine {
  double bandwidth = 0;  ///< bytes per second
  double peak = 0;       ///< operations per second
};

/// Measures the machine again and again: neighbours on the same host change what it has to give
/// from second to second, so a step is compared with what was to be had around it.
class Gauge {
 public:
  Gauge(const Invocation& invocation, const LoadedModel& model)
      : pool_(model.on_device ? 1 : threads(model)) {
    if (model.on_device) {
      meter_ = backend::make_cuda_meter(0, model.format.fp8_arithmetic);
    } else {
      meter_ = std::make_unique<backend::cpu::Meter>(pool_, isa(invocation), main_format(model));
    }
  }

  Machine sample() {
    const Machine machine{meter_->read_bandwidth(), meter_->peak_flops()};
    bandwidths_.push_back(machine.bandwidth);
    peaks_.push_back(machine.peak);
    return machine;
  }

  /// The medians of all samples so far.
  Machine median_machine() const { return {median(bandwidths_), median(peaks_)}; }

 private:
  static int threads(const LoadedModel& model) {
    int threads = 0;
    for (const LoadedRank& rank : model.ranks) threads += rank.pool->size();
    return threads;
  }

  static std::string isa(const Invocation& invocation) {
    const std::string name = invocation.settings.get_string("cpu-isa");
    return name == "auto" ? backend::available_cpu_isas().back() : name;
  }

  base::ThreadPool pool_;
  std::unique_ptr<backend::Meter> meter_;
  std::vector<double> bandwidths_, peaks_;
};

/// One line of the report.
struct Result {
  std::string name;
  double tokens_per_s = 0;
  double limit = 0;  ///< tokens per second at the roofline
  bool memory_bound = true;
  int64_t touched = 0;
  double share() const { return tokens_per_s / limit; }
};

/// A step of `rows` tokens of each of `sequences` sequences with `context` tokens cached.
struct Shape {
  int64_t sequences;
  int64_t rows;
  int64_t context;
};

/// `rounds` of `steps` steps each, with the machine measured before and after every round; the
/// better of the two makes the limit. Medians of the steps' times and of their limits. Where steps
/// overlap, a series of them gives the time of one.
Result measure(Runner& runner, const LoadedModel& model, Gauge& gauge, std::string name,
               const Shape& shape, int rounds, int steps) {
  const auto [sequences, rows, context] = shape;
  const int64_t pairs = sequences * (rows * context + rows * (rows + 1) / 2);
  std::vector<double> seconds;
  std::vector<double> limits;
  Result result;
  result.name = std::move(name);
  runner.run(sequences, rows, context);
  Machine before = gauge.sample();
  for (int round = 0; round < rounds; ++round) {
    std::vector<Work> works;
    for (int i = 0; i < steps; ++i) {
      const Runner::Step step = runner.run(sequences, rows, context);
      seconds.push_back(runner.depth() == 1
                            ? step.seconds
                            : runner.run_series(sequences, rows, context, rows == 1 ? kSeries : 2));
      works.push_back(work_of(model, sequences * rows, sequences, sequences * (context + rows),
                              pairs, step.touched));
      result.touched = step.touched;
    }
    const Machine after = gauge.sample();
    for (const Work& work : works) {
      const double by_memory = work.bytes / std::max(before.bandwidth, after.bandwidth);
      const double by_arithmetic = work.operations / std::max(before.peak, after.peak);
      result.memory_bound = by_memory >= by_arithmetic;
      limits.push_back(std::max(by_memory, by_arithmetic));
    }
    before = after;
  }
  const auto tokens = static_cast<double>(sequences * rows);
  result.tokens_per_s = tokens / median(seconds);
  result.limit = tokens / median(limits);
  return result;
}

void print_results(const Machine& machine, const LoadedModel& model,
                   const std::vector<Result>& results) {
  fmt::print("{}\n", model.description());
  fmt::print("memory read {:.1f} GB/s, arithmetic {:.2f} TFLOP/s ({})\n\n", machine.bandwidth / 1e9,
             machine.peak / 1e12, main_format(model).name);
  fmt::print("{:<26}{:>12}{:>12}{:>8}  {}\n", "", "tokens/s", "limit", "share", "bound by");
  const int64_t all = model.spec.moe_layers() * model.spec.max_experts();
  for (const Result& result : results) {
    fmt::print("{:<26}{:>12.1f}{:>12.1f}{:>7.1f}%  {}\n", result.name, result.tokens_per_s,
               result.limit, 100 * result.share(), result.memory_bound ? "memory" : "arithmetic");
    if (all > 0) {
      fmt::print("{:<26}{} of {} experts touched per step\n", "", result.touched, all);
    }
  }
  // Nothing is faster than its limit; but memory does not limit what caches hold.
  const bool faulty = std::any_of(results.begin(), results.end(),
                                  [](const Result& result) { return result.share() > 1; });
  if (!faulty) return;
  const size_t caches = base::discover_topology().all_l3_bytes;
  fmt::print(
      "\nA limit is faulty: nothing is faster than what bounds it. Do not quote shares above "
      "100%.\n");
  if (model.memory.weights < 4 * caches) {
    fmt::print(
        "The weights ({:.0f} MB) lie partly in caches ({:.0f} MB), which memory does not bound.\n",
        static_cast<double>(model.memory.weights) / 1e6, static_cast<double>(caches) / 1e6);
  }
}

/// Tokens that a sequence of this model may have, prompt and output together.
int64_t context_of(const LoadedModel& model, const base::Settings& settings) {
  if (settings.get_bool("allow-long-max-model-len")) return model.max_model_len;
  return std::min(model.max_model_len, model.spec.max_position);
}

/// A model without its weights, for at most `sequences` sequences of `length` tokens or of what its
/// context has.
std::unique_ptr<LoadedModel> prepare_for_bench(const Invocation& invocation, int64_t length,
                                               int64_t sequences, int64_t rows) {
  base::init_logging("warning");
  check_setting_states(invocation.settings);
  const MemoryDefaults defaults{
      .max_model_len = length, .max_sequences = sequences, .max_rows = rows};
  return prepare_model(model_path(invocation), invocation.settings, defaults);
}

/// Tokens of the measured prefill, which decode then goes on from: whole pieces of what fills the
/// contexts of the sixteen. Throws ConfigError when the context has no room for one.
int64_t prefill_for(const LoadedModel& model, const base::Settings& settings) {
  const int64_t room = context_of(model, settings) - kDecode;
  const int64_t tokens = std::min(kPrefill, room) / kFill * kFill;
  if (tokens > 0) return tokens;
  throw base::ConfigError(
      fmt::format("the model's context is too short to measure; {} tokens are "
                  "the least",
                  kFill + kDecode));
}

void print_json(const Machine& machine, const LoadedModel& model, int64_t prefill_tokens,
                const std::vector<std::pair<std::string, Result>>& results) {
  bool faulty = false;
  boost::json::object root;
  root["backend"] = model.description();
  root["bandwidth_bytes_per_s"] = machine.bandwidth;
  root["peak_operations_per_s"] = machine.peak;
  root["prefill_tokens"] = prefill_tokens;
  for (const auto& [name, result] : results) {
    root[fmt::format("{}_tokens_per_s", name)] = result.tokens_per_s;
    root[fmt::format("{}_limit_share", name)] = result.share();
    root[fmt::format("{}_experts_touched", name)] = result.touched;
    faulty = faulty || result.share() > 1;
  }
  root["limit_is_faulty"] = faulty;
  std::cout << boost::json::serialize(root) << "\n";
}

/// --sequences: how many decode at once, each a line of the report.
std::vector<int64_t> sequence_counts(const Invocation& invocation) {
  const std::string text =
      invocation.option("sequences", on_cuda(invocation.settings) ? "1,8,32,128,256" : "1,16");
  std::vector<int64_t> counts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    int64_t count = 0;
    const auto [last, error] = std::from_chars(text.data() + at, text.data() + end, count);
    if (error != std::errc() || last != text.data() + end || count < 1 || count > 1024) {
      throw base::UsageError(
          fmt::format("--sequences {}: expected numbers from 1 to 1024, such as 1,16", text));
    }
    counts.push_back(count);
    at = end + 1;
  }
  return counts;
}

int bench_latency(const Invocation& invocation) {
  const int repeats = static_cast<int>(invocation.integer("repeats", 5, 1, 1000));
  const std::vector<int64_t> counts = sequence_counts(invocation);
  const int64_t most = *std::max_element(counts.begin(), counts.end());
  const bool device = on_cuda(invocation.settings);
  const int64_t rows = device ? kPrompts * kPrefill : std::max(kPrefill, most * kFill);
  const auto model =
      prepare_for_bench(invocation, kPrefill + kDecode, std::max(most, kPrompts), rows);
  const int64_t tokens = prefill_for(*model, invocation.settings);
  const int64_t cached = invocation.integer("context", tokens, 1, tokens);
  load_weights(*model, invocation.settings);
  Gauge gauge(invocation, *model);
  Runner runner(*model, rows);
  std::vector<std::pair<std::string, Result>> results;
  const auto add = [&](std::string key, std::string name, const Shape& shape, int steps) {
    results.emplace_back(std::move(key),
                         measure(runner, *model, gauge, std::move(name), shape, repeats, steps));
  };
  add("prefill", fmt::format("prefill, {} tokens", tokens), {1, tokens, 0}, 1);
  if (device) {
    add("prefill_many", fmt::format("prefill, {} x {} tokens", kPrompts, tokens),
        {kPrompts, tokens, 0}, 1);
  }
  for (const int64_t count : counts) {
    // Each needs a context of its own: untouched pages would all be one page of zeros.
    const int64_t fill = std::min(kFill, rows / count);
    for (int64_t context = 0; context < cached; context += fill) {
      runner.run(count, std::min(fill, cached - context), context);
    }
    add(count == 1 ? "decode" : fmt::format("decode{}", count),
        fmt::format("decode, {} sequence{}", count, count == 1 ? "" : "s"), {count, 1, cached},
        count == 1 ? 8 : 4);
  }
  const Machine machine = gauge.median_machine();
  if (invocation.has("json")) {
    print_json(machine, *model, tokens, results);
  } else {
    std::vector<Result> lines;
    lines.reserve(results.size());
    for (const auto& [key, result] : results) lines.push_back(result);
    print_results(machine, *model, lines);
  }
  return 0;
}

/// Counts tokens as they come; the bench waits on it.
class Counter : public engine::OutputSink {
 public:
  void deliver(engine::SequenceOutput&& output) override {
    std::lock_guard lock(mutex_);
    tokens_ += static_cast<int64_t>(output.tokens.size());
    if (output.finish == engine::FinishReason::kNone) return;
    ++finished_;
    failed_ += output.finish == engine::FinishReason::kError ? 1 : 0;
    changed_.notify_all();
  }
  /// Waits for `count` ends; returns the tokens that came. Throws ModelFileError, which names
  /// `model`, when a request failed: of these requests only the weights' numbers can be wrong.
  int64_t wait(int64_t count, const std::string& model) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return finished_ >= count; });
    if (failed_ > 0) {
      throw base::ModelFileError(
          model, fmt::format("{} of {} requests failed in the engine (the log says why); a model "
                             "whose weights hold NaN or infinity cannot be measured",
                             failed_, count));
    }
    return tokens_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t tokens_ = 0, finished_ = 0, failed_ = 0;
};

int bench_throughput(const Invocation& invocation) {
  const int64_t requests = invocation.integer("requests", 32, 1, 100000);
  const int64_t input = invocation.integer("input-len", 256, 1, 1 << 20);
  const int64_t output = invocation.integer("output-len", 64, 1, 1 << 20);
  const auto model = prepare_for_bench(invocation, input + output, 0, 0);
  if (const int64_t most = context_of(*model, invocation.settings); input + output > most) {
    throw base::ConfigError(
        fmt::format("--input-len {} and --output-len {} together are more than "
                    "the context of {} tokens; lower them",
                    input, output, most));
  }
  load_weights(*model, invocation.settings);
  const auto engine =
      start_engine(*model, invocation.settings, std::make_shared<engine::EngineObserver>());
  const auto counter = std::make_shared<Counter>();
  std::mt19937 random(1);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(model->spec.vocab_size) - 1);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < requests; ++i) {
    engine::Request request;
    request.id = static_cast<engine::RequestId>(i + 1);
    for (int64_t t = 0; t < input; ++t) request.prompt.push_back(token(random));
    request.sampling.max_tokens = static_cast<int32_t>(output);
    request.sampling.ignore_eos = true;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.sink = counter;
    if (engine->submit(std::move(request)) != engine::Refusal::kNone) {
      throw base::UnavailableError(
          "the engine refused a request; lower --requests or --input-len, "
          "or raise --max-num-queued-reqs");
    }
  }
  const int64_t generated = counter->wait(requests, model->files.path().string());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const double seconds = took.count();
  const double total = static_cast<double>(requests * input + generated) / seconds;
  if (invocation.has("json")) {
    std::cout << boost::json::serialize(boost::json::object{
                     {"requests", requests},
                     {"input_tokens", requests * input},
                     {"output_tokens", generated},
                     {"seconds", seconds},
                     {"requests_per_s", static_cast<double>(requests) / seconds},
                     {"output_tokens_per_s", static_cast<double>(generated) / seconds},
                     {"total_tokens_per_s", total}})
              << "\n";
  } else {
    fmt::print(
        "{}\n{} requests of {} + {} tokens in {:.2f} s\n{:.2f} requests/s, {:.1f} output "
        "tokens/s, {:.1f} tokens/s in all\n",
        model->description(), requests, input, output, seconds,
        static_cast<double>(requests) / seconds, static_cast<double>(generated) / seconds, total);
  }
  return 0;
}

/// Options that not every kind of bench has, by the kinds that have them.
struct BenchKind {
  std::string_view name;
  std::vector<std::string_view> options;
  int (*run)(const Invocation&);
};

std::vector<BenchKind> bench_kinds() {
  BenchKind serve{"serve", {"json", "requests", "input-len", "output-len"}, bench_serve};
  for (const CommandOption& option : bench_serve_options()) serve.options.push_back(option.name);
  return {{"latency", {"json", "sequences", "context", "repeats"}, bench_latency},
          {"throughput", {"json", "requests", "input-len", "output-len"}, bench_throughput},
          std::move(serve)};
}

int run_bench(const Invocation& invocation) {
  Invocation rest = invocation;
  const std::string name = rest.arguments.empty() ? "" : rest.arguments[0];
  const std::vector<BenchKind> kinds = bench_kinds();
  const auto kind = std::find_if(kinds.begin(), kinds.end(),
                                 [&](const BenchKind& other) { return other.name == name; });
  if (kind == kinds.end()) {
    throw base::UsageError(
        "bench what? 'moesaic bench latency MODEL', 'bench throughput MODEL' or 'bench serve URL'");
  }
  for (const auto& [option, value] : rest.options) {
    if (std::find(kind->options.begin(), kind->options.end(), option) != kind->options.end()) {
      continue;
    }
    throw base::UsageError(
        fmt::format("--{} means nothing to 'bench {}'; 'moesaic bench --help' "
                    "says what each takes",
                    option, name));
  }
  rest.arguments.erase(rest.arguments.begin());
  return kind->run(rest);
}

}  // namespace

Command bench_command() {
  Command command{
      "bench",
      "latency|throughput|serve MODEL|URL",
      "Measure a model here, beside what this machine's memory and arithmetic allow, or a server.",
      "latency: prefill of 512 tokens, decode of one sequence and of several, each with its share "
      "of the limit max(bytes touched / bandwidth, operations / peak). Bandwidth and peak are "
      "measured "
      "first and again around every round, for a shared host's change; all figures are medians.\n"
      "throughput: many requests at once through the whole engine.\n"
      "With --load-format dummy a config.json is enough for both. Random weights can send all "
      "tokens to few experts, so the experts touched are counted and shown.\n"
      "serve: load on a server that speaks OpenAI's protocol (this one, vLLM, TGI, llama.cpp): "
      "time to first token, time per token, end to end, tokens per second. Requests that fail are "
      "counted by reason, and then the exit code is 69. --model names one of several models.",
      {{"json", "", "Print one JSON object."},
       {"sequences", "LIST",
        "latency: how many sequences decode at once. Default 1,16, on a card 1,8,32,128,256."},
       {"context", "N", "latency: cached tokens of each that decodes. Default 512."},
       {"repeats", "N", "latency: measured prefills (decode takes more). Default 5."},
       {"requests", "N", "throughput, serve: requests. Default 32, of serve 100."},
       {"input-len", "N",
        "throughput, serve: prompt tokens of each; for serve also a range, 128..512. Default 256."},
       {"output-len", "N",
        "throughput, serve: output tokens of each, for serve also a range. Default 64."}},
      {"Model", "CPU", "Parallel ranks", "Memory and KV cache", "Scheduling"},
      run_bench};
  for (const CommandOption& option : bench_serve_options()) command.options.push_back(option);
  return command;
}

}  // namespace moesaic::cli
