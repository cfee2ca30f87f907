#pragma once

// The endpoints: from a request to its answer.

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "base/settings.h"
#include "engine/engine.h"
#include "server/expert_load.h"
#include "server/generation.h"
#include "server/http_types.h"
#include "server/json_strict.h"
#include "server/openai_request.h"
#include "server/server.h"
#include "server/text_pool.h"

namespace moesaic::server {

class Api {
 public:
  Api(const base::Settings& settings, ServedModel model, std::shared_ptr<engine::Engine> engine,
      std::shared_ptr<base::Metrics> metrics, std::shared_ptr<ByteBudget> budget);
  ~Api();

  /// Throws what the constructor would because of settings or the model's files.
  static void check(const base::Settings& settings, const ServedModel& model);

  /// Endpoints that generate or read text: their work happens on the text threads.
  void completions(Request request, const std::shared_ptr<Exchange>& exchange);
  void chat(Request request, const std::shared_ptr<Exchange>& exchange);
  void tokenize(Request request, const std::shared_ptr<Exchange>& exchange);
  void detokenize(Request request, const std::shared_ptr<Exchange>& exchange);

  /// Endpoints that answer at once.
  Response models() const;
  /// The card of one name, percent-encoded as in a path, or 404.
  Response model(std::string_view encoded_name) const;
  Response tokenizer_info() const;
  Response version() const;
  Response health() const;
  Response load() const;
  Response metrics_page();
  Response experts() const;

  const RequestLimits& limits() const { return limits_; }
  /// No new generations; health says so.
  void drain();
  bool draining() const { return draining_; }
  /// Ends every generation with an error to its client.
  void abort_all();
  /// Generation requests between arrival and answer.
  int64_t active() const { return active_; }
  /// Takes a sample for the page and writes a line of statistics now and then.
  void tick();
  /// Joins the text threads; nothing touches an exchange after this.
  void stop();

 private:
  struct Intake;
  /// From a body to an answer; what both hold is counted in the share.
  using Handler = std::function<Response(const boost::json::object&, ByteShare&)>;

  void generate(Request request, const std::shared_ptr<Exchange>& exchange, bool chat);
  void intake(Intake& intake, const std::weak_ptr<Exchange>& exchange);
  void answer_later(Request request, const std::shared_ptr<Exchange>& exchange, Handler handler);
  Response guarded(const std::function<Response()>& body) const;
  boost::json::object parse_body(const std::string& body, const ByteShare& held) const;
  /// Bytes of memory that reading a body of so many bytes may take.
  uint64_t body_memory(size_t bytes) const;
  void check_model(const std::string& name) const;
  void write_card(JsonWriter& json, const std::string& name) const;
  std::shared_ptr<void> count(std::atomic<int64_t>& counter);

  GenerationRequest accept_completion(CompletionRequest& request, ByteShare held,
                                      const std::atomic<bool>* cancel) const;
  GenerationRequest accept_chat(ChatRequest& request, size_t body_bytes, ByteShare held) const;
  GenerationRequest accept_common(const CommonRequest& request, ByteShare held, bool chat) const;
  void finish_prompt(const CommonRequest& request, GenerationRequest& accepted,
                     GenerationRequest::Prompt prompt, const char* field) const;
  void constrain(const ConstraintText& text, GenerationRequest& accepted) const;
  void find_forms(const base::Settings& settings);
  void choose_forms(const ChatRequest& request, std::string_view prompt,
                    GenerationRequest& accepted) const;
  std::vector<std::vector<int32_t>> bad_word_ids(const std::vector<std::string>& words) const;
  /// The rendered chat template, guard marks included.
  std::string render(const ChatInput& chat) const;
  std::string render_open(boost::json::object& context) const;
  const text::Tokenizer& tokenizer(const char* param) const;
  /// Refuses text that cannot fit the context whatever its tokens are, before they are computed.
  void check_text_size(size_t bytes, const CommonRequest& request) const;
  void post_intake(size_t body_bytes, std::function<void()> task);
  double awake_for() const;
  Response tokenize_now(const boost::json::object& body, ByteShare& held) const;
  Response detokenize_now(const boost::json::object& body, ByteShare& held) const;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special,
                     const ByteShare& held) const;
  void log_stats(const engine::EngineStats& stats, ExpertLoad::TimePoint now);

  ServedModel model_;
  std::shared_ptr<engine::Engine> engine_;
  std::shared_ptr<base::Metrics> metrics_;
  std::shared_ptr<ByteBudget> budget_;
  RequestLimits limits_;
  SamplingDefaults defaults_;
  std::unique_ptr<ConstraintCache> constraints_;
  base::JsonLimits json_limits_;
  ContentRules content_;
  const CallForm* call_form_ = &call_forms().front();
  const ReasoningForm* reasoning_form_ = nullptr;
  boost::json::object default_template_kwargs_;
  std::string response_role_;
  bool prompt_details_ = false;
  bool log_stats_ = true;
  double stall_seconds_ = 120;
  int64_t max_waiting_ = 0;     ///< requests before their first token; 0 = no bound
  int64_t max_concurrent_ = 0;  ///< requests that run or wait; 0 = no bound
  int64_t created_;

  std::atomic<bool> draining_{false};
  std::atomic<int64_t> waiting_{0};
  std::atomic<int64_t> active_{0};
  size_t longest_token_ = 1;     ///< bytes
  int64_t most_text_bytes_ = 0;  ///< that max_model_len tokens can stand for; 0 = unknown
  TextPool intake_pool_;         ///< JSON, templates, tokenising
  TextPool large_pool_;   ///< the same for large bodies, so that small ones never wait for them
  TextPool output_pool_;  ///< tokens to text: never behind the former
  std::shared_ptr<GenerationContext> context_;
  ExpertLoad expert_load_;
  std::mutex registry_mutex_;
  std::map<uint64_t, std::weak_ptr<Generation>> registry_;
  uint64_t next_entry_ = 0;
  std::atomic<ExpertLoad::TimePoint> last_tick_ = std::chrono::steady_clock::now();
  std::atomic<ExpertLoad::TimePoint> awake_since_ = std::chrono::steady_clock::now();
  ExpertLoad::TimePoint last_log_ = std::chrono::steady_clock::now();
  engine::EngineStats last_stats_;
};

}  // namespace moesaic::server
