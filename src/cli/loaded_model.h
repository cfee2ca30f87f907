#pragma once

// What serve, chat and bench share: from settings to a model in memory with its KV cache, and to a
// running engine.

#include <boost/json/object.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/communicator.h"
#include "backend/ops.h"
#include "base/model_file.h"
#include "base/settings.h"
#include "base/thread_pool.h"
#include "cli/command_line.h"
#include "engine/engine.h"
#include "engine/executor.h"
#include "model/decoder.h"
#include "model/memory_needs.h"
#include "model/shard.h"
#include "model/spec.h"
#include "model/weights.h"
#include "tensor/weight_format.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace moesaic::cli {

/// One rank of a model. Members are in the order they are built; each outlives those below it.
struct LoadedRank {
  model::Shard shard;
  std::unique_ptr<base::ThreadPool> pool;
  std::unique_ptr<backend::Backend> backend;
  model::LoadedWeights weights;
  std::unique_ptr<model::KvCache> cache;
};

/// A model ready to run.
struct LoadedModel {
  base::ModelFolder files{""};
  model::ModelSpec spec;
  tensor::WeightFormat format = tensor::DType::kBF16;
  tensor::DType kv_dtype = tensor::DType::kBF16;
  int64_t max_model_len = 0;
  model::MemoryNeeds memory;
  std::vector<LoadedRank> ranks;  ///< one at least
  bool on_device = false;         ///< the backend's memory is not the host's
  backend::SoloCommunicator solo;

  /// "cpu avx512, 2 threads", and over how many ranks.
  std::string description() const;
};

/// The MODEL argument or --model, as it is written. Throws UsageError when neither is given, or
/// both and they differ.
std::string model_name(const Invocation& invocation);

/// model_name() as a path; throws MissingFileError when there is nothing of that name.
std::filesystem::path model_path(const Invocation& invocation);

/// As --dtype has it: "bfloat16".
std::string_view dtype_name(tensor::DType dtype);

/// Refuses settings whose feature does not exist yet, and logs those without effect.
void check_setting_states(const base::Settings& settings);

/// Replaces the KV size and lengths for commands that know what they need.
struct MemoryDefaults {
  int64_t max_model_len = 0;  ///< 0 = the config's
  int64_t max_sequences = 0;  ///< 0 = --max-num-seqs
  int64_t max_rows = 0;       ///< 0 = --max-num-batched-tokens
};

/// What --hf-overrides, --rope-scaling and --rope-theta change in config.json.
boost::json::object config_overrides(const base::Settings& settings);

/// Throws ConfigError for settings that contradict each other or, where there is one, the model:
/// more ranks than heads divide into, experts spread where there are none, ...
void check_contradictions(const base::Settings& settings, const model::ModelSpec* spec);

/// Whether --backend means a CUDA device: it asks for one, which making the backend refuses where
/// there is none, or it leaves the choice and there is one.
bool on_cuda(const base::Settings& settings);

/// Decides device, ranks, types and lengths and plans memory; files, weights and caches stay
/// empty. Throws UnavailableError when the model does not fit, ConfigError as check_contradictions
/// does.
std::unique_ptr<LoadedModel> plan_model(model::ModelSpec spec, const base::Settings& settings,
                                        const MemoryDefaults& memory_defaults);

/// Reads the config and plans memory: all that can be refused before weights are read.
std::unique_ptr<LoadedModel> prepare_model(const std::filesystem::path& path,
                                           const base::Settings& settings,
                                           const MemoryDefaults& memory_defaults);

/// Loads or makes the weights of a prepared model, with progress on stderr, and allocates the KV
/// cache.
void load_weights(LoadedModel& model, const base::Settings& settings);

/// The folder of --prepared-cache; empty without one.
std::filesystem::path cache_folder(const base::Settings& settings);

/// What runs the model's steps of at most `max_rows` rows; the model outlives it.
std::unique_ptr<engine::Executor> make_executor(LoadedModel& model, int64_t max_rows);

/// An engine over the model, which must outlive it.
std::shared_ptr<engine::Engine> start_engine(LoadedModel& model, const base::Settings& settings,
                                             std::shared_ptr<engine::EngineObserver> observer);

/// Where the tokenizer's files are: --tokenizer or the model's own.
base::ModelFolder tokenizer_files(const LoadedModel& model, const base::Settings& settings);

/// The tokenizer of --tokenizer or the model's folder; null with --skip-tokenizer-init, or for
/// dummy weights when there is none. Warns of tokens for which the model has no embedding.
std::shared_ptr<const text::Tokenizer> load_tokenizer(const LoadedModel& model,
                                                      const base::Settings& settings);

}  // namespace moesaic::cli
