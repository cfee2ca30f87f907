#include "cli/bench_load.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <csignal>
#include <exception>
#include <random>

#include "base/error.h"
#include "base/log.h"
#include "base/printable.h"
#include "base/strict_json.h"
#include "base/terminal.h"

namespace moesaic::cli {
namespace {

namespace asio = boost::asio;
namespace json = boost::json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class LoadRun {
 public:
  LoadRun(asio::io_context& io, HttpClient& client, const LoadPlan& plan, Prompts& prompts)
      : io_(io),
        client_(client),
        plan_(plan),
        prompts_(prompts),
        random_(plan.seed),
        arrivals_(plan.seed + 1),
        terminal_(base::is_smart_terminal(STDERR_FILENO)) {}

  LoadFigures run() {
    asio::signal_set signals(io_, SIGINT, SIGTERM);
    signals.async_wait([this](const boost::system::error_code& error, int /*number*/) {
      figures_.interrupted = !error;
      io_.stop();
    });
    start_ = Clock::now();
    spawn(show_progress());
    if (plan_.concurrency == 0) {
      spawn(arrive());
    } else {
      for (int64_t i = 0; i < std::min(plan_.concurrency, plan_.requests); ++i) spawn(work());
    }
    io_.run();
    if (failure_) std::rethrow_exception(failure_);
    if (figures_.interrupted) figures_.seconds = seconds_since(start_);
    show();
    if (terminal_) base::print_with_log(STDERR_FILENO, "\n");
    return std::move(figures_);
  }

 private:
  void spawn(asio::awaitable<void> coroutine) {
    asio::co_spawn(io_, std::move(coroutine), [this](const std::exception_ptr& failure) {
      if (!failure) return;
      failure_ = failure;
      io_.stop();
    });
  }

  /// One after another, as one of --concurrency.
  asio::awaitable<void> work() {
    while (begun_ < plan_.requests) co_await one(Clock::now());
  }

  /// A request whenever one is due, whatever became of those before it.
  asio::awaitable<void> arrive() {
    std::exponential_distribution gap(plan_.rate);
    asio::steady_timer timer(io_);
    Clock::time_point due = start_;
    for (int64_t i = 0; i < plan_.requests; ++i) {
      if (i > 0) {
        due += std::chrono::duration_cast<Clock::duration>(
            std::chrono::duration<double>(gap(arrivals_)));
      }
      timer.expires_at(due);
      co_await timer.async_wait(asio::use_awaitable);
      spawn(one(due));
    }
  }

  /// The next request. What goes wrong with it is counted.
  asio::awaitable<void> one(Clock::time_point due) {
    ++begun_;
    ++in_flight_;
    figures_.peak_in_flight = std::max(figures_.peak_in_flight, in_flight_);
    const int64_t asked =
        std::uniform_int_distribution(plan_.output_len.low, plan_.output_len.high)(random_);
    Prompt prompt = prompts_.next(random_);
    const std::optional<int64_t> prompt_tokens = prompt.tokens;
    StreamedAnswer answer(asked);
    EventStream events;
    HttpCall call;
    const bool chat = plan_.endpoint == Endpoint::kChat;
    call.target = chat ? "/v1/chat/completions" : "/v1/completions";
    call.body = body_of(std::move(prompt), asked);
    call.stream = true;
    figures_.late = std::max(figures_.late, seconds_since(due));
    const Clock::time_point begun = Clock::now();
    call.take = [&](std::string_view bytes) {
      const double now = seconds_since(begun);
      const int64_t before = answer.token_events();
      events.feed(bytes, [&](std::string_view data) { answer.take(data, now); });
      token_events_ += answer.token_events() - before;
    };
    call.enough = [&] { return answer.done(); };
    try {
      co_await client_.call(call, plan_.timeout);
      answer.check_complete();
      figures_.add(answer, asked, prompt_tokens);
    } catch (const RequestFailure& failure) {
      figures_.failures.add(failure.what());
    }
    --in_flight_;
    if (++ended_ < plan_.requests) co_return;
    figures_.seconds = seconds_since(start_);
    io_.stop();
  }

