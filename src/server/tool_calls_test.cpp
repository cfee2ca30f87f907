#include "server/tool_calls.h"

#include <gtest/gtest.h>

namespace moesaic::server {
namespace {

ToolCallParser::Pieces parse(const std::string& text, size_t piece) {
  ToolCallParser parser;
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

TEST(ToolCallParser, LongCallsTakeLinearTime) {
  std::string text = "<tool_call>";
  text += std::string(2 << 20, 'x');
  EXPECT_EQ(parse(text, 16).content, text);
}

}  // namespace
}  // namespace moesaic::server
