// /v1/completions against a toy model: shapes as vLLM 0.32 has them, and the meaning of its fields.

#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

std::vector<std::string> keys(const json::value& value) {
  std::vector<std::string> out;
  for (const auto& member : value.as_object()) out.emplace_back(member.key());
  return out;
}
using Keys = std::vector<std::string>;

TEST(Completions, TheWholeAnswerHasTheFieldsOfVllm) {
  Rig rig;
  const Answer answer = complete(rig, {{"model", "toy"}, {"prompt", {1, 2, 3}}, {"max_tokens", 3}});
  ASSERT_EQ(answer.status, 200) << answer.body;
  const json::value value = answer.value();
  EXPECT_EQ(keys(value), (Keys{"id", "object", "created", "model", "choices", "service_tier",
                               "system_fingerprint", "usage", "kv_transfer_params",
                               "ec_transfer_params", "metrics"}));
  const json::value& choice = value.at("choices").at(0);
  EXPECT_EQ(keys(choice),
            (Keys{"index", "text", "logprobs", "finish_reason", "stop_reason", "token_ids",
                  "prompt_logprobs", "prompt_token_ids", "routed_experts"}));
  EXPECT_EQ(value.at("object"), "text_completion");
  EXPECT_EQ(value.at("model"), "toy");
  EXPECT_TRUE(text_of(value.at("id")).starts_with("cmpl-"));
  EXPECT_EQ(choice.at("finish_reason"), "length");
  EXPECT_EQ(choice.at("text").as_string().size(), 3U);
  EXPECT_TRUE(choice.at("stop_reason").is_null());
  EXPECT_EQ(json::serialize(value.at("usage")),
            R"({"prompt_tokens":3,"total_tokens":6,"completion_tokens":3,)"
            R"("prompt_tokens_details":null,"completion_tokens_details":null})");
}

TEST(Completions, TextAndTokenIdsOfItGiveTheSame) {
  Rig rig;
  const json::value text =
      complete(rig, {{"model", "toy"}, {"prompt", "abc"}, {"max_tokens", 9}}).value();
  const json::value ids =
      complete(rig, {{"model", "toy"}, {"prompt", {97, 98, 99}}, {"max_tokens", 9}}).value();
  EXPECT_EQ(text.at("choices").at(0).at("text"), ids.at("choices").at(0).at("text"));
  EXPECT_EQ(text.at("usage").at("prompt_tokens"), 3);
}

TEST(Completions, UsageSaysWhatWasCached) {
  Rig rig(TestSettings{{"enable-prompt-tokens-details", "true"}});
  const std::string prompt(100, 'a');
  const auto cached = [&](const json::value& value) {
    return value.at("usage").at("prompt_tokens_details").at("cached_tokens").as_int64();
  };
  const json::object body{{"model", "toy"}, {"prompt", prompt}, {"max_tokens", 2}};
  EXPECT_EQ(cached(complete(rig, body).value()), 0);
  EXPECT_EQ(cached(complete(rig, body).value()), 96);
  json::object two = body;
  two["prompt"] = {prompt, prompt};
  EXPECT_EQ(cached(complete(rig, two).value()), 192);
}

TEST(Completions, AStreamSaysTheSameAsTheWhole) {
  Rig rig;
  json::object body{{"model", "toy"}, {"prompt", "abc"}, {"max_tokens", 20}, {"logprobs", 1}};
  const json::value whole = complete(rig, body).value();
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const Answer answer = complete(rig, body);
  EXPECT_EQ(answer.header("Content-Type"), "text/event-stream; charset=utf-8");
  const auto list = events(answer.body);
  ASSERT_GT(list.size(), 3U);
  EXPECT_EQ(list.back(), "[DONE]");
  std::string text;
  size_t logprobs = 0;
  for (size_t i = 0; i + 2 < list.size(); ++i) {
    const json::value& choice = list[i].at("choices").at(0);
    EXPECT_EQ(keys(choice), (Keys{"index", "text", "logprobs", "finish_reason", "stop_reason",
                                  "prompt_token_ids", "token_ids"}));
    text += text_of(choice.at("text"));
    logprobs += choice.at("logprobs").at("tokens").as_array().size();
    EXPECT_EQ(choice.at("finish_reason").is_null(), i + 3 < list.size());
    EXPECT_FALSE(list[i].as_object().contains("usage"));
  }
  EXPECT_EQ(text, text_of(whole.at("choices").at(0).at("text")));
  EXPECT_EQ(logprobs, 20U);
  const json::value& last = list[list.size() - 2];
  EXPECT_TRUE(last.at("choices").as_array().empty());
  EXPECT_EQ(json::serialize(last.at("usage")),
            R"({"prompt_tokens":3,"total_tokens":23,"completion_tokens":20})");
}

