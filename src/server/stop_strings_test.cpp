#include "server/stop_strings.h"

#include <gtest/gtest.h>

namespace moesaic::server {
namespace {

struct Shown {
  std::string text;
  std::string found;
  bool operator==(const Shown&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Shown& shown) {
  return out << shown.text << " [" << shown.found << "]";
}

/// What a stream shows when the text comes in pieces of that size.
Shown stream(const std::string& text, std::vector<std::string> stops, bool include, size_t piece) {
  StopMatcher matcher(std::move(stops), include);
  Shown shown;
  for (size_t at = 0; at < text.size(); at += piece) {
    const bool found = matcher.add(text.substr(at, piece));
    shown.text += matcher.take(found);
    if (found) break;
  }
  shown.text += matcher.take(true);
  shown.found = matcher.found();
  return shown;
}

TEST(StopMatcher, CutsTheSameHoweverTheTextArrives) {
  for (size_t piece = 1; piece <= 12; ++piece) {
    EXPECT_EQ(stream("hello world", {"wor"}, false, piece), (Shown{"hello ", "wor"}));
    EXPECT_EQ(stream("hello world", {"wor"}, true, piece), (Shown{"hello wor", "wor"}));
    EXPECT_EQ(stream("hello world", {"xyz"}, false, piece), (Shown{"hello world", ""}));
    EXPECT_EQ(stream("aaab", {"aab"}, false, piece), (Shown{"a", "aab"}));
    EXPECT_EQ(stream("hello", {"lo!"}, false, piece), (Shown{"hello", ""}));
  }
}

TEST(StopMatcher, TheEarliestEndWinsThenTheLongest) {
  EXPECT_EQ(stream("abcdef", {"def", "bc"}, false, 6), (Shown{"a", "bc"}));
  EXPECT_EQ(stream("abcdef", {"c", "abc"}, false, 6), (Shown{"", "abc"}));
}

TEST(StopMatcher, HoldsBackOnlyWhatCouldBecomeAStop) {
  StopMatcher matcher({"END"}, false);
  EXPECT_FALSE(matcher.add("some E"));
  EXPECT_EQ(matcher.take(false), "some ");
  EXPECT_FALSE(matcher.add("NE"));
  EXPECT_EQ(matcher.take(false), "EN");
  EXPECT_TRUE(matcher.add("ND of"));
  EXPECT_EQ(matcher.take(false), "");
}

}  // namespace
}  // namespace moesaic::server
