#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <iostream>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "cli/commands.h"
#include "cli/line_editor.h"
#include "cli/loaded_model.h"
#include "cli/word_wrap.h"

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

/// Columns of the terminal that answers go to; 0 when it is none, or does not say.
size_t columns() {
  winsize size{};
  if (isatty(STDOUT_FILENO) == 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col;
}

/// One conversation at the terminal.
class Conversation {
 public:
  /// Reads the tokenizer and the chat template; the weights may come later.
  Conversation(LoadedModel& model, const Invocation& invocation)
      : model_(model),
        settings_(invocation.settings),
        tokenizer_(load_tokenizer(model, settings_)),
        template_(tokenizer_
                      ? text::ChatTemplate::load(model.files, settings_.get_string("chat-template"))
                      : nullptr),
        system_(invocation.option("system", "")) {
    if (!tokenizer_ || !template_) {
      throw base::ConfigError("chat needs a tokenizer and a chat template; " +
                              model.files.path().string() +
                              " lacks one of them (--tokenizer, --chat-template)");
    }
    if (!template_->problem().empty()) {
      throw base::ConfigError(template_->problem() + "; give another with --chat-template");
    }
    sampling_.temperature = static_cast<float>(invocation.number("temperature", 0.7, 0, 2));
    sampling_.max_tokens =
        static_cast<int32_t>(invocation.integer("max-tokens", 512, 1, model.max_model_len));
    if (invocation.has("seed")) {
      sampling_.seed = static_cast<uint64_t>(invocation.integer("seed", 0, 0, INT64_MAX));
    }
    reset();
  }

  /// Before the first question, when the weights are there.
  void start() {
    engine_ = start_engine(model_, settings_, std::make_shared<engine::EngineObserver>());
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
    WordWrap out(columns, [](std::string_view text) { std::cout << text << std::flush; });
    g_interrupted = false;
    for (;;) {
      if (g_interrupted.exchange(false)) engine_->finish(id, -1, engine::FinishReason::kAbort);
      const auto output = mailbox->wait();
      if (!output) continue;
      std::string piece;
      for (int32_t token : output->tokens) piece += decoder.push(token);
      if (output->finish != engine::FinishReason::kNone) piece += decoder.finish();
      out.add(piece);
      answer += piece;
      if (output->finish == engine::FinishReason::kLength) out.add(" (cut at the limit)");
      if (output->finish == engine::FinishReason::kError) out.add(" (failed; see the log)");
      if (output->finish != engine::FinishReason::kNone) break;
    }
    out.finish();
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

constexpr const char* kHelp =
    "/reset  forget the conversation\n"
    "/help   this text\n"
    "/exit   leave, as Ctrl-D does\n"
    "Several lines: Alt-Enter between them, a backslash at a line's end, or \"\"\" before the "
    "first\n"
    "and after the last. Pasted text is one message. Arrow keys bring earlier ones back, Ctrl-R\n"
    "looks for one. Ctrl-C stops an answer, or drops what is typed.\n";

/// Whether a line is meant for the program: a slash and one word. A path has more.
bool is_command(const std::string& line) {
  return line.size() > 1 && line[0] == '/' &&
         std::all_of(line.begin() + 1, line.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

/// Does what a line says or asks the model; false when the conversation is over.
bool act(Conversation& conversation, const std::string& line) {
  static const std::vector<std::string> kCommands = {"/reset", "/help", "/exit", "/quit"};
  if (line == "/exit" || line == "/quit") return false;
  if (line == "/reset") {
    conversation.reset();
  } else if (line == "/help") {
    std::cout << kHelp;
  } else if (is_command(line)) {
    std::cout << fmt::format("(there is no {}, did you mean {}? /help lists all)\n",
                             line.substr(0, 40), base::nearest(line, kCommands));
  } else if (line.find_first_not_of(" \t\n") != std::string::npos) {
    conversation.ask(line);
  }
  return true;
}

/// Questions from a terminal.
class Prompt {
 public:
  /// The next one, which may have several lines; none when the user leaves.
  std::optional<std::string> read() {
    for (;;) {
      std::cout << "\n" << std::flush;
      LineEditor::Line line = editor_.read("> ");
      if (line.end == LineEditor::End::kLine) line = whole(std::move(line.text));
      if (line.end == LineEditor::End::kClosed) return std::nullopt;
      if (line.end == LineEditor::End::kLine) {
        interrupted_ = false;
        if (!line.text.empty()) editor_.remember(line.text);
        return line.text;
      }
      // The first one may have been meant for an answer that had just ended.
      if (line.text.empty() && interrupted_) return std::nullopt;
      interrupted_ = line.text.empty();
      std::cout << (interrupted_ ? "\n(Ctrl-C again leaves, as Ctrl-D does)\n" : "\n");
    }
  }

 private:
  /// Reads on while the text says that it is not whole.
  LineEditor::Line whole(std::string text) {
    constexpr std::string_view kFence = "\"\"\"";
    const bool fenced = text.starts_with(kFence);
    if (fenced) text.erase(0, kFence.size());
    while (fenced ? !text.ends_with(kFence) : text.ends_with('\\')) {
      LineEditor::Line more = editor_.read(". ");
      if (more.end != LineEditor::End::kLine) {
        more.text = text;
        return more;
      }
      if (!fenced) text.pop_back();
      text += "\n" + more.text;
    }
    if (fenced) text.resize(text.size() - kFence.size());
    return {LineEditor::End::kLine, text};
  }

  LineEditor editor_{g_interrupted};
  bool interrupted_ = false;
};

void talk(Conversation& conversation) {
  std::cout << "Ctrl-C stops an answer, Ctrl-D ends, /help says more.\n";
  Prompt prompt;
  while (const auto question = prompt.read()) {
    if (!act(conversation, *question)) break;
  }
  std::cout << "\n";
}

int run_chat(const Invocation& invocation) {
  base::init_logging("warning");
  check_setting_states(invocation.settings);
  const auto model = prepare_model(model_path(invocation), invocation.settings,
                                   {.max_model_len = 0, .max_sequences = 1, .max_rows = 0});
  Conversation conversation(*model, invocation);
  load_weights(*model, invocation.settings);
  conversation.start();
  use_utf8();
  std::signal(SIGINT, [](int) { g_interrupted = true; });
  if (isatty(STDIN_FILENO) != 0) {
    talk(conversation);
    return 0;
  }
  for (std::string line; std::getline(std::cin, line) && act(conversation, line);) {
  }
  return 0;
}

}  // namespace

Command chat_command() {
  return {"chat",
          "MODEL",
          "Talk to a model in the terminal.",
          "Answers stream as they are made, and the conversation so far is part of each question. "
          "From a pipe, each line is a question. Nothing that is typed is kept on disk.",
          {{"system", "TEXT", "System message of the conversation."},
           {"max-tokens", "N", "Longest answer. Default 512."},
           {"temperature", "T", "0 always takes the likeliest token. Default 0.7."},
           {"seed", "N", "Same seed, same answers."}},
          {"Model", "CPU", "Parallel ranks", "Memory and KV cache", "Scheduling", "Protocol"},
          run_chat};
}

}  // namespace moesaic::cli
