#include "server/http_connection.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/chunk_encode.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "server/http_exchange.h"

namespace moesaic::server {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Clock = std::chrono::steady_clock;
using namespace asio::experimental::awaitable_operators;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
/// Bytes of following requests that may wait while one is answered.
constexpr size_t kMaxPipelined = 64 << 10;
/// Bytes that a connection may hold without asking the byte budget, so that small requests, probes
/// among them, are read however full it is.
constexpr size_t kUncounted = 16 << 10;
/// How long a connection beyond the limits may take to say what it wants.
constexpr std::chrono::milliseconds kBeyond{500};
/// What a refused client may still send before the connection is dropped under its feet.
constexpr size_t kMaxLinger = 4 << 20;
/// What the kernel may hold for a reader that does not read.
constexpr int kSendBuffer = 256 << 10;

enum class ReadResult : uint8_t { kData, kClosed, kTimeout };

/// How reading a request ended.
struct Incoming {
  bool closed = false;
  std::optional<Response> refusal;
  bool head_known = false;
  bool must_close = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(asio::ip::tcp::socket socket, std::shared_ptr<ConnectionShared> shared, bool beyond)
      : socket_(std::move(socket)),
        shared_(std::move(shared)),
        read_timer_(socket_.get_executor()),
        write_timer_(socket_.get_executor()),
        beyond_(beyond),
        held_(shared_->options.budget) {
    if (beyond_) ++shared_->beyond;
    shared_->handler.connections_changed(++shared_->open);
  }
  ~Connection() {
    if (beyond_) --shared_->beyond;
    shared_->handler.connections_changed(--shared_->open);
  }

  asio::awaitable<void> run();
  /// Closes the socket, which the timers would otherwise keep open.
  void abandon();

 private:
  const HttpOptions& options() const { return shared_->options; }

  asio::awaitable<ReadResult> read_some(Clock::time_point deadline);
  asio::awaitable<Incoming> read_request(Request& request);
  asio::awaitable<Incoming> read_head(RequestHead& head);
  asio::awaitable<Incoming> read_body(Request& request);
  asio::awaitable<Incoming> read_sized_body(Request& request, Clock::time_point total);
  asio::awaitable<Incoming> read_chunked_body(Request& request, Clock::time_point total);
  asio::awaitable<void> watch();
  asio::awaitable<bool> serve(Request request);
  asio::awaitable<bool> answer(std::shared_ptr<HttpExchange> exchange, const RequestHead& head);
  asio::awaitable<bool> write_whole(const RequestHead* head, Response response, bool keep);
  asio::awaitable<bool> write_stream_head(const RequestHead& head, Response response, bool keep);
  asio::awaitable<bool> write_bytes(std::string bytes, bool chunk);
  asio::awaitable<void> linger();
  asio::awaitable<void> serve_requests();

  Incoming refuse(int status, std::string_view problem, std::string_view reason);
  std::optional<Incoming> refuse_size(uint64_t body);
  Incoming refuse_memory();
  void pass_on_share(Request& request);
  bool hold(size_t bytes) { return held_.try_resize(bytes <= kUncounted ? 0 : bytes); }
  bool keep_alive(const RequestHead& head) const {
    return head.keep_alive && head.version == 11 && !beyond_ && !shared_->closing.load();
  }
  size_t receive(boost::system::error_code& error);
  void arm_write_timer();

