// text_offset of /v1/completions: where each token begins in the text, streamed or whole.

#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

/// Of one choice.
struct Offsets {
  std::string text;
  std::vector<int64_t> offsets;
  std::vector<std::string> tokens;
  int64_t nulls = 0;  ///< tokens without a logprob
};

void add(Offsets& all, const json::value& choice) {
  all.text += text_of(choice.at("text"));
  if (choice.at("logprobs").is_null()) return;
  const json::object& lists = choice.at("logprobs").as_object();
  for (const json::value& offset : lists.at("text_offset").as_array()) {
    all.offsets.push_back(offset.as_int64());
  }
  for (const json::value& token : lists.at("tokens").as_array()) {
    all.tokens.push_back(text_of(token));
  }
  for (const json::value& logprob : lists.at("token_logprobs").as_array()) {
    all.nulls += logprob.is_null();
  }
}

/// By choice, streamed or whole.
std::vector<Offsets> ask_for(const Rig& rig, json::object body, bool stream) {
  body["model"] = "toy";
  body["logprobs"] = 1;
  if (stream) body["stream"] = true;
  const Answer answer = complete(rig, body);
  EXPECT_EQ(answer.status, 200) << answer.body;
  std::vector<Offsets> all(body.contains("n") ? static_cast<size_t>(body["n"].as_int64()) : 1);
  const auto read = [&](const json::value& value) {
    for (const json::value& choice : value.at("choices").as_array()) {
      add(all.at(static_cast<size_t>(choice.at("index").as_int64())), choice);
    }
  };
  if (!stream) {
    read(answer.value());
    return all;
  }
  for (const json::value& event : events(answer.body)) {
    if (event.is_object()) read(event);
  }
  return all;
}

TEST(TextOffset, IsThePlaceInTheTextWhileItIsHeldBack) {
  Rig rig;
  rig.knobs->play(3, "ab\xED\x95\x9C--x-\xF0\x9F\x98\x80-yz");
  for (const bool stream : {false, true}) {
    const auto all =
        ask_for(rig, {{"prompt", "abc"}, {"max_tokens", 30}, {"stop", {"--x--", "-y-"}}}, stream);
    EXPECT_EQ(all[0].text, "ab\xED\x95\x9C--x-\xF0\x9F\x98\x80-yz");
    // The last is the end of the sequence.
    EXPECT_EQ(all[0].offsets,
              (std::vector<int64_t>{0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 7, 7, 7, 8, 9, 10, 11}));
  }
}

TEST(TextOffset, GoesOnAfterAnEchoedPrompt) {
  Rig rig;
  const std::string prompt =
      "a\xED\x95\x9C\xF0\x9F\x98\x80"
      "b";
  rig.knobs->play(9, "\xC3\xA9zz");
  const std::vector<int64_t> expected = {0, 1, 1, 1, 2, 2, 2, 2, 3, 4, 4, 5, 6, 7};
  for (const bool stream : {false, true}) {
    const auto all = ask_for(rig, {{"prompt", prompt}, {"max_tokens", 30}, {"echo", true}}, stream);
    EXPECT_EQ(all[0].text, prompt + "\xC3\xA9zz");
    EXPECT_EQ(all[0].offsets, expected);
  }
  // A special token is part of a prompt that is text, but of none that is made of ids.
  rig.knobs->play(3, "z");
  for (const bool stream : {false, true}) {
    EXPECT_EQ(ask_for(rig, {{"prompt", "a<|im_end|>b"}, {"echo", true}}, stream)[0].offsets,
              (std::vector<int64_t>{0, 1, 11, 12, 13}));
    EXPECT_EQ(ask_for(rig, {{"prompt", {97, 258, 98}}, {"echo", true}}, stream)[0].offsets,
              (std::vector<int64_t>{0, 1, 1, 2, 3}));
  }
}

TEST(TextOffset, OfTokensAsIdsCountsThose) {
  Rig rig;
  rig.knobs->play(2, "z");
  for (const bool stream : {false, true}) {
    const auto all = ask_for(
        rig,
        {{"prompt", "ab"}, {"max_tokens", 9}, {"echo", true}, {"return_tokens_as_token_ids", true}},
        stream);
    int64_t characters = 0;
    ASSERT_EQ(all[0].offsets.size(), 4U);
    for (size_t i = 0; i < all[0].offsets.size(); ++i) {
      EXPECT_EQ(all[0].offsets[i], characters);
      characters += static_cast<int64_t>(all[0].tokens[i].size());
    }
  }
}

TEST(TextOffset, EveryChoiceStreamsTheEchoedPromptFirst) {
  Rig rig;
  for (const std::string& prompt : {std::string("q"), std::string(600, 'q')}) {
    const json::object body{{"prompt", prompt}, {"max_tokens", 4}, {"n", 3}, {"echo", true}};
    const auto whole = ask_for(rig, body, false);
    const auto streamed = ask_for(rig, body, true);
    ASSERT_EQ(streamed.size(), 3U);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(streamed[i].offsets.size(), prompt.size() + 4);
      EXPECT_EQ(streamed[i].nulls, 1);
      EXPECT_TRUE(streamed[i].text.starts_with(prompt));
      EXPECT_EQ(streamed[i].offsets, whole[i].offsets);
      EXPECT_EQ(streamed[i].tokens.front(), "q");
    }
  }
}

}  // namespace
}  // namespace moesaic::server::testing
