// Connections and the server's life: clients that go, clients that do not read, many at once,
// keys, origins, queues, metrics, the end.

#include <sys/resource.h>

#include <algorithm>
#include <csignal>

#include "server/testing.h"
#include "server/web_files.h"

namespace moesaic::server::testing {
namespace {

json::object long_answer(int64_t tokens = 3000) {
  return {{"model", "toy"}, {"prompt", "abc"}, {"max_tokens", tokens}, {"stream", true}};
}

std::string long_request(int64_t tokens = 3000) {
  return post("/v1/completions", json::serialize(long_answer(tokens)));
}

TEST(Life, OneOfEightStreamsGoesAndItsBlocksComeBack) {
  Rig rig;
  std::vector<Client> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back(rig.server->port());
    clients.back().send(long_request());
  }
  for (Client& client : clients) ASSERT_TRUE(client.wait_for("data: "));
  ASSERT_TRUE(Rig::eventually([&] { return rig.engine->stats().running == 8; }, 1s));
  clients[3].close();
  EXPECT_TRUE(Rig::eventually([&] { return rig.engine->stats().running == 7; }, 1s));
  clients[4].reset();
  EXPECT_TRUE(Rig::eventually([&] { return rig.engine->stats().running == 6; }, 1s));
  // Half-closing counts as going.
  clients[5].half_close();
  EXPECT_TRUE(Rig::eventually([&] { return rig.engine->stats().running == 5; }, 1s));
  ASSERT_TRUE(clients[6].receive());
  clients.clear();
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }, 1s));
  EXPECT_GE(metric(rig, "moesaic:client_disconnects_total"), 8);
}

TEST(Life, AClientThatGoesWhileQueuedOrInPrefillIsNoticed) {
  Rig rig(TestSettings{{"max-num-seqs", "1"}});
  rig.knobs->step_microseconds = 20000;
  Client running(rig.server->port());
  running.send(long_request());
  ASSERT_TRUE(running.wait_for("data: "));
  Client queued(rig.server->port());
  queued.send(long_request());
  ASSERT_TRUE(Rig::eventually([&] { return rig.engine->stats().waiting == 1; }));
  queued.close();
  EXPECT_TRUE(Rig::eventually([&] { return rig.engine->stats().waiting == 0; }, 1s));
  running.close();
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }, 1s));
  // A whole answer's client too, in prefill: 4000 tokens take eight slow steps.
  Client prefill(rig.server->port());
  json::object body = long_answer(10);
  body["prompt"] = std::string(4000, 'x');
  body["stream"] = false;
  prefill.send(post("/v1/completions", json::serialize(body)));
  ASSERT_TRUE(Rig::eventually([&] { return rig.engine->stats().running == 1; }));
  prefill.close();
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }, 1s));
}

TEST(Life, AReaderThatDoesNotReadIsCutOff) {
  Rig rig(TestSettings{{"max-stream-bytes", "64K"}});
  rig.knobs->step_microseconds = 0;
  Client client(rig.server->port(), 4096);
  json::object body = long_answer(4000);
  body["n"] = 8;
  body["logprobs"] = 20;
  client.send(post("/v1/completions", json::serialize(body)));
  EXPECT_TRUE(Rig::eventually([&] { return metric(rig, "moesaic:slow_readers_total") == 1; }, 60s));
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }, 1s));
}

TEST(Life, ASmallRequestBesideAHugeOneIsSoonDone) {
  Rig rig(TestSettings{{"max-num-seqs", "8"}});
  rig.knobs->step_microseconds = 1000;
  json::object body = long_answer(1000);
  body["prompt"] = json::array(64, "abc");
  body["n"] = 16;
  Client huge(rig.server->port());
  huge.send(post("/v1/completions", json::serialize(body)));
  ASSERT_TRUE(huge.wait_for("data: "));
  ASSERT_TRUE(Rig::eventually([&] { return rig.engine->stats().blocks_held >= 8; }));
  const uint64_t before = rig.engine->stats().steps;
  EXPECT_TRUE(ask(rig, long_request(5)).body.ends_with("data: [DONE]\n\n"));
  // Five for its tokens, a few to get in and to be told; 8,000 for a place without turns.
  EXPECT_LT(rig.engine->stats().steps - before, 100);
  huge.close();
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }));
}

