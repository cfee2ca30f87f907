#include "server/http_exchange.h"

#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "server/insist.h"

namespace moesaic::server {

namespace asio = boost::asio;

namespace {

/// Unread bytes that are part of what every request is counted with.
constexpr size_t kUncounted = 4 << 10;

}  // namespace

HttpExchange::HttpExchange(const asio::any_io_executor& executor, size_t max_unread,
                           ByteShare unread)
    : unread_(std::move(unread)), max_unread_(max_unread), executor_(executor), event_(executor) {
  event_.expires_at(std::chrono::steady_clock::time_point::max());
}

void HttpExchange::reply(Response response) {
  {
    std::lock_guard lock(mutex_);
    if (gone_ || ended_ || stream_) return;
    head_ = std::move(response);
    ended_ = true;
  }
  wake();
}

void HttpExchange::begin_stream(Response head) {
  {
    std::lock_guard lock(mutex_);
    if (gone_ || ended_ || stream_) return;
    head_ = std::move(head);
    stream_ = true;
  }
  wake();
}

bool HttpExchange::hold(size_t bytes) {
  return unread_.try_resize(bytes <= kUncounted ? 0 : bytes);
}

bool HttpExchange::append(const std::string& bytes, bool end) {
  bool overflow = false;
  {
    std::lock_guard lock(mutex_);
    if (gone_ || ended_) return false;
    // One event may be larger than the bound; what may not grow is what stays unread.
    const size_t unread = bytes_.size() + bytes.size();
    overflow = (!bytes_.empty() && unread > max_unread_) || !hold(writing_ + unread);
    if (overflow) {
      cut_off_ = true;
      bytes_.clear();
      bytes_.shrink_to_fit();
      hold(writing_);
    } else {
      bytes_ += bytes;
      ended_ = end;
    }
  }
  if (overflow) gone(Gone::kSlowReader);
  wake();
  return !overflow;
}

bool HttpExchange::push(std::string bytes) { return append(bytes, false); }

void HttpExchange::end_stream(std::string bytes) { append(bytes, true); }

void HttpExchange::on_gone(std::function<void(Gone)> callback) {
  std::optional<Gone> already;
  {
    std::lock_guard lock(mutex_);
    if (!gone_) {
      if (!ended_) callback_ = std::move(callback);
      return;
    }
    already = gone_;
  }
  callback(*already);
}

HttpExchange::Work HttpExchange::take() {
  std::lock_guard lock(mutex_);
  Work work;
  work.head = std::move(head_);
  head_.reset();
  work.stream = stream_;
  work.bytes = std::move(bytes_);
  bytes_.clear();
  writing_ = work.bytes.size();
  hold(writing_);
  work.ended = ended_;
  work.cut_off = cut_off_;
  return work;
}

asio::awaitable<void> HttpExchange::wait() {
  // Woken by cancel() from wake(), which runs on this strand and so never between the caller's
  // take() and this wait.
  boost::system::error_code error;
  co_await event_.async_wait(asio::redirect_error(asio::use_awaitable, error));
}

bool HttpExchange::complete() const {
  std::lock_guard lock(mutex_);
  return ended_;
}

void HttpExchange::gone(Gone why) {
  std::function<void(Gone)> callback;
  {
    std::lock_guard lock(mutex_);
    if (gone_) return;
    gone_ = why;
    // With the whole answer handed over there is nothing left to stop.
    if (!ended_) callback = std::move(callback_);
    callback_ = nullptr;
  }
  if (callback) callback(why);
}

void HttpExchange::finish() {
  std::function<void(Gone)> callback;
  std::lock_guard lock(mutex_);
  ended_ = true;
  callback = std::move(callback_);
  callback_ = nullptr;
}

void HttpExchange::wake() {
  if (wake_posted_.exchange(true)) return;
  const bool posted = insist([this] {
    asio::post(executor_, [self = shared_from_this()] {
      self->wake_posted_ = false;
      self->event_.cancel();
    });
  });
  if (!posted) wake_posted_ = false;
}

}  // namespace moesaic::server
