#include "text/tokenizer.h"

#include <gtest/gtest.h>

namespace moesaic::text {
namespace {

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
