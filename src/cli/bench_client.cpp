#include "cli/bench_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <exception>
#include <optional>

#include "base/error.h"
#include "base/printable.h"
#include "base/settings.h"

namespace moesaic::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
/// Of the body of an error, for its message.
constexpr size_t kErrorText = 4 << 10;
constexpr uint64_t kErrorBody = 1 << 20;
/// How long the end of an answer may come after its last event.
constexpr std::chrono::seconds kTail{1};

/// The words for what a socket said.
std::string words(const error_code& error, const char* doing) {
  if (error == beast::error::timeout) return "the time for a request ran out (--timeout)";
  if (error == asio::error::no_descriptors) {
    return fmt::format("{}: {}; raise the limit of descriptors (ulimit -n)", doing,
                       error.message());
  }
  if (error == http::error::end_of_stream || error == http::error::partial_message ||
      error == asio::error::eof || error == asio::error::connection_reset ||
      error == asio::error::broken_pipe) {
    return "the server closed the connection before the end of its answer";
  }
  return fmt::format("{}: {}", doing, base::printable(error.message()));
}

[[noreturn]] void refuse_url(const std::string& text, std::string_view why) {
  throw base::UsageError(
      fmt::format("'{}': {}; expected http://HOST[:PORT], such as "
                  "http://127.0.0.1:8000",
                  base::printable(text), why));
}

}  // namespace

/// A body that is handed on as it comes and not kept.
struct HttpClient::PassedBody {
  struct value_type {
    std::function<void(std::string_view)> take;
    std::exception_ptr thrown;  ///< what ended it; the network code must not see it fly
  };

