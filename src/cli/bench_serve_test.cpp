#include "cli/bench_serve.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value_to.hpp>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "cli/bench_answer.h"
#include "cli/bench_client.h"
#include "cli/bench_figures.h"
#include "cli/bench_prompts.h"

namespace moesaic::cli {
namespace {

namespace json = boost::json;

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

std::vector<std::string> events_of(std::string_view bytes, size_t piece) {
  std::vector<std::string> events;
  EventStream stream;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    stream.feed(bytes.substr(at, piece), [&](std::string_view data) { events.emplace_back(data); });
  }
  return events;
}

TEST(EventStream, CutsTheSameEventsOutOfAnyPieces) {
  const std::string bytes =
      ": comment\n\ndata: one\n\nevent: x\r\ndata:two\r\ndata: three\r\n\r\nid: 7\n\n\n"
      "data:\n\ndata: [DONE]\n\ndata: never ended";
  const std::vector<std::string> expected = {"one", "two\nthree", "", "[DONE]"};
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    EXPECT_EQ(events_of(bytes, piece), expected) << piece;
  }
}

TEST(EventStream, AnEventHasABound) {
  EventStream stream;
  const std::string piece(1 << 16, 'x');
  const auto feed = [&](const std::string& bytes) { stream.feed(bytes, [](std::string_view) {}); };
  EXPECT_TRUE(has(message_of([&] {
                    for (int i = 0; i < 20; ++i) feed(piece);
                  }),
                  "larger than 1 MiB"));
  EventStream lines;
  EXPECT_TRUE(has(message_of([&] {
                    for (int i = 0; i < 20; ++i) {
                      lines.feed("data: " + piece + "\n", [](std::string_view) {});
                    }
                  }),
                  "larger than 1 MiB"));
}

/// Takes each event a second after the other.
StreamedAnswer answer_of(const std::vector<std::string>& events, int64_t max_tokens = 10) {
  StreamedAnswer answer(max_tokens);
  double now = 0;
  for (const std::string& event : events) answer.take(event, now += 1);
  return answer;
}

TEST(StreamedAnswer, TimesAndCountsACompletion) {
  const StreamedAnswer answer = answer_of(
      {R"({"choices":[{"text":"a","finish_reason":null}],"usage":null})",
       R"({"choices":[{"text":"","finish_reason":null}]})", R"({"choices":[{"text":"c"}]})",
       R"({"choices":[{"text":"","finish_reason":"length"}]})",
       R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":4}})", "[DONE]"});
  EXPECT_NO_THROW(answer.check_complete());
  EXPECT_TRUE(answer.done());
  EXPECT_EQ(answer.token_events(), 3);
  EXPECT_EQ(answer.first_token(), 1);
  EXPECT_EQ(answer.last_token(), 3);
  EXPECT_EQ(answer.end(), 6);
  EXPECT_EQ(answer.gaps(), (std::vector<float>{1, 1}));
  EXPECT_EQ(answer.prompt_tokens(), 7);
  EXPECT_EQ(answer.output_tokens(), 4);
}

TEST(StreamedAnswer, TheRoleOfAChatIsNoToken) {
  const StreamedAnswer answer =
      answer_of({R"({"choices":[{"delta":{"role":"assistant","content":""}}]})",
                 R"({"choices":[{"delta":{"reasoning_content":"hm"}}]})",
                 R"({"choices":[{"delta":{"content":"a"}}]})",
                 R"({"choices":[{"delta":{"tool_calls":[{}]}}]})",
                 R"({"choices":[{"delta":{},"finish_reason":"stop"}]})"});
  EXPECT_NO_THROW(answer.check_complete());
  EXPECT_FALSE(answer.done());
  EXPECT_EQ(answer.token_events(), 3);
  EXPECT_EQ(answer.first_token(), 2);
  EXPECT_FALSE(answer.output_tokens());
}

