#pragma once

// The connection's side of an Exchange: what handlers said, waiting to be written.

#include <atomic>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "server/http_types.h"

namespace moesaic::server {

class HttpExchange : public Exchange, public std::enable_shared_from_this<HttpExchange> {
 public:
  /// `executor` is the connection's strand. Unread bytes of a stream are at most `max_unread`, and
  /// as many as `unread` may grow to.
  HttpExchange(const boost::asio::any_io_executor& executor, size_t max_unread, ByteShare unread);

  void reply(Response response) override;
  void begin_stream(Response head) override;
  bool push(std::string bytes) override;
  void end_stream(std::string bytes) override;
  void on_gone(std::function<void(Gone)> callback) override;

  /// What there is to write now. Taken on the strand.
  struct Work {
    std::optional<Response> head;  ///< first, once
    bool stream = false;           ///< with `head`: bytes follow
    std::string bytes;
    bool ended = false;
    bool cut_off = false;  ///< the reader is too slow: close at once
    bool empty() const { return !head && bytes.empty() && !ended && !cut_off; }
  };
  Work take();
  /// Suspends until there is work. On the strand.
  boost::asio::awaitable<void> wait();
  /// True when nobody will add work any more.
  bool complete() const;
  /// The client has gone (or is cut off); tells the handler.
  void gone(Gone why);
  /// The answer is out: drops the handler's callback, which may hold the handler's state.
  void finish();

 private:
  void wake();
  bool hold(size_t bytes);
  bool append(const std::string& bytes, bool end);

  mutable std::mutex mutex_;
  std::optional<Response> head_;
  std::string bytes_;
  size_t writing_ = 0;  ///< bytes that were taken last and may still be on their way
  ByteShare unread_;    ///< for both
  size_t max_unread_;
  bool stream_ = false;
  bool ended_ = false;
  bool cut_off_ = false;
  std::optional<Gone> gone_;
  std::function<void(Gone)> callback_;
  std::atomic<bool> wake_posted_{false};
  boost::asio::any_io_executor executor_;
  boost::asio::steady_timer event_;
};

}  // namespace moesaic::server
