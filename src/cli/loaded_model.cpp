#include "cli/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/progress.h"
#include "cli/memory_table.h"
#include "engine/local_executor.h"
#include "engine/ranked_executor.h"
#include "model/family.h"
#include "model/gguf_tokenizer.h"
#include "model/load_formats.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

/// --rope-scaling as older manifests have it, a JSON object, and as TGI's do, a word and a factor.
boost::json::value rope_scaling(const base::Settings& settings) {
  const std::string text = settings.get_string("rope-scaling");
  boost::system::error_code error;
  if (boost::json::value value = boost::json::parse(text, error); !error && value.is_object()) {
    return value;
  }
  const std::string origin = settings.origin("rope-scaling");
  if (text != "linear" && text != "dynamic") {
    throw base::UsageError(fmt::format("{}: '{}' is neither a JSON object nor linear or dynamic",
                                       origin, text.substr(0, 40)));
  }
  if (!settings.is_set("rope-factor")) {
    throw base::ConfigError(origin + " " + text + " needs --rope-factor as well");
  }
  return {{"rope_type", text}, {"factor", settings.get_float("rope-factor")}};
}

/// Whether `name`, as vLLM and TGI have it, is how the model's weights are stored anyway.
bool is_stored_as(std::string_view name, const model::ModelSpec& spec) {
  if (name == "gguf") return spec.gguf;
  const std::string_view method = spec.quantization.method;
  const auto any_of = [&](std::initializer_list<std::string_view> methods) {
    return std::find(methods.begin(), methods.end(), method) != methods.end();
  };
  if (name == "marlin") return any_of({"gptq", "awq"});
  if (name == "fp8") return any_of({"fp8", "fbgemm_fp8"});
  if (name == "modelopt_fp4") return method == "modelopt";
  constexpr std::string_view kMarlin = "_marlin";
  if (name.ends_with(kMarlin)) name.remove_suffix(kMarlin.size());
  return name == method;
}

/// Refuses the name of a method that the model is not stored in and that nothing makes at load.
void check_quantization(const base::Settings& settings, const model::ModelSpec& spec) {
  const std::string name = settings.get_string("quantization");
  if (name.empty() || is_stored_as(name, spec) || model::find_load_format(name) != nullptr) return;
  const std::string stored = spec.quantization.stored_as();
  throw base::ConfigError(fmt::format(
      "{} {}: the model is {}; leave it out, give a model that is stored so, or make 16 bits "
      "smaller at load with int8 or int4",
      settings.origin("quantization"), name,
      spec.gguf        ? "a GGUF file"
      : stored.empty() ? "not quantised"
                       : "stored as " + stored));
}

tensor::WeightFormat weight_format(const base::Settings& settings, const model::ModelSpec& spec,
                                   const backend::Backend& backend) {
  const std::string quantised = settings.get_string("quantization");
  if (!quantised.empty() && !is_stored_as(quantised, spec)) {
    // Another name is refused before this by a real start; --dry-run plans without it.
    if (const tensor::WeightFormat* format = model::find_load_format(quantised)) {
      const auto reason = backend.supports(*format);
      if (reason.empty()) return *format;
      throw base::ConfigError(fmt::format(
          "{} {}: {}; leave it out, or serve {}", settings.origin("quantization"), quantised,
          reason, format->fp8_arithmetic ? "on a card" : "with --backend cpu"));
    }
  }
  const std::string name = settings.get_string("dtype");
  const tensor::WeightFormat format = name == "auto" ? spec.dtype : *tensor::dtype_from_torch(name);
  const auto reason = backend.supports(format);
  if (reason.empty()) return format;
  if (name != "auto") throw base::ConfigError(fmt::format("--dtype {}: {}", name, reason));
  spdlog::warn("the model's weights are {}; they become bfloat16 on this device", format.name);
  return tensor::DType::kBF16;
}

int64_t longest_sequence(const base::Settings& settings, const model::ModelSpec& spec,
                         int64_t fallback) {
  const int64_t asked = settings.get_int("max-model-len");
  if (settings.is_set("max-model-len") && asked > 0) {
    if (asked > spec.max_position && !settings.get_bool("allow-long-max-model-len")) {
      throw base::ConfigError(
          fmt::format("{} {} is longer than the model's {} positions; lower it, or add a rope "
                      "scaling with --hf-overrides",
                      settings.origin("max-model-len"), asked, spec.max_position));
    }
    return asked;
  }
  return fallback > 0 ? fallback : spec.max_position;
}