  std::string body_of(Prompt prompt, int64_t asked) const {
    json::object body = plan_.extra;
    body["model"] = plan_.model;
    body[plan_.endpoint == Endpoint::kChat ? "messages" : "prompt"] = std::move(prompt.value);
    body["max_tokens"] = asked;
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}};
    return json::serialize(body);
  }

  asio::awaitable<void> show_progress() {
    asio::steady_timer timer(io_);
    for (;;) {
      timer.expires_after(terminal_ ? std::chrono::milliseconds(500) : std::chrono::seconds(5));
      co_await timer.async_wait(asio::use_awaitable);
      show();
    }
  }

  void show() {
    const double seconds = seconds_since(start_);
    const int64_t failed = figures_.failures.count();
    const std::string line = fmt::format(
        "bench: {}/{} requests, {}{} in flight, {:.0f} tokens/s, {:.0f} s", ended_, plan_.requests,
        failed > 0 ? fmt::format("{} failed, ", failed) : "", in_flight_,
        static_cast<double>(token_events_ - shown_events_) / std::max(seconds - shown_at_, 1e-3),
        seconds);
    shown_events_ = token_events_;
    shown_at_ = seconds;
    base::print_with_log(STDERR_FILENO, terminal_ ? "\r" + line + "\x1b[K" : line + "\n");
  }

  asio::io_context& io_;
  HttpClient& client_;
  const LoadPlan& plan_;
  Prompts& prompts_;
  std::mt19937_64 random_;    ///< of prompts and lengths
  std::mt19937_64 arrivals_;  ///< apart, so that a rate does not change the requests
  bool terminal_;
  LoadFigures figures_;
  std::exception_ptr failure_;
  Clock::time_point start_;
  int64_t begun_ = 0, ended_ = 0, in_flight_ = 0;
  int64_t token_events_ = 0, shown_events_ = 0;
  double shown_at_ = 0;
};

std::vector<std::string> models_in(const std::string& body) {
  std::vector<std::string> names;
  const json::value root = base::parse_strict_json(body);
  const json::value* data = root.is_object() ? root.get_object().if_contains("data") : nullptr;
  if (data == nullptr || !data->is_array()) return names;
  for (const json::value& entry : data->get_array()) {
    const json::value* id = entry.is_object() ? entry.get_object().if_contains("id") : nullptr;
    if (id != nullptr && id->is_string()) names.emplace_back(id->get_string());
  }
  return names;
}

}  // namespace

std::string only_model(asio::io_context& io, HttpClient& client,
                       std::chrono::milliseconds timeout) {
  constexpr size_t kMost = size_t{1} << 20;
  constexpr size_t kShown = 10;
  std::string body;
  HttpCall call;
  call.target = "/v1/models";
  call.take = [&](std::string_view bytes) {
    if (body.size() + bytes.size() > kMost) throw RequestFailure("the list is larger than 1 MiB");
    body += bytes;
  };
  std::exception_ptr failure;
  asio::co_spawn(io, client.call(call, timeout),
                 [&](const std::exception_ptr& thrown) { failure = thrown; });
  io.run();
  io.restart();
  std::vector<std::string> names;
  try {
    if (failure) std::rethrow_exception(failure);
    names = models_in(body);
  } catch (const RequestFailure& problem) {
    throw base::UnavailableError(
        fmt::format("the server does not say which models it has: "
                    "/v1/models: {}",
                    problem.what()));
  } catch (const base::JsonError& problem) {
    throw base::UnavailableError(
        fmt::format("the server does not say which models it has: /v1/models is not JSON: {}; "
                    "name one with --model",
                    problem.what()));
  }
  if (names.empty()) throw base::UnavailableError("the server has no model, says its /v1/models");
  if (names.size() == 1) return names[0];
  std::string list;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) {
    list += (i == 0 ? "" : ", ") + base::printable(names[i]);
  }
  throw base::UsageError(fmt::format("the server has {} models; name one with --model: {}{}",
                                     names.size(), list, names.size() > kShown ? ", ..." : ""));
}

LoadFigures run_load(asio::io_context& io, HttpClient& client, const LoadPlan& plan,
                     Prompts& prompts) {
  return LoadRun(io, client, plan, prompts).run();
}

}  // namespace moesaic::cli