TEST(StreamedAnswer, SaysWhatIsWrongWithAStream) {
  const auto of = [](const std::vector<std::string>& events) {
    return message_of([&] { answer_of(events, 1).check_complete(); });
  };
  EXPECT_TRUE(has(of({"{\"choices\":["}), "an event is not JSON"));
  EXPECT_TRUE(has(of({"[1]"}), "no object"));
  EXPECT_TRUE(has(of({R"({"choices":[3]})"}), "no object"));
  EXPECT_EQ(of({R"({"error":{"message":"worn\u001b[2J out"}})"}),
            "the stream reports: worn?[2J out");
  EXPECT_TRUE(has(of({}), "without an answer"));
  EXPECT_TRUE(has(of({"[DONE]"}), "without an answer"));
  EXPECT_TRUE(has(of({R"({"choices":[{"text":"a"}]})"}), "in the middle"));
  EXPECT_TRUE(
      has(of(std::vector<std::string>(100, R"({"choices":[{"text":"a"}]})")), "far beyond"));
  // Counts that cannot be are none.
  const auto usage = answer_of({R"({"usage":{"prompt_tokens":-1,"completion_tokens":1e300}})"});
  EXPECT_FALSE(usage.prompt_tokens() || usage.output_tokens());
}

TEST(ErrorMessage, IsFoundInWhatServersSend) {
  EXPECT_EQ(error_message(R"({"error":{"message":"too long","code":400}})"), "too long");
  EXPECT_EQ(error_message(R"({"error":"overloaded","error_type":"overloaded"})"), "overloaded");
  EXPECT_EQ(error_message(R"({"object":"error","message":"no"})"), "no");
  EXPECT_EQ(error_message("busy\r\n"), "busy");
  EXPECT_LT(error_message(std::string(5000, 'x')).size(), 300U);
}

TEST(Samples, HavePercentilesBetweenNeighbours) {
  Samples samples;
  for (int i = 100; i >= 1; --i) samples.add(i);
  EXPECT_EQ(samples.mean(), 50.5);
  const std::vector<double> at = samples.percentiles({0, 0.5, 0.9, 0.99, 1});
  const std::vector<double> expected = {1, 50.5, 90.1, 99.01, 100};
  for (size_t i = 0; i < at.size(); ++i) EXPECT_NEAR(at[i], expected[i], 1e-9);
  Samples one;
  one.add(3);
  EXPECT_EQ(one.percentiles({0.5, 0.99}), (std::vector<double>{3, 3}));
}

TEST(Samples, ThatAreManyAreDrawnFromAlike) {
  Samples samples;
  const auto count = static_cast<int64_t>(Samples::kKept) * 4;
  for (int64_t i = 0; i < count; ++i) {
    samples.add(static_cast<double>(i) / static_cast<double>(count));
  }
  EXPECT_EQ(samples.count(), count);
  EXPECT_NEAR(samples.mean(), 0.5, 1e-6);
  const std::vector<double> at = samples.percentiles({0.1, 0.5, 0.99});
  EXPECT_NEAR(at[0], 0.1, 0.002);
  EXPECT_NEAR(at[1], 0.5, 0.002);
  EXPECT_NEAR(at[2], 0.99, 0.001);
}

TEST(Failures, AreCountedByReasonWithinBounds) {
  Failures failures;
  for (int i = 0; i < 100; ++i) failures.add("reason " + std::to_string(i));
  failures.add("reason 3");
  const auto rows = failures.rows();
  EXPECT_EQ(failures.count(), 101);
  EXPECT_EQ(rows.size(), Failures::kReasons + 1);
  EXPECT_EQ(rows[0], (std::pair<std::string, int64_t>("other reasons", 80)));
  EXPECT_EQ(rows[1], (std::pair<std::string, int64_t>("reason 3", 2)));
}

TEST(LoadFigures, SumUpAnswers) {
  LoadFigures figures;
  // Four tokens in two events: at 1 s and 2 s, the end at 4 s.
  figures.add(answer_of({R"({"choices":[{"text":"ab"}]})", R"({"choices":[{"text":"cd"}]})",
                         R"({"usage":{"prompt_tokens":5,"completion_tokens":4}})", "[DONE]"}),
              6, 8);
  // Without usage: two events, and the length of the prompt is known.
  figures.add(
      answer_of({R"({"choices":[{"text":"a"}]})", R"({"choices":[{"text":"b"}]})", "[DONE]"}), 2,
      8);
  figures.failures.add("503 Service Unavailable");
  figures.seconds = 2;
  const LoadTitle title{
      .url = "http://h", .model = "m", .endpoint = "completions", .requests = 3, .concurrency = 2};
  const json::object got = json::parse(load_json(title, figures)).as_object();
  EXPECT_EQ(json::value_to<int64_t>(got.at("prompt_tokens")), 13);
  EXPECT_EQ(json::value_to<int64_t>(got.at("output_tokens")), 6);
  EXPECT_EQ(json::value_to<int64_t>(got.at("answers_without_usage")), 1);
  EXPECT_EQ(json::value_to<double>(got.at("requests_per_s")), 1);
  EXPECT_EQ(json::value_to<double>(got.at("output_tokens_per_s")), 3);
  EXPECT_EQ(json::value_to<double>(got.at("total_tokens_per_s")), 9.5);
  EXPECT_EQ(json::value_to<double>(got.at("ttft_ms").at("mean")), 1000);
  // A second over three tokens, and one over one.
  EXPECT_NEAR(json::value_to<double>(got.at("tpot_ms").at("mean")), 2000.0 / 3, 0.01);
  EXPECT_EQ(json::value_to<double>(got.at("itl_ms").at("p50")), 1000);
  EXPECT_EQ(json::value_to<double>(got.at("e2e_ms").at("mean")), 3500);
  EXPECT_EQ(json::serialize(got.at("failures")),
            R"([{"reason":"503 Service Unavailable","count":1}])");
  const std::string text = load_report(title, figures);
  EXPECT_TRUE(has(text, "2 completed, 1 failed in 2.00 s")) << text;
  EXPECT_TRUE(has(text, "1.00 requests/s, 3.0 output tokens/s, 9.5 tokens/s in all")) << text;
  EXPECT_TRUE(has(text, "1  503 Service Unavailable")) << text;
  EXPECT_TRUE(has(text, "6 of the 8 tokens asked for")) << text;
  EXPECT_TRUE(has(text, "1 answers came without")) << text;
}

TEST(NumberRange, IsANumberOrTwo) {
  const NumberRange allowed{1, 4096};
  EXPECT_EQ(parse_range("--x", "256", allowed).low, 256);
  EXPECT_EQ(parse_range("--x", "1K..4K", allowed).high, 4096);
  for (const char* text : {"", "0", "5..4", "1..", "..3", "1...3", "auto", "1..5k", "x"}) {
    EXPECT_TRUE(has(message_of([&] { parse_range("--x", text, allowed); }), "--x")) << text;
  }
}

class PromptFile : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ =
        std::filesystem::temp_directory_path() / ("moesaic_prompts_" + std::to_string(::getpid()));
  }
  void TearDown() override { std::filesystem::remove(path_); }
  Prompts read(const std::string& text, Endpoint endpoint) {
    std::ofstream(path_) << text;
    return Prompts::of_file(path_.string(), endpoint);
  }
  std::string refusal(const std::string& text, Endpoint endpoint) {
    return message_of([&] { read(text, endpoint); });
  }
  std::filesystem::path path_;
};

