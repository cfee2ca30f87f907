// /v1/chat/completions, /tokenize and /detokenize against a toy model.

#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

const json::array kQuestion = {json::object{{"role", "user"}, {"content", "hi"}}};
const json::array kTools = {
    json::object{{"type", "function"},
                 {"function", json::object{{"name", "weather"}, {"parameters", json::object{}}}}}};

json::object request(json::object more = {}) {
  json::object body{{"model", "toy"}, {"messages", kQuestion}, {"max_tokens", 60}};
  for (const auto& [key, value] : more) body[key] = value;
  return body;
}

int64_t prompt_size(const Rig& rig, json::object body) {
  const Answer answer = ask(rig, post("/tokenize", json::serialize(body)));
  return answer.value().at("count").as_int64();
}

/// Makes the model say `text` to `body`.
void play(Rig& rig, const json::object& body, std::string_view text) {
  rig.knobs->play(prompt_size(rig, body), text);
}

TEST(Chat, TheWholeAnswerHasTheFieldsOfVllm) {
  Rig rig;
  play(rig, request(), "Hello there");
  const Answer answer = chat(rig, request());
  ASSERT_EQ(answer.status, 200) << answer.body;
  json::value value = answer.value();
  EXPECT_TRUE(text_of(value.at("id")).starts_with("chatcmpl-"));
  value.as_object()["id"] = "I";
  value.as_object()["created"] = 0;
  value.as_object()["system_fingerprint"] = "F";
  const int64_t prompt = prompt_size(rig, request());
  EXPECT_EQ(
      json::serialize(value),
      R"({"id":"I","object":"chat.completion","created":0,"model":"toy","choices":[{"index":0,)"
      R"("message":{"role":"assistant","content":"Hello there","refusal":null,"annotations":null,)"
      R"("audio":null,"function_call":null,"reasoning":null},"logprobs":null,)"
      R"("finish_reason":"stop","stop_reason":null,"token_ids":null,"routed_experts":null}],)"
      R"("service_tier":null,"system_fingerprint":"F","usage":{"prompt_tokens":)" +
          std::to_string(prompt) + R"(,"total_tokens":)" + std::to_string(prompt + 12) +
          R"(,"completion_tokens":12,"prompt_tokens_details":null,)"
          R"("completion_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,)"
          R"("prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,)"
          R"("metrics":null})");
}

TEST(Chat, AStreamStartsWithTheRoleAndEndsWithTheReason) {
  Rig rig;
  play(rig, request(), "Hello");
  const auto list = events(chat(rig, request({{"stream", true}})).body);
  ASSERT_GE(list.size(), 4U);
  EXPECT_EQ(list.back(), "[DONE]");
  EXPECT_EQ(json::serialize(list[0].at("choices").at(0)),
            R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,)"
            R"("finish_reason":null})");
  EXPECT_TRUE(list[0].as_object().contains("prompt_token_ids"));
  std::string text;
  for (size_t i = 1; i + 1 < list.size(); ++i) {
    const json::value& choice = list[i].at("choices").at(0);
    const bool last = i + 2 == list.size();
    EXPECT_EQ(choice.at("finish_reason").is_null(), !last);
    EXPECT_EQ(list[i].as_object().contains("system_fingerprint"), last);
    if (const auto* content = choice.at("delta").as_object().if_contains("content")) {
      text += text_of(*content);
    }
  }
  EXPECT_EQ(text, "Hello");
}

TEST(Chat, LogprobsHaveBytes) {
  Rig rig;
  play(rig, request(), "Hi");
  const json::value value =
      chat(rig, request({{"logprobs", true}, {"top_logprobs", 2}, {"temperature", 0}})).value();
  const json::value& content = value.at("choices").at(0).at("logprobs").at("content");
  ASSERT_EQ(content.as_array().size(), 3U);  // with the end
  EXPECT_EQ(content.at(0).at("token"), "H");
  EXPECT_EQ(json::serialize(content.at(0).at("bytes")), "[72]");
  EXPECT_EQ(content.at(0).at("top_logprobs").as_array().size(), 2U);
  EXPECT_LE(content.at(0).at("logprob").to_number<double>(), 0);
}

TEST(Chat, ToolCallsAreParsedWhole) {
  Rig rig;
  const json::object body = request({{"tools", kTools}});
  EXPECT_GT(prompt_size(rig, body), prompt_size(rig, request()));
  play(rig, body, R"(Sure.<tool_call>{"name":"weather","arguments":{"town":"Ostra"}}</tool_call>)");
  const json::value answer = chat(rig, request({{"tools", kTools}, {"max_tokens", 200}})).value();
  const json::value& choice = answer.at("choices").at(0);
  EXPECT_EQ(choice.at("finish_reason"), "tool_calls");
  EXPECT_EQ(choice.at("message").at("content"), "Sure.");
  const json::value& call = choice.at("message").at("tool_calls").at(0);
  EXPECT_EQ(call.at("type"), "function");
  EXPECT_EQ(call.at("function").at("name"), "weather");
  EXPECT_EQ(call.at("function").at("arguments"), R"({"town":"Ostra"})");
  // tool_choice none: the same text is only text.
  const json::value plain =
      chat(rig, request({{"tools", kTools}, {"max_tokens", 200}, {"tool_choice", "none"}})).value();
  EXPECT_FALSE(plain.at("choices").at(0).at("message").as_object().contains("tool_calls"));
  EXPECT_EQ(plain.at("choices").at(0).at("finish_reason"), "stop");
}

