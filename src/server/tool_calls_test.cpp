#include "server/tool_calls.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <set>
#include <sstream>
#include <utility>

#include "base/settings.h"
#include "server/reasoning.h"

namespace moesaic::server {
namespace {

ToolCallParser::Pieces parse(const std::string& text, size_t piece,
                             const CallForm& form = call_forms().front(),
                             const TextParameters& texts = {}) {
  ToolCallParser parser(form, std::make_shared<const TextParameters>(texts));
  ToolCallParser::Pieces all;
  const auto add = [&](ToolCallParser::Pieces pieces) {
    all.content += pieces.content;
    for (ToolCall& call : pieces.calls) all.calls.push_back(std::move(call));
  };
  for (size_t at = 0; at < text.size(); at += piece) add(parser.add(text.substr(at, piece)));
  add(parser.end());
  return all;
}

TEST(ToolCallParser, SeparatesCallsFromTextInAnyPieces) {
  const std::string text =
      "Let me see.<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"town\": \"Ostra\"}}\n"
      "</tool_call>\n<tool_call>{\"name\":\"time\"}</tool_call>\n";
  for (size_t piece = 1; piece < text.size(); ++piece) {
    const auto pieces = parse(text, piece);
    EXPECT_EQ(pieces.content, "Let me see.");
    ASSERT_EQ(pieces.calls.size(), 2U);
    EXPECT_EQ(pieces.calls[0].name, "weather");
    EXPECT_EQ(pieces.calls[0].arguments, R"({"town": "Ostra"})");
    EXPECT_EQ(pieces.calls[1].name, "time");
    EXPECT_EQ(pieces.calls[1].arguments, "{}");
  }
}

TEST(ToolCallParser, TextBehindACallIsWholeInAnyPieces) {
  const std::string text = "<tool_call>{\"name\":\"x\"}</tool_call>\n\nDone.\n\n";
  for (size_t piece = 1; piece < text.size(); ++piece) {
    EXPECT_EQ(parse(text, piece).content, "\n\nDone.\n\n") << piece;
  }
}

TEST(ToolCallParser, ArgumentsAreAsTheModelWroteThem) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"name":"x","arguments":{"a": 12345678901234567890123, "b":2.50 , "c":[1e5,-0.10]} })",
       R"({"a": 12345678901234567890123, "b":2.50 , "c":[1e5,-0.10]})"},
      {R"({"arguments": {"}": "\"],{", "k": {"arguments": 1}} , "name": "x"})",
       R"({"}": "\"],{", "k": {"arguments": 1}})"},
      {R"({"a":[1,{"b":[]},2],"name":"x","parameters":{"n": 1.0}})", R"({"n": 1.0})"},
      {R"({"name":"x","\u0061rguments":{"n":3}})", R"({"n":3})"},
      {R"({"name":"x","arguments":[1, 2.0]})", "[1, 2.0]"},
      {R"({"name":"x","arguments": -1.50e3})", "-1.50e3"},
      {R"({"name":"x","arguments":"some words"})", R"("some words")"},
      {R"({"name":"x","arguments":null})", "{}"},
      {R"({"name":"x"})", "{}"},
      // The object in a string, which is what the protocol has but not what the model should write.
      {R"({"name":"x","arguments":"{\"n\": 1.50}"})", R"({"n": 1.50})"},
  };
  for (const auto& [call, arguments] : cases) {
    const auto pieces = parse(std::string("<tool_call>\n") + call + "\n</tool_call>", 7);
    ASSERT_EQ(pieces.calls.size(), 1U) << call;
    EXPECT_EQ(pieces.calls[0].arguments, arguments);
  }
}

TEST(ToolCallParser, WhatIsNoCallStaysText) {
  for (const char* text :
       {"plain", "a < b", "<tool_call>not json</tool_call>", "<tool_", "<tool_call>[1]</tool_call>",
        "<tool_call>{\"name\":5}</tool_call>", "<tool_call>{\"name\":\"x\""}) {
    const auto pieces = parse(text, 3);
    EXPECT_EQ(pieces.content, text);
    EXPECT_TRUE(pieces.calls.empty());
  }
}

TEST(ToolCallParser, AWholeCallThatNeverClosedCounts) {
  const auto pieces = parse("<tool_call>{\"name\":\"x\",\"arguments\":{}}", 4);
  EXPECT_EQ(pieces.content, "");
  ASSERT_EQ(pieces.calls.size(), 1U);
}

struct FormCase {
  const char* form;
  std::string text;
  std::string content;
  std::vector<ToolCall> calls;
};

