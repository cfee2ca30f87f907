#include "base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <functional>
#include <regex>
#include <string>

#include "base/error.h"

namespace moesaic::base {
namespace {

using std::chrono::milliseconds;

/// Puts something else in the place of standard error until the end of the scope.
class StandardError {
 public:
  explicit StandardError(int fd) : saved_(::dup(STDERR_FILENO)) {
    flush_log();
    ::dup2(fd, STDERR_FILENO);
  }
  ~StandardError() {
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
  }
  StandardError(const StandardError&) = delete;
  StandardError& operator=(const StandardError&) = delete;

 private:
  int saved_;
};

struct Pipe {
  Pipe() {
    EXPECT_EQ(::pipe(ends), 0);
    ::fcntl(ends[1], F_SETPIPE_SZ, 4096);
  }
  ~Pipe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  /// All that comes until nothing has come for a while.
  std::string read_all() const {
    std::string text;
    std::array<char, 4096> buffer{};
    pollfd ready{ends[0], POLLIN, 0};
    while (::poll(&ready, 1, 300) == 1) {
      const ssize_t n = ::read(ends[0], buffer.data(), buffer.size());
      if (n <= 0) break;
      text.append(buffer.data(), static_cast<size_t>(n));
    }
    return text;
  }
  int ends[2] = {-1, -1};
};

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

size_t lines_of(const std::string& text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

/// What `work` writes to standard error.
std::string written_by(const std::function<void()>& work) {
  const Pipe pipe;
  {
    const StandardError swapped(pipe.ends[1]);
    work();
    flush_log();
  }
  return pipe.read_all();
}

TEST(Log, TextLinesHaveADate) {
  init_logging("info");
  const std::string text = written_by([] { spdlog::warn("one"); });
  EXPECT_TRUE(std::regex_match(
      text, std::regex(R"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} warn(ing)? one\n)")))
      << text;
  EXPECT_EQ(written_by([] { write_last_error("gone"); }), "moesaic: gone\n");
}

TEST(Log, JsonLinesAreObjectsWhateverTheyHold) {
  init_logging("info", LogFormat::kJson);
  const std::string line = written_by([] { spdlog::info("a \"b\" \\ \n\x01 \xED\x95\x9C \xFF"); });
  const std::string last = written_by([] { write_last_error("the end"); });
  init_logging("info");
  const std::string start = R"(\{"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","level":)";
  EXPECT_TRUE(std::regex_search(line, std::regex("^" + start + R"("info","message":)"))) << line;
  EXPECT_TRUE(
      line.ends_with("\"message\":\"a \\\"b\\\" \\\\ \\u000a\\u0001 \xED\x95\x9C \\ufffd\"}\n"))
      << line;
  EXPECT_TRUE(std::regex_match(last, std::regex(start + R"("critical","message":"the end"\}\n)")))
      << last;
}

TEST(Log, WritesLinesInOrder) {
  init_logging("info");
  const Pipe pipe;
  {
    const StandardError swapped(pipe.ends[1]);
    spdlog::info("one");
    print_with_log(STDERR_FILENO, "two\n");
    spdlog::debug("not this");
    spdlog::warn("three");
    flush_log();
  }
  const std::string text = pipe.read_all();
  EXPECT_LT(text.find("info  one\n"), text.find("two\n"));
  EXPECT_LT(text.find("two\n"), text.find("warn  three\n")) << text;
  EXPECT_EQ(lines_of(text), 3u);
}

TEST(Log, NobodyWaitsForAPipeThatIsNotRead) {
  init_logging("info");
  constexpr size_t kLines = 20000;
  const uint64_t before = dropped_log_lines();
  const Pipe pipe;
  const StandardError swapped(pipe.ends[1]);
  EXPECT_LT(seconds_of([] {
              for (size_t i = 0; i < kLines; ++i) spdlog::info("line {} of many that are long", i);
            }),
            20);
  EXPECT_LT(seconds_of([] { flush_log(milliseconds(200)); }), 10);
  const uint64_t dropped = dropped_log_lines() - before;
  EXPECT_GT(dropped, kLines / 2);
  EXPECT_LT(dropped, kLines);

  // Read again, the log says what is missing where it is missing, and goes on.
  const std::string text = pipe.read_all();
  const std::regex told(R"((\d+) lines of the log are missing here)");
  size_t missing = 0;
  size_t gaps = 0;
  for (std::sregex_iterator at(text.begin(), text.end(), told), end; at != end; ++at, ++gaps) {
    missing += std::stoul((*at)[1]);
  }
  EXPECT_EQ(missing, dropped) << text.substr(text.size() - 500);
  EXPECT_EQ(lines_of(text), kLines - dropped + gaps);
  spdlog::info("and on");
  flush_log();
  const std::string rest = pipe.read_all();
  EXPECT_EQ(lines_of(rest), 1u) << rest;
  EXPECT_NE(rest.find("and on"), std::string::npos);
}

TEST(Log, AFileAtItsSizeLimitAndAClosedPipeCostLinesOnly) {
  init_logging("info");
  const uint64_t before = dropped_log_lines();
  {
    const StandardError swapped(::open("/dev/full", O_WRONLY));
    for (int i = 0; i < 10; ++i) spdlog::info("no space");
    flush_log();
  }
  EXPECT_EQ(dropped_log_lines(), before + 10);
  Pipe pipe;
  {
    const StandardError swapped(pipe.ends[1]);
    ::close(pipe.ends[0]);
    pipe.ends[0] = -1;
    for (int i = 0; i < 10; ++i) spdlog::info("nobody there");
    flush_log();
  }
  EXPECT_EQ(dropped_log_lines(), before + 20);
  const std::string name = testing::TempDir() + "moesaic_log_test";
  const int file = ::open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  ASSERT_GE(file, 0);
  {
    const StandardError swapped(file);
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
    const rlimit small{200, limit.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    // The default action of the signal would end this process.
    for (int i = 0; i < 10; ++i) spdlog::info("a line that takes its place in the file");
    flush_log();
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  EXPECT_GT(dropped_log_lines(), before + 20);
  ::close(file);
  ::unlink(name.c_str());
  const Pipe last;
  {
    const StandardError swapped(last.ends[1]);
    spdlog::info("well again");
    flush_log();
  }
  EXPECT_NE(last.read_all().find("lines of the log are missing"), std::string::npos);
}

TEST(Log, LastWordsDoNotWaitForEver) {
  const Pipe pipe;
  const std::string much(100000, 'x');
  {
    const StandardError swapped(pipe.ends[1]);
    EXPECT_LT(seconds_of([&] { write_last_words(much); }), 10);
  }
  EXPECT_EQ(pipe.read_all(), std::string(4096, 'x'));
}

TEST(Log, UnknownLevelsAreRefused) { EXPECT_THROW(init_logging("loud"), UsageError); }

}  // namespace
}  // namespace moesaic::base
