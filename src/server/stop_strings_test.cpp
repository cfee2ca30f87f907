#include "server/stop_strings.h"

#include <gtest/gtest.h>

#include <random>

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
  StopMatcher matcher(stop_strings(std::move(stops)), include);
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
  StopMatcher matcher(stop_strings({"END"}), false);
  EXPECT_FALSE(matcher.add("some E"));
  EXPECT_EQ(matcher.take(false), "some ");
  EXPECT_FALSE(matcher.add("NE"));
  EXPECT_EQ(matcher.take(false), "EN");
  EXPECT_TRUE(matcher.add("ND of"));
  EXPECT_EQ(matcher.take(false), "");
}

TEST(StopMatcher, AStopMayBeginButNotEndInPassedText) {
  StopMatcher matcher(stop_strings({"abab"}), false);
  matcher.pass("xababa");
  EXPECT_EQ(matcher.take(false), "xab");
  EXPECT_TRUE(matcher.add("b!"));
  EXPECT_EQ(matcher.take(true), "");
}

/// The plain definition: the earliest end, then the longest.
Shown plain(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::string best;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop) && stop.size() > best.size()) best = stop;
    }
    if (!best.empty()) return {text.substr(0, include ? end : end - best.size()), best};
  }
  return {text, ""};
}

TEST(StopMatcher, AgreesWithThePlainSearch) {
  std::mt19937 random(1);
  const auto word = [&](size_t longest) {
    std::string text;
    for (size_t i = 0; i <= random() % longest; ++i) text += static_cast<char>('a' + random() % 2);
    return text;
  };
  int found = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0; i <= random() % 4; ++i) stops.push_back(word(9));
    stops.push_back(stops.front());
    const std::string text = word(40);
    const bool include = random() % 2 == 0;
    const Shown expected = plain(text, stops, include);
    EXPECT_EQ(stream(text, stops, include, 1 + random() % 7), expected) << text;
    found += !expected.found.empty();
  }
  EXPECT_GT(found, 1000);
  EXPECT_LT(found, 4900);
}

}  // namespace
}  // namespace moesaic::server
