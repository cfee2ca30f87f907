#include "cli/loaded_model.h"

#include <fmt/format.h>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <cstdlib>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "engine/local_executor.h"
#include "model/family.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

double gib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

boost::json::object overrides(const base::Settings& settings) {
  const std::string text = settings.get_string("hf-overrides");
  if (text.empty()) return {};
  boost::system::error_code error;
  boost::json::value value = boost::json::parse(text, error);
  if (error || !value.is_object()) {
    throw base::UsageError(
        "--hf-overrides: expected a JSON object such as "
        "'{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}}'");
  }
  return std::move(value.as_object());
}

tensor::DType weight_dtype(const base::Settings& settings, const model::ModelSpec& spec,
                           const backend::Backend& backend) {
  const std::string name = settings.get_string("dtype");
  const tensor::DType dtype = name == "auto" ? spec.dtype : *tensor::dtype_from_torch(name);
  if (const auto reason = backend.supports(dtype); !reason.empty()) {
    throw base::ConfigError(fmt::format("--dtype {}: {}", name, reason));
  }
  return dtype;
}

int64_t longest_sequence(const base::Settings& settings, const model::ModelSpec& spec,
                         int64_t fallback) {
  const int64_t asked = settings.get_int("max-model-len");
  if (settings.is_set("max-model-len") && asked > 0) {
    if (asked > spec.max_position && std::getenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == nullptr) {
      throw base::ConfigError(
          fmt::format("{} {} is longer than the model's {} positions; lower it, or add a rope "
                      "scaling with --hf-overrides",
                      settings.origin("max-model-len"), asked, spec.max_position));
    }
    return asked;
  }
  return fallback > 0 ? fallback : spec.max_position;
}

model::MemoryPlanInputs memory_inputs(const LoadedModel& model, const base::Settings& settings,
                                      const MemoryDefaults& defaults) {
  model::MemoryPlanInputs inputs;
  inputs.dtype = model.dtype;
  inputs.kv_dtype = model.kv_dtype;
  inputs.block_size = settings.get_int("block-size");
  inputs.max_rows =
      defaults.max_rows > 0 ? defaults.max_rows : settings.get_int("max-num-batched-tokens");
  inputs.max_sequences =
      defaults.max_sequences > 0 ? defaults.max_sequences : settings.get_int("max-num-seqs");
  inputs.max_model_len = model.max_model_len;
  inputs.device_bytes = model::host_memory_limit();
  inputs.utilization = settings.get_float("gpu-memory-utilization");
  if (settings.is_set("kv-cache-memory-bytes")) {
    inputs.kv_bytes = static_cast<uint64_t>(settings.get_int("kv-cache-memory-bytes"));
  }
  if (settings.is_set("num-gpu-blocks-override")) {
    inputs.kv_blocks = settings.get_int("num-gpu-blocks-override");
  }
  return inputs;
}

/// Plans memory. Without an explicit length the context shrinks to what the KV cache can hold, as
/// --max-model-len auto asks, rather than refusing a model whose config promises more than the
/// machine.
model::MemoryPlan plan(LoadedModel& model, const base::Settings& settings,
                       const MemoryDefaults& defaults) {
  model::MemoryPlanInputs inputs = memory_inputs(model, settings, defaults);
  const bool may_shrink = settings.get_int("max-model-len") <= 0;
  for (;;) {
    try {
      return model::plan_memory(model.spec, *model.backend, inputs);
    } catch (const base::UnavailableError&) {
      if (!may_shrink || inputs.max_model_len <= 1024) throw;
      inputs.max_model_len /= 2;
      model.max_model_len = inputs.max_model_len;
      spdlog::warn("the KV cache cannot hold the model's whole context; trying {} tokens",
                   inputs.max_model_len);
    }
  }
}

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

}  // namespace