TEST(Life, AShortRequestWaitsForNoLongBodyWhateverTheEndpoint) {
  std::string text, ids = "1";
  while (text.size() < 512 << 10) text += "word ";
  while (ids.size() < 1 << 20) ids += ",1";
  const std::string common = R"({"model":"toy","max_tokens":1,"truncate_prompt_tokens":1,)";
  const std::pair<const char*, std::string> bodies[] = {
      {"/v1/completions", common + R"("prompt":")" + text + "\"}"},
      {"/v1/chat/completions",
       common + R"("messages":[{"role":"user","content":")" + text + "\"}]}"},
      {"/tokenize", R"({"prompt":")" + text + "\"}"},
      {"/detokenize", R"({"tokens":[)" + ids + "]}"}};
  for (const auto& [path, body] : bodies) {
    SCOPED_TRACE(path);
    Rig rig;
    std::vector<Client> large;
    for (int i = 0; i < 6; ++i) {
      large.emplace_back(rig.server->port());
      large.back().send(post(path, body));
    }
    std::this_thread::sleep_for(50ms);  // all have been read and are being worked on, or wait
    EXPECT_TRUE(ask(rig, long_request(1)).body.ends_with("data: [DONE]\n\n"));
    int answered = 0;
    for (Client& client : large) answered += client.receive(0ms);
    EXPECT_LT(answered, 5) << "the short one came after most of the long ones";
    for (Client& client : large) EXPECT_EQ(client.answer().status, 200);
  }
}

TEST(Life, ManyStreamsNeedNoThreads) {
  Rig rig;
  const auto threads = [] {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
      count += entry.is_directory();
    }
    return count;
  };
  const size_t before = threads();
  std::vector<Client> clients;
  for (int i = 0; i < 400; ++i) {
    clients.emplace_back(rig.server->port());
    ASSERT_TRUE(clients.back().connected());
    clients.back().send(long_request(20));
  }
  ASSERT_TRUE(Rig::eventually([&] { return metric(rig, "moesaic:http_connections") >= 400; }));
  EXPECT_EQ(threads(), before);
  for (Client& client : clients) {
    const Answer answer = client.answer(false, 60s);
    EXPECT_EQ(answer.status, 200);
    EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
  }
}

TEST(Life, SeveralThreadsOfEachKindAgree) {
  Rig rig(TestSettings{{"io-threads", "3"}, {"text-threads", "3"}});
  const std::string alone = ask(rig, long_request(60)).body;
  const auto text = [](const std::string& body) {
    std::string out;
    for (const json::value& event : events(body)) {
      if (event.is_object()) out += text_of(event.at("choices").at(0).at("text"));
    }
    return out;
  };
  std::vector<std::thread> askers;
  std::atomic<int> right{0};
  for (int i = 0; i < 8; ++i) {
    askers.emplace_back([&, i] {
      for (int k = 0; k < 5; ++k) {
        if (i % 4 == 3) {
          Client gone(rig.server->port());
          gone.send(long_request(60));
          gone.receive(5ms);
          continue;
        }
        right += text(ask(rig, long_request(60)).body) == text(alone);
        right += ask(rig, get("/metrics")).status == 200;
      }
    });
  }
  for (std::thread& asker : askers) asker.join();
  EXPECT_EQ(right, 6 * 5 * 2);
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }));
}

TEST(Life, AFullQueueAnswers503AndLosesNobody) {
  Rig rig(TestSettings{{"max-num-seqs", "1"}, {"max-num-queued-reqs", "2"}});
  rig.knobs->closed = true;
  std::vector<Client> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back(rig.server->port());
    clients.back().send(long_request(40));
  }
  // One may run and two may wait; all others know at once.
  const auto turned_away = [&] {
    return metric(rig, "vllm:admission_rejections_total", {"reason=\"queue_full\""});
  };
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (turned_away() < 9 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(1ms);
  }
  rig.knobs->closed = false;
  int done = 0, refused = 0;
  for (Client& client : clients) {
    const Answer answer = client.answer(false, 60s);
    done += answer.status == 200 && answer.body.ends_with("data: [DONE]\n\n");
    refused += answer.status == 503 && !answer.header("retry-after").empty();
  }
  EXPECT_EQ(done, 3);
  EXPECT_EQ(refused, 9);
  EXPECT_EQ(turned_away(), 9);
}

