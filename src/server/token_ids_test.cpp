// Token ids that the model does not have, from wherever they come: the tokenizer here knows 259 ids
// and the model 200, so bytes from 200 on (the first of 한 is 237) and the special tokens are not
// the model's.

#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

constexpr int64_t kRows = 200;
const std::string kHan = "\xED\x95\x9C";

struct Case {
  std::string name;
  std::string path;
  std::string body;
  std::string param;  ///< "" = the request is right
};

void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

std::string completion(const std::string& members) {
  return R"({"model":"toy","max_tokens":2,)" + members + "}";
}
std::string text(const std::string& prompt, const std::string& more = "") {
  return completion(R"("prompt":")" + prompt + "\"" + more);
}

std::vector<Case> cases() {
  const std::string completions = "/v1/completions", chat = "/v1/chat/completions";
  return {
      {"text", completions, text("x " + kHan), "prompt"},
      {"special_token_in_text", completions, text("x <|im_end|>"), "prompt"},
      {"second_prompt", completions, completion(R"("prompt":["a","<|im_end|>"])"), "prompt"},
      {"echo_only", completions,
       R"({"model":"toy","max_tokens":0,"echo":true,"prompt":"<|im_end|>"})", "prompt"},
      {"streamed", completions, text(kHan, R"(,"stream":true)"), "prompt"},
      {"ids", completions, completion(R"("prompt":[97,200])"), "prompt"},
      {"ids_of_many_prompts", completions, completion(R"("prompt":[[97],[97,200]])"), "prompt.1"},
      {"template", chat, R"({"model":"toy","messages":[{"role":"user","content":"hi"}]})",
       "messages"},
      {"bad_word", completions, text("a", R"(,"bad_words":["ok","a)" + kHan + R"("])"),
       "bad_words"},
      {"logit_bias", completions, text("a", R"(,"logit_bias":{"200":1})"), "logit_bias"},
      {"stop_ids", completions, text("a", R"(,"stop_token_ids":[97,200])"), "stop_token_ids"},
      {"allowed_ids", completions, text("a", R"(,"allowed_token_ids":[97,258])"),
       "allowed_token_ids"},
      {"the_last_id", completions, completion(R"("prompt":[199])"), ""},
      // Only what the prompt keeps must be known.
      {"truncated_away", completions, text(kHan + "abc", R"(,"truncate_prompt_tokens":3)"), ""},
      {"stop_string", completions, text("a", R"(,"stop":")" + kHan + "\""), ""},
      // Text alone, which no model sees.
      {"tokenize", "/tokenize", R"({"prompt":"<|im_end|>"})", ""},
      {"detokenize", "/detokenize", R"({"tokens":[258]})", ""},
      {"detokenize_nothing_knows", "/detokenize", R"({"tokens":[259]})", "tokens"},
  };
}

class TokenIds : public ::testing::TestWithParam<Case> {};

TEST_P(TokenIds, OutsideTheModelAreRefusedAndDisturbNobody) {
  const Case& one = GetParam();
  Rig rig({}, true, kRows);
  Client beside(rig.server->port());
  beside.send(post("/v1/completions", completion(R"("prompt":"abc","stream":true)")));
  const Answer answer = ask(rig, post(one.path, one.body));
  EXPECT_TRUE(beside.answer().body.ends_with("data: [DONE]\n\n"));
  if (one.param.empty()) {
    EXPECT_EQ(answer.status, 200) << answer.body;
    return;
  }
  EXPECT_EQ(answer.status, 400) << answer.body;
  EXPECT_EQ(answer.value().at("error").at("param"), json::value(one.param)) << answer.body;
  EXPECT_NE(answer.body.find("token id 2"), std::string::npos) << answer.body;
  EXPECT_TRUE(Rig::eventually([&] { return rig.all_blocks_back(); }));
}

INSTANTIATE_TEST_SUITE_P(Places, TokenIds, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moesaic::server::testing
