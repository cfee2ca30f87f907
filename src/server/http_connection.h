#pragma once

// One connection: reads requests in order, hands them up, writes the answers, and notices when the
// client goes.

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <memory>

#include "server/http_server.h"

namespace moesaic::server {

/// What all connections of a server share; kept alive by each of them.
struct ConnectionShared {
  ConnectionShared(const HttpOptions& options, HttpHandler& handler)
      : options(options), handler(handler) {}
  const HttpOptions options;
  HttpHandler& handler;
  std::atomic<bool> closing{false};
  std::atomic<int64_t> open{0};
  std::atomic<int64_t> beyond{0};  ///< of these, let in beyond the limits, for probes
  std::atomic<int64_t> exchanges{0};
};

/// Starts the connection's coroutine on the socket's executor, which must be a strand. One `beyond`
/// the limits has half a second for one probe; anything else that it asks is refused.
void start_connection(boost::asio::ip::tcp::socket socket, std::shared_ptr<ConnectionShared> shared,
                      bool beyond);

}  // namespace moesaic::server
