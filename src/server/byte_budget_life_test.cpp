// --max-inflight-bytes at the server: what large bodies, answers and readers may hold together, and
// that small requests go on beside them.

#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

/// Of which one request may hold 768 KiB, and a mebibyte with its answer.
const TestSettings kTwoMiB = {{"max-inflight-bytes", "2M"}};

double held(const Rig& rig) {
  return metric(rig, "moesaic:memory_actual_bytes", {"term=\"requests\""});
}

json::object small_request() { return {{"model", "toy"}, {"prompt", "abc"}, {"max_tokens", 3}}; }

std::string head_of(size_t length) {
  return "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
         "Content-Length: " +
         std::to_string(length) + "\r\n\r\n";
}

/// A body that never comes to its end holds most of what one may have.
Client holder(const Rig& rig) {
  Client client(rig.server->port());
  client.send(head_of(750000) + std::string(700000, ' '));
  EXPECT_TRUE(Rig::eventually([&] { return held(rig) >= 700000; }));
  return client;
}

void expect_no_room(const Answer& answer) {
  EXPECT_EQ(answer.status, 503) << answer.body.substr(0, 300);
  EXPECT_EQ(answer.header("retry-after"), "1");
  EXPECT_NE(answer.body.find("--max-inflight-bytes"), std::string::npos)
      << answer.body.substr(0, 300);
}

void expect_too_large(const Answer& answer, int status = 400) {
  EXPECT_EQ(answer.status, status) << answer.body.substr(0, 300);
  EXPECT_NE(answer.body.find("--max-inflight-bytes leaves to one"), std::string::npos)
      << answer.body.substr(0, 300);
}

/// Small requests are served and everything goes back.
void expect_well(const Rig& rig) {
  EXPECT_EQ(complete(rig, small_request()).status, 200);
  EXPECT_EQ(ask(rig, get("/health")).status, 200);
}
void expect_nothing_held(const Rig& rig) {
  EXPECT_TRUE(Rig::eventually([&] { return held(rig) == 0; })) << held(rig);
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }));
}

TEST(InflightBytes, BodiesBeyondThemAreRefusedAndSmallRequestsGoOn) {
  Rig rig(kTwoMiB);
  {
    Client first = holder(rig);
    // By its length alone, before it is read.
    expect_no_room(ask(rig, head_of(600000)));
    // Without a length: as soon as it is too much.
    Client chunked(rig.server->port());
    chunked.send(
        "POST /tokenize HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\nFFFFF\r\n" +
        std::string(600000, ' '));
    expect_no_room(chunked.answer());
    EXPECT_TRUE(chunked.closes());
    EXPECT_GE(metric(rig, "moesaic:http_rejections_total", {"reason=\"memory\""}), 2);
    expect_well(rig);
    first.close();
  }
  expect_nothing_held(rig);
  const std::string large = R"({"model":"toy","prompt":"a","max_tokens":1,"x":")";
  EXPECT_EQ(ask(rig, post("/v1/completions", large + std::string(200000, ' ') + "\"}")).status,
            200);
  expect_nothing_held(rig);
}

TEST(InflightBytes, ABodyThatNeverFitsIsTooLarge) {
  Rig rig(kTwoMiB);
  expect_too_large(ask(rig, head_of(800000)), 413);
  expect_well(rig);
  expect_nothing_held(rig);
}

TEST(InflightBytes, WhatABodyBecomesIsCounted) {
  Rig rig(kTwoMiB);
  std::string numbers = "1", objects = "{}", names;
  for (int i = 0; i < 100000; ++i) numbers += ",1";
  for (int i = 0; i < 60000; ++i) objects += ",{}";
  for (int i = 0; i < 20000; ++i) names += ",\"" + std::to_string(i) + "\":1";
  for (const char* path : {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}) {
    SCOPED_TRACE(path);
    for (const std::string& unused :
         {"[" + numbers + "]", "[" + objects + "]", "{\"a\":1" + names + "}"}) {
      expect_too_large(ask(rig, post(path, R"({"model":"toy","x":)" + unused + "}")));
    }
  }
  expect_well(rig);
  expect_nothing_held(rig);
}

TEST(InflightBytes, TextWorkIsCounted) {
  Rig rig(kTwoMiB);
  const std::string text(8000, 'a'), start = R"({"model":"toy","max_tokens":1,)";
  const std::string truncated = start + R"("truncate_prompt_tokens":1,)";
  expect_too_large(ask(rig, post("/v1/completions", truncated + R"("prompt":")" + text + "\"}")));
  expect_too_large(
      ask(rig, post("/v1/chat/completions",
                    truncated + R"("messages":[{"role":"user","content":")" + text + "\"}]}")));
  expect_too_large(ask(rig, post("/tokenize", R"({"prompt":")" + text + "\"}")));
  // Many copies of the longest token.
  std::string ids = "257";
  for (int i = 0; i < 40000; ++i) ids += ",257";
  expect_too_large(ask(rig, post("/detokenize", R"({"tokens":[)" + ids + "]}")));
  expect_well(rig);
  expect_nothing_held(rig);
}

