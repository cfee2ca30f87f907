// Answers that obey what a request says of how they are built.

#include "server/constraint.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <regex>
#include <set>

#include "base/error.h"
#include "server/openai_request.h"
#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

using Kind = text::Grammars::Kind;

ConstraintText read(const char* body) {
  const auto found = parse_constraint(json::parse(body).as_object());
  EXPECT_TRUE(found.has_value()) << body;
  return found.value_or(ConstraintText{});
}

TEST(Constraints, HaveManyNames) {
  for (const char* body : {
           R"({"response_format":{"type":"json_schema","json_schema":{"schema":{"a":1}}}})",
           R"({"response_format":{"type":"json_object","schema":{"a":1}}})",
           R"({"response_format":{"type":"json","value":{"a":1}}})",
           R"({"structured_outputs":{"json":{"a":1}}})",
           R"({"structured_outputs":{"json":"{\"a\": 1}"}})",
           R"({"guided_json":{"a":1}})",
           R"({"json_schema":"{\"a\":1}"})",
           R"({"grammar":{"type":"json","value":{"a":1}}})",
           R"({"nvext":{"guided_json":{"a":1}}})",
       }) {
    const ConstraintText text = read(body);
    EXPECT_EQ(text.kind, Kind::kJsonSchema) << body;
    EXPECT_EQ(text.text, R"({"a":1})") << body;
  }
  for (const char* body : {
           R"({"response_format":{"type":"regex","value":"a+"}})",
           R"({"structured_outputs":{"regex":"a+"}})",
           R"({"guided_regex":"a+"})",
           R"({"regex":"a+"})",
           R"({"grammar":{"type":"regex","value":"a+"}})",
       }) {
    EXPECT_EQ(read(body).kind, Kind::kRegex) << body;
    EXPECT_EQ(read(body).text, "a+") << body;
  }
  for (const char* body : {
           R"({"structured_outputs":{"grammar":"start: \"a\""}})",
           R"({"guided_grammar":"start: \"a\""})",
           R"({"ebnf":"start: \"a\""})",
           R"({"grammar":"start: \"a\""})",
       }) {
    EXPECT_EQ(read(body).kind, Kind::kRules) << body;
    EXPECT_EQ(read(body).text, "start: \"a\"") << body;
  }
  EXPECT_EQ(read(R"({"guided_choice":["a","b\"\n"]})").text, "start: \"a\" | \"b\\\"\\n\"\n");
}

TEST(Constraints, NoneIsNone) {
  for (const char* body :
       {"{}", R"({"response_format":{"type":"text"}})", R"({"response_format":null})",
        R"({"guided_json":null,"regex":"","grammar":"none","guided_choice":[]})",
        R"({"guided_whitespace_pattern":" ","guided_decoding_backend":"x"})"}) {
    EXPECT_FALSE(parse_constraint(json::parse(body).as_object())) << body;
  }
}

TEST(Constraints, SayHowJsonIsWritten) {
  EXPECT_EQ(read(R"({"structured_outputs":{"json":{"a":1},"disable_any_whitespace":true}})").text,
            R"({"a":1,"x-guidance":{"whitespace_flexible":false}})");
  EXPECT_EQ(read(R"({"guided_json":{"a":1},"guided_whitespace_pattern":" "})").text,
            R"({"a":1,"x-guidance":{"whitespace_pattern":" "}})");
  const char* closed = R"({"structured_outputs":{"disable_additional_properties":true,"json":)"
                       R"({"properties":{"a":{"properties":{}},"b":{"additionalProperties":true,)"
                       R"("properties":{}}}}}})";
  EXPECT_EQ(read(closed).text,
            R"({"properties":{"a":{"properties":{},"additionalProperties":false},)"
            R"("b":{"additionalProperties":true,"properties":{}}},"additionalProperties":false})");
}

TEST(Constraints, AreWrittenAsTheServerSays) {
  const auto text = [](const TestSettings& given, const char* body) {
    base::Settings settings;
    for (const auto& [name, value] : given) settings.set(name, value, "test");
    const RequestLimits limits = request_limits(settings, 100, 100);
    return parse_constraint(json::parse(body).as_object(), limits.json)->text;
  };
  const char* schema = R"({"guided_json":{"properties":{}}})";
  EXPECT_EQ(text({}, schema), R"({"properties":{}})");
  const char* strict =
      R"({"properties":{},"additionalProperties":false,"x-guidance":{"whitespace_flexible":false}})";
  EXPECT_EQ(
      text({{"structured-outputs-config", R"({"backend":"auto","disable_any_whitespace":true,)"
                                          R"("disable_additional_properties":true})"}},
           schema),
      strict);
  EXPECT_EQ(text({{"guided-decoding-disable-any-whitespace", "true"},
                  {"guided-decoding-disable-additional-properties", "true"}},
                 schema),
            strict);
  EXPECT_EQ(text({{"structured-outputs-config", R"({"disable_any_whitespace":true})"}},
                 R"({"structured_outputs":{"json":{"a":1},"disable_any_whitespace":false}})"),
            R"({"a":1})");
  for (const char* wrong : {"[]", R"({"disable_any_whitespace":1})"}) {
    EXPECT_THROW(text({{"structured-outputs-config", wrong}}, schema), base::UsageError) << wrong;
  }
}

