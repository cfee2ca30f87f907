#include "server/reasoning.h"

#include <gtest/gtest.h>

#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

ReasoningParser::Pieces parse(const ReasoningForm* form, Reasoning coming, const std::string& text,
                              size_t piece) {
  ReasoningParser parser(form, coming);
  ReasoningParser::Pieces all;
  const auto add = [&](const ReasoningParser::Pieces& pieces) {
    all.reasoning += pieces.reasoning;
    all.answer += pieces.answer;
  };
  for (size_t at = 0; at < text.size(); at += piece) add(parser.add(text.substr(at, piece)));
  add(parser.end());
  return all;
}

TEST(Reasoning, IsToldFromTheAnswerInAnyPieces) {
  struct Case {
    const char* form;
    Reasoning coming;
    std::string text, reasoning, answer;
  };
  const std::vector<Case> cases = {
      {"qwen3", Reasoning::kMayCome, "<think>\nsix\n\ntimes < 7\n</think>\n\nforty-two\n",
       "six\n\ntimes < 7", "forty-two\n"},
      {"qwen3", Reasoning::kMayCome, "  <think></think>yes", "", "yes"},
      {"qwen3", Reasoning::kMayCome, "no <think>thought</think>", "", "no <think>thought</think>"},
      {"qwen3", Reasoning::kMayCome, "<thin air", "", "<thin air"},
      {"qwen3", Reasoning::kMayCome, "<think>without an end </thin", "without an end </thin", ""},
      {"qwen3", Reasoning::kOpened, "six\n</think>\n\nforty-two", "six", "forty-two"},
      {"qwen3", Reasoning::kOpened, "<think>\nsix</think>x</think>", "six", "x</think>"},
      {"deepseek_r1", Reasoning::kOpened, "six <think></think>x", "six <think>", "x"},
      {"mistral", Reasoning::kMayCome, "[THINK]a[/THINK]b", "a", "b"},
      {"granite", Reasoning::kMayCome,
       "Here is my thought process:\na.\n\nHere is my response:\nb.", "a.", "b."},
      {"none", Reasoning::kOpened, "<think>a</think>b", "", "<think>a</think>b"},
      {"qwen3", Reasoning::kNone, "<think>a</think>b", "", "<think>a</think>b"},
      {"qwen3", Reasoning::kMayCome, "", "", ""},
  };
  for (const Case& example : cases) {
    for (size_t piece = 1; piece <= example.text.size() + 1; ++piece) {
      const auto pieces =
          parse(find_reasoning_form(example.form), example.coming, example.text, piece);
      ASSERT_EQ(pieces.reasoning, example.reasoning) << example.text << " in " << piece;
      ASSERT_EQ(pieces.answer, example.answer) << example.text << " in " << piece;
    }
  }
}

TEST(Reasoning, FormsAreFoundInTemplatesAndPrompts) {
  EXPECT_EQ(reasoning_form_of("{{ message }}"), nullptr);
  EXPECT_EQ(reasoning_form_of("{{ '<think>\\n' }}")->name, "qwen3");
  EXPECT_EQ(reasoning_form_of("content.split('</think>')")->name, "qwen3");
  EXPECT_EQ(reasoning_form_of("[THINK]")->name, "mistral");
  EXPECT_EQ(find_reasoning_form("glm45"), find_reasoning_form("qwen3"));
  EXPECT_EQ(find_reasoning_form("none"), nullptr);
  const ReasoningForm& form = *find_reasoning_form("qwen3");
  EXPECT_EQ(reasoning_after(form, "assistant\n<think>\n"), Reasoning::kOpened);
  EXPECT_EQ(reasoning_after(form, "<think>\n\n</think>\n\n"), Reasoning::kNone);
  EXPECT_EQ(reasoning_after(form, "assistant\n"), Reasoning::kMayCome);
  EXPECT_EQ(reasoning_after(*find_reasoning_form("deepseek_r1"), "a"), Reasoning::kOpened);
}

/// A server whose model is said to think.
class Thinking : public ::testing::Test {
 protected:
  static json::object body(json::object more = {}) {
    json::object out{{"model", "toy"},
                     {"messages", {{{"role", "user"}, {"content", "hi"}}}},
                     {"max_tokens", 200},
                     {"temperature", 0}};
    for (const auto& [key, value] : more) out[key] = value;
    return out;
  }
  void play(std::string_view text, json::object more = {}) {
    const Answer size = chat(rig_, body({{"max_tokens", 1}}));
    rig_.knobs->play(size.value().at("usage").at("prompt_tokens").as_int64(), text);
  }
  json::object message(json::object more = {}) {
    const Answer answer = chat(rig_, body(std::move(more)));
    EXPECT_EQ(answer.status, 200) << answer.body;
    return answer.value().at("choices").at(0).at("message").as_object();
  }

  Rig rig_{TestSettings{{"reasoning-parser", "qwen3"}}};
};

TEST_F(Thinking, HasItsOwnMember) {
  play("<think>\nwell\n</think>\n\nyes");
  json::object answer = message();
  EXPECT_EQ(answer.at("reasoning"), json::value("well"));
  EXPECT_EQ(answer.at("content"), json::value("yes"));
  answer = message({{"include_reasoning", false}});
  EXPECT_TRUE(answer.at("reasoning").is_null());
  EXPECT_EQ(answer.at("content"), json::value("yes"));
  play("<think>\nwell, it");
  answer = message();
  EXPECT_EQ(answer.at("reasoning"), json::value("well, it"));
  EXPECT_TRUE(answer.at("content").is_null());
}

TEST_F(Thinking, IsStreamed) {
  play("<think>\nwell then\n</think>\n\nyes");
  const Answer answer = chat(rig_, body({{"stream", true}}));
  std::string reasoning;
  std::string content;
  for (const json::value& event : events(answer.body)) {
    if (!event.is_object()) continue;
    const json::object& delta = event.at("choices").at(0).at("delta").as_object();
    if (const json::value* more = delta.if_contains("reasoning")) reasoning += text_of(*more);
    if (const json::value* more = delta.if_contains("content")) content += text_of(*more);
  }
  EXPECT_EQ(reasoning, "well then");
  EXPECT_EQ(content, "yes");
}

/// A thought that always comes, and one that may come.
TEST(ThinkingFirst, LeavesAGrammarItsAnswer) {
  for (const auto& [parser, open] : {std::pair("deepseek_r1", ""), std::pair("qwen3", "<think>")}) {
    Rig rig(TestSettings{{"reasoning-parser", parser}});
    const json::object body{{"model", "toy"},
                            {"messages", {{{"role", "user"}, {"content", "hi"}}}},
                            {"max_tokens", 100},
                            {"guided_choice", {"yes", "no"}}};
    const Answer size = chat(rig, body);
    rig.knobs->play(size.value().at("usage").at("prompt_tokens").as_int64(),
                    std::string(open) + "hm {\n</think>\n");
    const json::object message =
        chat(rig, body).value().at("choices").at(0).at("message").as_object();
    EXPECT_EQ(message.at("reasoning"), json::value("hm {")) << parser;
    const std::string content = text_of(message.at("content"));
    EXPECT_TRUE(content == "yes" || content == "no") << content;
  }
}

}  // namespace
}  // namespace moesaic::server::testing
