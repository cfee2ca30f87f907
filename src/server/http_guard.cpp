#include "server/http_guard.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>

namespace moesaic::server {
namespace {

namespace http = boost::beast::http;

bool is_token_char(char c) {
  if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return true;
  return std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\t') || byte == 0x7f;
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string lowered(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), lower);
  return out;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = lower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t count_of(const RequestHead& head, std::string_view name) {
  return static_cast<size_t>(
      std::count_if(head.headers.begin(), head.headers.end(),
                    [&](const Header& header) { return header.name == name; }));
}

/// The path of an origin-form or absolute-form target; "" for the other forms. Of an absolute form
/// the authority is dropped: this server has one site, and its routes decide who may use them.
std::string_view path_of(std::string_view target) {
  for (std::string_view scheme : {"http://", "https://"}) {
    if (!lowered(target.substr(0, scheme.size())).starts_with(scheme)) continue;
    target.remove_prefix(scheme.size());
    const size_t slash = target.find('/');
    return slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
  }
  return target.starts_with('/') ? target : std::string_view();
}

HeadError check_framing(const RequestHead& head) {
  const size_t lengths = count_of(head, "content-length");
  const size_t codings = count_of(head, "transfer-encoding");
  if (lengths > 0 && codings > 0) {
    return {400, "Content-Length and Transfer-Encoding exclude each other"};
  }
  if (lengths > 1) return {400, "Content-Length is given more than once"};
  if (lengths == 1) {
    const std::string& length = *head.find("content-length");
    const bool digits =
        std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (length.empty() || !digits) return {400, "malformed Content-Length"};
  }
  if (codings > 0) {
    if (head.version == 10) return {400, "HTTP/1.0 has no Transfer-Encoding"};
    if (codings > 1 || lowered(*head.find("transfer-encoding")) != "chunked") {
      return {501, "the only transfer coding understood is chunked"};
    }
  }
  return {};
}

HeadError check_semantics(const RequestHead& head) {
  const size_t hosts = count_of(head, "host");
  if (hosts > 1 || (hosts == 0 && head.version == 11)) {
    return {400, "exactly one Host field is needed"};
  }
  if (const HeadError error = check_framing(head); error.status != 0) return error;
  if (const std::string* expect = head.find("expect");
      expect != nullptr && lowered(*expect) != "100-continue") {
    return {417, "the only expectation understood is 100-continue"};
  }
  if (const std::string* coding = head.find("content-encoding");
      coding != nullptr && lowered(*coding) != "identity") {
    return {415, "compressed bodies are not understood; send the JSON as it is"};
  }
  return {};
}

}  // namespace

HeadScanner::State HeadScanner::fail(int status, const char* problem) {
  status_ = status;
  problem_ = problem;
  return State::kError;
}

HeadScanner::State HeadScanner::scan(std::string_view bytes) {
  for (;;) {
    const size_t end = bytes.find('\n', std::max(at_, searched_));
    if (end == std::string_view::npos) {
      searched_ = bytes.size();
      // A line without an end still counts, so that an endless one is refused in time.
      if (bytes.size() - at_ > limits_.header_line + 1) {
        return have_request_line_ ? fail(431, "a header line is longer than --max-header-line")
                                  : fail(414, "the request line is longer than --max-header-line");
      }
      return State::kMore;
    }
    if (end == at_ || bytes[end - 1] != '\r') {
      return fail(400, "lines of the head must end with CR LF");
    }
    const std::string_view line = bytes.substr(at_, end - 1 - at_);
    at_ = end + 1;
    if (line.empty()) {
      if (have_request_line_) return State::kComplete;
      if (at_ > 4) return fail(400, "empty lines where a request should start");
      continue;  // RFC 9112 2.2: an empty line before the request line is tolerated
    }
    if (check_line(line) == State::kError) return State::kError;
  }
}

HeadScanner::State HeadScanner::check_line(std::string_view line) {
  if (!have_request_line_) {
    have_request_line_ = true;
    return check_request_line(line);
  }
  if (line.size() > limits_.header_line) {
    return fail(431, "a header line is longer than --max-header-line");
  }
  header_bytes_ += line.size() + 2;
  if (header_bytes_ > limits_.header_bytes) {
    return fail(431, "the header is longer than --max-header-bytes");
  }
  if (++lines_ > limits_.header_count) {
    return fail(431, "the header has more lines than --max-header-count");
  }
  return check_field(line);
}

HeadScanner::State HeadScanner::check_request_line(std::string_view line) {
  if (line.size() > limits_.header_line) {
    return fail(414, "the request line is longer than --max-header-line");
  }
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return fail(400, "malformed request line");
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!is_token(method) || method.size() > 32) return fail(400, "malformed method");
  const bool visible = std::all_of(target.begin(), target.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte > 0x20 && byte < 0x7f;
  });
  if (target.empty() || !visible) return fail(400, "malformed request target");
  if (version.size() != 8 || !version.starts_with("HTTP/") || version[6] != '.' ||
      hex_value(version[5]) < 0 || hex_value(version[5]) > 9 || hex_value(version[7]) < 0 ||
      hex_value(version[7]) > 9) {
    return fail(400, "malformed HTTP version");
  }
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return fail(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  }
  return State::kMore;
}