model::MemoryInputs memory_inputs(const LoadedModel& model, const base::Settings& settings,
                                  const MemoryDefaults& defaults) {
  model::MemoryInputs inputs;
  inputs.format = model.format;
  inputs.kv_dtype = model.kv_dtype;
  inputs.block_size = settings.get_int("block-size");
  inputs.max_rows =
      defaults.max_rows > 0 ? defaults.max_rows : settings.get_int("max-num-batched-tokens");
  inputs.max_sequences =
      defaults.max_sequences > 0 ? defaults.max_sequences : settings.get_int("max-num-seqs");
  inputs.max_model_len = model.max_model_len;
  inputs.device_bytes = base::memory_limit();
  if (model.on_device) {
    inputs.host_bytes = inputs.device_bytes;
    const backend::MemoryInfo device = model.ranks[0].backend->memory();
    inputs.device_bytes = device.total;
    inputs.free_bytes = device.free;
  }
  inputs.utilization = settings.get_float("gpu-memory-utilization");
  inputs.request_bytes = static_cast<uint64_t>(settings.get_int("max-inflight-bytes"));
  if (settings.is_set("kv-cache-memory-bytes")) {
    inputs.kv_bytes = static_cast<uint64_t>(settings.get_int("kv-cache-memory-bytes"));
  }
  if (settings.is_set("num-gpu-blocks-override")) {
    inputs.kv_blocks = settings.get_int("num-gpu-blocks-override");
  } else if (settings.is_set("max-batch-total-tokens")) {
    const int64_t tokens = settings.get_int("max-batch-total-tokens");
    inputs.kv_blocks = tokens / inputs.block_size + (tokens % inputs.block_size > 0 ? 1 : 0);
  }
  return inputs;
}

/// Plans memory. Without an explicit length the context shrinks to what the KV cache can hold, as
/// --max-model-len auto asks, rather than refusing a model whose config promises more than the
/// machine.
model::MemoryNeeds plan(LoadedModel& model, const base::Settings& settings,
                        const MemoryDefaults& defaults) {
  model::MemoryInputs inputs = memory_inputs(model, settings, defaults);
  const bool may_shrink = settings.get_int("max-model-len") <= 0;
  std::vector<model::DeviceRank> ranks;
  ranks.reserve(model.ranks.size());
  for (const LoadedRank& rank : model.ranks) ranks.push_back({rank.backend.get(), rank.shard});
  for (;;) {
    try {
      const model::MemoryNeeds memory = model::memory_needs(model.spec, ranks, inputs);
      if (inputs.max_model_len < model.max_model_len) {
        spdlog::warn("the KV cache cannot hold the model's whole context of {} tokens; serving {}",
                     model.max_model_len, inputs.max_model_len);
        model.max_model_len = inputs.max_model_len;
      }
      return memory;
    } catch (const base::UnavailableError&) {
      if (!may_shrink || inputs.max_model_len <= 1024) throw;
      inputs.max_model_len /= 2;
    }
  }
}

}  // namespace

fs::path cache_folder(const base::Settings& settings) {
  const std::string asked = settings.get_string("prepared-cache");
  if (asked == "off") return {};
  if (asked != "auto") return asked;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return fs::path(cache) / "moesaic";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    return fs::path(home) / ".cache" / "moesaic";
  }
  return {};
}

std::string model_name(const Invocation& invocation) {
  std::string given = invocation.settings.get_string("model");
  if (invocation.arguments.size() > 1) {
    throw base::UsageError("one model at a time; got also '" + invocation.arguments[1] + "'");
  }
  if (invocation.arguments.size() == 1) {
    const std::string origin = invocation.settings.origin("model");
    if (origin.starts_with("--model") && given != invocation.arguments[0]) {
      throw base::UsageError("the model is given twice, as argument and as " + origin);
    }
    given = invocation.arguments[0];
  }
  if (given.empty()) {
    throw base::UsageError(
        "which model? Give a folder in Hugging Face layout, such as models/demo");
  }
  return given;
}

