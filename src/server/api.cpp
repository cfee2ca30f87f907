#include "server/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/url/pct_string_view.hpp>
#include <chrono>

#include "base/error.h"
#include "base/log.h"
#include "base/memory_claim.h"
#include "server/fields.h"
#include "server/json_writer.h"
#include "server/metrics_glue.h"

namespace moesaic::server {

namespace json = boost::json;

namespace {

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int64_t known_ids(const ServedModel& model) {
  if (model.spec.vocab_size > 0) return model.spec.vocab_size;
  return model.tokenizer ? model.tokenizer->vocab_size() : 0;
}

json::object template_kwargs(const base::Settings& settings) {
  const std::string text = settings.get_string("default-chat-template-kwargs");
  if (text.empty()) return {};
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  if (error || !value.is_object()) {
    throw base::UsageError("--default-chat-template-kwargs: expected a JSON object");
  }
  return std::move(value.as_object());
}

/// What a generation request holds beside its text: itself, its connection's exchange, its place in
/// the queues (measured: 11 KiB for a stream of one choice, with its connection).
constexpr size_t kRequestBytes = 16 << 10;

/// Bytes that `tokens` tokens can stand for at most: as many times the longest token. 0, which is
/// no bound, when the tokenizer is seen to make fewer tokens of some text, by dropping or joining
/// characters, and when its longest token is too long to tell.
int64_t most_text_bytes(const text::Tokenizer& tokenizer, int64_t tokens) {
  constexpr size_t kLongest = 1024;
  const size_t longest = std::max<size_t>(tokenizer.longest_token(), 1);
  if (longest > kLongest) return 0;
  for (const char* piece : {" ", "\n", "a", "\xCC\x81", "\xF4\x8F\xBF\xBD"}) {
    std::string probe;
    while (probe.size() < 64 * longest) probe += piece;
    const auto ids = tokenizer.encode(probe, false, text::Tokenizer::Specials::kAsText);
    if (ids.size() * longest < probe.size()) return 0;
  }
  return tokens * static_cast<int64_t>(longest);
}

void write_permission(JsonWriter& json, int64_t created) {
  json.key("permission").begin_array().begin_object();
  json.member("id", "modelperm-" + random_hex()).member("object", "model_permission");
  json.member("created", created).member("allow_create_engine", false);
  json.member("allow_sampling", true).member("allow_logprobs", true);
  json.member("allow_search_indices", false).member("allow_view", true);
  json.member("allow_fine_tuning", false).member("organization", "*");
  json.member_null("group").member("is_blocking", false).end_object().end_array();
}

}  // namespace

/// A request on its way to a generation, and what its client's going must stop.
struct Api::Intake {
  std::string body;
  ByteShare held;
  std::string request_id;  ///< from X-Request-Id; "" = none
  bool chat = false;
  std::shared_ptr<void> waiting_ticket;
  std::shared_ptr<void> active_ticket;
  std::atomic<bool> cancelled{false};
  std::mutex mutex;
  std::shared_ptr<Generation> generation;

