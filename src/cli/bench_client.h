#pragma once

// The HTTP side of `bench serve`: many requests at once to one server, all on one thread.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_answer.h"

namespace moesaic::cli {

/// Where a server is: http://HOST[:PORT][/PREFIX], the prefix without the "/v1" that base URLs of
/// clients end in.
struct ServerUrl {
  std::string host;
  std::string port = "80";
  std::string authority;  ///< HOST[:PORT], as the Host field has it
  std::string prefix;     ///< "" or "/something"
};

/// Throws UsageError that says what is expected.
ServerUrl parse_server_url(const std::string& text);

struct HttpCall {
  std::string target;  ///< below the URL's prefix: "/v1/models"
  std::string body;    ///< "" makes it a GET, else a POST of JSON
  /// Takes the body of an answer of 200 as it comes. What it throws ends the call.
  std::function<void(std::string_view)> take;
  /// Whether the answer is an event stream, which any other content type then is not.
  bool stream = false;
  /// Nothing more is wanted once this says so; then a missing end of the answer is no failure.
  std::function<bool()> enough = [] { return false; };
};

class HttpClient {
 public:
  /// Looks the host up. `headers` go with every request. Throws UnavailableError when there is no
  /// such host.
  HttpClient(boost::asio::io_context& io, ServerUrl url,
             std::vector<std::pair<std::string, std::string>> headers);

  /// One request and its answer, over a connection that an earlier one left or over a new one.
  /// Throws RequestFailure when it cannot be sent, when the answer is not 200 or breaks off, and
  /// when it takes longer than `timeout`.
  boost::asio::awaitable<void> call(const HttpCall& call, std::chrono::milliseconds timeout);

 private:
  using Stream = boost::beast::tcp_stream;
  struct PassedBody;
  struct Attempt;
  using Parser = boost::beast::http::response_parser<PassedBody>;

  boost::beast::http::request<boost::beast::http::string_body> request_of(
      const HttpCall& call) const;
  boost::asio::awaitable<bool> exchange(Attempt& attempt);
  boost::asio::awaitable<void> read_refusal(Attempt& attempt, boost::beast::flat_buffer& buffer,
                                            Parser& parser);
  boost::asio::awaitable<void> read_answer(Attempt& attempt, boost::beast::flat_buffer& buffer,
                                           Parser& parser);
  /// For a later call, where the server keeps it.
  void keep(Attempt& attempt, const Parser& parser);

  boost::asio::io_context& io_;
  ServerUrl url_;
  std::vector<std::pair<std::string, std::string>> headers_;
  std::vector<boost::asio::ip::tcp::endpoint> endpoints_;
  std::vector<std::unique_ptr<Stream>> idle_;
};

}  // namespace moesaic::cli