  asio::ip::tcp::socket socket_;
  std::shared_ptr<ConnectionShared> shared_;
  asio::steady_timer read_timer_;
  asio::steady_timer write_timer_;
  const bool beyond_;
  uint64_t read_turn_ = 0;
  uint64_t write_turn_ = 0;
  bool read_timed_out_ = false;
  std::string inbox_;  ///< bytes that have come and are not used yet
  ByteShare held_;     ///< for the inbox, and for a body being read
  bool served_one_ = false;
  bool answering_ = false;  ///< bytes of an answer to the current request may have gone out
};

http::response_header<> response_head(const RequestHead* head, const Response& response) {
  http::response_header<> out;
  out.version(head != nullptr ? static_cast<unsigned>(head->version) : 11U);
  out.result(static_cast<unsigned>(response.status));
  const std::string_view reason = reason_phrase(response.status);
  out.reason({reason.data(), reason.size()});
  const std::time_t now = std::time(nullptr);
  out.set(http::field::date, fmt::format("{:%a, %d %b %Y %H:%M:%S} GMT", fmt::gmtime(now)));
  if (!response.content_type.empty()) out.set(http::field::content_type, response.content_type);
  for (const Header& header : response.headers) out.insert(header.name, header.value);
  return out;
}

/// Says that there is no memory, in bytes that need none; what the kernel does not take at once is
/// not waited for.
void answer_without_memory(asio::ip::tcp::socket& socket) {
  static constexpr std::string_view kHead =
      "HTTP/1.1 503 Service Unavailable\r\nServer: moesaic\r\nContent-Type: application/json\r\n"
      "Content-Length: 128\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";
  static constexpr std::string_view kBody =
      R"({"error":{"message":"there is not enough memory for this request now",)"
      R"("type":"ServiceUnavailableError","param":null,"code":503}})";
  static_assert(kBody.size() == 128);
  boost::system::error_code error;
  socket.non_blocking(true, error);
  const std::array<asio::const_buffer, 2> buffers = {asio::buffer(kHead), asio::buffer(kBody)};
  socket.write_some(buffers, error);
}

Incoming closed() {
  Incoming incoming;
  incoming.closed = true;
  return incoming;
}

/// Appends what has come to the inbox; 0 with would_block, an error or the end of the stream. Not a
/// coroutine, because a thread's buffer must not be used across a suspension.
size_t Connection::receive(boost::system::error_code& error) {
  static thread_local std::array<char, 64 << 10> buffer;
  const size_t size = socket_.read_some(asio::buffer(buffer), error);
  if (error == asio::error::try_again) error = asio::error::would_block;
  if (!error) inbox_.append(buffer.data(), size);
  return error ? 0 : size;
}

asio::awaitable<ReadResult> Connection::read_some(Clock::time_point deadline) {
  const uint64_t turn = ++read_turn_;
  read_timed_out_ = false;
  read_timer_.expires_at(deadline);
  read_timer_.async_wait([self = shared_from_this(), turn](boost::system::error_code error) {
    if (error || turn != self->read_turn_) return;
    self->read_timed_out_ = true;
    boost::system::error_code ignored;
    self->socket_.cancel(ignored);
  });
  for (;;) {
    // Waiting without a buffer keeps an idle connection small.
    const auto [waited] = co_await socket_.async_wait(asio::socket_base::wait_read, kAwait);
    if (read_timed_out_) co_return ReadResult::kTimeout;
    if (waited) break;
    boost::system::error_code error;
    if (receive(error) == 0) {
      if (error == asio::error::would_block) continue;
      break;
    }
    ++read_turn_;
    co_return ReadResult::kData;
  }
  ++read_turn_;
  co_return ReadResult::kClosed;
}

Incoming Connection::refuse(int status, std::string_view problem, std::string_view reason) {
  shared_->handler.rejected(reason);
  Incoming incoming;
  incoming.refusal = error_response(status, reason_phrase(status), problem);
  incoming.must_close = true;
  return incoming;
}

Incoming Connection::refuse_memory() {
  Incoming incoming;
  incoming.refusal = error_response(503, "ServiceUnavailableError", kNoRoom);
  incoming.must_close = true;
  return incoming;
}

/// Refuses a body by its announced size, before it is read.
std::optional<Incoming> Connection::refuse_size(uint64_t body) {
  if (body > options().limits.body_bytes) {
    return refuse(413, "the body is larger than --max-body-bytes", "body");
  }
  const ByteBudget* budget = options().budget.get();
  if (budget == nullptr || body <= kUncounted) return std::nullopt;
  if (body > budget->most(false)) {
    return refuse(413, "the body is larger than --max-inflight-bytes leaves to one", "body");
  }
  if (!ByteShare(options().budget).try_resize(body)) return refuse_memory();
  return std::nullopt;
}

asio::awaitable<Incoming> Connection::read_head(RequestHead& head) {
  HeadScanner scanner(options().limits);
  const auto header =
      beyond_ ? std::min(options().header_timeout, kBeyond) : options().header_timeout;
  const auto idle = served_one_ ? options().keep_alive_timeout : header;
  Clock::time_point deadline = Clock::now() + (inbox_.empty() ? idle : header);
  for (;;) {
    if (!inbox_.empty()) {
      const auto state = scanner.scan(inbox_);
      if (state == HeadScanner::State::kComplete) break;
      if (state == HeadScanner::State::kError) {
        co_return refuse(scanner.status(), scanner.problem(), "header");
      }
    }
    const bool waiting = inbox_.empty();
    switch (co_await read_some(deadline)) {
      case ReadResult::kClosed:
        co_return closed();
      case ReadResult::kTimeout:
        // A connection that never said anything is closed without words.
        if (waiting) co_return closed();
        co_return refuse(408, "the request's header did not come within --header-timeout",
                         "timeout");
      case ReadResult::kData:
        if (waiting && !beyond_) deadline = Clock::now() + header;
    }
  }
  const HeadError error = parse_head(std::string_view(inbox_).substr(0, scanner.head_size()), head);
  inbox_.erase(0, scanner.head_size());
  if (error.status != 0) co_return refuse(error.status, error.problem, "header");
  co_return Incoming{};
}

asio::awaitable<Incoming> Connection::read_request(Request& request) {
  Incoming incoming = co_await read_head(request.head);
  if (incoming.closed || incoming.refusal) co_return incoming;
  const RequestHead& head = request.head;
  if (beyond_ && !shared_->handler.is_probe(head)) {
    shared_->handler.rejected("connections");
    incoming.refusal = unavailable_response("all connections of this server are taken");
    incoming.head_known = true;
    incoming.must_close = true;
    co_return incoming;
  }
  if (auto refusal = shared_->handler.check(head)) {
    incoming.refusal = std::move(refusal);
    incoming.head_known = true;
    // An unread body would be taken for the next request.
    incoming.must_close = head.has_body() || !keep_alive(head);
    co_return incoming;
  }
  if (!head.has_body()) co_return incoming;
  if (auto refusal = refuse_size(head.content_length.value_or(0))) {
    incoming = std::move(*refusal);
  } else {
    if (head.find("expect") != nullptr && head.version == 11 && inbox_.empty()) {
      if (!co_await write_bytes("HTTP/1.1 100 Continue\r\n\r\n", false)) co_return closed();
    }
    incoming = co_await read_body(request);
  }
  incoming.head_known = true;
  co_return incoming;
}

asio::awaitable<Incoming> Connection::read_body(Request& request) {
  const Clock::time_point total = Clock::now() + options().body_timeout;
  if (request.head.chunked) co_return co_await read_chunked_body(request, total);
  co_return co_await read_sized_body(request, total);
}

asio::awaitable<Incoming> Connection::read_sized_body(Request& request, Clock::time_point total) {
  const auto size = static_cast<size_t>(*request.head.content_length);
  while (inbox_.size() < size) {
    const auto idle = Clock::now() + options().body_idle_timeout;
    switch (co_await read_some(std::min(idle, total))) {
      case ReadResult::kClosed:
        spdlog::info("a client closed its connection in the middle of a body");
        co_return closed();
      case ReadResult::kTimeout:
        co_return refuse(408, "the body stopped coming", "timeout");
      case ReadResult::kData:
        break;
    }
    if (!hold(inbox_.size())) co_return refuse_memory();
  }
  std::string rest = inbox_.substr(size);
  inbox_.resize(size);
  request.body = std::exchange(inbox_, std::move(rest));
  pass_on_share(request);
  co_return Incoming{};
}

/// What is held is the request's from now on.
void Connection::pass_on_share(Request& request) {
  request.held = std::exchange(held_, ByteShare(options().budget));
  hold(inbox_.size());
}

asio::awaitable<Incoming> Connection::read_chunked_body(Request& request, Clock::time_point total) {
  ChunkDecoder decoder(options().limits);
  for (;;) {
    std::string_view bytes = inbox_;
    const auto state = decoder.feed(bytes, request.body);
    inbox_.erase(0, inbox_.size() - bytes.size());
    if (state == ChunkDecoder::State::kDone) {
      pass_on_share(request);
      co_return Incoming{};
    }
    if (state == ChunkDecoder::State::kError) {
      co_return refuse(decoder.status(), decoder.problem(), "body");
    }
    if (!hold(request.body.size() + inbox_.size())) co_return refuse_memory();
    const auto idle = Clock::now() + options().body_idle_timeout;
    switch (co_await read_some(std::min(idle, total))) {
      case ReadResult::kClosed:
        spdlog::info("a client closed its connection in the middle of a body");
        co_return closed();
      case ReadResult::kTimeout:
        co_return refuse(408, "the body stopped coming", "timeout");
      case ReadResult::kData:
        break;
    }
  }
}

/// Runs beside an answer in the making; ends when the client has gone. A client that closes only
/// its sending side counts as gone too: HTTP clients do not do that, and a proxy that has lost its
/// own client looks exactly so.
asio::awaitable<void> Connection::watch() {
  for (;;) {
    if (inbox_.size() >= kMaxPipelined || !hold(inbox_.size())) {
      asio::steady_timer never(socket_.get_executor(), Clock::time_point::max());
      co_await never.async_wait(kAwait);
      co_return;
    }
    const auto [waited] = co_await socket_.async_wait(asio::socket_base::wait_read, kAwait);
    if (waited) co_return;
    boost::system::error_code error;
    if (receive(error) == 0 && error != asio::error::would_block) co_return;
  }
}

void Connection::arm_write_timer() {
  const uint64_t turn = ++write_turn_;
  write_timer_.expires_after(options().write_timeout);
  write_timer_.async_wait([self = shared_from_this(), turn](boost::system::error_code error) {
    if (error || turn != self->write_turn_) return;
    boost::system::error_code ignored;
    self->socket_.close(ignored);
  });
}

asio::awaitable<bool> Connection::write_whole(const RequestHead* head, Response response,
                                              bool keep) {
  shared_->handler.decorate(head, response);
  http::response<http::string_body> message(response_head(head, response));
  message.keep_alive(keep);
  message.content_length(response.body.size());
  if (head == nullptr || head->method != "HEAD") message.body() = std::move(response.body);
  http::response_serializer<http::string_body> serializer(message);
  answering_ = true;
  while (!serializer.is_done()) {
    arm_write_timer();
    const auto [error, size] = co_await http::async_write_some(socket_, serializer, kAwait);
    ++write_turn_;
    if (error) co_return false;
  }
  if (head != nullptr) shared_->handler.answered(*head, response.status);
  co_return true;
}

asio::awaitable<bool> Connection::write_stream_head(const RequestHead& head, Response response,
                                                    bool keep) {
  shared_->handler.decorate(&head, response);
  http::response<http::empty_body> message(response_head(&head, response));
  message.keep_alive(keep);
  if (head.version == 11) message.chunked(true);
  http::response_serializer<http::empty_body> serializer(message);
  answering_ = true;
  arm_write_timer();
  const auto [error, size] = co_await http::async_write_header(socket_, serializer, kAwait);
  ++write_turn_;
  if (error) co_return false;
  shared_->handler.answered(head, response.status);
  co_return true;
}

asio::awaitable<bool> Connection::write_bytes(std::string bytes, bool chunk) {
  arm_write_timer();
  boost::system::error_code error;
  if (chunk) {
    const auto buffers = http::make_chunk(asio::const_buffer(bytes.data(), bytes.size()));
    const auto [failed, size] = co_await asio::async_write(socket_, buffers, kAwait);
    error = failed;
  } else {
    const auto [failed, size] = co_await asio::async_write(socket_, asio::buffer(bytes), kAwait);
    error = failed;
  }
  ++write_turn_;
  co_return !error;
}

asio::awaitable<bool> Connection::answer(std::shared_ptr<HttpExchange> exchange,
                                         const RequestHead& head) {
  const bool chunked = head.version == 11;
  for (;;) {
    HttpExchange::Work work = exchange->take();
    if (work.empty()) {
      co_await exchange->wait();
      continue;
    }
    if (work.cut_off) co_return false;
    if (work.head) {
      // Without chunks only the connection's end says that a stream is over.
      const bool keep = keep_alive(head) && (chunked || !work.stream);
      if (!work.stream) co_return co_await write_whole(&head, std::move(*work.head), keep);
      if (!co_await write_stream_head(head, std::move(*work.head), keep)) co_return false;
    }
    if (!work.bytes.empty() && !co_await write_bytes(std::move(work.bytes), chunked)) {
      co_return false;
    }
    if (!work.ended) continue;
    if (!chunked) co_return true;
    co_return co_await write_bytes("0\r\n\r\n", false);
  }
}

asio::awaitable<bool> Connection::serve(Request request) {
  const RequestHead head = request.head;
  auto exchange = std::make_shared<HttpExchange>(socket_.get_executor(), options().max_stream_bytes,
                                                 request.held.for_answer());
  struct Counted {
    explicit Counted(std::atomic<int64_t>& count) : count(count) { ++count; }
    ~Counted() { --count; }
    std::atomic<int64_t>& count;
  } counted(shared_->exchanges);
  shared_->handler.handle(std::move(request), exchange);
  bool written = false;
  if (exchange->complete()) {
    written = co_await answer(exchange, head);
  } else {
    const auto first = co_await (answer(exchange, head) || watch());
    written = first.index() == 0 && std::get<0>(first);
  }
  if (!written) exchange->gone(Gone::kDisconnected);
  exchange->finish();
  co_return written&& keep_alive(head);
}

asio::awaitable<void> Connection::linger() {
  boost::system::error_code error;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error);
  const Clock::time_point deadline = Clock::now() + std::chrono::seconds(1);
  size_t total = 0;
  // Closing with unread bytes would reset the connection and could take the answer with it.
  while (!error && total < kMaxLinger) {
    inbox_.clear();
    if (co_await read_some(deadline) != ReadResult::kData) break;
    total += inbox_.size();
  }
}

