#pragma once

// HTTP side of `serve`: the OpenAI protocol, metrics, health and the web page.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "base/settings.h"
#include "engine/engine.h"
#include "model/spec.h"
#include "server/bound_address.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace moesaic::server {

/// The served model as the protocol sees it.
struct ServedModel {
  std::vector<std::string> names;  ///< every name accepted; the first is echoed
  std::string root;                ///< path, for /v1/models
  int64_t max_model_len = 0;
  model::ModelSpec spec;
  std::shared_ptr<const text::Tokenizer> tokenizer;         ///< null: prompts must be token ids
  std::shared_ptr<const text::ChatTemplate> chat_template;  ///< null: no chat
  std::string tokenizer_info;                               ///< what /tokenizer_info answers, JSON
  std::string generation_config_json;  ///< "" or the file's text: sampling defaults
};

/// Turns the engine's events into the vllm:... histograms. Give it to the engine's constructor.
std::shared_ptr<engine::EngineObserver> make_observer(std::shared_ptr<base::Metrics> metrics);

/// The address of --host and --port. Throws UnavailableError when it is taken.
BoundAddress bind_address(const base::Settings& settings);

/// Throws what a Server of these would, before there is an engine: UsageError and ModelFileError
/// for sampling defaults and template arguments that are wrong.
void check_served(const base::Settings& settings, const ServedModel& model);

class Server {
 public:
  /// Listens on `address`, and serves from run(). Throws UnavailableError when the address cannot
  /// be had, and what check_served() does.
  Server(const base::Settings& settings, BoundAddress address, ServedModel model,
         const std::shared_ptr<engine::Engine>& engine,
         const std::shared_ptr<base::Metrics>& metrics);
  ~Server();

  /// The port that is bound (useful when the setting says 0).
  uint16_t port() const;

  /// Serves until SIGTERM or SIGINT has been handled: stop listening to new work (503), let running
  /// requests end within --shutdown-timeout, then return. A second signal ends the process at once.
  /// Throws Error(kInternal) when the engine has died.
  void run();

  /// Begins what SIGTERM begins. Thread-safe.
  void shutdown();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::server