fs::path model_path(const Invocation& invocation) {
  const std::string given = model_name(invocation);
  std::error_code error;
  if (!fs::exists(given, error)) {
    throw base::MissingFileError(fmt::format(
        "there is no folder or GGUF file '{}'; moesaic does not download models yet, "
        "so fetch it first (for example: hf download {} --local-dir DIR) and give that folder",
        given, given));
  }
  return given;
}

std::string_view dtype_name(tensor::DType dtype) {
  switch (dtype) {
    case tensor::DType::kF32:
      return "float32";
    case tensor::DType::kF16:
      return "float16";
    case tensor::DType::kBF16:
      return "bfloat16";
    default:
      return tensor::to_string(dtype);
  }
}

boost::json::object config_overrides(const base::Settings& settings) {
  boost::json::object object;
  if (!settings.get_string("rope-scaling").empty()) object["rope_scaling"] = rope_scaling(settings);
  if (settings.is_set("rope-theta")) object["rope_theta"] = settings.get_float("rope-theta");
  const std::string text = settings.get_string("hf-overrides");
  if (text.empty()) return object;
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(text, error);
  if (error || !value.is_object()) {
    throw base::UsageError(
        "--hf-overrides: expected a JSON object such as "
        "'{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}}'");
  }
  model::merge_config(value.get_object(), object);
  return object;
}

void check_setting_states(const base::Settings& settings) {
  std::string refused;
  for (const std::string& name : settings.set_names()) {
    const base::SettingReport report = base::report_setting(settings, name);
    if (report.fate == base::SettingFate::kNoEffect) {
      spdlog::info("no effect here: {}", report.line);
    } else if (report.fate == base::SettingFate::kLater) {
      refused += (refused.empty() ? "" : "\n") + report.line;
    }
  }
  if (!refused.empty()) throw base::ConfigError(refused);
}

bool on_cuda(const base::Settings& settings) {
  const std::string asked = settings.get_string("backend");
  return asked == "cuda" || (asked == "auto" && backend::cuda_devices() > 0);
}

namespace {

/// Ranks of the tensor-parallel group. On NeuronCores Neuron's own library pads heads, and
/// manifests ask for 24 with 32 heads: a plan for this machine leaves them out, a real start
/// refuses them.
int rank_count(const base::Settings& settings) {
  if (settings.get_string("backend") == "neuron") return 1;
  return static_cast<int>(settings.get_int("tensor-parallel-size"));
}

}  // namespace

void check_contradictions(const base::Settings& settings, const model::ModelSpec* spec) {
  const auto written = [&](const char* name) {
    return fmt::format("{} {}", settings.origin(name), settings.text(name));
  };
  const int64_t prompt = settings.get_int("max-input-tokens");
  const int64_t length = settings.get_int("max-model-len");
  if (prompt > 0 && length > 0 && prompt >= length) {
    throw base::ConfigError(fmt::format("{} leaves no room for an answer in {}",
                                        written("max-input-tokens"), written("max-model-len")));
  }
  if (settings.get_int("node-rank") >= settings.get_int("nnodes")) {
    throw base::ConfigError(fmt::format("{}: of {} nodes the last one is {}", written("node-rank"),
                                        settings.get_int("nnodes"),
                                        settings.get_int("nnodes") - 1));
  }
  if (spec == nullptr) return;
  const int64_t ranks = rank_count(settings);
  for (const model::LayerSpec& layer : spec->layers) {
    const int64_t heads = layer.attention.heads;
    const int64_t kv_heads = layer.attention.kv_heads;
    if (heads % ranks != 0) {
      throw base::ConfigError(
          fmt::format("{}: the model's {} attention heads cannot be shared "
                      "evenly by {} ranks; use a divisor of {}",
                      written("tensor-parallel-size"), heads, ranks, heads));
    }
    // Several ranks may hold copies of one KV head, or one rank several.
    if (kv_heads % ranks != 0 && ranks % kv_heads != 0) {
      throw base::ConfigError(
          fmt::format("{}: the model's {} KV heads are neither a multiple nor "
                      "a divisor of {} ranks",
                      written("tensor-parallel-size"), kv_heads, ranks));
    }
  }
  const int64_t stages = settings.get_int("pipeline-parallel-size");
  if (stages > static_cast<int64_t>(spec->layers.size())) {
    throw base::ConfigError(fmt::format("{}: the model has {} layers",
                                        written("pipeline-parallel-size"), spec->layers.size()));
  }
  if (settings.get_bool("enable-expert-parallel") && spec->max_experts() == 0) {
    throw base::ConfigError(fmt::format("{}: the model has no experts to spread",
                                        settings.origin("enable-expert-parallel")));
  }
}