  void cancel() {
    cancelled = true;
    std::shared_ptr<Generation> started;
    {
      std::lock_guard lock(mutex);
      started = generation;
    }
    if (started) started->cancel();
  }
};

Api::Api(const base::Settings& settings, ServedModel model, std::shared_ptr<engine::Engine> engine,
         std::shared_ptr<base::Metrics> metrics, std::shared_ptr<ByteBudget> budget)
    : model_(std::move(model)),
      engine_(std::move(engine)),
      metrics_(std::move(metrics)),
      budget_(std::move(budget)),
      limits_(request_limits(settings, known_ids(model_), model_.max_model_len)),
      defaults_(sampling_defaults(model_.generation_config_json,
                                  settings.get_string("override-generation-config"))),
      default_template_kwargs_(template_kwargs(settings)),
      response_role_(settings.get_string("response-role")),
      prompt_details_(settings.get_bool("enable-prompt-tokens-details")),
      log_stats_(!settings.get_bool("disable-log-stats")),
      stall_seconds_(settings.get_float("stall-timeout")),
      created_(unix_seconds()),
      intake_pool_(static_cast<int>(settings.get_int("text-threads"))),
      large_pool_(1, true),
      output_pool_(static_cast<int>(settings.get_int("text-threads"))) {
  if (model_.tokenizer) {
    longest_token_ = std::max<size_t>(model_.tokenizer->longest_token(), 1);
    most_text_bytes_ = most_text_bytes(*model_.tokenizer, model_.max_model_len);
  }
  constraints_ =
      std::make_unique<ConstraintCache>(model_.tokenizer, limits_.vocab_size, model_.spec.eos_ids);
  json_limits_.max_depth = static_cast<size_t>(settings.get_int("max-json-depth"));
  json_limits_.max_nodes = settings.get_int("max-json-nodes");
  const std::string format = settings.get_string("chat-template-content-format");
  if (format == "string") content_.format = ContentRules::Format::kString;
  if (format == "openai") content_.format = ContentRules::Format::kParts;
  content_.chat_template = model_.chat_template.get();
  find_forms(settings);
  const int64_t queue = settings.get_int("max-num-queued-reqs");
  max_concurrent_ = settings.get_int("max-concurrent-requests");
  max_waiting_ = queue == 0 ? 0 : queue + settings.get_int("max-num-seqs");
  context_ = std::shared_ptr<GenerationContext>(
      new GenerationContext{*engine_,
                            output_pool_,
                            large_pool_,
                            model_.tokenizer,
                            metrics_,
                            settings.get_bool("enable-log-requests"),
                            {}});
  context_->next_id = 1;
  last_stats_ = engine_->stats();
  expert_load_.sample(last_stats_, last_log_);
  const auto& layers = model_.spec.layers;
  publish_facts(*metrics_, settings, last_stats_,
                layers.empty() ? 0 : layers.front().attention.sliding_window);
}

Api::~Api() { stop(); }

/// How the model writes calls and reasoning: as the settings say, or as its template shows.
void Api::find_forms(const base::Settings& settings) {
  const std::string calls = settings.get_string("tool-call-parser");
  const std::string reasoning = settings.get_string("reasoning-parser");
  const std::string_view shown = model_.chat_template ? model_.chat_template->text() : "";
  if (const CallForm* named = find_call_form(calls)) {
    call_form_ = named;
  } else {
    call_form_ = &call_form_of(shown);
  }
  reasoning_form_ = reasoning == "auto" ? reasoning_form_of(shown) : find_reasoning_form(reasoning);
}

void Api::check(const base::Settings& settings, const ServedModel& model) {
  request_limits(settings, known_ids(model), model.max_model_len);
  sampling_defaults(model.generation_config_json,
                    settings.get_string("override-generation-config"));
  template_kwargs(settings);
}

void Api::stop() {
  intake_pool_.stop();
  large_pool_.stop();
  output_pool_.stop();
}

std::shared_ptr<void> Api::count(std::atomic<int64_t>& counter) {
  ++counter;
  return {static_cast<void*>(&counter), [&counter](void*) { --counter; }};
}

/// The only way of a body to the text threads, so that the rule of lanes holds for every endpoint.
void Api::post_intake(size_t body_bytes, std::function<void()> task) {
  (body_bytes < kLargeWork ? intake_pool_ : large_pool_).post(std::move(task));
}

void Api::completions(Request request, const std::shared_ptr<Exchange>& exchange) {
  generate(std::move(request), exchange, false);
}

void Api::chat(Request request, const std::shared_ptr<Exchange>& exchange) {
  generate(std::move(request), exchange, true);
}

void Api::generate(Request request, const std::shared_ptr<Exchange>& exchange, bool chat) {
  // Counted before anything costs time, or a burst would pay for a 503 in full.
  const bool full = (max_waiting_ > 0 && waiting_ >= max_waiting_) ||
                    (max_concurrent_ > 0 && active_ >= max_concurrent_);
  if (full) {
    metrics_->add("vllm:admission_rejections_total", 1, {{"reason", "queue_full"}});
    exchange->reply(error_response(503, "ServiceUnavailableError",
                                   "the queue is full (--max-num-queued-reqs or "
                                   "--max-concurrent-requests); try again later"));
    return;
  }
  if (!request.held.try_resize(request.held.bytes() + kRequestBytes)) {
    exchange->reply(error_response(503, "ServiceUnavailableError", kNoRoom));
    return;
  }
  auto intake = std::make_shared<Intake>();
  intake->body = std::move(request.body);
  intake->held = std::move(request.held);
  intake->chat = chat;
  if (const std::string* id = request.head.find("x-request-id")) intake->request_id = *id;
  intake->waiting_ticket = count(waiting_);
  intake->active_ticket = count(active_);
  exchange->on_gone([intake, metrics = metrics_](Gone why) {
    metrics->add(why == Gone::kSlowReader ? "moesaic:slow_readers_total"
                                          : "moesaic:client_disconnects_total",
                 1);
    intake->cancel();
  });
  post_intake(intake->body.size(), [this, intake, weak = std::weak_ptr<Exchange>(exchange)] {
    this->intake(*intake, weak);
  });
}

void Api::intake(Intake& intake, const std::weak_ptr<Exchange>& exchange) {
  // Whatever happens here, the counts end with it unless a generation took them over.
  const auto waiting = std::move(intake.waiting_ticket);
  const auto active = std::move(intake.active_ticket);
  if (intake.cancelled) return;
  std::shared_ptr<Generation> generation;
  Response error = guarded([&] {
    const size_t size = intake.body.size();
    const base::MemoryClaim claim(body_memory(size), "reading this request");
    const json::object body = parse_body(intake.body, intake.held);
    intake.body = {};  // its share goes on, for the texts and ids that are now copied out of it
    GenerationRequest accepted;
    if (intake.chat) {
      ChatRequest request = parse_chat(body, limits_, defaults_, content_);
      check_model(request.model);
      if (request.request_id.empty()) request.request_id = intake.request_id;
      intake.held.resize(kRequestBytes);
      accepted = accept_chat(request, size, std::move(intake.held));
    } else {
      CompletionRequest request = parse_completion(body, limits_, defaults_);
      check_model(request.model);
      if (request.request_id.empty()) request.request_id = intake.request_id;
      intake.held.resize(kRequestBytes);
      accepted = accept_completion(request, std::move(intake.held), &intake.cancelled);
    }
    generation =
        std::make_shared<Generation>(context_, std::move(accepted), exchange, waiting, active);
    return Response{};
  });
  if (!generation) {
    if (const auto open = exchange.lock()) open->reply(std::move(error));
    return;
  }
  {
    std::lock_guard lock(registry_mutex_);
    std::erase_if(registry_, [](const auto& entry) { return entry.second.expired(); });
    registry_[next_entry_++] = generation;
  }
  {
    std::lock_guard lock(intake.mutex);
    intake.generation = generation;
  }
  if (intake.cancelled) generation->cancel();
  generation->start();
}

Response Api::guarded(const std::function<Response()>& body) const {
  try {
    return body();
  } catch (const base::RequestError& error) {
    return error_response(error.status(), error.type(), error.what(), error.param());
  } catch (const base::UnavailableError& error) {
    return unavailable_response(error.what());
  } catch (const base::OsError& error) {
    spdlog::error("a request failed: {}", error.what());
    return unavailable_response("the system has no thread for this request now");
  } catch (const std::bad_alloc&) {
    return unavailable_response("there is not enough memory for this request now");
  } catch (const std::exception& error) {
    spdlog::error("a request failed: {}", error.what());
    return error_response(500, "InternalServerError", "this request failed; the log says more");
  }
}

uint64_t Api::body_memory(size_t bytes) const {
  // Arrays of one-digit ids take the most: 24 bytes for each of them, once while they are collected
  // and once when they are, for two bytes of text. Objects take more, but their number is bounded.
  constexpr uint64_t kPerByte = 30;
  constexpr uint64_t kPerObject = 200;
  const auto objects = std::min<uint64_t>(bytes / 8, static_cast<uint64_t>(json_limits_.max_nodes));
  return kPerByte * bytes + kPerObject * objects;
}

json::object Api::parse_body(const std::string& body, const ByteShare& held) const {
  constexpr const char* kParam = "body";
  json::value value;
  try {
    value = parse_json(body, json_limits_, kParam, counted_memory(held));
  } catch (const base::RequestError& error) {
    if (error.param() == kParam) {
      metrics_->add("moesaic:http_rejections_total", 1, {{"reason", "json"}});
    }
    throw;
  }
  if (!value.is_object()) schema_error("", "must be a JSON object");
  return std::move(value.get_object());
}

void Api::check_model(const std::string& name) const {
  if (name.empty()) return;  // there is only one
  for (const std::string& known : model_.names) {
    if (known == name) return;
  }
  throw base::RequestError(404, "NotFoundError",
                           fmt::format("there is no such model here; this server has: {}",
                                       fmt::join(model_.names, ", ")),
                           "model");
}

void Api::answer_later(Request request, const std::shared_ptr<Exchange>& exchange,
                       Handler handler) {
  const size_t size = request.body.size();
  const auto held = std::make_shared<ByteShare>(std::move(request.held));
  post_intake(size, [this, body = std::move(request.body), held, handler = std::move(handler),
                     weak = std::weak_ptr<Exchange>(exchange)] {
    Response response = guarded([&] {
      const base::MemoryClaim claim(body_memory(body.size()), "reading this request");
      return handler(parse_body(body, *held), *held);
    });
    if (const auto open = weak.lock()) open->reply(std::move(response));
  });
}

void Api::tokenize(Request request, const std::shared_ptr<Exchange>& exchange) {
  answer_later(std::move(request), exchange, [this](const json::object& body, ByteShare& held) {
    return tokenize_now(body, held);
  });
}

void Api::detokenize(Request request, const std::shared_ptr<Exchange>& exchange) {
  answer_later(std::move(request), exchange, [this](const json::object& body, ByteShare& held) {
    return detokenize_now(body, held);
  });
}

void Api::write_card(JsonWriter& json, const std::string& name) const {
  json.begin_object().member("id", name).member("object", "model").member("created", created_);
  json.member("owned_by", "moesaic").member("root", model_.root).member_null("parent");
  json.member("max_model_len", model_.max_model_len);
  write_permission(json, created_);
  json.end_object();
}

Response Api::models() const {
  JsonWriter json;
  json.begin_object().member("object", "list").key("data").begin_array();
  for (const std::string& name : model_.names) write_card(json, name);
  json.end_array().end_object();
  return json_response(200, json.take());
}

Response Api::model(std::string_view encoded_name) const {
  return guarded([&] {
    const auto decoded = boost::urls::make_pct_string_view(encoded_name);
    const std::string name = decoded ? decoded->decode() : std::string(encoded_name);
    check_model(name);
    JsonWriter json;
    write_card(json, name);
    return json_response(200, json.take());
  });
}

Response Api::tokenizer_info() const {
  if (!model_.tokenizer) {
    return error_response(404, "NotFoundError", "this server runs without a tokenizer");
  }
  return json_response(200, model_.tokenizer_info);
}

Response Api::version() const {
  JsonWriter json;
  json.begin_object().member("version", program_version()).end_object();
  return json_response(200, json.take());
}

Response Api::health() const {
  const char* problem = nullptr;
  const engine::EngineStats stats = engine_->stats();
  if (draining_) {
    problem = "the server is shutting down";
  } else if (!stats.alive) {
    problem = "the engine has failed";
  } else if (stats.seconds_since_progress > stall_seconds_ && awake_for() > stall_seconds_) {
    problem = "the engine has work but makes no progress";
  }
  return problem == nullptr ? Response{} : unavailable_response(problem);
}

/// Seconds for which the process has been running without a break. One that was stopped, or whose
/// machine was, has made no progress in that time and is none the worse for it.
double Api::awake_for() const {
  constexpr std::chrono::seconds kBreak{2};  // between ticks, which come twice a second
  const auto now = std::chrono::steady_clock::now();
  if (now - last_tick_.load() > kBreak) return 0;
  return std::chrono::duration<double>(now - awake_since_.load()).count();
}

Response Api::load() const {
  JsonWriter json;
  json.begin_object().member("server_load", active()).end_object();
  return json_response(200, json.take());
}

Response Api::metrics_page() {
  publish_stats(*metrics_, engine_->stats(), model_.spec);
  metrics_->set("moesaic:memory_actual_bytes", static_cast<double>(budget_->used()),
                {{"term", "requests"}});
  return {200, "text/plain; version=0.0.4; charset=utf-8", {}, metrics_->expose(), {}};
}

Response Api::experts() const {
  return json_response(
      200, expert_load_.json(engine_->stats(), model_, created_, std::chrono::steady_clock::now()));
}

void Api::drain() {
  draining_ = true;
  engine_->drain();
}

void Api::abort_all() {
  std::vector<std::shared_ptr<Generation>> live;
  {
    std::lock_guard lock(registry_mutex_);
    for (const auto& [key, weak] : registry_) {
      if (auto generation = weak.lock()) live.push_back(std::move(generation));
    }
  }
  for (const auto& generation : live) generation->abort();
}

void Api::tick() {
  const auto now = std::chrono::steady_clock::now();
  if (awake_for() == 0) awake_since_ = now;
  last_tick_ = now;
  const engine::EngineStats stats = engine_->stats();
  expert_load_.sample(stats, now);
  if (log_stats_ && now - last_log_ >= std::chrono::seconds(10)) log_stats(stats, now);
}

void Api::log_stats(const engine::EngineStats& stats, ExpertLoad::TimePoint now) {
  const std::chrono::duration<double> time = now - last_log_;
  const auto rate = [&](uint64_t current, uint64_t before) {
    return static_cast<double>(current - before) / time.count();
  };
  if (stats.steps != last_stats_.steps || stats.waiting > 0) {
    const double queries = static_cast<double>(stats.prefix_queries);
    spdlog::info(
        "{:.1f} prompt and {:.1f} generated tokens/s; {} running, {} waiting; KV cache {:.1f}% in "
        "use, {:.1f}% of prompt tokens found cached",
        rate(stats.prompt_tokens, last_stats_.prompt_tokens),
        rate(stats.generated_tokens, last_stats_.generated_tokens), stats.running, stats.waiting,
        100.0 * static_cast<double>(stats.blocks_held) /
            static_cast<double>(std::max<int64_t>(stats.blocks_total, 1)),
        queries > 0 ? 100.0 * static_cast<double>(stats.prefix_hits) / queries : 0.0);
  }
  last_log_ = now;
  last_stats_ = stats;
}

}  // namespace moesaic::server
