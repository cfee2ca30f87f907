// Any bytes as a request: what is found does not depend on the pieces in which they arrive, and a
// head that is taken has one length of its body and no byte that could end a line early.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "server/http_guard.h"

namespace {

using moesaic::server::ChunkDecoder;
using moesaic::server::HeadScanner;
using moesaic::server::HttpLimits;

constexpr HttpLimits kLimits{
    .header_line = 200, .header_bytes = 600, .header_count = 8, .body_bytes = 1000};

struct Scanned {
  HeadScanner::State state = HeadScanner::State::kMore;
  size_t size = 0;
  bool operator==(const Scanned&) const = default;
};

/// Which of two problems is found first may depend on the pieces, so their statuses are not
/// compared.
Scanned scan(std::string_view bytes, size_t piece) {
  HeadScanner scanner(kLimits);
  Scanned out;
  for (size_t end = 0; out.state == HeadScanner::State::kMore && end < bytes.size();) {
    end = std::min(end + piece, bytes.size());
    out.state = scanner.scan(bytes.substr(0, end));
  }
  if (out.state == HeadScanner::State::kComplete) out.size = scanner.head_size();
  if (out.state == HeadScanner::State::kError) {
    MOESAIC_ASSERT(scanner.status() >= 400 && scanner.status() < 600);
    MOESAIC_ASSERT(scanner.problem() != nullptr);
  }
  return out;
}

struct Decoded {
  ChunkDecoder::State state = ChunkDecoder::State::kMore;
  size_t used = 0;
  std::string body;
  bool operator==(const Decoded&) const = default;
};

Decoded decode(std::string_view bytes, size_t piece) {
  ChunkDecoder decoder(kLimits);
  Decoded out;
  while (out.state == ChunkDecoder::State::kMore && out.used < bytes.size()) {
    std::string_view next = bytes.substr(out.used, piece);
    const size_t before = next.size();
    out.state = decoder.feed(next, out.body);
    MOESAIC_ASSERT(next.size() <= before && out.body.size() <= kLimits.body_bytes);
    out.used += before - next.size();
  }
  // Where an error was found, and what came before it, may depend on the pieces.
  if (out.state == ChunkDecoder::State::kError) {
    out.used = 0;
    out.body.clear();
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const Scanned whole = scan(bytes, size + 1);
  MOESAIC_ASSERT(whole == scan(bytes, 1) && whole == scan(bytes, 7));
  MOESAIC_ASSERT(decode(bytes, size + 1) == decode(bytes, 1));
  if (whole.state != HeadScanner::State::kComplete) return 0;
  moesaic::server::RequestHead head;
  const auto error = moesaic::server::parse_head(bytes.substr(0, whole.size), head);
  MOESAIC_ASSERT(error.status == 0 || (error.status >= 400 && error.problem != nullptr));
  MOESAIC_ASSERT(head.path.find_first_of("\r\n\0 ", 0, 4) == std::string::npos);
  MOESAIC_ASSERT(error.status != 0 || !(head.chunked && head.content_length));
  return 0;
}