TEST_F(PromptFile, IsReadLineByLine) {
  const std::string text = "Once upon\r\n\n{\"prompt\": \"two\"}\n{\"prompt\":[4,5]}\n";
  Prompts prompts = read(text, Endpoint::kCompletions);
  std::mt19937_64 random;
  EXPECT_EQ(prompts.count(), 3);
  EXPECT_EQ(json::serialize(prompts.next(random).value), "\"Once upon\"");
  EXPECT_EQ(json::serialize(prompts.next(random).value), "\"two\"");
  const Prompt ids = prompts.next(random);
  EXPECT_EQ(json::serialize(ids.value), "[4,5]");
  EXPECT_EQ(ids.tokens, 2);
  EXPECT_EQ(json::serialize(prompts.next(random).value), "\"Once upon\"") << "and again";
  Prompts chat =
      read("Hi\n{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n", Endpoint::kChat);
  EXPECT_EQ(json::serialize(chat.next(random).value), R"([{"role":"user","content":"Hi"}])");
  EXPECT_EQ(json::serialize(chat.next(random).value), R"([{"role":"user","content":"x"}])");
}

TEST_F(PromptFile, NamesTheLineThatIsWrong) {
  constexpr Endpoint kCompletions = Endpoint::kCompletions;
  EXPECT_TRUE(has(refusal("a\n{\"prompt\":\n", kCompletions), "line 2: not JSON"));
  EXPECT_TRUE(has(refusal("{}", kCompletions), "line 1: expected a member"));
  EXPECT_TRUE(has(refusal("{\"messages\":[{}]}", kCompletions), "--endpoint chat"));
  EXPECT_TRUE(has(refusal("{\"messages\":[]}", Endpoint::kChat), "messages"));
  EXPECT_TRUE(has(refusal("{\"prompt\":[1]}", Endpoint::kChat), "token ids"));
  EXPECT_TRUE(has(refusal("{\"prompt\":[-1]}", kCompletions), "neither text"));
  EXPECT_TRUE(has(refusal("a\n\xff\n", kCompletions), "line 2: the text is not UTF-8"));
  EXPECT_TRUE(has(refusal("\n \n", kCompletions), "no prompt"));
}

