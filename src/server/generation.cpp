#include "server/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "server/insist.h"

namespace moesaic::server {
namespace {

/// Prompt ids that give the detokenizer its context.
constexpr size_t kPromptTail = 8;

/// What a choice holds before it has any text: its state here and its sequence in the engine.
constexpr size_t kChoiceBytes = sizeof(ChoiceState) + 512;

size_t bytes_of(const engine::SequenceOutput& output) {
  size_t bytes = sizeof output + output.tokens.size() * sizeof(int32_t);
  for (const auto* list : {&output.logprobs, &output.prompt_logprobs}) {
    for (const engine::PositionLogprobs& position : *list) {
      bytes += sizeof position + position.top.size() * sizeof(engine::TokenLogprob);
    }
  }
  return bytes;
}

constexpr const char* kNoMemory = "there is not enough memory to go on with this answer";

/// The metric's word for a refusal.
std::string refusal_label(engine::Refusal refusal) {
  switch (refusal) {
    case engine::Refusal::kTooLong:
      return "too_long";
    case engine::Refusal::kDraining:
      return "draining";
    default:
      return "";
  }
}

}  // namespace

/// The engine's side of one prompt.
class Generation::Sink : public engine::OutputSink {
 public:
  Sink(std::shared_ptr<Generation> generation, int32_t prompt)
      : generation_(std::move(generation)), prompt_(prompt) {}
  void deliver(engine::SequenceOutput&& output) override {
    generation_->enqueue(prompt_, std::move(output));
  }

