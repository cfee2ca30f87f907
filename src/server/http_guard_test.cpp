#include "server/http_guard.h"

#include <gtest/gtest.h>

namespace moesaic::server {
namespace {

/// Status of a whole head: 0 = fine, -1 = more is needed.
int status_of(const std::string& head, RequestHead* out = nullptr, HttpLimits limits = {}) {
  HeadScanner scanner(limits);
  const auto state = scanner.scan(head);
  if (state == HeadScanner::State::kMore) return -1;
  if (state == HeadScanner::State::kError) return scanner.status();
  EXPECT_EQ(scanner.head_size(), head.size());
  RequestHead parsed;
  const HeadError error = parse_head(head, parsed);
  if (out != nullptr) *out = parsed;
  return error.status;
}

std::string with(const std::string& fields) {
  return "POST /x HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n";
}

TEST(HttpGuard, TakesAHeadApart) {
  RequestHead head;
  ASSERT_EQ(status_of("POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nX-Some: Thing \r\nContent-Length: "
                      "12\r\nConnection: close\r\n\r\n",
                      &head),
            0);
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.path, "/v1/x");
  EXPECT_EQ(head.query, "y=1");
  EXPECT_EQ(*head.find("x-some"), "Thing");
  EXPECT_EQ(head.content_length, 12U);
  EXPECT_FALSE(head.keep_alive);
  EXPECT_TRUE(head.has_body());
  ASSERT_EQ(status_of("\r\nGET http://h:1/p?q HTTP/1.0\r\n\r\n", &head), 0);
  EXPECT_EQ(head.path, "/p");
  EXPECT_EQ(head.version, 10);
  ASSERT_EQ(status_of(with("Transfer-Encoding: Chunked\r\n"), &head), 0);
  EXPECT_TRUE(head.chunked);
}

TEST(HttpGuard, ScansPieceByPieceLikeAtOnce) {
  const std::string text = with("A: b\r\nC: d\r\n");
  HeadScanner scanner({});
  for (size_t size = 1; size < text.size(); ++size) {
    ASSERT_EQ(scanner.scan(text.substr(0, size)), HeadScanner::State::kMore) << size;
  }
  EXPECT_EQ(scanner.scan(text), HeadScanner::State::kComplete);
}

TEST(HttpGuard, RefusesMalformedHeads) {
  const std::pair<std::string, int> rows[] = {
      {"GET / HTTP/1.1\nHost: a\n\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
      {"GET /\r\n\r\n", 400},
      {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
      {"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505},
      {"GET / HTTX/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {with("A : b\r\n"), 400},
      {with(": b\r\n"), 400},
      {with("A\r\n"), 400},
      {with(" A: b\r\n"), 400},
      {with("A: b\r\n\tc\r\n"), 400},
      {with(std::string("A: b\0c\r\n", 8)), 400},
      {with("A: b\rc\r\n"), 400},
      {with("Content-Length: 1\r\nContent-Length: 2\r\n"), 400},
      {with("Content-Length: 1\r\nContent-Length: 1\r\n"), 400},
      {with("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400},
      {with("Content-Length: -1\r\n"), 400},
      {with("Content-Length: +1\r\n"), 400},
      {with("Content-Length: 1, 1\r\n"), 400},
      {with("Content-Length: 0x10\r\n"), 400},
      {with("Content-Length: 99999999999999999999\r\n"), 400},
      {with("Transfer-Encoding: gzip, chunked\r\n"), 501},
      {with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400},
      {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {with("Expect: 200-ok\r\n"), 417},
      {with("Content-Encoding: gzip\r\n"), 415},
      {with("Content-Encoding: identity\r\n"), 0},
      {with("Expect: 100-continue\r\n"), 0},
  };
  for (const auto& [head, status] : rows) EXPECT_EQ(status_of(head), status) << head;
}

TEST(HttpGuard, LimitsCountBeforeTheLineEnds) {
  HttpLimits limits;
  limits.header_line = 100;
  limits.header_bytes = 300;
  limits.header_count = 5;
  EXPECT_EQ(status_of("GET /" + std::string(100, 'a'), nullptr, limits), 414);
  EXPECT_EQ(status_of("GET /" + std::string(60, 'a'), nullptr, limits), -1);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nA: " + std::string(100, 'a'), nullptr, limits), 431);
  EXPECT_EQ(status_of(with("A:b\r\nA:b\r\nA:b\r\nA:b\r\n"), nullptr, limits), 0);
  EXPECT_EQ(status_of(with("A:b\r\nA:b\r\nA:b\r\nA:b\r\nA:b\r\n"), nullptr, limits), 431);
  std::string long_lines;
  for (int i = 0; i < 4; ++i) long_lines += "A: " + std::string(90, 'a') + "\r\n";
  EXPECT_EQ(status_of(with(long_lines), nullptr, limits), 431);
}

struct Decoded {
  int status;
  std::string body;
  std::string rest;
};

Decoded decode(const std::string& text, size_t piece, HttpLimits limits = {}) {
  ChunkDecoder decoder(limits);
  std::string body;
  for (size_t at = 0; at < text.size(); at += piece) {
    std::string_view bytes = std::string_view(text).substr(at, piece);
    const auto state = decoder.feed(bytes, body);
    if (state == ChunkDecoder::State::kError) return {decoder.status(), body, ""};
    if (state == ChunkDecoder::State::kDone) {
      return {200, body, std::string(bytes) + text.substr(std::min(at + piece, text.size()))};
    }
  }
  return {0, body, ""};
}

TEST(ChunkDecoder, DecodesInAnyPieces) {
  const std::string text = "5\r\nhello\r\nA;x=y\r\n, world!!!\r\n0\r\nTrailer: t\r\n\r\nGET next";
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    const Decoded decoded = decode(text, piece);
    EXPECT_EQ(decoded.status, 200);
    EXPECT_EQ(decoded.body, "hello, world!!!");
    EXPECT_EQ(decoded.rest, "GET next");
  }
}

TEST(ChunkDecoder, RefusesMalformedChunks) {
  for (const char* text :
       {"-2\r\n", "0x10\r\n", "+5\r\nhello\r\n", "\r\n", "g\r\n", "11111111111111111\r\n",
        "5\nhello\n", "5\r\nhello!\r\n", "5\r\nhello\n0\r\n\r\n", " 5\r\n", "5 \r\nhello\r\n",
        "0\r\nA: b\n\r\n", "5\rx"}) {
    EXPECT_EQ(decode(text, 1).status, 400) << text;
  }
}

TEST(ChunkDecoder, TheBodyIsBoundedAsSoonAsPassed) {
  HttpLimits limits;
  limits.body_bytes = 10;
  EXPECT_EQ(decode("b\r\n", 100, limits).status, 413);
  EXPECT_EQ(decode("ffffffffffffffff\r\n", 100, limits).status, 413);
  EXPECT_EQ(decode("5\r\nhello\r\n6\r\n", 100, limits).status, 413);
  EXPECT_EQ(decode("5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", 100, limits).status, 200);
}

}  // namespace
}  // namespace moesaic::server
