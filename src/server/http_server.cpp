#include "server/http_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <csignal>
#include <thread>
#include <vector>

#include "base/log.h"
#include "server/http_connection.h"

namespace moesaic::server {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

/// What fails for want of memory now may work the next time; the loop that calls it must go on.
void guarded(const char* what, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    spdlog::error("{} failed: {}", what, error.what());
  }
}

/// Descriptors kept for connections that ask how the server is when all others are taken.
class DescriptorReserve {
 public:
  DescriptorReserve() = default;
  ~DescriptorReserve() {
    while (lend()) {
    }
  }
  DescriptorReserve(const DescriptorReserve&) = delete;
  DescriptorReserve& operator=(const DescriptorReserve&) = delete;

  /// Gives one up, for accept() to take. False when none is left.
  bool lend() {
    if (kept_.empty()) return false;
    ::close(kept_.back());
    kept_.pop_back();
    return true;
  }

  /// Keeps a share of the descriptors that the process may have.
  void keep() {
    constexpr size_t kMost = 8;
    rlimit limit = {};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
      count_ = static_cast<size_t>(std::min<rlim_t>(limit.rlim_cur / kMost, kMost));
    }
    refill();
  }

  int64_t count() const { return static_cast<int64_t>(count_); }

  /// Takes back what was lent. False when there are not enough free ones.
  bool refill() {
    while (kept_.size() < count_) {
      const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
      if (fd < 0) return false;
      kept_.push_back(fd);
    }
    return true;
  }

 private:
  std::vector<int> kept_;
  size_t count_ = 0;
};

}  // namespace

struct HttpServer::Impl {
  Impl(const HttpOptions& options, HttpHandler& handler)
      : io(options.threads),
        acceptor(asio::make_strand(io)),
        signals(io),
        shared(std::make_shared<ConnectionShared>(options, handler)) {}

  void listen(BoundAddress address);
  asio::awaitable<void> accept_loop();
  asio::awaitable<bool> accept_one();
  void note_shortage(bool now_short);
  asio::awaitable<void> signal_loop(std::function<void(int)> callback);
  asio::awaitable<void> period_loop(std::chrono::milliseconds period,
                                    std::function<void()> callback);

  asio::io_context io;
  tcp::acceptor acceptor;
  asio::signal_set signals;
  std::shared_ptr<ConnectionShared> shared;
  uint16_t port = 0;
  // Only the accept loop touches these.
  DescriptorReserve reserve;
  bool told_short = false;
  std::chrono::steady_clock::time_point told_at;
};

void HttpServer::Impl::listen(BoundAddress address) {
  port = address.port();
  bool ipv6 = false;
  const int socket = address.listen(ipv6);
  acceptor.assign(ipv6 ? tcp::v6() : tcp::v4(), socket);
}

/// One connection let in, or a pause. False when the listener has been closed.
asio::awaitable<bool> HttpServer::Impl::accept_one() {
  constexpr std::chrono::milliseconds kPause{20};
  asio::steady_timer pause(acceptor.get_executor(), kPause);
  const bool full = shared->open >= shared->options.max_connections;
  const bool may_lend = shared->beyond < reserve.count();
  if (full && !may_lend) {
    note_shortage(true);
    co_await pause.async_wait(asio::use_awaitable);
    co_return true;
  }
  auto [error, socket] =
      co_await acceptor.async_accept(asio::make_strand(io), asio::as_tuple(asio::use_awaitable));
  if (error == asio::error::operation_aborted || !acceptor.is_open()) co_return false;
  if (error) {
    // Out of descriptors, most likely: a probe gets one of those kept for it.
    note_shortage(true);
    if (may_lend && reserve.lend()) co_return true;
    pause.expires_after(kPause);
    co_await pause.async_wait(asio::use_awaitable);
    reserve.refill();
    co_return true;
  }
  const bool beyond = !reserve.refill() || shared->open >= shared->options.max_connections;
  note_shortage(beyond);
  start_connection(std::move(socket), shared, beyond);
  co_return true;
}

asio::awaitable<void> HttpServer::Impl::accept_loop() {
  for (;;) {
    // Without memory for one connection there may be some for the next: only a closed listener ends
    // this loop.
    try {
      if (!co_await accept_one()) co_return;
    } catch (const std::exception& error) {
      spdlog::error("a connection was not accepted: {}", error.what());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // a timer would need memory
    }
  }
}

/// Says once when connections run out and once when there are some again, but not more often than
/// every few seconds.
void HttpServer::Impl::note_shortage(bool now_short) {
  constexpr std::chrono::seconds kQuiet{10};
  const auto now = std::chrono::steady_clock::now();
  if (now_short == told_short || now - told_at < kQuiet) return;
  told_short = now_short;
  told_at = now;
  if (now_short) {
    spdlog::warn(
        "connections are used up ({} are open): others than probes are refused until some close; "
        "raise the limit of descriptors (ulimit -n) or --max-connections",
        shared->open.load());
  } else {
    spdlog::info("connections are accepted again");
  }
}

asio::awaitable<void> HttpServer::Impl::signal_loop(std::function<void(int)> callback) {
  for (;;) {
    const auto [error, number] = co_await signals.async_wait(asio::as_tuple(asio::use_awaitable));
    if (error) co_return;
    guarded("handling a signal", [&] { callback(number); });
  }
}

asio::awaitable<void> HttpServer::Impl::period_loop(std::chrono::milliseconds period,
                                                    std::function<void()> callback) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (;;) {
    timer.expires_after(period);
    co_await timer.async_wait(asio::use_awaitable);
    guarded("a periodic task", callback);
  }
}

HttpServer::HttpServer(const HttpOptions& options, BoundAddress address, HttpHandler& handler)
    : impl_(std::make_unique<Impl>(options, handler)) {
  impl_->listen(std::move(address));
}

HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const { return impl_->port; }

void HttpServer::run() {
  impl_->reserve.keep();
  asio::co_spawn(impl_->acceptor.get_executor(), impl_->accept_loop(), asio::detached);
  std::vector<std::thread> threads;
  const auto work = [this] {
    // A handler that throws leaves run(), and the others to those who call it again.
    while (!impl_->io.stopped()) guarded("a connection", [this] { impl_->io.run(); });
  };
  std::exception_ptr failure;
  try {
    for (int i = 1; i < impl_->shared->options.threads; ++i) threads.emplace_back(work);
    work();
  } catch (const std::system_error&) {
    failure = std::current_exception();
    stop();
  }
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

void HttpServer::stop() { impl_->io.stop(); }

void HttpServer::close_after_answers() { impl_->shared->closing = true; }

int64_t HttpServer::open_exchanges() const { return impl_->shared->exchanges; }

void HttpServer::on_signal(std::function<void(int)> callback) {
  for (int number : {SIGINT, SIGTERM, SIGHUP}) impl_->signals.add(number);
  asio::co_spawn(impl_->io, impl_->signal_loop(std::move(callback)), asio::detached);
}

void HttpServer::every(std::chrono::milliseconds period, std::function<void()> callback) {
  asio::co_spawn(impl_->io, impl_->period_loop(period, std::move(callback)), asio::detached);
}

}  // namespace moesaic::server