 private:
  std::shared_ptr<Generation> generation_;
  int32_t prompt_;
};

/// What turns a choice's tokens into text, from its first token to its last.
struct Generation::Voice {
  std::optional<text::StreamDecoder> decoder;
  StopMatcher stops;
};

Generation::Generation(std::shared_ptr<GenerationContext> context, GenerationRequest accepted,
                       std::weak_ptr<Exchange> exchange, std::shared_ptr<void> waiting_ticket,
                       std::shared_ptr<void> active_ticket)
    : context_(std::move(context)),
      accepted_(std::move(accepted)),
      exchange_(std::move(exchange)),
      waiting_ticket_(std::move(waiting_ticket)),
      active_ticket_(std::move(active_ticket)),
      names_(context_->tokenizer.get(), accepted_.tokens_as_ids),
      stops_(stop_strings(accepted_.stop)),
      answer_(accepted_.held.for_answer()),
      queued_(accepted_.held.for_answer()) {
  accepted_.held.grow(accepted_.prompts.size() * static_cast<size_t>(accepted_.sampling.n) *
                      kChoiceBytes);
  format_ = accepted_.chat ? chat_format(accepted_, names_) : completion_format(accepted_, names_);
  prompts_.resize(accepted_.prompts.size());
  for (size_t prompt = 0; prompt < accepted_.prompts.size(); ++prompt) {
    if (accepted_.echoes_logprobs()) {
      const GenerationRequest::Prompt& source = accepted_.prompts[prompt];
      accepted_.held.grow((source.ids.size() + 1) * sizeof(int64_t));
      prompts_[prompt].offsets = prompt_offsets(names_, context_->tokenizer, source.ids,
                                                source.text, accepted_.skip_special);
    }
    for (int32_t k = 0; k < accepted_.sampling.n; ++k) {
      ChoiceState choice;
      choice.index = static_cast<int32_t>(choices_.size());
      choice.prompt = static_cast<int32_t>(prompt);
      choice.reasoning = ReasoningParser(accepted_.reasoning_form, accepted_.reasoning);
      choice.tools = ToolCallParser(*accepted_.call_form, accepted_.text_parameters);
      if (accepted_.echoes_logprobs()) choice.characters = prompts_[prompt].offsets.back();
      choices_.push_back(std::move(choice));
    }
  }
  voices_.resize(choices_.size());
  choices_left_ = choices_.size();
}

/// Nobody else is left who could tell the client.
Generation::~Generation() {
  try {
    if (!over_) tell(unavailable_response("this request could not go on"));
  } catch (const std::exception& error) {
    spdlog::error("a client was not told that its request ended: {}", error.what());
  }
}

Generation::Voice& Generation::voice(const ChoiceState& choice) {
  std::unique_ptr<Voice>& voice = voices_[static_cast<size_t>(choice.index)];
  if (!voice) {
    voice =
        std::make_unique<Voice>(Voice{std::nullopt, StopMatcher(stops_, accepted_.include_stop)});
    if (context_->tokenizer) {
      const std::vector<int32_t>& ids = accepted_.prompts[static_cast<size_t>(choice.prompt)].ids;
      voice->decoder.emplace(context_->tokenizer,
                             std::span(ids).last(std::min(ids.size(), kPromptTail)),
                             accepted_.skip_special);
    }
  }
  return *voice;
}

bool Generation::submit_all(Response& refusal) {
  for (size_t prompt = 0; prompt < accepted_.prompts.size(); ++prompt) {
    engine::Request request;
    request.id = context_->next_id++;
    request.group = ids_.empty() ? request.id : ids_.front();
    request.prompt = accepted_.prompts[prompt].ids;
    request.sampling = accepted_.sampling;
    request.sampling.max_tokens = accepted_.prompts[prompt].max_tokens;
    request.priority = accepted_.priority;
    request.sink = std::make_shared<Sink>(shared_from_this(), static_cast<int32_t>(prompt));
    // Under the lock, so that a cancel sees either no id yet and the flag set, or the id.
    std::lock_guard lock(mutex_);
    if (cancelled_) return false;
    const engine::RequestId id = request.id;
    const engine::Refusal answer = context_->engine.submit(std::move(request));
    if (answer != engine::Refusal::kNone) {
      refusal = refusal_response(answer);
      if (const auto reason = refusal_label(answer); !reason.empty()) {
        context_->metrics->add("vllm:admission_rejections_total", 1, {{"reason", reason}});
      }
      return false;
    }
    ids_.push_back(id);
  }
  return true;
}

void Generation::start() {
  Response refusal;
  refusal.status = 0;
  if (!submit_all(refusal)) {
    stop_everything();
    if (const auto exchange = exchange_.lock(); exchange && refusal.status != 0) {
      exchange->reply(std::move(refusal));
    }
    return;
  }
  if (accepted_.stream) {
    if (const auto exchange = exchange_.lock()) {
      Response head;
      head.content_type = "text/event-stream; charset=utf-8";
      head.headers.push_back({"cache-control", "no-cache"});
      // Proxies such as nginx would otherwise collect events before they pass them on.
      head.headers.push_back({"x-accel-buffering", "no"});
      exchange->begin_stream(std::move(head));
    }
  }
  bool work = false;
  {
    std::lock_guard lock(mutex_);
    started_ = true;
    work = !queue_.empty();
    scheduled_ = work;
  }
  if (work) context_->pool.post([self = shared_from_this()] { self->drain(); });
}

void Generation::enqueue(int32_t prompt, engine::SequenceOutput&& output) {
  {
    std::lock_guard lock(mutex_);
    if (overrun_) return;
    try {
      queued_.grow(bytes_of(output));
      queue_.emplace_back(prompt, std::move(output));
    } catch (const base::RequestError& error) {
      overrun_ = error;
    }
    if (scheduled_ || !started_) return;
    scheduled_ = true;
  }
  try {
    context_->pool.post([self = shared_from_this()] { self->drain(); });
  } catch (const std::bad_alloc&) {
    std::lock_guard lock(mutex_);
    scheduled_ = false;
    throw;
  }
}

void Generation::drain() {
  attempt([this] { work_off(); });
  if (over_) active_ticket_.reset();
  bool more = false;
  {
    std::lock_guard lock(mutex_);
    more = !queue_.empty();
    scheduled_ = more;
  }
  // Others get their turn before this one goes on.
  if (more) insist([this] { context_->pool.post([self = shared_from_this()] { self->drain(); }); });
}

void Generation::work_off() {
  std::vector<std::pair<int32_t, engine::SequenceOutput>> batch;
  ByteShare held;
  std::optional<base::RequestError> overrun;
  {
    std::lock_guard lock(mutex_);
    batch.swap(queue_);
    held = queued_.another();
    std::swap(held, queued_);
    overrun = overrun_;
    if (cancelled_) over_ = true;
  }
  waiting_ticket_.reset();
  if (!over_ && overrun) fail(overrun->status(), overrun->type(), overrun->what());
  for (auto& [prompt, output] : batch) {
    if (!over_) advance(prompt, std::move(output));
  }
  if (!over_ && choices_left_ == 0) {
    conclude();
  } else if (!over_ && !events_.empty()) {
    const auto exchange = exchange_.lock();
    if (!exchange || !exchange->push(std::move(events_))) cancel();
    events_.clear();
  }
}

/// Runs a part of the work; what goes wrong in it ends this request alone.
void Generation::attempt(const std::function<void()>& work) {
  try {
    work();
  } catch (const base::RequestError& error) {
    insist([&] { fail(error.status(), error.type(), error.what()); });
  } catch (const std::bad_alloc&) {
    insist([this] { fail(503, "ServiceUnavailableError", kNoMemory); });
  } catch (const base::UnavailableError& error) {
    insist([&] { fail(503, "ServiceUnavailableError", error.what()); });
  } catch (const std::exception& error) {
    spdlog::error("{}: {}", accepted_.identity.id, error.what());
    insist([this] { fail(500, "InternalServerError", "this request failed; the log says more"); });
  }
}

void Generation::add_token(ChoiceState& choice, ChoiceDelta& delta, engine::SequenceOutput& output,
                           size_t position) {
  const int32_t id = output.tokens[position];
  ++choice.generated;
  delta.tokens.push_back(id);
  if (position < output.logprobs.size()) {
    delta.logprobs.push_back(std::move(output.logprobs[position]));
    delta.offsets.push_back(choice.characters);
  }
  if (names_.as_ids()) choice.characters += count_characters(names_.name(id));
  const bool last = position + 1 == output.tokens.size();
  // The engine's stop is always a token (EOS or a stop id), and the last one; its text is not part
  // of the answer.
  const bool hidden =
      last && output.finish == engine::FinishReason::kStop && !accepted_.include_stop;
  Voice& own = voice(choice);
  if (hidden || !own.decoder) return;
  const std::string text = own.decoder->push(id);
  if (!names_.as_ids()) choice.characters += count_characters(text);
  if (choice.generated <= accepted_.sampling.min_tokens) {
    own.stops.pass(text);
  } else {
    own.stops.add(text);
  }
}

void Generation::end_choice(ChoiceState& choice, ChoiceDelta& delta,
                            const engine::SequenceOutput& output) {
  Voice& own = voice(choice);
  if (own.stops.found().empty() && own.decoder) own.stops.add(own.decoder->finish());
  choice.done = true;
  --choices_left_;
  if (!own.stops.found().empty()) {
    choice.end.finish_reason = "stop";
    choice.end.stop_string = own.stops.found();
    if (output.finish == engine::FinishReason::kNone) {
      context_->engine.finish(ids_[static_cast<size_t>(choice.prompt)],
                              choice.index % accepted_.sampling.n, engine::FinishReason::kStop);
    }
  } else {
    choice.end.finish_reason = finish_name(output.finish);
    choice.end.stop_token = output.stop_token;
  }
}

void Generation::advance(int32_t prompt, engine::SequenceOutput&& output) {
  PromptState& state = prompts_[static_cast<size_t>(prompt)];
  if (!output.prompt_logprobs.empty()) {
    const auto count = accepted_.sampling.prompt_logprobs;
    const size_t json = output.prompt_logprobs.size() * logprob_json_bytes(count);
    answer_.grow(json + output.prompt_logprobs.size() * logprob_bytes(count));
    json_ahead_ += json;
    state.logprobs = std::move(output.prompt_logprobs);
  }
  state.cached_tokens = std::max<int64_t>(state.cached_tokens, output.cached_prompt_tokens);
  if (waits(state, output)) return;
  go_on(prompt, output);
  for (engine::SequenceOutput& early : std::exchange(state.early, {})) {
    answer_.shrink(bytes_of(early));
    if (!over_) go_on(prompt, early);
  }
}

/// An echo streams the prompt's logprobs before anything else of each choice; they come with the
/// first one's beginning.
bool Generation::waits(PromptState& state, engine::SequenceOutput& output) {
  state.is_done = state.is_done || output.index == 0;
  if (state.is_done || !accepted_.stream || !accepted_.echoes_logprobs()) return false;
  answer_.grow(bytes_of(output));
  state.early.push_back(std::move(output));
  return true;
}

void Generation::go_on(int32_t prompt, engine::SequenceOutput& output) {
  ChoiceState& choice =
      choices_[static_cast<size_t>(prompt) * static_cast<size_t>(accepted_.sampling.n) +
               static_cast<size_t>(output.index)];
  if (choice.done) return;
  if (output.finish == engine::FinishReason::kError) {
    return fail(500, "InternalServerError", "this request failed inside the engine");
  }
  if (output.finish == engine::FinishReason::kAbort) {
    return fail(503, "ServiceUnavailableError", "the server is shutting down");
  }
  ChoiceDelta delta;
  if (accepted_.echo_only) {
    if (output.finish == engine::FinishReason::kNone) return;
    choice.done = true;
    choice.end.finish_reason = "length";
    --choices_left_;
    return emit(choice, delta);
  }
  Voice& own = voice(choice);
  for (size_t i = 0; i < output.tokens.size() && own.stops.found().empty(); ++i) {
    add_token(choice, delta, output, i);
  }
  if (output.finish != engine::FinishReason::kNone || !own.stops.found().empty()) {
    end_choice(choice, delta, output);
  }
  delta.text = own.stops.take(choice.done);
  if (choice.done) voices_[static_cast<size_t>(choice.index)].reset();
  emit(choice, delta);
}

void Generation::emit(ChoiceState& choice, ChoiceDelta& delta) {
  if (accepted_.stream) {
    ByteShare writing = answer_.another();
    events_ += format_->events(choice, delta, prompts_[static_cast<size_t>(choice.prompt)],
                               choice.done && choices_left_ == 0, writing);
    return;
  }
  const size_t json =
      delta.text.size() + delta.logprobs.size() * logprob_json_bytes(accepted_.sampling.logprobs);
  answer_.grow(json + delta.text.size() + delta.tokens.size() * sizeof(int32_t) +
               delta.logprobs.size() * logprob_bytes(accepted_.sampling.logprobs));
  json_ahead_ += json;
  choice.text += delta.text;
  if (accepted_.return_token_ids) {
    choice.tokens.insert(choice.tokens.end(), delta.tokens.begin(), delta.tokens.end());
  }
  std::move(delta.logprobs.begin(), delta.logprobs.end(), std::back_inserter(choice.logprobs));
  choice.offsets.insert(choice.offsets.end(), delta.offsets.begin(), delta.offsets.end());
}

Usage Generation::usage() const {
  Usage usage;
  usage.prompt_tokens = accepted_.prompt_tokens();
  for (const ChoiceState& choice : choices_) usage.completion_tokens += choice.generated;
  if (accepted_.prompt_details) {
    int64_t cached = 0;
    for (const PromptState& prompt : prompts_) cached += prompt.cached_tokens;
    usage.cached_tokens = cached;
  }
  return usage;
}

/// All choices have ended. A large answer is written in the lane of large work. The place is given
/// back before the client knows, whose next request may need it.
void Generation::conclude() {
  over_ = true;
  if (accepted_.stream) {
    active_ticket_.reset();
    if (const auto exchange = exchange_.lock()) {
      exchange->end_stream(std::exchange(events_, {}) + format_->stream_end(usage()));
    }
    return log_end();
  }
  auto reply = [self = shared_from_this(), place = std::move(active_ticket_)]() mutable {
    self->attempt([&] { self->reply(std::move(place)); });
    self->log_end();
  };
  if (answer_.bytes() < kLargeWork) return reply();
  context_->large_pool.post(std::move(reply));
}

void Generation::reply(std::shared_ptr<void> place) {
  const auto exchange = exchange_.lock();
  if (!exchange) return;
  answer_.shrink(json_ahead_);  // from here on it is counted as it comes
  const Usage total = usage();
  Response response = json_response(200, format_->whole(choices_, prompts_, total, answer_));
  answer_.resize(response.body.size());
  response.held = std::move(answer_);
  place.reset();
  exchange->reply(std::move(response));
}

void Generation::log_end() const {
  if (!context_->log_requests) return;
  const Usage total = usage();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - arrival_;
  spdlog::info("{}: {} prompt tokens, {} generated, {:.3f} s, {}", accepted_.identity.id,
               total.prompt_tokens, total.completion_tokens, time.count(),
               choices_.front().end.finish_reason);
}

void Generation::fail(int status, std::string_view type, std::string_view message) {
  over_ = true;
  stop_everything();
  active_ticket_.reset();
  tell(status == 503 ? unavailable_response(message) : error_response(status, type, message));
}

void Generation::tell(Response error) {
  const auto exchange = exchange_.lock();
  if (!exchange) return;
  if (!accepted_.stream) return exchange->reply(std::move(error));
  // No [DONE]: a client must not take a broken answer for a whole one.
  exchange->end_stream(std::exchange(events_, {}) + sse_event(error.body));
}

void Generation::abort() { stop_everything(); }

void Generation::stop_everything() {
  std::vector<engine::RequestId> ids;
  {
    std::lock_guard lock(mutex_);
    ids = ids_;
  }
  for (const engine::RequestId id : ids) {
    context_->engine.finish(id, -1, engine::FinishReason::kAbort);
  }
}

void Generation::cancel() {
  {
    std::lock_guard lock(mutex_);
    if (cancelled_) return;
    cancelled_ = true;
  }
  stop_everything();
}

Response refusal_response(engine::Refusal refusal) {
  switch (refusal) {
    case engine::Refusal::kNone:
      break;
    case engine::Refusal::kTooLong:
      return error_response(400, "BadRequestError",
                            "the request can never fit the KV cache or the model's maximum context "
                            "length; shorten the prompt or lower max_tokens or n");
    case engine::Refusal::kUnknownToken:
      return error_response(400, "BadRequestError",
                            "the prompt has a token for which the model has no embedding");
    case engine::Refusal::kDraining:
      return error_response(503, "ServiceUnavailableError", "the server is shutting down");
    case engine::Refusal::kDead:
      return error_response(500, "InternalServerError", "the engine has failed");
  }
  return {};
}

}  // namespace moesaic::server
