#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <iostream>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"

namespace moesaic::cli {
namespace {

std::atomic<bool> g_interrupted{false};

/// Hands the engine's outputs to the terminal thread.
class Mailbox : public engine::OutputSink {
 public:
  void deliver(engine::SequenceOutput&& output) override {
    {
      std::lock_guard lock(mutex_);
      outputs_.push_back(std::move(output));
    }
    arrived_.notify_one();
  }

  /// The next output; none when nothing came within a moment, so that Ctrl-C is noticed.
  std::optional<engine::SequenceOutput> wait() {
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, std::chrono::milliseconds(50), [&] { return !outputs_.empty(); });
    if (outputs_.empty()) return std::nullopt;
    engine::SequenceOutput output = std::move(outputs_.front());
    outputs_.pop_front();
    return output;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<engine::SequenceOutput> outputs_;
};

float real(const Invocation& invocation, const std::string& name, float fallback) {
  const std::string text = invocation.option(name, "");
  if (text.empty()) return fallback;
  float value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !(value >= 0 && value <= 2)) {
    throw base::UsageError(fmt::format("--{}: '{}' is not a number in 0..2", name, text));
  }
  return value;
}

/// One conversation at the terminal.
class Conversation {
 public:
  Conversation(LoadedModel& model, const Invocation& invocation)
      : model_(model),
        settings_(invocation.settings),
        tokenizer_(load_tokenizer(model, settings_)),
        template_(tokenizer_ ? text::ChatTemplate::load(model.folder,
                                                        settings_.get_string("chat-template"))
                             : nullptr),
        system_(invocation.option("system", "")) {
    if (!tokenizer_ || !template_) {
      throw base::ConfigError("chat needs a tokenizer and a chat template; " +
                              model.folder.string() +
                              " lacks one of them (--tokenizer, --chat-template)");
    }
    if (!template_->problem().empty()) {
      throw base::ConfigError(template_->problem() + "; give another with --chat-template");
    }
    sampling_.temperature = real(invocation, "temperature", 0.7f);
    sampling_.max_tokens =
        static_cast<int32_t>(invocation.integer("max-tokens", 512, 1, model.max_model_len));
    if (invocation.has("seed")) {
      sampling_.seed = static_cast<uint64_t>(invocation.integer("seed", 0, 0, INT64_MAX));
    }
    engine_ = start_engine(model, settings_, std::make_shared<engine::EngineObserver>());
    reset();
  }

  void reset() {
    messages_.clear();
    if (!system_.empty()) add("system", system_);
  }

  /// Asks and prints the answer as it comes; keeps both in the history.
  void ask(const std::string& question) {
    add("user", question);
    const boost::json::object context = {{"messages", messages_}, {"add_generation_prompt", true}};
    engine::Request request;
    try {
      request.prompt =
          tokenizer_->encode_chat(template_->render(boost::json::serialize(context)), false);
    } catch (const base::RequestError& error) {
      std::cout << "(" << error.what() << ")\n";
      messages_.pop_back();
      return;
    }
    if (const auto answer = stream(std::move(request))) {
      add("assistant", *answer);
    } else {
      messages_.pop_back();
    }
  }

 private:
  /// Adds a message in the shape that the template shows.
  void add(const char* role, const std::string& text) {
    boost::json::value content(text);
    const auto shapes = template_->shapes(role);
    if (shapes.part && !shapes.text) {
      content = boost::json::array{boost::json::object{{"type", "text"}, {"text", text}}};
    }
    messages_.push_back({{"role", role}, {"content", content}});
  }

  /// The answer; none when the engine cannot take the request, and the user has been told why.
  std::optional<std::string> stream(engine::Request request) {
    const auto room = model_.max_model_len - static_cast<int64_t>(request.prompt.size());
    if (room < 1) {
      std::cout << "(the conversation fills the context; /reset starts anew)\n";
      return std::nullopt;
    }
    const auto mailbox = std::make_shared<Mailbox>();
    text::StreamDecoder decoder(tokenizer_, request.prompt, true);
    request.id = ++last_id_;
    request.sampling = sampling_;
    request.sampling.max_tokens =
        static_cast<int32_t>(std::min<int64_t>(room, sampling_.max_tokens));
    request.sink = mailbox;
    const engine::RequestId id = request.id;
    const engine::Refusal refusal = engine_->submit(std::move(request));
    if (refusal == engine::Refusal::kUnknownToken) {
      std::cout << "(the text has a token for which the model has no embedding; leave it out)\n";
      return std::nullopt;
    }
    if (refusal != engine::Refusal::kNone) {
      throw base::UnavailableError("the engine refused the request; its KV cache is too small");
    }
    std::string answer;
    g_interrupted = false;
    for (;;) {
      if (g_interrupted.exchange(false)) engine_->finish(id, -1, engine::FinishReason::kAbort);
      const auto output = mailbox->wait();
      if (!output) continue;
      std::string piece;
      for (int32_t token : output->tokens) piece += decoder.push(token);
      if (output->finish != engine::FinishReason::kNone) piece += decoder.finish();
      std::cout << piece << std::flush;
      answer += piece;
      if (output->finish == engine::FinishReason::kLength) std::cout << " (cut at the limit)";
      if (output->finish == engine::FinishReason::kError) std::cout << " (failed; see the log)";
      if (output->finish != engine::FinishReason::kNone) break;
    }
    std::cout << "\n";
    return answer;
  }

  LoadedModel& model_;
  const base::Settings& settings_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::shared_ptr<const text::ChatTemplate> template_;
  std::string system_;
  engine::SamplingParams sampling_;
  std::shared_ptr<engine::Engine> engine_;
  boost::json::array messages_;
  engine::RequestId last_id_ = 0;
};

int run_chat(const Invocation& invocation) {
  base::init_logging("warning");
  check_setting_states(invocation.settings);
  const auto model = load_model(model_path(invocation), invocation.settings,
                                {.max_model_len = 0, .max_sequences = 1, .max_rows = 0});
  Conversation conversation(*model, invocation);
  std::signal(SIGINT, [](int) { g_interrupted = true; });
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) {
    std::cout << "Ctrl-C stops an answer, Ctrl-D ends, /reset forgets the conversation.\n";
  }
  std::string line;
  for (;;) {
    if (terminal) std::cout << "\n> " << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (line == "/exit" || line == "/quit") break;
    if (line == "/reset") {
      conversation.reset();
    } else if (!line.empty()) {
      conversation.ask(line);
    }
  }
  if (terminal) std::cout << "\n";
  return 0;
}

}  // namespace

Command chat_command() {
  return {"chat",
          "MODEL",
          "Talk to a model in the terminal.",
          "Answers stream as they are made, and the conversation so far is part of each question. "
          "Reads one question per line, also from a pipe.",
          {{"system", "TEXT", "System message of the conversation."},
           {"max-tokens", "N", "Longest answer. Default 512."},
           {"temperature", "T", "0 always takes the likeliest token. Default 0.7."},
           {"seed", "N", "Same seed, same answers."}},
          {"Model", "CPU", "Parallel ranks", "Memory and KV cache", "Scheduling", "Protocol"},
          run_chat};
}

}  // namespace moesaic::cli
