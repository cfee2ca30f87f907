#pragma once

// The strict part of HTTP/1.1 reading (RFC 9112): everything on which two implementations could
// disagree about where a request ends is an error. It stands before Boost.Beast's parser.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "server/http_types.h"

namespace moesaic::server {

struct HttpLimits {
  size_t header_line = 8 << 10;    ///< one header line, and the request line
  size_t header_bytes = 64 << 10;  ///< all header lines
  size_t header_count = 100;
  size_t body_bytes = 16 << 20;
};

/// Finds the end of a request's head in bytes that arrive in pieces, and checks every byte of it.
class HeadScanner {
 public:
  explicit HeadScanner(const HttpLimits& limits) : limits_(limits) {}

  enum class State : uint8_t { kMore, kComplete, kError };

  /// `bytes` is all that has come since the head's start, and grows between calls.
  State scan(std::string_view bytes);

  size_t head_size() const { return at_; }  ///< bytes of the head with its empty line
  int status() const { return status_; }    ///< of the refusal
  const char* problem() const { return problem_; }

 private:
  State fail(int status, const char* problem);
  State check_line(std::string_view line);
  State check_request_line(std::string_view line);
  State check_field(std::string_view line);

  HttpLimits limits_;
  size_t at_ = 0;        ///< start of the line being looked at
  size_t searched_ = 0;  ///< bytes known to hold no end of line
  size_t lines_ = 0;     ///< header lines after the request line
  size_t header_bytes_ = 0;
  bool have_request_line_ = false;
  int status_ = 0;
  const char* problem_ = nullptr;
};

/// Takes a scanned head apart. A refusal has its status in the answer; `head` is filled otherwise.
/// Content-Length with Transfer-Encoding, two lengths, a coding other than chunked, a missing or
/// repeated Host, an expectation other than 100-continue and a compressed body are refused here.
struct HeadError {
  int status = 0;  ///< 0 = all is well
  const char* problem = nullptr;
};
HeadError parse_head(std::string_view bytes, RequestHead& head);

/// Takes the framing off a chunked body, in constant memory beside the body itself.
class ChunkDecoder {
 public:
  explicit ChunkDecoder(const HttpLimits& limits) : limits_(limits) {}

  enum class State : uint8_t { kMore, kDone, kError };

  /// Consumes from the front of `bytes` (all of it, or up to the end of the body) and appends to
  /// `body`.
  State feed(std::string_view& bytes, std::string& body);

  int status() const { return status_; }
  const char* problem() const { return problem_; }

 private:
  enum class Part : uint8_t {
    kSize,
    kExtension,
    kSizeLf,
    kData,
    kDataCr,
    kDataLf,
    kTrailer,
    kTrailerLf
  };
  State fail(int status, const char* problem);
  State step(char c, const std::string& body);
  State end_of_size(const std::string& body);

  HttpLimits limits_;
  Part part_ = Part::kSize;
  uint64_t left_ = 0;   ///< bytes of the current chunk still to come
  int digits_ = 0;      ///< of the current size
  size_t line_ = 0;     ///< bytes of the current size or trailer line
  size_t trailer_ = 0;  ///< bytes of all trailers
  bool last_ = false;
  int status_ = 0;
  const char* problem_ = nullptr;
};

}  // namespace moesaic::server
