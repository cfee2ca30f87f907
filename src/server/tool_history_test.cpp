// Tool calls from a model's text through an answer into the next prompt: what is handed out is
// taken back, and numbers stay as they were written.

#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

const json::array kTools = {
    json::object{{"type", "function"},
                 {"function", json::object{{"name", "weather"}, {"parameters", json::object{}}}}}};

/// Shows each message, its calls as a model would have written them.
constexpr const char* kTemplate =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.name }} {{ c.function.arguments | tojson }}"
    "{% for k, v in c.function.arguments.items() %}|{{ v }}{% endfor %}>{% endfor %}{% endfor %}"
    "{% for t in tools or [] %}{{ t.function.parameters | tojson }}{% endfor %}";

class ToolHistory : public ::testing::Test {
 protected:
  Answer ask_on(json::array messages, bool stream) const {
    json::object body{{"messages", std::move(messages)},
                      {"tools", kTools},
                      {"max_tokens", 400},
                      {"return_prompt_text", true}};
    if (stream) body["stream"] = true;
    return chat(rig, body);
  }

  /// The message of an answer to `question` for which the model writes `said`.
  json::object answer_to(const json::array& question, std::string_view said, bool stream) {
    rig.knobs->play(1, "x");
    const json::value before = ask_on(question, false).value();
    rig.knobs->play(before.at("usage").at("prompt_tokens").as_int64(), said);
    const Answer answer = ask_on(question, stream);
    EXPECT_EQ(answer.status, 200) << answer.body;
    if (!stream) return answer.value().at("choices").at(0).at("message").as_object();
    return collected(answer.body);
  }

  /// As clients put a message together from the events of a stream.
  static json::object collected(const std::string& stream) {
    std::string role, content;
    json::array calls;
    for (const json::value& event : events(stream)) {
      if (!event.is_object()) continue;
      const json::object& delta = event.at("choices").at(0).at("delta").as_object();
      if (const auto* text = delta.if_contains("role")) role += text_of(*text);
      if (const auto* text = delta.if_contains("content")) content += text_of(*text);
      if (!delta.contains("tool_calls")) continue;
      for (const json::value& part : delta.at("tool_calls").as_array()) {
        const auto index = static_cast<size_t>(part.at("index").as_int64());
        if (index == calls.size()) {
          calls.push_back(part);
          continue;
        }
        json::value& arguments = calls[index].as_object()["function"].as_object()["arguments"];
        arguments.as_string().append(part.at("function").at("arguments").as_string());
      }
    }
    json::object message{{"role", role}, {"content", content}};
    if (!calls.empty()) message["tool_calls"] = calls;
    return message;
  }

  /// The prompt of the turn after `message`, with a result for each of its calls.
  std::string next_prompt(const json::array& question, const json::object& message) {
    json::array messages = question;
    messages.push_back(message);
    if (const json::value* calls = message.if_contains("tool_calls")) {
      for (const json::value& call : calls->as_array()) {
        const json::value* id = call.as_object().if_contains("id");
        messages.push_back(
            {{"role", "tool"}, {"tool_call_id", id ? *id : nullptr}, {"content", "done"}});
      }
    }
    rig.knobs->play(1, "x");
    const Answer answer = ask_on(messages, false);
    EXPECT_EQ(answer.status, 200) << json::serialize(message) << answer.body;
    return answer.status == 200 ? text_of(answer.value().at("prompt_text")) : "";
  }

  Rig rig{{{"chat-template", kTemplate}}};
  json::array question = {json::object{{"role", "user"}, {"content", "hi"}}};
};

