#pragma once

// Requests and answers as plain data, and the seam between protocol code and the sockets. Nothing
// here knows Asio.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/byte_budget.h"

namespace moesaic::server {

struct Header {
  std::string name;  ///< lower case in requests
  std::string value;
};

/// A request's first line and header fields, already checked.
struct RequestHead {
  std::string method;
  std::string path;  ///< as sent, without query; never decoded, so no trick can change the route
  std::string query;
  int version = 11;  ///< 10 or 11
  std::vector<Header> headers;
  std::optional<uint64_t> content_length;
  bool chunked = false;
  bool keep_alive = true;

  bool has_body() const { return chunked || content_length.value_or(0) > 0; }
  /// The first field of that lower-case name; null when there is none.
  const std::string* find(std::string_view name) const;
};

struct Request {
  RequestHead head;
  std::string body;
  ByteShare held;  ///< for the body
};

struct Response {
  int status = 200;
  std::string content_type;  ///< "" = none
  std::vector<Header> headers;
  std::string body;
  ByteShare held;  ///< for the body, until it is sent
};

/// The answer in JSON, compact as written.
Response json_response(int status, std::string body);

/// {"error":{"message","type","param","code"}} with `status` as its code; "" `param` is null. 503
/// says when to try again.
Response error_response(int status, std::string_view type, std::string_view message,
                        std::string_view param = {});

/// 503 with Retry-After: what cannot be served now and may be later.
Response unavailable_response(std::string_view message);

/// The reason phrase of a status ("Not Found"); "" when it is not one the server uses.
std::string_view reason_phrase(int status);

/// Why an exchange has nobody left to answer.
enum class Gone : uint8_t {
  kDisconnected,  ///< the client closed or reset the connection, or its sending side
  kSlowReader,    ///< more unread bytes than a stream may have
};

/// One request waiting for its answer. All methods are thread-safe and do not block; calls after
/// the client has gone are ignored.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// The whole answer.
  virtual void reply(Response response) = 0;
  /// Or a head now, then bytes as they come, then the end.
  virtual void begin_stream(Response head) = 0;
  /// False once nobody reads any more.
  virtual bool push(std::string bytes) = 0;
  /// The last bytes, which may be none. They and the end are one, so that no client can read the
  /// first and be gone before the second.
  virtual void end_stream(std::string bytes) = 0;
  /// `callback` runs once, on any thread, when the client goes before the whole answer has been
  /// handed over; at once if it has gone already.
  virtual void on_gone(std::function<void(Gone)> callback) = 0;
};

}  // namespace moesaic::server