TEST(Completions, WithoutUsageTheLastEventHasTheFingerprint) {
  Rig rig;
  const auto list = events(
      complete(rig, {{"model", "toy"}, {"prompt", "abc"}, {"max_tokens", 2}, {"stream", true}})
          .body);
  ASSERT_GE(list.size(), 2U);
  EXPECT_TRUE(list[list.size() - 2].as_object().contains("system_fingerprint"));
}

TEST(Completions, ContinuousUsageCountsUp) {
  Rig rig;
  const auto list = events(
      complete(rig,
               {{"model", "toy"},
                {"prompt", "abc"},
                {"max_tokens", 4},
                {"stream", true},
                {"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}}})
          .body);
  int64_t last = 0;
  for (size_t i = 0; i + 1 < list.size(); ++i) {
    const int64_t now = list[i].at("usage").at("completion_tokens").as_int64();
    EXPECT_GE(now, last);
    last = now;
  }
  EXPECT_EQ(last, 4);
}

TEST(Completions, SeveralPromptsAndChoicesAreNumberedThrough) {
  Rig rig;
  const json::value value =
      complete(rig, {{"model", "toy"}, {"prompt", {"abc", "xyz"}}, {"max_tokens", 5}, {"n", 2}})
          .value();
  ASSERT_EQ(value.at("choices").as_array().size(), 4U);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(value.at("choices").at(i).at("index"), i);
  EXPECT_EQ(value.at("choices").at(0).at("text"), value.at("choices").at(1).at("text"));
  EXPECT_NE(value.at("choices").at(0).at("text"), value.at("choices").at(2).at("text"));
  EXPECT_EQ(value.at("usage").at("prompt_tokens"), 6);
  EXPECT_EQ(value.at("usage").at("completion_tokens"), 20);
}

TEST(Completions, StopStringsAcrossTokens) {
  Rig rig;
  rig.knobs->play(3, "one two three four");
  json::object body{
      {"model", "toy"}, {"prompt", "abc"}, {"max_tokens", 50}, {"stop", {"three", "zzz"}}};
  json::value choice = complete(rig, body).value().at("choices").at(0);
  EXPECT_EQ(choice.at("text"), "one two ");
  EXPECT_EQ(choice.at("finish_reason"), "stop");
  EXPECT_EQ(choice.at("stop_reason"), "three");
  body["include_stop_str_in_output"] = true;
  choice = complete(rig, body).value().at("choices").at(0);
  EXPECT_EQ(choice.at("text"), "one two three");
  body["min_tokens"] = 15;
  choice = complete(rig, body).value().at("choices").at(0);
  EXPECT_EQ(choice.at("text"), "one two three four");
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }));
}

TEST(Completions, EosAndStopTokensEndWithoutTheirText) {
  Rig rig;
  rig.knobs->play(3, "hi");
  json::object body{{"model", "toy"},
                    {"prompt", "abc"},
                    {"max_tokens", 50},
                    {"skip_special_tokens", false},
                    {"return_token_ids", true}};
  json::value choice = complete(rig, body).value().at("choices").at(0);
  EXPECT_EQ(choice.at("text"), "hi");
  EXPECT_EQ(choice.at("finish_reason"), "stop");
  EXPECT_TRUE(choice.at("stop_reason").is_null());
  EXPECT_EQ(json::serialize(choice.at("token_ids")), "[104,105,258]");
  EXPECT_EQ(json::serialize(choice.at("prompt_token_ids")), "[97,98,99]");
  body["stop_token_ids"] = json::array{105};
  choice = complete(rig, body).value().at("choices").at(0);
  EXPECT_EQ(choice.at("text"), "h");
  EXPECT_EQ(choice.at("stop_reason"), 105);
}

TEST(Completions, HalfACharacterIsNeverStreamed) {
  Rig rig;
  rig.knobs->play(3, "a\xED\x95\x9C\xF0\x9F\x98\x80z\xE2\x82");
  const json::object body{
      {"model", "toy"}, {"prompt", "abc"}, {"max_tokens", 50}, {"stream", true}};
  std::string text;
  for (const json::value& event : events(complete(rig, body).body)) {
    if (event.is_object()) text += text_of(event.at("choices").at(0).at("text"));
  }
  EXPECT_EQ(text.substr(0, 9), "a\xED\x95\x9C\xF0\x9F\x98\x80z");
  EXPECT_EQ(text.substr(9), "\xEF\xBF\xBD");
}