/// The toy model writes letters of its own; held to a grammar it writes what that allows.
class ConstrainedAnswers : public ::testing::Test {
 protected:
  json::value ask_for(json::object body, const char* path = "/v1/chat/completions") {
    body["model"] = "toy";
    if (std::string_view(path).ends_with("chat/completions")) {
      body["messages"] = {{{"role", "user"}, {"content", "hi"}}};
    } else {
      body["prompt"] = "hi";
    }
    if (!body.contains("max_tokens")) body["max_tokens"] = 300;
    const Answer answer = ask(rig_, post(path, json::serialize(body)));
    EXPECT_EQ(answer.status, 200) << answer.body;
    return json::parse(answer.body);
  }
  static std::string content(const json::value& answer, size_t choice = 0) {
    return text_of(answer.at("choices").at(choice).at("message").at("content"));
  }

  Rig rig_;
};

json::array tools(bool strict = false) {
  const json::value schema = json::parse(
      R"({"type":"object","properties":{"town":{"enum":["Ostra","Lindow"]},"days":{"type":)"
      R"("integer","minimum":1,"maximum":3}},"required":["town","days"],)"
      R"("additionalProperties":false})");
  json::object weather{{"name", "weather"}, {"parameters", schema}};
  if (strict) weather["strict"] = true;
  return {{{"type", "function"}, {"function", weather}},
          {{"type", "function"},
           {"function", {{"name", "say \"hi\""}, {"parameters", json::object()}}}}};
}

void expect_weather(const json::value& call) {
  EXPECT_EQ(call.at("function").at("name"), json::value("weather"));
  const json::value arguments = json::parse(text_of(call.at("function").at("arguments")));
  const std::string town = text_of(arguments.at("town"));
  EXPECT_TRUE(town == "Ostra" || town == "Lindow") << town;
  const int64_t days = arguments.at("days").as_int64();
  EXPECT_TRUE(days >= 1 && days <= 3) << days;
}

TEST_F(ConstrainedAnswers, ObeyAndEnd) {
  const json::value chosen = ask_for({{"guided_choice", {"yes", "no"}}, {"min_tokens", 50}});
  EXPECT_TRUE(content(chosen) == "yes" || content(chosen) == "no") << content(chosen);
  EXPECT_EQ(chosen.at("choices").at(0).at("finish_reason"), json::value("stop"));

  const json::value many =
      ask_for({{"regex", "[0-9]{3}"}, {"n", 4}, {"temperature", 2}, {"logprobs", true}});
  std::set<std::string> seen;
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(std::regex_match(content(many, i), std::regex("[0-9]{3}"))) << content(many, i);
    seen.insert(content(many, i));
  }
  EXPECT_GT(seen.size(), 1U);

  const json::value format = json::parse(
      R"({"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object","properties":)"
      R"({"a":{"type":"boolean"}},"required":["a"],"additionalProperties":false}}})");
  const json::value whole = ask_for({{"response_format", format}});
  EXPECT_TRUE(json::parse(content(whole)).at("a").is_bool()) << content(whole);
  const json::value object =
      ask_for({{"response_format", {{"type", "json_object"}}}, {"max_tokens", 2}});
  EXPECT_EQ(content(object).substr(0, 1), "{");

  const json::value completion =
      ask_for({{"ebnf", "root ::= \"x\" [yz] \"!\""}}, "/v1/completions");
  const std::string text = text_of(completion.at("choices").at(0).at("text"));
  EXPECT_TRUE(text == "xy!" || text == "xz!") << text;
}

TEST_F(ConstrainedAnswers, AreStreamed) {
  const Answer answer = chat(rig_, {{"model", "toy"},
                                    {"stream", true},
                                    {"messages", {{{"role", "user"}, {"content", "hi"}}}},
                                    {"guided_regex", "a{5}b"},
                                    {"max_tokens", 50}});
  std::string text;
  for (const json::value& event : events(answer.body)) {
    if (!event.is_object()) continue;
    const json::object& delta = event.at("choices").at(0).at("delta").as_object();
    if (const json::value* content = delta.if_contains("content")) text += text_of(*content);
  }
  EXPECT_EQ(text, "aaaaab");
}