void Connection::abandon() {
  boost::system::error_code error;
  read_timer_.cancel();
  write_timer_.cancel();
  socket_.close(error);
}

asio::awaitable<void> Connection::run() {
  const auto self = shared_from_this();
  boost::system::error_code error;
  socket_.non_blocking(true, error);
  socket_.set_option(asio::ip::tcp::no_delay(true), error);
  socket_.set_option(asio::socket_base::send_buffer_size(kSendBuffer), error);
  bool no_memory = false;
  try {
    co_await serve_requests();
  } catch (const std::bad_alloc&) {
    no_memory = true;
  }
  if (no_memory) {
    // What has come of the request is the most that this connection can give back.
    std::string().swap(inbox_);
    if (!answering_) {
      answer_without_memory(socket_);
      co_await linger();
    }
  }
  abandon();
}

asio::awaitable<void> Connection::serve_requests() {
  for (;;) {
    answering_ = false;
    Request request;
    Incoming incoming = co_await read_request(request);
    if (incoming.closed) break;
    served_one_ = true;
    if (incoming.refusal) {
      const bool known = incoming.head_known;
      const bool keep = !incoming.must_close;
      const bool written =
          co_await write_whole(known ? &request.head : nullptr, std::move(*incoming.refusal), keep);
      if (written && keep) continue;
      if (written) co_await linger();
      break;
    }
    if (!co_await serve(std::move(request))) break;
  }
}

}  // namespace

void start_connection(asio::ip::tcp::socket socket, std::shared_ptr<ConnectionShared> shared,
                      bool beyond) {
  const auto executor = socket.get_executor();
  std::shared_ptr<Connection> connection;
  try {
    connection = std::make_shared<Connection>(std::move(socket), std::move(shared), beyond);
    asio::co_spawn(executor, connection->run(), [connection](const std::exception_ptr& failure) {
      if (!failure) return;
      connection->abandon();
      try {
        std::rethrow_exception(failure);
      } catch (const std::exception& error) {
        spdlog::error("a connection failed: {}", error.what());
      }
    });
  } catch (const std::bad_alloc&) {
    if (connection) {
      connection->abandon();
    } else {
      answer_without_memory(socket);
    }
  }
}

}  // namespace moesaic::server
