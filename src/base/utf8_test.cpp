#include "base/utf8.h"

#include <gtest/gtest.h>

namespace moesaic::base {
namespace {

TEST(Utf8, SizeOfTheFirstCharacter) {
  EXPECT_EQ(utf8_size("a"), 1U);
  EXPECT_EQ(utf8_size("\xC3\xA9x"), 2U);
  EXPECT_EQ(utf8_size("\xED\x95\x9C"), 3U);
  EXPECT_EQ(utf8_size("\xF0\x9F\x98\x80..."), 4U);
  EXPECT_EQ(utf8_size("\xF4\x8F\xBF\xBF"), 4U);
  for (const char* wrong : {"", "\x80", "\xC0\xAF", "\xC1\xBF", "\xC3", "\xE0\x9F\xBF",
                            "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
                            "\xF5\x80\x80\x80", "\xE2\x82", "\xE2(\xA1", "\xFF"}) {
    EXPECT_EQ(utf8_size(wrong), 0U) << wrong;
  }
}

TEST(Utf8, AllOfAText) {
  EXPECT_TRUE(is_utf8(""));
  EXPECT_TRUE(is_utf8("a\xC3\xA9\xF0\x9F\x98\x80"));
  EXPECT_FALSE(is_utf8("a\xC3"));
  EXPECT_FALSE(is_utf8("\xC3\xA9\x80z"));
}

}  // namespace
}  // namespace moesaic::base