namespace {

/// The ranks that --tensor-parallel-size, --enable-expert-parallel, --backend, --threads and
/// --cpu-isa ask for, with nothing loaded.
std::vector<LoadedRank> make_ranks(const base::Settings& settings) {
  const int count = rank_count(settings);
  const base::Topology topology = base::discover_topology();
  const bool reference = settings.get_string("backend") == "reference";
  auto threads = static_cast<int>(reference ? count : settings.get_int("threads"));
  if (threads == 0) threads = base::usable_cores(topology);
  if (!reference && threads > topology.cpus) {
    throw base::ConfigError(fmt::format(
        "{} {}: this process may use {} CPUs, and more threads would only wait for each other; "
        "leave it out for one per core",
        settings.origin("threads"), threads, topology.cpus));
  }
  if (count > static_cast<int>(topology.cores.size())) {
    spdlog::warn("{} {}: this process has {} cores, on which ranks will wait for each other",
                 settings.origin("tensor-parallel-size"), count, topology.cores.size());
  }
  const std::string isa = settings.get_string("cpu-isa");
  const bool cuda = on_cuda(settings);
  if (cuda && count > 1) {
    throw base::ConfigError(fmt::format("{} {}: ranks on several CUDA devices come later",
                                        settings.origin("tensor-parallel-size"), count));
  }
  std::vector<LoadedRank> ranks;
  for (const std::vector<int>& cores : base::share_cores(topology, threads, count)) {
    LoadedRank& rank = ranks.emplace_back();
    rank.shard = {.ranks = count,
                  .rank = static_cast<int64_t>(ranks.size()) - 1,
                  .expert_parallel = settings.get_bool("enable-expert-parallel")};
    rank.pool = std::make_unique<base::ThreadPool>(cores, settings.get_bool("pin-threads"));
    rank.backend = reference ? backend::make_reference_backend()
                   : cuda    ? backend::make_cuda_backend(0, !settings.get_bool("enforce-eager"))
                             : backend::make_cpu_backend(*rank.pool, isa == "auto" ? "" : isa);
  }
  return ranks;
}

/// Progress of several ranks that load at once.
class SharedProgress {
 public:
  SharedProgress(uint64_t total, size_t ranks) : progress_("loading", total), done_(ranks) {}

  void update(size_t rank, uint64_t done) {
    const std::lock_guard lock(mutex_);
    done_[rank] = done;
    progress_.update(std::accumulate(done_.begin(), done_.end(), uint64_t{0}));
  }
  void finish() { progress_.finish(); }