TEST(Life, ThreeThousandStreamsAtOnceAreTaken) {
  rlimit files = {};
  ::getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_max < 7000) GTEST_SKIP() << "needs 7,000 descriptors";
  // What a machine of 2 GiB has by default; 64 run and the others wait.
  Rig rig(TestSettings{{"max-num-seqs", "64"}, {"max-inflight-bytes", "128M"}});
  rig.knobs->step_microseconds = 500000;
  std::vector<Client> clients;
  for (int i = 0; i < 3000; ++i) {
    clients.emplace_back(rig.server->port());
    ASSERT_TRUE(clients.back().connected());
    clients.back().send(long_request(1));
  }
  ASSERT_TRUE(
      Rig::eventually([&] { return metric(rig, "moesaic:http_connections") >= 3000; }, 20s));
  rig.knobs->step_microseconds = 0;
  for (Client& client : clients) {
    const Answer answer = client.answer(false, 60s);
    ASSERT_EQ(answer.status, 200);
    ASSERT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
  }
}

TEST(Life, AnAnswerReadToItsEndIsNoDisconnect) {
  Rig rig;
  for (int i = 0; i < 200; ++i) {
    Client stream(rig.server->port());
    stream.send(long_request(3));
    // As clients do: what ends the chunks is not waited for.
    ASSERT_TRUE(stream.wait_for("[DONE]"));
  }
  for (int i = 0; i < 50; ++i) {
    Client whole(rig.server->port());
    json::object body = long_answer(3);
    body["stream"] = false;
    whole.send(post("/v1/completions", json::serialize(body)));
    ASSERT_TRUE(whole.wait_for("usage"));
  }
  Client gone(rig.server->port());
  gone.send(long_request());
  ASSERT_TRUE(gone.wait_for("data: "));
  gone.close();
  ASSERT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }));
  EXPECT_EQ(metric(rig, "moesaic:client_disconnects_total"), 1);
}

TEST(Life, KeysGuardTheProtocolOnly) {
  Rig rig(TestSettings{{"api-key", "first,second"}});
  const std::string body = R"({"model":"toy","prompt":"a","max_tokens":1})";
  EXPECT_EQ(ask(rig, get("/v1/models")).status, 401);
  EXPECT_EQ(ask(rig, get("/v1/models")).body, R"({"error":"Unauthorized"})");
  EXPECT_EQ(ask(rig, get("/v1/models", "Authorization: Bearer wrong\r\n")).status, 401);
  EXPECT_EQ(ask(rig, get("/v1/models", "Authorization: Bearer first2\r\n")).status, 401);
  EXPECT_EQ(ask(rig, get("/v1/models", "Authorization: Bearer \r\n")).status, 401);
  EXPECT_EQ(ask(rig, get("/v1/models", "Authorization: Bearer first\r\n")).status, 200);
  EXPECT_EQ(ask(rig, get("/v1/models", "Authorization: bearer second\r\n")).status, 200);
  EXPECT_EQ(ask(rig, post("/v1/completions", body)).status, 401);
  EXPECT_EQ(ask(rig, post("/v1/nowhere", body)).status, 401);
  for (const char* open : {"/health", "/metrics", "/version", "/"}) {
    EXPECT_EQ(ask(rig, get(open)).status, 200) << open;
  }
  EXPECT_GE(metric(rig, "moesaic:http_rejections_total", {"reason=\"auth\""}), 5);
}