  class reader {
   public:
    template <bool kRequest, class Fields>
    reader(http::header<kRequest, Fields>& /*head*/, value_type& body) : body_(body) {}
    void init(const boost::optional<uint64_t>& /*length*/, error_code& error) { error = {}; }
    template <class Buffers>
    size_t put(const Buffers& buffers, error_code& error) {
      error = {};
      size_t bytes = 0;
      try {
        for (const auto& piece : beast::buffers_range_ref(buffers)) {
          body_.take({static_cast<const char*>(piece.data()), piece.size()});
          bytes += piece.size();
        }
      } catch (...) {
        body_.thrown = std::current_exception();
        error = asio::error::operation_aborted;
      }
      return bytes;
    }
    void finish(error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

ServerUrl parse_server_url(const std::string& text) {
  const auto parsed = boost::urls::parse_uri(text);
  if (!parsed) refuse_url(text, "not a URL");
  const boost::urls::url_view& url = *parsed;
  if (url.scheme() == "https") {
    refuse_url(text, "this program has no TLS; put a proxy that speaks it in between");
  }
  if (url.scheme() != "http") refuse_url(text, "not a URL of HTTP");
  if (url.has_userinfo()) refuse_url(text, "a name and password go into --header");
  if (url.has_query() || url.has_fragment()) refuse_url(text, "it has more than a path");
  ServerUrl out;
  out.host = url.host_address();
  if (out.host.empty()) refuse_url(text, "there is no host in it");
  if (url.has_port()) out.port = url.port();
  const std::optional<int64_t> port = base::parse_integer(out.port);
  if (!port || *port < 1 || *port > 65535) refuse_url(text, "the port is not in 1..65535");
  out.authority = url.encoded_host_and_port();
  out.prefix = url.encoded_path();
  while (out.prefix.ends_with('/')) out.prefix.pop_back();
  if (out.prefix.ends_with("/v1")) out.prefix.resize(out.prefix.size() - 3);
  return out;
}

/// One try at a call.
struct HttpClient::Attempt {
  const HttpCall& call;
  Clock::time_point deadline;
  std::unique_ptr<Stream> stream;  ///< of an earlier call; null for a new one
};

HttpClient::HttpClient(asio::io_context& io, ServerUrl url,
                       std::vector<std::pair<std::string, std::string>> headers)
    : io_(io), url_(std::move(url)), headers_(std::move(headers)) {
  error_code error;
  const auto found = tcp::resolver(io_).resolve(url_.host, url_.port, error);
  if (error) {
    throw base::UnavailableError(fmt::format("there is no server of the name {}: {}",
                                             base::printable(url_.host),
                                             base::printable(error.message())));
  }
  for (const auto& entry : found) endpoints_.push_back(entry.endpoint());
}

asio::awaitable<void> HttpClient::call(const HttpCall& call, std::chrono::milliseconds timeout) {
  Attempt attempt{call, Clock::now() + timeout, nullptr};
  if (!idle_.empty()) {
    attempt.stream = std::move(idle_.back());
    idle_.pop_back();
    // A server may close a connection just when it is used again; that is no failure of its.
    if (co_await exchange(attempt)) co_return;
  }
  attempt.stream = std::make_unique<Stream>(io_);
  attempt.stream->expires_at(attempt.deadline);
  const auto [error, endpoint] = co_await attempt.stream->async_connect(endpoints_, kAwait);
  if (error) throw RequestFailure(words(error, "no connection"));
  error_code ignored;
  attempt.stream->socket().set_option(tcp::no_delay(true), ignored);
  if (!co_await exchange(attempt)) {
    throw RequestFailure(words(http::error::end_of_stream, "no answer"));
  }
}

http::request<http::string_body> HttpClient::request_of(const HttpCall& call) const {
  const auto verb = call.body.empty() ? http::verb::get : http::verb::post;
  http::request<http::string_body> request(verb, url_.prefix + call.target, 11, call.body);
  request.set(http::field::host, url_.authority);
  request.set(http::field::user_agent, "moesaic-bench");
  if (!call.body.empty()) request.set(http::field::content_type, "application/json");
  for (const auto& [name, value] : headers_) request.set(name, value);
  request.prepare_payload();
  return request;
}

/// False when the connection was gone before anything of an answer came.
asio::awaitable<bool> HttpClient::exchange(Attempt& attempt) {
  Stream& stream = *attempt.stream;
  stream.expires_at(attempt.deadline);
  const http::request<http::string_body> request = request_of(attempt.call);
  const auto [unsent, sent] = co_await http::async_write(stream, request, kAwait);
  // A server that refuses a request may answer before it has read all of it.
  if (unsent && unsent != asio::error::broken_pipe && unsent != asio::error::connection_reset) {
    throw RequestFailure(words(unsent, "not sent"));
  }
  beast::flat_buffer buffer;
  http::response_parser<PassedBody> parser;
  parser.body_limit(boost::none);
  const auto [headless, size] = co_await http::async_read_header(stream, buffer, parser, kAwait);
  if (headless) {
    if (headless != beast::error::timeout && !parser.got_some()) co_return false;
    throw RequestFailure(words(headless, "no answer"));
  }
  if (parser.get().result() != http::status::ok) {
    co_await read_refusal(attempt, buffer, parser);
  } else {
    co_await read_answer(attempt, buffer, parser);
  }
  co_return true;
}

/// Throws what the server says.
asio::awaitable<void> HttpClient::read_refusal(Attempt& attempt, beast::flat_buffer& buffer,
                                               Parser& parser) {
  auto& answer = parser.get();
  std::string text;
  parser.body_limit(kErrorBody);
  answer.body().take = [&](std::string_view bytes) {
    text += bytes.substr(0, kErrorText - text.size());
  };
  const auto [broken, size] = co_await http::async_read(*attempt.stream, buffer, parser, kAwait);
  if (!broken) keep(attempt, parser);
  const std::string status =
      fmt::format("{} {}", answer.result_int(), base::printable(answer.reason()));
  throw RequestFailure(text.empty() ? status : fmt::format("{}: {}", status, error_message(text)));
}

asio::awaitable<void> HttpClient::read_answer(Attempt& attempt, beast::flat_buffer& buffer,
                                              Parser& parser) {
  const HttpCall& call = attempt.call;
  auto& answer = parser.get();
  const std::string_view type = answer[http::field::content_type];
  if (call.stream && !type.starts_with("text/event-stream")) {
    throw RequestFailure(
        fmt::format("the answer is no event stream but '{}'", base::printable(type)));
  }
  answer.body().take = [&](std::string_view bytes) {
    const auto now = Clock::now();
    // The socket's timer gets no turn while there is always more to read.
    if (now > attempt.deadline) throw RequestFailure(words(beast::error::timeout, ""));
    if (call.enough()) return;
    call.take(bytes);
    if (!call.enough()) return;
    attempt.deadline = std::min(attempt.deadline, now + kTail);
    attempt.stream->expires_at(attempt.deadline);
  };
  const auto [broken, size] = co_await http::async_read(*attempt.stream, buffer, parser, kAwait);
  if (!broken) {
    keep(attempt, parser);
  } else if (!call.enough()) {
    if (answer.body().thrown) std::rethrow_exception(answer.body().thrown);
    throw RequestFailure(words(broken, "the answer broke off"));
  }
}

void HttpClient::keep(Attempt& attempt, const Parser& parser) {
  if (parser.keep_alive()) idle_.push_back(std::move(attempt.stream));
}

}  // namespace moesaic::cli
