#include "cli/word_wrap.h"

#include <gtest/gtest.h>

#include <clocale>

namespace moesaic::cli {
namespace {

/// What a terminal of so many columns is sent, for text in pieces of so many bytes.
std::string wrapped_in(size_t columns, std::string_view text, size_t piece) {
  std::setlocale(LC_CTYPE, "C.UTF-8");
  std::string out;
  WordWrap wrap([columns] { return columns; }, [&](std::string_view bytes) { out += bytes; });
  for (size_t at = 0; at < text.size(); at += piece) wrap.add(text.substr(at, piece));
  wrap.finish();
  return out;
}

TEST(WordWrap, BreaksBetweenWordsOnly) {
  for (const size_t piece : {1, 2, 3, 5, 100}) {
    EXPECT_EQ(wrapped_in(10, "one two three four", piece), "one two\nthree four") << piece;
    EXPECT_EQ(wrapped_in(10, "1234567890 x", piece), "1234567890\nx") << piece;
    EXPECT_EQ(wrapped_in(10, "12345 67890 x", piece), "12345\n67890 x") << piece;
  }
}

TEST(WordWrap, KeepsWhatTheTextSays) {
  for (const size_t piece : {1, 4, 100}) {
    EXPECT_EQ(wrapped_in(0, "no margin at all", piece), "no margin at all");
    EXPECT_EQ(wrapped_in(20, "a\n  b  c\n\nd\n", piece), "a\n  b  c\n\nd\n");
    EXPECT_EQ(wrapped_in(4, "abcdefghij k", piece), "abcdefghij k");
    EXPECT_EQ(wrapped_in(20, "\xFF\xFEz", piece), "\xFF\xFEz");
  }
}

TEST(WordWrap, WideCharactersTakeTwoColumnsAndCanBeParted) {
  const std::string korean = "\xED\x95\x9C\xEA\xB8\x80\xEC\x9D\x80";  // three of two columns
  for (const size_t piece : {1, 2, 3, 100}) {
    EXPECT_EQ(wrapped_in(5, korean, piece), korean.substr(0, 6) + "\n" + korean.substr(6));
    EXPECT_EQ(wrapped_in(6, korean, piece), korean);
    EXPECT_EQ(wrapped_in(6, "ab" + korean, piece),
              "ab" + korean.substr(0, 6) + "\n" + korean.substr(6));
  }
  EXPECT_EQ(terminal_columns(korean), 6U);
  EXPECT_EQ(terminal_columns("e\xCC\x81"), 1U);
}

}  // namespace
}  // namespace moesaic::cli