TEST(Life, OriginsAreAnsweredAsConfigured) {
  Rig open;
  const std::string origin = "Origin: http://page\r\n";
  EXPECT_EQ(ask(open, get("/health", origin)).header("access-control-allow-origin"), "*");
  const Answer preflight =
      ask(open, "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: t\r\n" + origin +
                    "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: "
                    "authorization\r\n\r\n");
  EXPECT_EQ(preflight.status, 200);
  EXPECT_EQ(preflight.header("access-control-allow-headers"), "authorization");
  EXPECT_NE(preflight.header("access-control-allow-methods").find("POST"), std::string::npos);
  Rig strict(TestSettings{{"allowed-origins", R"(["http://mine"])"}});
  EXPECT_EQ(ask(strict, get("/health", origin)).header("access-control-allow-origin"), "");
  EXPECT_EQ(
      ask(strict, get("/health", "Origin: http://mine\r\n")).header("access-control-allow-origin"),
      "http://mine");
}

TEST(Life, SmallEndpoints) {
  Rig rig;
  EXPECT_EQ(ask(rig, get("/health")).body, "");
  EXPECT_EQ(ask(rig, "POST /ping HTTP/1.1\r\nHost: t\r\n\r\n").status, 200);
  EXPECT_EQ(ask(rig, get("/version")).body, R"({"version":"0.1.0"})");
  EXPECT_EQ(ask(rig, get("/load")).body, R"({"server_load":0})");
  EXPECT_EQ(ask(rig, get("/nowhere")).body, R"({"detail":"Not Found"})");
  const Answer page = ask(rig, get("/"));
  EXPECT_EQ(page.header("Content-Type"), "text/html; charset=utf-8");
  EXPECT_NE(page.body.find("</html>"), std::string::npos);
  const Answer head = ask(rig, "HEAD / HTTP/1.1\r\nHost: t\r\n\r\n");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.header("Content-Length"), std::to_string(page.body.size()));
  const json::value models = ask(rig, get("/v1/models")).value();
  ASSERT_EQ(models.at("data").as_array().size(), 3U);
  EXPECT_EQ(models.at("data").at(1).at("id"), "toy-too");
  EXPECT_EQ(models.at("data").at(0).at("max_model_len"), 4096);
  EXPECT_EQ(models.at("data").at(0).at("permission").as_array().size(), 1U);
}

TEST(Life, ConnectionsAreKeptAndClosedWhenIdle) {
  Rig rig(TestSettings{{"keep-alive-timeout", "0.3"}});
  Client client(rig.server->port());
  for (int i = 0; i < 3; ++i) {
    client.send(get("/health"));
    EXPECT_EQ(client.answer().status, 200);
    client.send(long_request(5));
    EXPECT_EQ(client.answer().status, 200);
    client.send(get("/nowhere"));
    EXPECT_EQ(client.answer().status, 404);
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(client.closes(3s));
  EXPECT_GE(std::chrono::steady_clock::now() - start, 250ms);
  Client old(rig.server->port());
  old.send("GET /health HTTP/1.0\r\n\r\n");
  EXPECT_EQ(old.answer().status, 200);
  EXPECT_TRUE(old.closes(1s));
}

TEST(Life, AnHttp10StreamEndsWithTheConnection) {
  Rig rig;
  Client client(rig.server->port());
  const std::string body = json::serialize(long_answer(5));
  client.send(
      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body);
  EXPECT_TRUE(client.closes());
  EXPECT_EQ(client.inbox().find("Transfer-Encoding"), std::string::npos);
  EXPECT_TRUE(client.inbox().ends_with("data: [DONE]\n\n"));
}

TEST(Life, MetricsHaveVllmsNamesAndAddUp) {
  Rig rig;
  for (int i = 0; i < 3; ++i) ask(rig, long_request(7));
  ASSERT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }));
  const std::vector<std::string> labels = {"engine=\"0\"", "model_name=\"toy\""};
  EXPECT_EQ(metric(rig, "vllm:prompt_tokens_total", labels), 9);
  EXPECT_EQ(metric(rig, "vllm:generation_tokens_total", labels), 21);
  EXPECT_EQ(metric(rig, "vllm:num_requests_running", labels), 0);
  EXPECT_EQ(metric(rig, "vllm:kv_cache_usage_perc", labels), 0);
  EXPECT_EQ(metric(rig, "vllm:gpu_cache_usage_perc", labels), 0);
  EXPECT_EQ(metric(rig, "vllm:time_to_first_token_seconds_count", labels), 3);
  EXPECT_EQ(metric(rig, "vllm:inter_token_latency_seconds_count", labels), 18);
  EXPECT_EQ(metric(rig, "vllm:e2e_request_latency_seconds_count", labels), 3);
  for (const char* reason : {"stop", "abort", "error", "repetition", "length"}) {
    const std::string label = "finished_reason=\"" + std::string(reason) + "\"";
    EXPECT_EQ(metric(rig, "vllm:request_success_total", {label}),
              reason == std::string("length") ? 3 : 0)
        << reason;
  }
  EXPECT_EQ(metric(rig, "vllm:cache_config_info", {"block_size=\"16\"", "num_gpu_blocks=\"4096\""}),
            1);
  const Answer page = ask(rig, get("/metrics"));
  EXPECT_EQ(page.header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  // Each of the 9 + 18 computed rows went to one expert of each layer that has experts. They are
  // named as in the model, whose first layer is dense.
  for (const char* layer : {"layer=\"1\"", "layer=\"2\""}) {
    double rows = 0;
    for (int expert = 0; expert < 4; ++expert) {
      rows += std::max(0.0, metric(rig, "moesaic:expert_tokens_total",
                                   {"expert=\"" + std::to_string(expert) + "\"", layer}));
    }
    EXPECT_GE(rows, 18) << layer;
    EXPECT_GE(metric(rig, "moesaic:expert_imbalance", {layer}), 1) << layer;
  }
  EXPECT_EQ(metric(rig, "moesaic:expert_tokens_total", {"layer=\"0\""}), -1);
}

TEST(Life, ThePageSeesItsExperts) {
  Rig rig;
  ask(rig, long_request(20));
  const json::value load = ask(rig, get("/moesaic/experts")).value();
  EXPECT_EQ(load.at("layers"), 2);
  EXPECT_EQ(load.at("experts"), 4);
  EXPECT_EQ(load.at("layer_numbers"), (json::value{1, 2}));
  EXPECT_EQ(load.at("model").at("chat"), true);
  const json::value card = ask(rig, get("/v1/models")).value().at("data").at(0);
  EXPECT_EQ(load.at("started"), card.at("created"));
  int64_t total = 0, recent = 0;
  for (int layer = 0; layer < 2; ++layer) {
    for (int expert = 0; expert < 4; ++expert) {
      total += load.at("total").at(layer).at(expert).as_int64();
      recent += load.at("recent").at(layer).at(expert).as_int64();
    }
  }
  EXPECT_GE(total, 2 * 20);
  EXPECT_LE(recent, total);
  // A step takes the toy 0.2 ms at the least.
  EXPECT_GE(load.at("first_token_seconds").to_number<double>(), 2e-4);
  EXPECT_GE(load.at("inter_token_seconds").to_number<double>(), 2e-4);
  EXPECT_LT(load.at("inter_token_seconds").to_number<double>(), 0.1);
  EXPECT_GT(load.at("tokens_per_second").to_number<double>(), 0);
  // Later all is quiet.
  EXPECT_TRUE(Rig::eventually(
      [&] {
        const json::value later = ask(rig, get("/moesaic/experts")).value();
        return later.at("recent").at(0) == json::value{0, 0, 0, 0} &&
               later.at("first_token_seconds").is_null() &&
               later.at("inter_token_seconds").is_null();
      },
      6s));
}

TEST(Life, ThePageIsFilesOfItsOwn) {
  Rig rig(TestSettings{{"api-key", "secret"}});
  ASSERT_GE(web_files().size(), 3u);
  for (const WebFile& file : web_files()) {
    SCOPED_TRACE(file.path);
    const Answer answer = ask(rig, get(file.path));
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.header("Content-Type"), file.content_type);
    EXPECT_EQ(answer.body, file.body);
    EXPECT_EQ(answer.header("cache-control"), "no-cache");
    const std::string policy = answer.header("content-security-policy");
    EXPECT_NE(policy.find("script-src 'self';"), std::string::npos) << policy;
    EXPECT_EQ(policy.find("unsafe"), std::string::npos) << policy;
    if (file.path != "/") {
      EXPECT_EQ(ask(rig, post(file.path, "{}")).status, 405);
    }
  }
  EXPECT_EQ(ask(rig, get("/web/nothing.js")).status, 404);
  EXPECT_EQ(ask(rig, get("/index.html")).status, 404);
}