TEST_F(ConstrainedAnswers, CallWhatTheyMust) {
  const json::value required =
      ask_for({{"tools", tools()}, {"tool_choice", "required"}, {"parallel_tool_calls", false}});
  const json::value& choice = required.at("choices").at(0);
  EXPECT_EQ(choice.at("finish_reason"), json::value("tool_calls"));
  EXPECT_TRUE(choice.at("message").at("content").is_null());
  EXPECT_EQ(choice.at("message").at("tool_calls").as_array().size(), 1U);

  const json::value named =
      ask_for({{"tools", tools()},
               {"tool_choice", {{"type", "function"}, {"function", {{"name", "weather"}}}}}});
  const json::value& only = named.at("choices").at(0);
  EXPECT_EQ(only.at("finish_reason"), json::value("stop"));
  ASSERT_EQ(only.at("message").at("tool_calls").as_array().size(), 1U);
  expect_weather(only.at("message").at("tool_calls").at(0));

  const json::value other =
      ask_for({{"tools", tools()},
               {"tool_choice", {{"type", "function"}, {"function", {{"name", "say \"hi\""}}}}}});
  EXPECT_EQ(
      other.at("choices").at(0).at("message").at("tool_calls").at(0).at("function").at("name"),
      json::value("say \"hi\""));
}

/// The toy is made to begin a call of its own.
TEST_F(ConstrainedAnswers, CallStrictFunctionsAsTheirSchemasSay) {
  const std::string begun =
      "so <tool_call>\n{\"name\": \"weather\", \"arguments\": {\"town\": \"Rome";
  const json::value size = ask_for({{"max_tokens", 1}, {"tools", tools(true)}});
  {
    std::lock_guard lock(rig_.knobs->mutex);
    rig_.knobs->script.assign(begun.begin(), begun.end());
    rig_.knobs->script_from = static_cast<int32_t>(size.at("usage").at("prompt_tokens").as_int64());
  }
  const json::value answer = ask_for({{"tools", tools(true)}, {"parallel_tool_calls", false}});
  const json::value& message = answer.at("choices").at(0).at("message");
  EXPECT_TRUE(text_of(message.at("content")).starts_with("so ")) << json::serialize(answer);
  ASSERT_EQ(message.at("tool_calls").as_array().size(), 1U);
  expect_weather(message.at("tool_calls").at(0));
}

TEST(ConstraintCache, MakesAGrammarOnceAndForgets) {
  const ByteModelFolder folder;
  const auto tokenizer = text::Tokenizer::load(base::ModelFolder(folder.path()));
  ConstraintCache cache(tokenizer, kVocab, {kEos});
  const ConstraintText first{Kind::kRegex, "a[bc]", "regex"};
  const auto found = cache.get(first);
  EXPECT_GT(found.bytes, 0U);
  auto path = found.constraint->start();
  ASSERT_NE(path, nullptr);
  std::vector<uint32_t> words((kVocab + 31) / 32);
  const auto allows = [&](int32_t id) {
    EXPECT_TRUE(path->allow(words));
    return (words[static_cast<size_t>(id / 32)] >> (id % 32) & 1U) != 0;
  };
  EXPECT_TRUE(allows('a'));
  EXPECT_FALSE(allows('b'));
  path->accept('a');
  EXPECT_FALSE(allows('a'));
  EXPECT_TRUE(allows('c'));
  EXPECT_FALSE(allows(kEos));
  path->accept('c');
  EXPECT_TRUE(allows(kEos));
  // Another way begins at the beginning, whatever became of the first.
  path->accept('q');
  EXPECT_FALSE(path->allow(words) && allows('a'));
  path = cache.get(first).constraint->start();
  ASSERT_NE(path, nullptr);
  EXPECT_TRUE(allows('a'));
  // More than are kept; what is in use stays.
  for (int i = 0; i < 300; ++i) cache.get({Kind::kRegex, "a" + std::to_string(i), "regex"});
  path->accept('a');
  EXPECT_TRUE(allows('b'));
  EXPECT_NE(cache.get(first).constraint->start(), nullptr);
}

TEST(ConstraintCache, NeedsATokenizerAndAnEnd) {
  ConstraintCache none(nullptr, kVocab, {kEos});
  EXPECT_THROW(none.get({Kind::kRegex, "a", "regex"}), base::RequestError);
  const ByteModelFolder folder;
  ConstraintCache endless(text::Tokenizer::load(base::ModelFolder(folder.path())), kVocab, {});
  EXPECT_THROW(endless.get({Kind::kRegex, "a", "regex"}), base::RequestError);
}

}  // namespace
}  // namespace moesaic::server::testing
