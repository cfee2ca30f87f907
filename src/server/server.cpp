#include "server/server.h"

#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "server/api.h"
#include "server/http_server.h"
#include "server/routes.h"

namespace moesaic::server {
namespace {

using Clock = std::chrono::steady_clock;

/// How long clients may take to read the error that ends their request.
constexpr std::chrono::seconds kFlush{2};

std::chrono::milliseconds milliseconds(const base::Settings& settings, const char* name) {
  return std::chrono::milliseconds(static_cast<int64_t>(settings.get_float(name) * 1000));
}

/// Lets the process have as many descriptors as it may; the usual soft limit of 1024 is far below
/// --max-connections.
void raise_descriptor_limit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::shared_ptr<ByteBudget> byte_budget(const base::Settings& settings,
                                        const std::shared_ptr<base::Metrics>& metrics) {
  return std::make_shared<ByteBudget>(
      static_cast<size_t>(settings.get_int("max-inflight-bytes")), [metrics] {
        metrics->add("moesaic:http_rejections_total", 1, {{"reason", "memory"}});
      });
}

HttpOptions http_options(const base::Settings& settings, std::shared_ptr<ByteBudget> budget) {
  const auto size = [&](const char* name) { return static_cast<size_t>(settings.get_int(name)); };
  HttpOptions options;
  options.budget = std::move(budget);
  options.limits.header_line = size("max-header-line");
  options.limits.header_bytes = size("max-header-bytes");
  options.limits.header_count = size("max-header-count");
  options.limits.body_bytes = size("max-body-bytes");
  options.threads = static_cast<int>(settings.get_int("io-threads"));
  options.max_connections = settings.get_int("max-connections");
  options.max_stream_bytes = size("max-stream-bytes");
  options.header_timeout = milliseconds(settings, "header-timeout");
  options.body_idle_timeout = milliseconds(settings, "body-idle-timeout");
  options.body_timeout = milliseconds(settings, "body-timeout");
  options.keep_alive_timeout = milliseconds(settings, "keep-alive-timeout");
  options.write_timeout = milliseconds(settings, "write-timeout");
  return options;
}

}  // namespace

struct Server::Impl {
  Impl(const base::Settings& settings, BoundAddress address, ServedModel model,
       const std::shared_ptr<engine::Engine>& engine, const std::shared_ptr<base::Metrics>& metrics)
      : engine(engine),
        budget(byte_budget(settings, metrics)),
        api(settings, std::move(model), engine, metrics, budget),
        router(settings, api, metrics),
        http(http_options(settings, budget), std::move(address), router),
        shutdown_timeout(settings.get_int("shutdown-timeout")) {}
  // The text threads stop first: they reach into exchanges, which die with the sockets.
  ~Impl() { api.stop(); }

  void on_signal(int number);
  void begin_shutdown();
  void watch_shutdown();
  void watch_engine();

  std::shared_ptr<engine::Engine> engine;
  std::shared_ptr<ByteBudget> budget;
  Api api;
  Router router;
  HttpServer http;
  std::chrono::seconds shutdown_timeout;
  std::atomic<bool> asked{false};
  // Only the timers' thread of control touches these.
  std::optional<Clock::time_point> deadline;
  std::optional<Clock::time_point> last_call;
  std::optional<Clock::time_point> engine_death;
  std::atomic<bool> engine_dead{false};
  int signals = 0;
};

void Server::Impl::on_signal(int number) {
  if (++signals > 1 && number != SIGHUP) {
    spdlog::warn("second signal: ending at once");
    base::flush_log();
    std::_Exit(128 + number);
  }
  spdlog::info("shutting down; running requests may take {} s to end", shutdown_timeout.count());
  asked = true;
}

void Server::Impl::begin_shutdown() {
  deadline = Clock::now() + shutdown_timeout;
  api.drain();
  http.close_after_answers();
}

void Server::Impl::watch_shutdown() {
  if (!asked) return;
  if (!deadline) begin_shutdown();
  if (api.active() == 0 && http.open_exchanges() == 0 && engine->idle()) return http.stop();
  const auto now = Clock::now();
  if (now < *deadline) return;
  if (!last_call) {
    spdlog::warn("{} requests did not end in time and are aborted", api.active());
    last_call = now + kFlush;
  }
  api.abort_all();  // again and again: one may just have been on its way in
  if (now >= *last_call) http.stop();
}

/// A dead engine ends the process, after its clients have been told.
void Server::Impl::watch_engine() {
  if (engine->stats().alive) return;
  if (!engine_death) {
    spdlog::critical("the engine has failed; ending");
    engine_death = Clock::now();
    engine_dead = true;
  }
  if (http.open_exchanges() == 0 || Clock::now() - *engine_death > kFlush) http.stop();
}

BoundAddress bind_address(const base::Settings& settings) {
  const std::string host = settings.get_string("host");
  return {host.empty() ? "127.0.0.1" : host, static_cast<uint16_t>(settings.get_int("port"))};
}

void check_served(const base::Settings& settings, const ServedModel& model) {
  Api::check(settings, model);
}

Server::Server(const base::Settings& settings, BoundAddress address, ServedModel model,
               const std::shared_ptr<engine::Engine>& engine,
               const std::shared_ptr<base::Metrics>& metrics)
    : impl_(
          std::make_unique<Impl>(settings, std::move(address), std::move(model), engine, metrics)) {
  // From here on, so that a signal between the greeting and run() drains too.
  impl_->http.on_signal([this](int number) { impl_->on_signal(number); });
}

Server::~Server() = default;

uint16_t Server::port() const { return impl_->http.port(); }

void Server::shutdown() { impl_->asked = true; }

void Server::run() {
  // A client that goes away is an error of a write, not a signal to everybody.
  std::signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  impl_->http.every(std::chrono::milliseconds(25), [this] { impl_->watch_shutdown(); });
  impl_->http.every(std::chrono::milliseconds(500), [this] {
    impl_->api.tick();
    impl_->watch_engine();
  });
  impl_->http.run();
  impl_->api.stop();
  if (impl_->engine_dead) {
    throw base::Error(base::ExitCode::kInternal, "the engine has failed; the log says why");
  }
  spdlog::info("all requests have ended; bye");
}

}  // namespace moesaic::server