 private:
  std::mutex mutex_;
  base::Progress progress_;
  std::vector<uint64_t> done_;
};

/// Runs body(rank) for each rank at once, each on a thread of the rank's first core, so that memory
/// lies on its node. Throws what the first rank that fails throws.
void on_every_rank(std::vector<LoadedRank>& ranks, const std::function<void(LoadedRank&)>& body) {
  std::vector<std::exception_ptr> failures(ranks.size());
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < ranks.size(); ++i) {
      threads.emplace_back([&, i] {
        ranks[i].pool->bind_caller();
        try {
          body(ranks[i]);
        } catch (...) {
          failures[i] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

/// Loads or makes the weights of every rank, and allocates its KV cache.
void load_ranks(LoadedModel& model, const base::Settings& settings) {
  std::vector<model::WeightLayout> plans;
  uint64_t bytes = 0;
  for (const LoadedRank& rank : model.ranks) {
    plans.push_back(model::lay_out_weights(model.spec, *rank.backend, model.format, rank.shard));
    bytes += plans.back().bytes;
  }
  std::optional<checkpoint::Checkpoint> checkpoint;
  if (settings.get_string("load-format") != "dummy") {
    checkpoint.emplace(checkpoint::Checkpoint::open(model.files.path()));
    const bool gguf = checkpoint->metadata() != nullptr;
    const std::string asked = settings.get_string("load-format");
    if (asked != "auto" && (asked == "gguf") != gguf) {
      throw base::ConfigError(fmt::format("{} {}: {} holds {}", settings.origin("load-format"),
                                          asked, checkpoint->path().string(),
                                          gguf ? "GGUF" : "safetensors"));
    }
  }
  SharedProgress progress(bytes, model.ranks.size());
  on_every_rank(model.ranks, [&](LoadedRank& rank) {
    const auto index = static_cast<size_t>(rank.shard.rank);
    const model::LoadOptions options{
        .cache_folder = cache_folder(settings),
        .progress = [&](uint64_t done, uint64_t) { progress.update(index, done); }};
    rank.weights =
        checkpoint
            ? model::load_weights(plans[index], *rank.backend, *rank.pool, *checkpoint, options)
            : model::make_dummy_weights(plans[index], *rank.backend, *rank.pool,
                                        static_cast<uint64_t>(settings.get_int("seed")), options);
    rank.cache =
        std::make_unique<model::KvCache>(model.spec, rank.shard, *rank.backend, model.kv_dtype,
                                         settings.get_int("block-size"), model.memory.kv_blocks);
  });
  progress.finish();
  const std::vector<std::string>& ignored = model.ranks[0].weights.ignored;
  if (!ignored.empty()) {
    spdlog::info("{} tensors of the checkpoint are known and not used, such as {}", ignored.size(),
                 ignored.front());
  }
}

}  // namespace

std::string LoadedModel::description() const {
  std::string one = ranks[0].backend->description();
  if (ranks.size() == 1) return one;
  return fmt::format("{} ranks, {}{}", ranks.size(),
                     ranks[0].shard.expert_parallel ? "experts dealt out, each " : "each ", one);
}

std::unique_ptr<LoadedModel> plan_model(model::ModelSpec spec, const base::Settings& settings,
                                        const MemoryDefaults& defaults) {
  check_contradictions(settings, &spec);
  auto model = std::make_unique<LoadedModel>();
  model->spec = std::move(spec);
  if (settings.get_bool("unpack-weights")) model->spec.stored.reset();
  model->ranks = make_ranks(settings);
  model->on_device = model->ranks[0].backend->name() == "cuda";
  model->format = weight_format(settings, model->spec, *model->ranks[0].backend);
  const std::string kv = settings.get_string("kv-cache-dtype");
  // A type that comes later is refused before this by a real start; --dry-run plans without it.
  const tensor::DType own = model->format.plain() ? model->format.base : tensor::DType::kBF16;
  model->kv_dtype = tensor::dtype_from_torch(kv).value_or(own);
  model->max_model_len = longest_sequence(settings, model->spec, defaults.max_model_len);
  model->memory = plan(*model, settings, defaults);
  return model;
}

namespace {

/// The model's small files: of its folder, or of that which a config.json lies in, or texts from a
/// GGUF file's metadata.
base::ModelFolder files_of(const fs::path& path, bool tokenizer = true) {
  if (const auto gguf = checkpoint::find_gguf(path)) {
    const auto opened = checkpoint::Checkpoint::open(*gguf);
    return {opened.path(), model::gguf_texts(*opened.metadata(), tokenizer)};
  }
  return fs::is_directory(path) ? path : path.parent_path();
}

}  // namespace

std::unique_ptr<LoadedModel> prepare_model(const fs::path& path, const base::Settings& settings,
                                           const MemoryDefaults& defaults) {
  model::ModelSpec spec = model::load_spec(path, config_overrides(settings));
  check_quantization(settings, spec);
  auto model = plan_model(std::move(spec), settings, defaults);
  const bool own_tokenizer =
      settings.get_string("tokenizer").empty() && !settings.get_bool("skip-tokenizer-init");
  model->files = files_of(path, own_tokenizer);
  spdlog::info("{}; {}", model->description(), model->spec.architecture);
  for (const std::string& line : memory_table(model->memory)) spdlog::info("{}", line);
  return model;
}

namespace {

std::string size_text(uint64_t bytes) {
  const double mib = static_cast<double>(bytes) / (1 << 20);
  return mib < 1024 ? fmt::format("{:.1f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
}

/// "matrices: 3.52 GiB Q4_K, 0.91 GiB Q6_K", of all ranks; and what they were, where that differs.
void log_formats(const LoadedModel& model) {
  std::map<std::string, uint64_t> bytes;
  for (const LoadedRank& rank : model.ranks) {
    for (const auto& [name, size] : model::format_bytes(rank.weights.layout, *rank.backend)) {
      bytes[name] += size;
    }
  }
  std::vector<std::pair<uint64_t, std::string>> sorted;
  sorted.reserve(bytes.size());
  for (const auto& [name, size] : bytes) sorted.emplace_back(size, name);
  std::sort(sorted.rbegin(), sorted.rend());
  std::string held;
  for (const auto& [size, name] : sorted) {
    held += fmt::format("{}{} {}", held.empty() ? "" : ", ", size_text(size), name);
  }
  const std::string stored = model.spec.quantization.stored_as();
  spdlog::info("matrices: {}{}", held, stored.empty() ? "" : "; stored as " + stored);
}

}  // namespace

void load_weights(LoadedModel& model, const base::Settings& settings) {
  load_ranks(model, settings);
  log_formats(model);
  base::flush_log();  // before what the commands print themselves
}

std::unique_ptr<engine::Executor> make_executor(LoadedModel& model, int64_t max_rows) {
  LoadedRank& first = model.ranks[0];
  if (model.on_device) {
    // The host prepares a step while the device computes the one before.
    return std::make_unique<engine::LocalExecutor>(model.spec, first.weights, *first.backend,
                                                   model.solo, *first.cache, max_rows, /*depth=*/2);
  }
  std::vector<engine::RankedExecutor::Rank> ranks;
  ranks.reserve(model.ranks.size());
  for (LoadedRank& rank : model.ranks) {
    ranks.push_back({&rank.weights, rank.backend.get(), rank.cache.get(), rank.pool.get()});
  }
  return std::make_unique<engine::RankedExecutor>(model.spec, ranks, max_rows);
}

std::shared_ptr<engine::Engine> start_engine(LoadedModel& model, const base::Settings& settings,
                                             std::shared_ptr<engine::EngineObserver> observer) {
  engine::EngineOptions options;
  options.block_size = settings.get_int("block-size");
  options.num_blocks = model.memory.kv_blocks;
  options.max_rows = settings.get_int("max-num-batched-tokens");
  options.max_sequences = settings.get_int("max-num-seqs");
  options.max_model_len = model.max_model_len;
  options.prefix_caching = settings.get_bool("enable-prefix-caching");
  options.priority_scheduling = settings.get_string("scheduling-policy") == "priority";
  options.eos_ids = model.spec.eos_ids;
  options.seed = static_cast<uint64_t>(settings.get_int("seed"));
  auto executor = make_executor(model, options.max_rows);
  return std::make_shared<engine::Engine>(options, std::move(executor), std::move(observer));
}

namespace {

/// Fine-tunes often add a token (for padding, say) and leave the embedding as it was.
void warn_of_unknown_tokens(const text::Tokenizer& tokenizer, int64_t rows) {
  constexpr size_t kShown = 5;
  std::vector<std::string> tokens;
  size_t count = 0;
  for (int64_t id = rows; id < tokenizer.vocab_size(); ++id) {
    std::string text = tokenizer.token_text(static_cast<int32_t>(id));
    if (text.empty()) continue;
    if (count++ < kShown) tokens.push_back(fmt::format("{} ({})", text, id));
  }
  if (count == 0) return;
  spdlog::warn(
      "the tokenizer has {} tokens for which the model has no embedding (its {} rows end at id "
      "{}), such as {}; requests whose prompt has one of them are refused",
      count, rows, rows - 1, fmt::join(tokens, ", "));
}

}  // namespace

base::ModelFolder tokenizer_files(const LoadedModel& model, const base::Settings& settings) {
  const std::string other = settings.get_string("tokenizer");
  if (other.empty()) return model.files;
  return fs::is_directory(other) || checkpoint::find_gguf(other)
             ? files_of(other)
             : base::ModelFolder(fs::path(other));
}

std::shared_ptr<const text::Tokenizer> load_tokenizer(const LoadedModel& model,
                                                      const base::Settings& settings) {
  if (settings.get_bool("skip-tokenizer-init")) return nullptr;
  const base::ModelFolder files = tokenizer_files(model, settings);
  if (settings.get_string("load-format") == "dummy" && !files.has("tokenizer.json")) {
    spdlog::warn("no tokenizer.json in {}; prompts must be token ids", files.path().string());
    return nullptr;
  }
  auto tokenizer = text::Tokenizer::load(files);
  warn_of_unknown_tokens(*tokenizer, model.spec.vocab_size);
  return tokenizer;
}

}  // namespace moesaic::cli
