#pragma once

// One generation request under way: submits its prompts, turns tokens into text on the text
// threads, finds stop strings, and answers through the exchange.

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/metrics.h"
#include "engine/engine.h"
#include "server/answer_format.h"
#include "server/generation_request.h"
#include "server/http_types.h"
#include "server/stop_strings.h"
#include "server/text_pool.h"
#include "text/tokenizer.h"

namespace moesaic::server {

/// What generations share; outlives them.
struct GenerationContext {
  engine::Engine& engine;
  TextPool& pool;
  TextPool& large_pool;                              ///< for large answers
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< null without one
  std::shared_ptr<base::Metrics> metrics;
  bool log_requests = false;
  std::atomic<uint64_t> next_id{1};
};

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  /// `tickets` are released at the first output (first) and at the end (second); they count
  /// requests for admission and load.
  Generation(std::shared_ptr<GenerationContext> context, GenerationRequest accepted,
             std::weak_ptr<Exchange> exchange, std::shared_ptr<void> waiting_ticket,
             std::shared_ptr<void> active_ticket);
  ~Generation();

  /// Submits every prompt; on a refusal takes the others back and answers with an error.
  void start();
  /// Ends it from outside, because the client has gone. Thread-safe.
  void cancel();
  /// Ends it because the server stops; the client is told. Thread-safe.
  void abort();

 private:
  class Sink;
  struct Voice;

  void enqueue(int32_t prompt, engine::SequenceOutput&& output);
  void drain();
  void attempt(const std::function<void()>& work);
  void work_off();
  bool submit_all(Response& refusal);
  void advance(int32_t prompt, engine::SequenceOutput&& output);
  bool waits(PromptState& state, engine::SequenceOutput& output);
  void go_on(int32_t prompt, engine::SequenceOutput& output);
  void add_token(ChoiceState& choice, ChoiceDelta& delta, engine::SequenceOutput& output,
                 size_t position);
  void end_choice(ChoiceState& choice, ChoiceDelta& delta, const engine::SequenceOutput& output);
  void emit(ChoiceState& choice, ChoiceDelta& delta);
  void conclude();
  void reply(std::shared_ptr<void> place);
  void log_end() const;
  void fail(int status, std::string_view type, std::string_view message);
  void tell(Response error);
  void stop_everything();
  Usage usage() const;
  Voice& voice(const ChoiceState& choice);

  std::shared_ptr<GenerationContext> context_;
  GenerationRequest accepted_;
  std::weak_ptr<Exchange> exchange_;
  std::shared_ptr<void> waiting_ticket_;
  std::shared_ptr<void> active_ticket_;
  TokenNames names_;
  std::unique_ptr<AnswerFormat> format_;
  std::vector<PromptState> prompts_;
  std::vector<ChoiceState> choices_;
  StopStrings stops_;
  std::vector<std::unique_ptr<Voice>> voices_;  ///< by choice; of those under way
  size_t choices_left_ = 0;
  bool over_ = false;
  ByteShare answer_;       ///< for the choices' text, tokens and logprobs, and for their JSON
  size_t json_ahead_ = 0;  ///< the part of it that is for JSON still to be written, at the least
  std::string events_;     ///< of the deliveries being worked on
  std::chrono::steady_clock::time_point arrival_ = std::chrono::steady_clock::now();

  std::mutex mutex_;  ///< guards what follows
  std::vector<std::pair<int32_t, engine::SequenceOutput>> queue_;
  ByteShare queued_;                           ///< for the queue
  std::optional<base::RequestError> overrun_;  ///< there was no room for it
  bool scheduled_ = false;
  bool started_ = false;
  bool cancelled_ = false;
  std::vector<engine::RequestId> ids_;  ///< by prompt
};

/// The answer to a request the engine refused.
Response refusal_response(engine::Refusal refusal);

}  // namespace moesaic::server
