#pragma once

// What serve, chat and bench share: from settings to a model in memory with its KV cache, and to a
// running engine.

#include <filesystem>
#include <memory>
#include <string>

#include "backend/ops.h"
#include "base/settings.h"
#include "cli/command_line.h"
#include "engine/engine.h"
#include "model/decoder.h"
#include "model/memory_plan.h"
#include "model/spec.h"
#include "model/weights.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace moesaic::cli {

/// A model ready to run. Members are in the order they are built; each outlives those below it.
struct LoadedModel {
  std::filesystem::path folder;
  model::ModelSpec spec;
  std::unique_ptr<backend::Backend> backend;
  tensor::DType dtype = tensor::DType::kBF16;
  tensor::DType kv_dtype = tensor::DType::kBF16;
  int64_t max_model_len = 0;
  model::MemoryPlan memory;
  model::LoadedWeights weights;
  std::unique_ptr<model::KvCache> cache;
};

/// The MODEL argument or --model, whichever is given. Throws UsageError when neither or both
/// differ, MissingFileError when it is not a folder or a config.json.
std::filesystem::path model_path(const Invocation& invocation);

/// Refuses settings whose feature does not exist yet, and logs those without effect.
void check_setting_states(const base::Settings& settings);

/// The backend that --backend, --threads and --cpu-isa ask for.
std::unique_ptr<backend::Backend> make_backend(const base::Settings& settings);

/// Reads the config, plans memory, loads or makes the weights with progress on stderr, and
/// allocates the KV cache. `memory_defaults` replaces the KV size and lengths for commands that
/// know what they need.
struct MemoryDefaults {
  int64_t max_model_len = 0;  ///< 0 = the config's
  int64_t max_sequences = 0;  ///< 0 = --max-num-seqs
  int64_t max_rows = 0;       ///< 0 = --max-num-batched-tokens
};
std::unique_ptr<LoadedModel> load_model(const std::filesystem::path& path,
                                        const base::Settings& settings,
                                        const MemoryDefaults& memory_defaults);

/// An engine over the model, which must outlive it.
std::shared_ptr<engine::Engine> start_engine(LoadedModel& model, const base::Settings& settings,
                                             std::shared_ptr<engine::EngineObserver> observer);

/// The tokenizer of --tokenizer or the model's folder; null with --skip-tokenizer-init, or for
/// dummy weights when there is none.
std::shared_ptr<const text::Tokenizer> load_tokenizer(const std::filesystem::path& folder,
                                                      const base::Settings& settings);

}  // namespace moesaic::cli