TEST(Life, AStalledEngineIsNotHealthy) {
  Rig rig(TestSettings{{"stall-timeout", "0.2"}});
  rig.knobs->step_microseconds = 1500000;
  Client client(rig.server->port());
  client.send(long_request(2));
  EXPECT_TRUE(Rig::eventually([&] { return ask(rig, get("/health")).status == 503; }, 3s));
  rig.knobs->step_microseconds = 100;
  EXPECT_TRUE(Rig::eventually([&] { return ask(rig, get("/health")).status == 200; }, 5s));
}

TEST(Life, DrainingFinishesWhatRunsAndTakesNothingNew) {
  Rig rig;
  rig.knobs->step_microseconds = 5000;
  Client running(rig.server->port());
  running.send(long_request(120));
  ASSERT_TRUE(running.wait_for("data: "));
  std::raise(SIGTERM);
  EXPECT_TRUE(Rig::eventually([&] { return ask(rig, get("/health")).status == 503; }, 2s));
  const Answer refused = ask(rig, long_request(1));
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(refused.header("retry-after"), "");
  const Answer answer = running.answer();
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
  rig.thread.join();
  EXPECT_EQ(rig.exit_code, 0);
  EXPECT_FALSE(Client(rig.server->port()).answer(false, 200ms).status != 0);
}