/// As the models' templates and their authors' examples have them.
const std::vector<FormCase>& form_cases() {
  static const std::vector<FormCase> cases = {
      {"hermes",
       "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1.50}}\n</tool_call>\n<tool_call>\n"
       "{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
       "",
       {{"f", R"({"a": 1.50})", ""}, {"g", "{}", ""}}},
      {"mistral",
       R"(Sure.[TOOL_CALLS] [{"name": "f", "arguments": {"a": [1, "]"]}}, {"name": "g", "arguments": {}}])",
       "Sure.",
       {{"f", R"({"a": [1, "]"]})", ""}, {"g", "{}", ""}}},
      {"mistral",
       R"([TOOL_CALLS]f{"a": 3.50}[TOOL_CALLS]g{"b": "{"})",
       "",
       {{"f", R"({"a": 3.50})", ""}, {"g", R"({"b": "{"})", ""}}},
      {"mistral",
       R"([TOOL_CALLS]f[CALL_ID]ab12[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{})",
       "",
       {{"f", R"({"a": 1})", "ab12"}, {"g", "{}", ""}}},
      {"qwen3_coder",
       "I look.\n<tool_call>\n<function=f>\n<parameter=town>\nOstra\nLindow\n</parameter>\n"
       "<parameter=days>\n3\n</parameter>\n<parameter=code>\n42\n</parameter>\n<parameter=list>\n"
       "[1, 2.50]\n</parameter>\n</function>\n</tool_call>",
       "I look.\n",
       {{"f", R"({"town": "Ostra\nLindow", "days": 3, "code": "42", "list": [1, 2.50]})", ""}}},
      {"qwen3_coder",
       "<tool_call>\n<function=g>\n</function>\n</tool_call>",
       "",
       {{"g", "{}", ""}}},
      {"glm45",
       "<tool_call>f\n<arg_key>town</arg_key>\n<arg_value>Ostra</arg_value>\n<arg_key>days</"
       "arg_key>"
       "\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>g\n</tool_call>",
       "",
       {{"f", R"({"town": "Ostra", "days": 3})", ""}, {"g", "{}", ""}}},
      {"deepseek_v3",
       "Yes.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": "
       "1}\n```"
       "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```"
       "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       "Yes.",
       {{"f", R"({"a": 1})", ""}, {"g", "{}", ""}}},
      {"deepseek_v31",
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>"
       "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       "",
       {{"f", R"({"a": 1})", ""}, {"g", "{}", ""}}},
      {"kimi_k2",
       "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
       "{\"a\": 1}<|tool_call_end|><|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}"
       "<|tool_call_end|><|tool_calls_section_end|>",
       "",
       {{"f", R"({"a": 1})", "functions.f:0"}, {"g", "{}", "functions.g:1"}}},
      {"minimax_m2",
       "<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"town\">Ostra</parameter>\n"
       "<parameter name=\"days\">3</parameter>\n</invoke>\n<invoke name=\"g\">\n</invoke>\n"
       "</minimax:tool_call>",
       "",
       {{"f", R"({"town": "Ostra", "days": 3})", ""}, {"g", "{}", ""}}},
      {"minimax",
       "<tool_calls>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n{\"name\": \"g\", "
       "\"arguments\": "
       "{}}\n</tool_calls>",
       "",
       {{"f", R"({"a": 1})", ""}, {"g", "{}", ""}}},
      {"jamba",
       "<tool_calls>[\n    {\"name\": \"f\", \"arguments\": {\"a\": 1}}\n]</tool_calls>",
       "",
       {{"f", R"({"a": 1})", ""}}},
      {"granite",
       R"(<|tool_call|>[{"name": "f", "arguments": {"a": 1}}])",
       "",
       {{"f", R"({"a": 1})", ""}}},
      {"llama3_json",
       R"(<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}})",
       "",
       {{"f", R"({"a": 1})", ""}, {"g", "{}", ""}}},
      {"llama3_json", R"( {"name": "f", "parameters": {"a": 1}})", "", {{"f", R"({"a": 1})", ""}}},
      {"pythonic",
       R"py([f(town='it\'s', days=3, deep={"a": [True, None, (1.50, -2)]}), g()])py",
       "",
       {{"f", R"({"town": "it's", "days": 3, "deep": {"a": [true, null, [1.50, -2]]}})", ""},
        {"g", "{}", ""}}},
      {"llama4_pythonic",
       R"(<|python_start|>[f(a="x\ny")]<|python_end|>)",
       "",
       {{"f", R"({"a": "x\ny"})", ""}}},
      {"xlam",
       R"([{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}])",
       "",
       {{"f", R"({"a": 1})", ""}, {"g", "{}", ""}}},
  };
  return cases;
}

TEST(ToolCallForms, AreReadInAnyPieces) {
  const TextParameters texts = {{"f", {"town", "code"}}};
  for (const FormCase& example : form_cases()) {
    SCOPED_TRACE(std::string(example.form) + ": " + example.text);
    const CallForm* form = find_call_form(example.form);
    ASSERT_NE(form, nullptr);
    for (size_t piece = 1; piece <= example.text.size(); ++piece) {
      const auto pieces = parse(example.text, piece, *form, texts);
      ASSERT_EQ(pieces.content, example.content) << piece;
      ASSERT_EQ(pieces.calls.size(), example.calls.size()) << piece;
      for (size_t i = 0; i < example.calls.size(); ++i) {
        ASSERT_EQ(pieces.calls[i].name, example.calls[i].name);
        ASSERT_EQ(pieces.calls[i].arguments, example.calls[i].arguments);
        ASSERT_EQ(pieces.calls[i].id, example.calls[i].id);
      }
    }
  }
}

/// Cut off anywhere or with a character changed it is calls or text, the same in any pieces, and
/// what is no call is all there.
TEST(ToolCallForms, MalformedTextIsText) {
  for (const FormCase& example : form_cases()) {
    const CallForm& form = *find_call_form(example.form);
    for (size_t at = 0; at < example.text.size(); ++at) {
      std::string changed = example.text;
      changed[at] = '~';
      for (const std::string& text : {example.text.substr(0, at), changed}) {
        SCOPED_TRACE(std::string(example.form) + ": " + text);
        const auto whole = parse(text, text.size() + 1, form);
        const auto pieces = parse(text, 3, form);
        ASSERT_EQ(pieces.content, whole.content);
        ASSERT_EQ(pieces.calls.size(), whole.calls.size());
        if (whole.calls.empty() && form.before.empty()) {
          ASSERT_EQ(whole.content, text);
        }
      }
    }
  }
}

TEST(ToolCallForms, AnswersThatOnlyLookLikeCallsStayText) {
  for (const auto& [name, text] : std::vector<std::pair<const char*, const char*>>{
           {"llama3_json", R"({"answer": 42})"},
           {"pythonic", "[1, 2, 3]"},
           {"pythonic", "[f(a=open('x'))]"},
           {"xlam", "[see below]"},
           {"mistral", "[TOOL_CALLS] none"},
           {"qwen3_coder", "<tool_call>\n{\"name\": \"f\"}\n</tool_call>"},
           {"glm45", "<tool_call></tool_call>"},
           {"glm45", "<tool_call>no name at all</tool_call>"},
       }) {
    const auto pieces = parse(text, 2, *find_call_form(name));
    EXPECT_EQ(pieces.content, text);
    EXPECT_TRUE(pieces.calls.empty());
  }
}

TEST(ToolCallForms, AreFoundInTemplates) {
  for (const auto& [sign, name] : std::vector<std::pair<const char*, const char*>>{
           {"{{ message }}", "hermes"},
           {"<tool_call>\n{\"name\"", "hermes"},
           {"<tool_call>\n<function=example>", "qwen3_coder"},
           {"<tool_call>{name}<arg_key>", "glm45"},
           {"{{ '[TOOL_CALLS] [' }}", "mistral"},
           {"function<｜tool▁sep｜>", "deepseek_v3"},
           {"<|tool_calls_section_begin|>", "kimi_k2"},
           {"<|python_tag|>", "llama3_json"},
           {"<|python_start|> <|python_tag|>", "llama4_pythonic"},
       }) {
    EXPECT_EQ(call_form_of(sign).name, name) << sign;
  }
  EXPECT_EQ(find_call_form("auto"), nullptr);
}

/// What the settings offer is what there is.
TEST(ToolCallForms, AreThoseOfTheSettings) {
  const auto offered = [](std::string_view setting) {
    const base::SettingRow* row = base::find_setting(setting);
    std::set<std::string> out;
    std::stringstream works{std::string(row->works)};
    for (std::string name; std::getline(works, name, '|');) out.insert(name);
    return out;
  };
  const std::set<std::string> calls = offered("tool-call-parser");
  for (const std::string& name : calls) EXPECT_TRUE(name == "auto" || find_call_form(name)) << name;
  for (const CallForm& form : call_forms()) EXPECT_TRUE(calls.contains(std::string(form.name)));
  const std::set<std::string> thoughts = offered("reasoning-parser");
  for (const std::string& name : thoughts) {
    EXPECT_TRUE(name == "auto" || name == "none" || find_reasoning_form(name)) << name;
  }
  for (const ReasoningForm& form : reasoning_forms()) {
    EXPECT_TRUE(thoughts.contains(std::string(form.name)));
  }
}

TEST(ToolCallForms, KnowWhichParametersAreTexts) {
  const auto tools = boost::json::parse(R"([{"type":"function","function":{"name":"f","parameters":
      {"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"},"c":true}}}},
      {"type":"function","function":{"name":"g"}}])");
  EXPECT_EQ(text_parameters(tools.as_array()), (TextParameters{{"f", {"a"}}}));
}

TEST(ToolCallParser, LongCallsTakeLinearTime) {
  std::string text = "<tool_call>";
  text += std::string(2 << 20, 'x');
  EXPECT_EQ(parse(text, 16).content, text);
}

}  // namespace
}  // namespace moesaic::server