json::object large_answer() {
  return {{"model", "toy"}, {"prompt", "abc"}, {"max_tokens", 1000}, {"n", 8}, {"logprobs", 20}};
}

TEST(InflightBytes, AnAnswerThatNeverFitsEndsWithItsReason) {
  Rig rig(kTwoMiB);
  rig.knobs->step_microseconds = 0;
  const uint64_t before = rig.engine->stats().generated_tokens;
  expect_too_large(complete(rig, large_answer()));
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }));
  EXPECT_LT(rig.engine->stats().generated_tokens - before, 8000u) << "stopped when it was known";
  json::object chat_body = large_answer();
  chat_body.erase("prompt");
  chat_body["messages"] = {{{"role", "user"}, {"content", "hi"}}};
  chat_body["logprobs"] = true;
  chat_body["top_logprobs"] = 20;
  expect_too_large(chat(rig, chat_body));
  expect_well(rig);
  expect_nothing_held(rig);
  // As a stream nobody has to hold it.
  rig.knobs->step_microseconds = 500;
  json::object streamed = large_answer();
  streamed["stream"] = true;
  streamed["max_tokens"] = 100;
  EXPECT_TRUE(complete(rig, streamed).body.ends_with("data: [DONE]\n\n"));
  expect_nothing_held(rig);
}

TEST(InflightBytes, WhatEveryChoiceRepeatsIsCounted) {
  Rig rig(kTwoMiB);
  const std::string text(2000, 'a');
  json::object body{{"model", "toy"}, {"prompt", text}, {"max_tokens", 1},
                    {"n", 128},       {"echo", true},   {"return_token_ids", true}};
  expect_too_large(complete(rig, body));
  body = {{"model", "toy"}, {"prompt", json::array(100, "abc")}, {"max_tokens", 1}, {"n", 128}};
  expect_too_large(complete(rig, body));
  body = {{"model", "toy"}, {"prompt", text}, {"max_tokens", 1}, {"prompt_logprobs", 20}};
  expect_too_large(complete(rig, body));
  expect_well(rig);
  expect_nothing_held(rig);
}

TEST(InflightBytes, AnAnswerForWhichOthersLeaveNoRoomIsToTryAgain) {
  Rig rig(kTwoMiB);
  json::object body = large_answer();
  body["max_tokens"] = 90;
  rig.knobs->step_microseconds = 1000;
  EXPECT_EQ(complete(rig, body).status, 200) << "alone it fits";
  {
    const Client first = holder(rig);
    expect_no_room(complete(rig, body));
    expect_well(rig);
  }
  expect_nothing_held(rig);
  EXPECT_EQ(complete(rig, body).status, 200);
}

TEST(InflightBytes, AReaderThatDoesNotReadHoldsNoMore) {
  Rig rig(TestSettings{{"max-inflight-bytes", "2M"}, {"max-stream-bytes", "64M"}});
  rig.knobs->step_microseconds = 200;
  Client client(rig.server->port(), 4096);
  json::object body = large_answer();
  body["stream"] = true;
  body["max_tokens"] = 4000;
  client.send(post("/v1/completions", json::serialize(body)));
  EXPECT_TRUE(Rig::eventually([&] { return metric(rig, "moesaic:slow_readers_total") == 1; }, 20s));
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }));
  client.close();
  expect_well(rig);
  expect_nothing_held(rig);
}

TEST(InflightBytes, BoundTheQueue) {
  Rig rig(TestSettings{{"max-inflight-bytes", "2M"}, {"max-num-seqs", "1"}});
  rig.knobs->step_microseconds = 400000;
  json::object body = small_request();
  body["max_tokens"] = 2;
  body["stream"] = true;
  std::vector<Client> clients;
  for (int i = 0; i < 300; ++i) {
    clients.emplace_back(rig.server->port());
    clients.back().send(post("/v1/completions", json::serialize(body)));
  }
  EXPECT_TRUE(Rig::eventually(
      [&] { return metric(rig, "moesaic:http_rejections_total", {"reason=\"memory\""}) > 150; }));
  rig.knobs->step_microseconds = 0;
  int done = 0, refused = 0;
  for (Client& client : clients) {
    const Answer answer = client.answer(false, 60s);
    done += answer.status == 200 && answer.body.ends_with("data: [DONE]\n\n");
    if (answer.status == 503) expect_no_room(answer);
    refused += answer.status == 503;
  }
  EXPECT_EQ(done + refused, 300) << "none is lost";
  EXPECT_GT(done, 50);
  EXPECT_GT(refused, 50);
  expect_nothing_held(rig);
}

}  // namespace
}  // namespace moesaic::server::testing