fs::path model_path(const Invocation& invocation) {
  std::string given = invocation.settings.get_string("model");
  if (invocation.arguments.size() > 1) {
    throw base::UsageError("one model at a time; got also '" + invocation.arguments[1] + "'");
  }
  if (invocation.arguments.size() == 1) {
    if (invocation.settings.origin("model") == "--model" && given != invocation.arguments[0]) {
      throw base::UsageError("the model is given twice, as argument and as --model");
    }
    given = invocation.arguments[0];
  }
  if (given.empty()) {
    throw base::UsageError(
        "which model? Give a folder in Hugging Face layout, such as models/demo");
  }
  std::error_code error;
  if (!fs::exists(given, error)) {
    throw base::MissingFileError(fmt::format(
        "there is no folder '{}'; moesaic does not download models yet, so fetch it first (for "
        "example: hf download {} --local-dir DIR) and give that folder",
        given, given));
  }
  return given;
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

std::unique_ptr<backend::Backend> make_backend(const base::Settings& settings) {
  if (settings.get_string("backend") == "reference") return backend::make_reference_backend();
  backend::CpuOptions options;
  options.threads = static_cast<int>(settings.get_int("threads"));
  options.pin = settings.get_bool("pin-threads");
  if (const std::string isa = settings.get_string("cpu-isa"); isa != "auto") options.isa = isa;
  return backend::make_cpu_backend(options);
}

std::unique_ptr<LoadedModel> load_model(const fs::path& path, const base::Settings& settings,
                                        const MemoryDefaults& defaults) {
  auto model = std::make_unique<LoadedModel>();
  model->folder = fs::is_directory(path) ? path : path.parent_path();
  model->spec = model::load_spec(path, overrides(settings));
  model->backend = make_backend(settings);
  model->dtype = weight_dtype(settings, model->spec, *model->backend);
  const std::string kv = settings.get_string("kv-cache-dtype");
  model->kv_dtype = kv == "auto" ? model->dtype : *tensor::dtype_from_torch(kv);
  model->max_model_len = longest_sequence(settings, model->spec, defaults.max_model_len);
  model->memory = plan(*model, settings, defaults);
  spdlog::info("{}; {}", model->backend->description(), model->spec.architecture);
  spdlog::info(
      "memory plan: weights {:.2f} GiB, KV cache {:.2f} GiB ({} tokens), activations {:.2f} "
      "GiB, runtime {:.2f} GiB",
      gib(model->memory.weights), gib(model->memory.kv_cache), model->memory.kv_tokens,
      gib(model->memory.activations), gib(model->memory.runtime));

  const model::WeightPlan weights = model::plan_weights(model->spec, *model->backend, model->dtype);
  model::LoadOptions options;
  options.cache_folder = cache_folder(settings);
  auto progress = std::make_shared<base::Progress>("loading", weights.bytes);
  options.progress = [progress](uint64_t done, uint64_t) { progress->update(done); };
  if (settings.get_string("load-format") == "dummy") {
    model->weights = model::make_dummy_weights(
        weights, *model->backend, static_cast<uint64_t>(settings.get_int("seed")), options);
  } else {
    const auto checkpoint = checkpoint::Checkpoint::open(model->folder);
    model->weights = model::load_weights(weights, *model->backend, checkpoint, options);
    if (!model->weights.ignored.empty()) {
      spdlog::info("{} tensors of the checkpoint are known and not used, such as {}",
                   model->weights.ignored.size(), model->weights.ignored.front());
    }
  }
  progress->finish();
  model->cache =
      std::make_unique<model::KvCache>(model->spec, *model->backend, model->kv_dtype,
                                       settings.get_int("block-size"), model->memory.kv_blocks);
  return model;
}

std::shared_ptr<engine::Engine> start_engine(LoadedModel& model, const base::Settings& settings,
                                             std::shared_ptr<engine::EngineObserver> observer) {
  engine::EngineOptions options;
  options.block_size = settings.get_int("block-size");
  options.num_blocks = model.memory.kv_blocks;
  options.max_rows = settings.get_int("max-num-batched-tokens");
  options.max_sequences = settings.get_int("max-num-seqs");
  options.max_model_len = model.max_model_len;
  options.max_waiting = settings.get_int("max-num-queued-reqs");
  options.prefix_caching = settings.get_bool("enable-prefix-caching");
  options.priority_scheduling = settings.get_string("scheduling-policy") == "priority";
  options.eos_ids = model.spec.eos_ids;
  options.seed = static_cast<uint64_t>(settings.get_int("seed"));
  auto executor = std::make_unique<engine::LocalExecutor>(model.spec, model.weights, *model.backend,
                                                          *model.cache, options.max_rows);
  return std::make_shared<engine::Engine>(options, std::move(executor), std::move(observer));
}

std::shared_ptr<const text::Tokenizer> load_tokenizer(const fs::path& folder,
                                                      const base::Settings& settings) {
  if (settings.get_bool("skip-tokenizer-init")) return nullptr;
  const std::string other = settings.get_string("tokenizer");
  const fs::path place = other.empty() ? folder : fs::path(other);
  if (settings.get_string("load-format") == "dummy" && !fs::exists(place / "tokenizer.json")) {
    spdlog::warn("no tokenizer.json in {}; prompts must be token ids", place.string());
    return nullptr;
  }
  return text::Tokenizer::load(place);
}

}  // namespace moesaic::cli
