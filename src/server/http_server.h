#pragma once

// Sockets: a listener and one coroutine per connection on a few I/O threads. Handlers run
// elsewhere and answer through an Exchange.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/bound_address.h"
#include "server/http_guard.h"
#include "server/http_types.h"

namespace moesaic::server {

struct HttpOptions {
  HttpLimits limits;
  int threads = 1;
  int64_t max_connections = 16384;
  size_t max_stream_bytes = 1 << 20;   ///< unread bytes of one stream
  std::shared_ptr<ByteBudget> budget;  ///< for bodies and unread bytes; null = no bound
  std::chrono::milliseconds header_timeout{60000};
  std::chrono::milliseconds body_idle_timeout{30000};
  std::chrono::milliseconds body_timeout{300000};
  std::chrono::milliseconds keep_alive_timeout{75000};
  std::chrono::milliseconds write_timeout{60000};
};

/// What the sockets need from above. All calls come from I/O threads and must not block.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  /// Refuses a request by its head alone, before its body is read; nothing to go on.
  virtual std::optional<Response> check(const RequestHead& head) = 0;
  virtual void handle(Request request, std::shared_ptr<Exchange> exchange) = 0;
  /// Whether the request asks how the server is, and is answered when connections are used up.
  virtual bool is_probe(const RequestHead& head) = 0;
  /// Adds what every answer carries; `head` is null when the request's head could not be read.
  virtual void decorate(const RequestHead* head, Response& response) = 0;
  /// An answer's status went out.
  virtual void answered(const RequestHead& head, int status) = 0;
  /// A request was refused before it reached a route: "header", "body" or "timeout"; refusals of
  /// the byte budget are its own to report.
  virtual void rejected(std::string_view reason) = 0;
  virtual void connections_changed(int64_t open) = 0;
};

class HttpServer {
 public:
  /// Listens. Throws UnavailableError when the address cannot be had. `handler` outlives the
  /// server.
  HttpServer(const HttpOptions& options, BoundAddress address, HttpHandler& handler);
  ~HttpServer();

  uint16_t port() const;

  /// Serves on this thread and options.threads - 1 more, until stop().
  void run();
  /// Ends run(): closes the listener and every connection. Thread-safe.
  void stop();

  /// From now on every answer closes its connection. Thread-safe.
  void close_after_answers();
  /// Exchanges whose answer is not yet written out.
  int64_t open_exchanges() const;

  /// Runs `callback(number)` on an I/O thread for SIGINT, SIGTERM and SIGHUP.
  void on_signal(std::function<void(int)> callback);
  /// Runs `callback` every `period` on an I/O thread while run() runs.
  void every(std::chrono::milliseconds period, std::function<void()> callback);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::server
