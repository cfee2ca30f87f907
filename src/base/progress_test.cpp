#include "base/progress.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace moesaic::base {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

/// A display into a string, with a clock that the test moves.
struct Screen {
  std::string text;
  double time = 100;

  Progress::Output output(bool terminal, int columns = 80) {
    return {.terminal = terminal,
            .columns = columns,
            .write = [this](std::string_view part) { text += part; },
            .now = [this] { return time; }};
  }
  int64_t lines() const { return std::count(text.begin(), text.end(), '\n'); }
  int64_t drawings() const { return std::count(text.begin(), text.end(), '\r'); }
};

TEST(FormatProgress, SaysWhatIsDoneHowFastAndHowLong) {
  EXPECT_EQ(format_progress("loading", 4 * kGiB, 16 * kGiB, 4, 80, true),
            "loading [######..................]  25%  4.0/16.0 GiB  1.0 GiB/s  12 s left");
  EXPECT_EQ(format_progress("loading", 4 * kGiB, 16 * kGiB, 400, 80, false),
            "loading  25%  4.0/16.0 GiB  10.2 MiB/s  20 min 00 s left");
  EXPECT_EQ(format_progress("loading", 0, 16 * kGiB, 1, 80, false), "loading   0%  0.0/16.0 GiB");
  EXPECT_EQ(format_progress("loading", 5 << 20, 5 << 20, 0.5, 80, false),
            "loading 100%  5.0/5.0 MiB  10.0 MiB/s  in 0.5 s");
}

TEST(FormatProgress, AlwaysFits) {
  for (int columns : {1, 20, 40, 60, 79, 80}) {
    for (uint64_t done : {uint64_t{0}, uint64_t{1}, kGiB, 999 * kGiB, 9999 * kGiB}) {
      for (double seconds : {0.0, 1e-9, 1.0, 1e5, 1e12}) {
        EXPECT_LE(format_progress("loading the weights", done, 9999 * kGiB, seconds, columns, true)
                      .size(),
                  static_cast<size_t>(columns));
      }
    }
  }
}

TEST(FormatProgress, OddNumbersAreHarmless) {
  EXPECT_EQ(format_progress("x", 0, 0, 0, 80, false), "x 100%  0.0/0.0 B  in 0.0 s");
  EXPECT_EQ(format_progress("x", 30, 20, 1, 80, false), "x 100%  20.0/20.0 B  20.0 B/s  in 1.0 s");
  // Never 100 % before the end.
  EXPECT_NE(format_progress("x", 9999, 10000, 1, 80, false).find(" 99%"), std::string::npos);
}

TEST(Progress, RedrawsOneLineOnATerminalTenTimesASecond) {
  Screen screen;
  {
    Progress progress("loading", 10000, screen.output(true));
    for (int i = 0; i <= 10000; ++i) {
      screen.time = 100 + i * 1e-4;
      progress.update(static_cast<uint64_t>(i));
    }
    EXPECT_GE(screen.drawings(), 10);
    EXPECT_LE(screen.drawings(), 12);
    EXPECT_EQ(screen.lines(), 1);
    progress.finish();
    progress.finish();
    progress.update(3);
  }
  EXPECT_EQ(screen.lines(), 1);
  EXPECT_TRUE(screen.text.ends_with("in 1.0 s\x1b[K\n"));
}

TEST(Progress, AbandonedLineIsEnded) {
  Screen screen;
  { Progress(std::string("loading"), 10, screen.output(true)).update(1); }
  EXPECT_TRUE(screen.text.ends_with("\n"));
}

TEST(Progress, PlainLinesEveryTenthWhenNotATerminal) {
  Screen screen;
  Progress progress("loading", 1000, screen.output(false));
  for (int i = 0; i <= 1000; ++i) {
    screen.time = 100 + i * 0.02;  // 20 s in all: a tenth takes 2 s
    progress.update(static_cast<uint64_t>(i));
  }
  EXPECT_EQ(screen.lines(), 10);  // nine tenths and the end
  progress.finish();
  EXPECT_EQ(screen.lines(), 10);
  EXPECT_EQ(screen.text.find('\r'), std::string::npos);
  EXPECT_EQ(screen.text.find('\x1b'), std::string::npos);
  EXPECT_NE(screen.text.find("loading  10%"), std::string::npos) << screen.text;
}

TEST(Progress, PlainLinesEveryFiveSecondsWhenSlow) {
  Screen screen;
  Progress progress("loading", 1000, screen.output(false));
  for (int i = 0; i < 60; ++i) {
    screen.time = 100 + i;
    progress.update(static_cast<uint64_t>(i));
  }
  EXPECT_GE(screen.lines(), 11);
  EXPECT_LE(screen.lines(), 17);
}

TEST(Progress, AQuickLoadIsOnePlainLine) {
  Screen screen;
  Progress progress("loading", 1000, screen.output(false));
  for (int i = 0; i <= 1000; ++i) progress.update(static_cast<uint64_t>(i));
  progress.finish();
  EXPECT_EQ(screen.lines(), 1);
}

TEST(Progress, MayStartOver) {
  Screen screen;
  Progress progress("loading", 1000, screen.output(false));
  screen.time += 1;
  progress.update(900);
  screen.time += 1;
  progress.update(100);
  EXPECT_EQ(screen.lines(), 2);
}

}  // namespace
}  // namespace moesaic::base