TEST(Life, WhatDoesNotEndInTimeIsToldSo) {
  Rig rig(TestSettings{{"shutdown-timeout", "0"}});
  rig.knobs->step_microseconds = 5000;
  Client stream(rig.server->port());
  stream.send(long_request());
  ASSERT_TRUE(stream.wait_for("data: "));
  json::object body = long_answer();
  body["stream"] = false;
  Client whole(rig.server->port());
  whole.send(post("/v1/completions", json::serialize(body)));
  ASSERT_TRUE(Rig::eventually([&] { return rig.engine->stats().running == 2; }));
  rig.server->shutdown();
  const Answer cut = stream.answer();
  EXPECT_NE(cut.body.find("data: {\"error\":{"), std::string::npos);
  EXPECT_EQ(cut.body.find("[DONE]"), std::string::npos);
  EXPECT_EQ(whole.answer().status, 503);
  rig.thread.join();
}

TEST(Life, ADeadEngineIsToldToEverybodyAndEndsTheProcess) {
  Rig rig;
  rig.knobs->step_microseconds = 5000;
  Client stream(rig.server->port());
  stream.send(long_request());
  ASSERT_TRUE(stream.wait_for("data: "));
  Client whole(rig.server->port());
  json::object body = long_answer();
  body["stream"] = false;
  whole.send(post("/v1/completions", json::serialize(body)));
  ASSERT_TRUE(Rig::eventually([&] { return rig.engine->stats().running == 2; }));
  rig.knobs->broken = true;
  const Answer cut = stream.answer();
  EXPECT_NE(cut.body.find("data: {\"error\":{"), std::string::npos);
  EXPECT_EQ(cut.body.find("[DONE]"), std::string::npos);
  EXPECT_EQ(whole.answer().status, 500);
  rig.thread.join();
  EXPECT_EQ(rig.exit_code, 70);
}

TEST(Life, ATakenPortIsRefused) {
  Rig rig;
  base::Settings settings;
  settings.set("port", std::to_string(rig.server->port()), "test");
  EXPECT_THROW(bind_address(settings), base::UnavailableError);
  settings.set("host", "192.0.2.1", "test");
  EXPECT_THROW(bind_address(settings), base::UnavailableError);
}

TEST(Life, ABoundAddressRefusesConnectionsUntilItIsServed) {
  base::Settings settings;
  settings.set("port", "0", "test");
  const BoundAddress address = bind_address(settings);
  ASSERT_GT(address.port(), 0);
  EXPECT_FALSE(Client(address.port()).connected());
}

}  // namespace
}  // namespace moesaic::server::testing
