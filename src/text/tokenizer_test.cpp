#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "text/text_testing.h"

namespace moesaic::text {
namespace {

namespace json = boost::json;

std::vector<int32_t> ids_of(const json::value& list) {
  return json::value_to<std::vector<int32_t>>(list);
}

class EachTokenizer : public testing::TestWithParam<const char*> {
 protected:
  std::shared_ptr<const Tokenizer> tokenizer_ = Tokenizer::load(testdata() / GetParam());
};

INSTANTIATE_TEST_SUITE_P(Tokenizers, EachTokenizer,
                         testing::Values("byte_level", "sentencepiece", "metaspace"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(EachTokenizer, GivesTheIdsOfHuggingFace) {
  for (const json::value& golden : read_list(testdata() / GetParam() / "cases.json")) {
    const std::string text = string_of(golden.at("text"));
    SCOPED_TRACE(json::serialize(golden.at("text")));
    EXPECT_EQ(tokenizer_->encode(text, false, Tokenizer::Specials::kParse),
              ids_of(golden.at("parsed")));
    EXPECT_EQ(tokenizer_->encode(text, true, Tokenizer::Specials::kParse),
              ids_of(golden.at("around")));
    EXPECT_EQ(tokenizer_->encode(text, false, Tokenizer::Specials::kAsText),
              ids_of(golden.at("plain")));
    const auto ids = ids_of(golden.at("parsed"));
    EXPECT_EQ(tokenizer_->decode(ids, false), string_of(golden.at("decoded")));
    EXPECT_EQ(tokenizer_->decode(ids, true), string_of(golden.at("skipped")));
  }
}

TEST(Tokenizer, RoundTripsTheDemoModel) {
  const auto tokenizer = Tokenizer::load(std::string(MOESAIC_SOURCE_DIR) + "/models/demo");
  const std::string text = "Hello, wörld! 안녕 <|im_end|>\n  1234";
  const auto parsed = tokenizer->encode(text, false, Tokenizer::Specials::kParse);
  const auto plain = tokenizer->encode(text, false, Tokenizer::Specials::kAsText);
  EXPECT_EQ(tokenizer->decode(parsed, false), text);
  EXPECT_EQ(tokenizer->decode(plain, true), text);
  EXPECT_GT(plain.size(), parsed.size());
}

}  // namespace
}  // namespace moesaic::text