TEST(Completions, LogprobsWithEcho) {
  Rig rig;
  const json::value choice = complete(rig, {{"model", "toy"},
                                            {"prompt", "abc"},
                                            {"max_tokens", 2},
                                            {"temperature", 0},
                                            {"logprobs", 2},
                                            {"echo", true}})
                                 .value()
                                 .at("choices")
                                 .at(0);
  const json::value& logprobs = choice.at("logprobs");
  EXPECT_EQ(keys(logprobs), (Keys{"text_offset", "token_logprobs", "tokens", "top_logprobs"}));
  EXPECT_EQ(json::serialize(logprobs.at("text_offset")), "[0,1,2,3,4]");
  EXPECT_TRUE(logprobs.at("token_logprobs").at(0).is_null());
  EXPECT_TRUE(logprobs.at("top_logprobs").at(0).is_null());
  std::string joined;
  for (const json::value& token : logprobs.at("tokens").as_array()) joined += text_of(token);
  EXPECT_EQ(joined, text_of(choice.at("text")));
  EXPECT_TRUE(joined.starts_with("abc"));
  // The token itself and two more, unless it is one of the two.
  for (size_t i = 1; i < 5; ++i) {
    const size_t size = logprobs.at("top_logprobs").at(i).as_object().size();
    EXPECT_TRUE(size == 2 || size == 3) << size;
  }
  ASSERT_EQ(choice.at("prompt_logprobs").as_array().size(), 3U);
  EXPECT_TRUE(choice.at("prompt_logprobs").at(0).is_null());
  EXPECT_EQ(keys(choice.at("prompt_logprobs").at(1).at("98")),
            (Keys{"logprob", "rank", "decoded_token"}));
}

TEST(Completions, EchoWithoutTokensShowsThePromptOnly) {
  Rig rig;
  const json::value value =
      complete(rig, {{"model", "toy"}, {"prompt", "abc"}, {"max_tokens", 0}, {"echo", true}})
          .value();
  EXPECT_EQ(value.at("choices").at(0).at("text"), "abc");
  EXPECT_EQ(value.at("usage").at("completion_tokens"), 0);
}

TEST(Completions, TokensAsIds) {
  Rig rig;
  const json::value value = complete(rig, {{"model", "toy"},
                                           {"prompt", "abc"},
                                           {"max_tokens", 2},
                                           {"logprobs", 1},
                                           {"return_tokens_as_token_ids", true}})
                                .value();
  const json::value& logprobs = value.at("choices").at(0).at("logprobs");
  EXPECT_TRUE(text_of(logprobs.at("tokens").at(0)).starts_with("token_id:"));
  EXPECT_EQ(logprobs.at("text_offset").at(1).as_int64(),
            static_cast<int64_t>(logprobs.at("tokens").at(0).as_string().size()));
}

TEST(Completions, ThePromptCanBeTruncated) {
  Rig rig;
  json::object body{{"model", "toy"},
                    {"prompt", "abcdef"},
                    {"max_tokens", 2},
                    {"return_token_ids", true},
                    {"truncate_prompt_tokens", 2}};
  const auto kept = [&] {
    return json::serialize(complete(rig, body).value().at("choices").at(0).at("prompt_token_ids"));
  };
  EXPECT_EQ(kept(), "[101,102]");
  body["truncation_side"] = "right";
  EXPECT_EQ(kept(), "[97,98]");
}

TEST(Completions, WithoutATokenizerTokenIdsStillWork) {
  Rig rig(TestSettings{}, false);
  const Answer ids = complete(rig, {{"model", "toy"},
                                    {"prompt", {1, 2, 3}},
                                    {"max_tokens", 3},
                                    {"logprobs", 1},
                                    {"return_token_ids", true}});
  ASSERT_EQ(ids.status, 200) << ids.body;
  EXPECT_EQ(ids.value().at("choices").at(0).at("text"), "");
  EXPECT_EQ(ids.value().at("choices").at(0).at("token_ids").as_array().size(), 3U);
  EXPECT_EQ(complete(rig, {{"model", "toy"}, {"prompt", "x"}}).status, 400);
  EXPECT_EQ(complete(rig, {{"model", "toy"}, {"prompt", {1}}, {"stop", "x"}}).status, 400);
}

