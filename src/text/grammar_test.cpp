#include "text/grammar.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "text/text_testing.h"

namespace moesaic::text {
namespace {

class GrammarTest : public ::testing::Test {
 protected:
  GrammarTest()
      : tokenizer(Tokenizer::load(
            base::ModelFolder(std::filesystem::path(MOESAIC_SOURCE_DIR) / "models/demo"))),
        end(*tokenizer->eos_id()),
        grammars(*tokenizer, tokenizer->vocab_size(), {end}) {}

  /// Whether a text is one that the grammar allows to its end, token by token.
  bool takes(const Grammar& grammar, const std::string& text) const {
    const auto path = grammar.start();
    std::vector<int32_t> ids = tokenizer->encode(text, false, Tokenizer::Specials::kAsText);
    ids.push_back(end);
    std::vector<uint32_t> words((static_cast<size_t>(tokenizer->vocab_size()) + 31) / 32);
    for (const int32_t id : ids) {
      path->allowed(words);
      if ((words[static_cast<size_t>(id / 32)] >> (id % 32) & 1U) == 0) return false;
      path->accept(id);
    }
    return true;
  }

  std::shared_ptr<const Tokenizer> tokenizer;
  int32_t end;
  Grammars grammars;
};

TEST_F(GrammarTest, TakesWhatItDescribes) {
  const auto schema = grammars.compile(
      Grammars::Kind::kJsonSchema,
      R"({"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]})");
  EXPECT_GT(schema->bytes(), 0U);
  EXPECT_TRUE(takes(*schema, R"({"a": 12})"));
  EXPECT_TRUE(takes(*schema, "{\n  \"a\": 12,\n  \"b\": null\n}"));
  EXPECT_FALSE(takes(*schema, R"({"a": "12"})"));
  EXPECT_FALSE(takes(*schema, R"({"b": 12})"));
  EXPECT_FALSE(takes(*schema, R"({"a": 12)"));

  const auto regex = grammars.compile(Grammars::Kind::kRegex, "^[a-c]+(é|/)$");
  EXPECT_TRUE(takes(*regex, "abcé"));
  EXPECT_TRUE(takes(*regex, "a/"));
  EXPECT_FALSE(takes(*regex, "ad/"));
  EXPECT_FALSE(takes(*regex, "abc"));

  const auto rules = grammars.compile(Grammars::Kind::kRules, "root ::= \"a\" root \"b\" | \"-\"");
  EXPECT_TRUE(takes(*rules, "aa-bb"));
  EXPECT_FALSE(takes(*rules, "aa-b"));
}

TEST_F(GrammarTest, SaysWhatIsWrong) {
  try {
    grammars.compile(Grammars::Kind::kRegex, "(a");
    FAIL() << "is taken";
  } catch (const base::RequestError& error) {
    EXPECT_EQ(error.status(), 400);
    EXPECT_NE(std::string(error.what()).find("unclosed group"), std::string::npos) << error.what();
  }
}

TEST_F(GrammarTest, APathThatIsLedAstrayLeavesTheOthers) {
  const auto grammar = grammars.compile(Grammars::Kind::kRegex, "a+");
  const auto astray = grammar->start();
  EXPECT_ANY_THROW(astray->accept(*tokenizer->token_to_id("b")));
  std::vector<uint32_t> words(1);
  EXPECT_ANY_THROW(astray->allowed(words));
  EXPECT_TRUE(takes(*grammar, "aaa"));
}

}  // namespace
}  // namespace moesaic::text