HeadScanner::State HeadScanner::check_field(std::string_view line) {
  if (line[0] == ' ' || line[0] == '\t') return fail(400, "folded header lines are obsolete");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return fail(400, "a header line has no colon");
  if (!is_token(line.substr(0, colon))) return fail(400, "malformed header name");
  if (std::any_of(line.begin(), line.end(), is_control)) {
    return fail(400, "a header line has control characters");
  }
  return State::kMore;
}

HeadError parse_head(std::string_view bytes, RequestHead& head) {
  while (bytes.starts_with("\r\n")) bytes.remove_prefix(2);
  http::request_parser<http::empty_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(bytes.size() + 1));
  parser.body_limit(boost::none);
  boost::system::error_code error;
  parser.put(boost::asio::buffer(bytes.data(), bytes.size()), error);
  const auto& message = parser.get();
  for (const auto& field : message) {
    const auto name = field.name_string();
    const auto value = field.value();
    head.headers.push_back({lowered({name.data(), name.size()}), {value.data(), value.size()}});
  }
  head.version = static_cast<int>(message.version());
  // The framing rules have better words than the parser's; they come first.
  if (const HeadError framing = check_framing(head); framing.status != 0) return framing;
  if ((error && error != http::error::need_more) || !parser.is_header_done()) {
    return {400, "malformed request head"};
  }
  head.method.assign(message.method_string().data(), message.method_string().size());
  const std::string_view target(message.target().data(), message.target().size());
  const std::string_view path = target == "*" ? target : path_of(target);
  if (path.empty()) return {400, "malformed request target"};
  const size_t question = path.find('?');
  head.path = path.substr(0, question);
  if (question != std::string_view::npos) head.query = path.substr(question + 1);
  head.chunked = parser.chunked();
  if (const auto length = parser.content_length()) head.content_length = *length;
  head.keep_alive = parser.keep_alive();
  return check_semantics(head);
}

ChunkDecoder::State ChunkDecoder::fail(int status, const char* problem) {
  status_ = status;
  problem_ = problem;
  return State::kError;
}

ChunkDecoder::State ChunkDecoder::feed(std::string_view& bytes, std::string& body) {
  while (!bytes.empty()) {
    if (part_ == Part::kData) {
      const size_t take = static_cast<size_t>(std::min<uint64_t>(left_, bytes.size()));
      body.append(bytes, 0, take);
      bytes.remove_prefix(take);
      left_ -= take;
      if (left_ == 0) part_ = Part::kDataCr;
      continue;
    }
    const State state = step(bytes.front(), body);
    bytes.remove_prefix(1);
    if (state != State::kMore) return state;
  }
  return State::kMore;
}

ChunkDecoder::State ChunkDecoder::end_of_size(const std::string& body) {
  if (left_ > limits_.body_bytes || body.size() + left_ > limits_.body_bytes) {
    return fail(413, "the body is larger than --max-body-bytes");
  }
  last_ = left_ == 0;
  part_ = last_ ? Part::kTrailer : Part::kData;
  line_ = 0;
  return State::kMore;
}

ChunkDecoder::State ChunkDecoder::step(char c, const std::string& body) {
  switch (part_) {
    case Part::kSize:
      if (const int digit = hex_value(c); digit >= 0) {
        if (++digits_ > 16) return fail(400, "malformed chunk size");
        left_ = (left_ << 4) | static_cast<uint64_t>(digit);
        return State::kMore;
      }
      if (digits_ == 0 || (c != ';' && c != '\r')) return fail(400, "malformed chunk size");
      part_ = c == ';' ? Part::kExtension : Part::kSizeLf;
      return State::kMore;
    case Part::kExtension:
      if (c == '\r') {
        part_ = Part::kSizeLf;
      } else if (is_control(c) || ++line_ > 256) {
        return fail(400, "malformed chunk extension");
      }
      return State::kMore;
    case Part::kSizeLf:
      return c == '\n' ? end_of_size(body) : fail(400, "malformed chunk size");
    case Part::kDataCr:
      if (c != '\r') return fail(400, "a chunk is longer than its size");
      part_ = Part::kDataLf;
      return State::kMore;
    case Part::kDataLf:
      if (c != '\n') return fail(400, "a chunk is longer than its size");
      part_ = Part::kSize;
      digits_ = 0;
      left_ = 0;
      line_ = 0;
      return State::kMore;
    case Part::kTrailer:
      if (c == '\r') {
        part_ = Part::kTrailerLf;
      } else if (is_control(c)) {
        return fail(400, "malformed trailer");
      } else {
        ++line_;
        if (++trailer_ > limits_.header_bytes) return fail(431, "the trailers are too long");
      }
      return State::kMore;
    case Part::kTrailerLf:
      if (c != '\n') return fail(400, "malformed trailer");
      if (line_ == 0) return State::kDone;
      part_ = Part::kTrailer;
      line_ = 0;
      return State::kMore;
    case Part::kData:
      break;
  }
  return fail(400, "malformed chunked body");
}

}  // namespace moesaic::server