TEST(Completions, MaxTokensIsShortenedToWhatThePromptLeaves) {
  Rig rig;
  const std::string prompt(4000, 'a');
  for (const int64_t asked : {96, 97, 200, 4096}) {
    const Answer answer =
        complete(rig, {{"model", "toy"}, {"prompt", prompt}, {"max_tokens", asked}});
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.value().at("usage").at("completion_tokens"), 96);
    EXPECT_EQ(answer.value().at("choices").at(0).at("finish_reason"), "length");
  }
  // Alone it is too much.
  const Answer answer = complete(rig, {{"model", "toy"}, {"prompt", "a"}, {"max_tokens", 4097}});
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.value().at("error").at("param"), "max_tokens");
}

TEST(Completions, TooLongAPromptIsRefusedInTheWordsThatClientsLookFor) {
  Rig rig;
  const std::string start = "This model's maximum context length is 4096 tokens";
  json::array ids;
  for (int i = 0; i < 4096; ++i) ids.push_back(97);
  for (const json::value& prompt :
       {json::value(std::string(4096, 'a')), json::value(std::string(100000, 'a')),
        json::value(ids), json::value{"a", std::string(4096, 'a')}}) {
    for (const int tokens : {1, 4000}) {
      const Answer answer =
          complete(rig, {{"model", "toy"}, {"prompt", prompt}, {"max_tokens", tokens}});
      ASSERT_EQ(answer.status, 400);
      const json::value error = answer.value().at("error");
      EXPECT_TRUE(text_of(error.at("message")).starts_with(start)) << answer.body;
      EXPECT_EQ(error.at("param"), "input_tokens");
    }
  }
  const Answer answer =
      chat(rig, {{"messages", {{{"role", "user"}, {"content", std::string(4096, 'a')}}}}});
  EXPECT_EQ(answer.status, 400);
  EXPECT_TRUE(text_of(answer.value().at("error").at("message")).starts_with(start));
}

TEST(Completions, WhateverMakesAPromptTooLongTheWordsAreTheSame) {
  Rig rig(TestSettings{{"max-input-tokens", "100"}, {"max-prompt-bytes", "1024"}});
  const auto text = [](size_t bytes) { return std::string(bytes, 'a'); };
  for (const size_t bytes : {101, 2000}) {
    const json::object message{{"role", "user"}, {"content", text(bytes)}};
    for (const Answer& answer : {complete(rig, {{"prompt", text(bytes)}}),
                                 complete(rig, {{"prompt", json::array(bytes, 97)}}),
                                 chat(rig, {{"messages", json::array{message}}})}) {
      EXPECT_EQ(answer.status, 400);
      EXPECT_TRUE(text_of(answer.value().at("error").at("message"))
                      .starts_with("This model's maximum context length is 4096 tokens"))
          << answer.body;
    }
  }
  EXPECT_EQ(complete(rig, {{"prompt", text(100)}, {"max_tokens", 1}}).status, 200);
}

TEST(Completions, WithoutAModelItIsTheOneThatIsServed) {
  Rig rig;
  for (const json::value& model : {json::value(nullptr), json::value("")}) {
    const json::object body{{"model", model}, {"prompt", "abc"}, {"max_tokens", 2}};
    EXPECT_EQ(complete(rig, body).value().at("model"), "toy");
  }
  EXPECT_EQ(complete(rig, {{"prompt", "abc"}, {"max_tokens", 2}}).value().at("model"), "toy");
  EXPECT_EQ(chat(rig, {{"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"max_tokens", 2}})
                .value()
                .at("model"),
            "toy");
  EXPECT_EQ(ask(rig, post("/tokenize", R"({"prompt":"a"})")).status, 200);
}

TEST(Completions, DefaultsComeFromTheGenerationConfig) {
  Rig rig(
      TestSettings{{"override-generation-config", R"({"max_new_tokens": 5, "temperature": 0})"}});
  const json::value value =
      complete(rig, {{"model", "toy"}, {"prompt", "abc"}, {"max_tokens", 50}}).value();
  EXPECT_EQ(value.at("usage").at("completion_tokens"), 5);
  // Greedy by default now, so two of the same make no sense.
  EXPECT_EQ(complete(rig, {{"model", "toy"}, {"prompt", "abc"}, {"n", 2}}).status, 400);
}

TEST(Completions, RequestIdsAreTakenOver) {
  Rig rig(TestSettings{{"enable-request-id-headers", "true"}});
  const std::string body = R"({"model":"toy","prompt":"abc","max_tokens":1})";
  const Answer answer = ask(rig, post("/v1/completions", body, "X-Request-Id: my-id.7\r\n"));
  EXPECT_EQ(answer.value().at("id"), "cmpl-my-id.7");
  EXPECT_EQ(answer.header("x-request-id"), "my-id.7");
}

}  // namespace
}  // namespace moesaic::server::testing