TEST(Prompts, AreDrawnWithinTheirRanges) {
  Prompts prompts = Prompts::random({2, 5}, {10, 12});
  std::mt19937_64 random(1);
  std::vector<bool> lengths(6), ids(13);
  for (int i = 0; i < 200; ++i) {
    const Prompt prompt = prompts.next(random);
    const json::array& list = prompt.value.as_array();
    ASSERT_EQ(prompt.tokens, static_cast<int64_t>(list.size()));
    lengths.at(list.size()) = true;
    for (const json::value& id : list) ids.at(static_cast<size_t>(id.as_int64())) = true;
  }
  EXPECT_EQ(lengths, (std::vector<bool>{false, false, true, true, true, true}));
  EXPECT_EQ(std::count(ids.begin(), ids.end(), true), 3);
  EXPECT_TRUE(ids[10] && ids[11] && ids[12]);
}

TEST(ServerUrl, IsTakenApart) {
  const ServerUrl plain = parse_server_url("http://127.0.0.1:8000");
  EXPECT_EQ(plain.host, "127.0.0.1");
  EXPECT_EQ(plain.port, "8000");
  EXPECT_EQ(plain.authority, "127.0.0.1:8000");
  EXPECT_EQ(plain.prefix, "");
  EXPECT_EQ(parse_server_url("http://models.local").port, "80");
  EXPECT_EQ(parse_server_url("http://h/v1/").prefix, "");
  EXPECT_EQ(parse_server_url("http://h/team/v1").prefix, "/team");
  const ServerUrl six = parse_server_url("http://[::1]:9");
  EXPECT_EQ(six.host, "::1");
  EXPECT_EQ(six.authority, "[::1]:9");
}

TEST(ServerUrl, IsRefusedInWords) {
  const auto refusal = [](const std::string& url) {
    return message_of([&] { parse_server_url(url); });
  };
  EXPECT_TRUE(has(refusal("https://h"), "no TLS"));
  for (const char* url :
       {"", "h:8000", "localhost", "ftp://h", "http://", "http://h:0", "http://h:99999",
        "http://h:x", "http://h/?q", "http://a:b@h", "models/demo"}) {
    EXPECT_TRUE(has(refusal(url), "expected http://HOST")) << url;
  }
}

}  // namespace
}  // namespace moesaic::cli