TEST(Chat, ToolCallsAreStreamedAsDeltas) {
  Rig rig;
  play(rig, request({{"tools", kTools}}),
       R"(<tool_call>{"name":"weather","arguments":{"town":"Ostra"}}</tool_call>)");
  const auto list =
      events(chat(rig, request({{"tools", kTools}, {"max_tokens", 200}, {"stream", true}})).body);
  std::string name, arguments, content, reason;
  for (const json::value& event : list) {
    if (!event.is_object()) continue;
    const json::value& choice = event.at("choices").at(0);
    const json::object& delta = choice.at("delta").as_object();
    if (const auto* text = delta.if_contains("content")) content += text_of(*text);
    if (const auto* calls = delta.if_contains("tool_calls")) {
      EXPECT_EQ(calls->at(0).at("index"), 0);
      const json::object& function = calls->at(0).at("function").as_object();
      if (const auto* part = function.if_contains("name")) name += text_of(*part);
      arguments += text_of(function.at("arguments"));
    }
    if (choice.at("finish_reason").is_string()) reason = text_of(choice.at("finish_reason"));
  }
  EXPECT_EQ(name, "weather");
  EXPECT_EQ(arguments, R"({"town":"Ostra"})");
  EXPECT_EQ(content, "");
  EXPECT_EQ(reason, "tool_calls");
}

TEST(Chat, PartsAndToolMessagesReachTheTemplate) {
  Rig rig;
  const json::value answer =
      chat(rig,
           request({{"messages",
                     {json::object{{"role", "user"},
                                   {"content",
                                    {json::object{{"type", "text"}, {"text", "a"}},
                                     json::object{{"type", "text"}, {"text", "b"}}}}},
                      json::object{{"role", "assistant"},
                                   {"content", nullptr},
                                   {"tool_calls",
                                    {json::object{{"id", "1"},
                                                  {"type", "function"},
                                                  {"function",
                                                   {{"name", "weather"},
                                                    {"arguments", R"({"town":"Ostra"})"}}}}}}},
                      json::object{{"role", "tool"}, {"tool_call_id", "1"}, {"content", "sunny"}}}},
                    {"return_prompt_text", true}}))
          .value();
  EXPECT_EQ(answer.at("prompt_text"),
            "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\nOstra<|im_end|>\n"
            "<|im_start|>tool\nsunny<|im_end|>\n<|im_start|>assistant\n");
}

TEST(Chat, TheFinalMessageCanBeContinued) {
  Rig rig;
  const json::array messages = {json::object{{"role", "user"}, {"content", "hi"}},
                                json::object{{"role", "assistant"}, {"content", "so "}}};
  const json::object body = request({{"messages", messages},
                                     {"continue_final_message", true},
                                     {"add_generation_prompt", false},
                                     {"return_prompt_text", true},
                                     {"echo", true}});
  play(rig, body, "it goes");
  const json::value answer = chat(rig, body).value();
  EXPECT_EQ(answer.at("prompt_text"), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nso ");
  EXPECT_EQ(answer.at("choices").at(0).at("message").at("content"), "so it goes");
}

TEST(Chat, TemplateArgumentsArePassedButBuiltInsAreSafe) {
  Rig rig;
  const json::value answer =
      chat(rig,
           request({{"chat_template_kwargs", {{"shout", "HEY"}}}, {"return_prompt_text", true}}))
          .value();
  EXPECT_TRUE(text_of(answer.at("prompt_text")).ends_with("HEY"));
  for (const char* name : {"messages", "tools", "add_generation_prompt", "raise_exception"}) {
    EXPECT_EQ(chat(rig, request({{"chat_template_kwargs", {{name, "x"}}}})).status, 400) << name;
  }
}

TEST(Chat, SpecialTokensInUserTextAreText) {
  Rig rig;
  const json::array messages = {json::object{{"role", "user"}, {"content", "<|im_end|>"}}};
  const Answer answer =
      ask(rig, post("/tokenize", json::serialize(json::object{{"messages", messages}})));
  const json::value tokens = answer.value();
  int64_t ends = 0;
  for (const json::value& id : tokens.at("tokens").as_array()) ends += id == 258;
  EXPECT_EQ(ends, 1);
}

TEST(Tokenize, RoundTrip) {
  Rig rig;
  const Answer tokens =
      ask(rig, post("/tokenize", R"({"model":"toy","prompt":"hey","return_token_strs":true})"));
  EXPECT_EQ(tokens.body, R"({"count":3,"max_model_len":4096,"tokens":[104,101,121],)"
                         R"("token_strs":["h","e","y"]})");
  EXPECT_EQ(ask(rig, post("/detokenize", R"({"tokens":[104,101,121]})")).body,
            R"({"prompt":"hey"})");
  EXPECT_EQ(ask(rig, post("/tokenize", R"({"prompt":"x"})")).value().at("token_strs"), nullptr);
  EXPECT_EQ(ask(rig, post("/tokenize", R"({"model":"no","prompt":"x"})")).status, 404);
  EXPECT_EQ(ask(rig, post("/tokenize", R"({})")).status, 400);
  EXPECT_EQ(ask(rig, post("/detokenize", R"({"tokens":[99999]})")).status, 400);
}

}  // namespace
}  // namespace moesaic::server::testing
