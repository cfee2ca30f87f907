#include "server/http_server.h"

#include <fmt/format.h>

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

#include "base/error.h"
#include "base/log.h"
#include "server/http_connection.h"

namespace moesaic::server {

namespace asio = boost::asio;
using asio::ip::tcp;

struct HttpServer::Impl {
  Impl(const HttpOptions& options, HttpHandler& handler)
      : io(options.threads),
        acceptor(asio::make_strand(io)),
        signals(io),
        shared(std::make_shared<ConnectionShared>(options, handler)) {}

  void listen();
  asio::awaitable<void> accept_loop();
  asio::awaitable<void> signal_loop(std::function<void(int)> callback);
  asio::awaitable<void> period_loop(std::chrono::milliseconds period,
                                    std::function<void()> callback);

  asio::io_context io;
  tcp::acceptor acceptor;
  asio::signal_set signals;
  std::shared_ptr<ConnectionShared> shared;
  uint16_t port = 0;
};

void HttpServer::Impl::listen() {
  const HttpOptions& options = shared->options;
  const std::string host = options.host.empty() ? "127.0.0.1" : options.host;
  boost::system::error_code error;
  tcp::resolver resolver(io);
  const auto found =
      resolver.resolve(host, std::to_string(options.port), tcp::resolver::passive, error);
  const auto unavailable = [&](const char* step) {
    return base::UnavailableError(
        fmt::format("cannot {} {}:{}: {}; choose another --host or --port", step, host,
                    options.port, error.message()));
  };
  if (error) throw unavailable("find the address");
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor.open(endpoint.protocol(), error);
  if (error) throw unavailable("open a socket for");
  // A restarted server must not wait for the old connections' TIME_WAIT.
  acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  acceptor.bind(endpoint, error);
  if (error) throw unavailable("bind");
  acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) throw unavailable("listen on");
  port = acceptor.local_endpoint().port();
}

asio::awaitable<void> HttpServer::Impl::accept_loop() {
  asio::steady_timer pause(acceptor.get_executor());
  for (;;) {
    // Connections beyond the limit wait in the kernel's queue.
    while (shared->open >= shared->options.max_connections) {
      pause.expires_after(std::chrono::milliseconds(20));
      co_await pause.async_wait(asio::use_awaitable);
    }
    auto [error, socket] =
        co_await acceptor.async_accept(asio::make_strand(io), asio::as_tuple(asio::use_awaitable));
    if (error == asio::error::operation_aborted || !acceptor.is_open()) co_return;
    if (error) {
      // Out of descriptors, most likely: serve who is in, and do not spin.
      spdlog::warn("cannot accept a connection: {}", error.message());
      pause.expires_after(std::chrono::milliseconds(100));
      co_await pause.async_wait(asio::use_awaitable);
      continue;
    }
    start_connection(std::move(socket), shared);
  }
}

asio::awaitable<void> HttpServer::Impl::signal_loop(std::function<void(int)> callback) {
  for (;;) {
    const auto [error, number] = co_await signals.async_wait(asio::as_tuple(asio::use_awaitable));
    if (error) co_return;
    callback(number);
  }
}

asio::awaitable<void> HttpServer::Impl::period_loop(std::chrono::milliseconds period,
                                                    std::function<void()> callback) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (;;) {
    timer.expires_after(period);
    co_await timer.async_wait(asio::use_awaitable);
    callback();
  }
}

HttpServer::HttpServer(const HttpOptions& options, HttpHandler& handler)
    : impl_(std::make_unique<Impl>(options, handler)) {
  impl_->listen();
}

HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const { return impl_->port; }

void HttpServer::run() {
  asio::co_spawn(impl_->acceptor.get_executor(), impl_->accept_loop(), asio::detached);
  std::vector<std::thread> threads;
  for (int i = 1; i < impl_->shared->options.threads; ++i) {
    threads.emplace_back([this] { impl_->io.run(); });
  }
  impl_->io.run();
  for (std::thread& thread : threads) thread.join();
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