TEST_F(ToolHistory, EveryAnswerIsTakenBack) {
  const std::string deep = std::string(55, '[') + std::string(55, ']');
  const std::pair<std::string, const char*> said[] = {
      {R"({"name":"f","arguments":{"town": "Ostra"}})", R"(<f {"town": "Ostra"}|Ostra>)"},
      {R"({"name":"f","arguments":"words"})", "<f {}>"},
      {R"({"name":"f","arguments":"{\"a\": 1}"})", "<f {\"a\": 1}|1>"},
      {R"({"name":"f","arguments":[1,2]})", "<f {}>"},
      {R"({"name":"f","arguments":null})", "<f {}>"},
      {R"({"name":"f","arguments":7})", "<f {}>"},
      {R"({"name":"f","arguments":12345678901234567890123})", "<f {}>"},
      {R"({"name":"f","arguments":true})", "<f {}>"},
      {R"({"name":"f"})", "<f {}>"},
      {R"({"name":"a\u0007\u0000b","arguments":{}})", "{}>"},
      {R"({"name":"f","arguments":{"x":)" + deep + "}}", "<f {\"x\": [[["},
      {R"({"name":"f","arguments":{"x":1e999}})", "<tool_call>"},
      {R"({"name":"f","arguments":{"x":1,"x":2}})", "<tool_call>"},
      {R"({"name":"f","arguments":{"x": "y)", "<tool_call>"},
      {R"(<tool_call>)", "<tool_call>"},
      {R"({"name":"","arguments":{}})", "<tool_call>"},
  };
  for (const auto& [body, shown] : said) {
    for (const bool stream : {false, true}) {
      const json::object message =
          answer_to(question, "Well. <tool_call>" + body + "</tool_call>", stream);
      EXPECT_NE(next_prompt(question, message).find(shown), std::string::npos)
          << body << next_prompt(question, message);
    }
  }
  for (const char* text : {"plain", " ", "a<|im_end|>b", "\"", "\xED\x95\x9C", "\x01", "{{ 1 }}"}) {
    for (const bool stream : {false, true}) {
      next_prompt(question, answer_to(question, text, stream));
    }
  }
}

TEST_F(ToolHistory, NumbersPassAsTheModelWroteThem) {
  const std::string arguments =
      R"({"a": 12345678901234567890123, "b": 2.5, "c": [1e5, 2.50, -0, 1.0], "d": 0.1, )"
      R"("e": 123456789012345678901234567890123456789012345678901234567890, "f": -7, "g": 1e-7})";
  const json::object message = answer_to(
      question, R"(<tool_call>{"name": "f", "arguments": )" + arguments + "}</tool_call>", false);
  EXPECT_EQ(message.at("tool_calls").at(0).at("function").at("arguments"), arguments.c_str());
  const std::string prompt = next_prompt(question, message);
  EXPECT_NE(prompt.find("<f " + arguments + "|12345678901234567890123|2.5|["), std::string::npos)
      << prompt;
}

TEST_F(ToolHistory, NumbersOfTheRequestKeepTheirDigits) {
  const char* body =
      R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f",
          "arguments": {"a": 12345678901234567890123, "b": 0.30000000000000004}}}]}],
          "tools": [{"type": "function", "function": {"name": "g", "parameters":
          {"maximum": 340282366920938463463374607431768211456, "minimum": 3.3000000000000003}}}],
          "max_tokens": 1, "return_prompt_text": true})";
  const Answer answer = ask(rig, post("/v1/chat/completions", body));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(
      answer.value().at("prompt_text"),
      R"(<assistant><f {"a": 12345678901234567890123, "b": 0.30000000000000004})"
      R"(|12345678901234567890123|0.30000000000000004>)"
      R"({"maximum": 340282366920938463463374607431768211456, "minimum": 3.3000000000000003})");
}

TEST_F(ToolHistory, AMalformedCallIsAnEmptyOne) {
  for (const char* arguments :
       {R"({"a": "x)", "", "{'a': 1}", R"({"a": 1} x)", "[1]", "\"x\"", "null", "3"}) {
    const json::object call{
        {"id", "1"}, {"type", "function"}, {"function", {{"name", "f"}, {"arguments", arguments}}}};
    const json::object message{{"role", "assistant"}, {"tool_calls", {call}}};
    EXPECT_NE(next_prompt(question, message).find("<f {}>"), std::string::npos) << arguments;
  }
  for (const json::value& arguments :
       {json::value(nullptr), json::value(json::array{1}), json::value(3), json::value(true)}) {
    const json::object call{{"function", {{"name", "f"}, {"arguments", arguments}}}};
    const json::object message{{"role", "assistant"}, {"tool_calls", {call}}};
    EXPECT_NE(next_prompt(question, message).find("<f {}>"), std::string::npos);
  }
}

}  // namespace
}  // namespace moesaic::server::testing
