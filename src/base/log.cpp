#include "base/log.h"

#include <fmt/chrono.h>
#include <poll.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/terminal.h"
#include "base/utf8.h"

namespace moesaic::base {
namespace {

constexpr const char* kPattern = "%Y-%m-%d %H:%M:%S.%e %^%-5l%$ %v";
/// Bytes that may wait to be written: some thousands of lines.
constexpr size_t kMaxQueued = size_t{256} << 10;

std::atomic<LogFormat> g_format{LogFormat::kText};

/// The text as a JSON string; what is not UTF-8 is not shown.
void append_json(std::string_view text, spdlog::memory_buf_t& out) {
  const auto add = [&](std::string_view piece) {
    out.append(piece.data(), piece.data() + piece.size());
  };
  add("\"");
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t size = utf8_size(text.substr(i));
    if (size == 0) {
      add("\\ufffd");
    } else if (byte == '"' || byte == '\\') {
      add("\\");
      add(text.substr(i, 1));
    } else if (byte < 0x20 || byte == 0x7f) {
      add(fmt::format("\\u{:04x}", byte));
    } else {
      add(text.substr(i, size));
    }
    i += std::max<size_t>(size, 1);
  }
  add("\"");
}

void append_json_line(std::chrono::system_clock::time_point time, std::string_view level,
                      std::string_view message, spdlog::memory_buf_t& out) {
  const auto since = time.time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since);
  const auto rest = std::chrono::duration_cast<std::chrono::milliseconds>(since - seconds);
  fmt::format_to(std::back_inserter(out),
                 R"({{"time":"{:%Y-%m-%dT%H:%M:%S}.{:03}Z","level":"{}","message":)",
                 fmt::gmtime(static_cast<std::time_t>(seconds.count())), rest.count(), level);
  append_json(message, out);
  out.push_back('}');
  out.push_back('\n');
}

/// Lines in the format that is set.
class Formatter : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    if (g_format == LogFormat::kText) return text_.format(message, out);
    const auto level = spdlog::level::to_string_view(message.level);
    append_json_line(message.time, {level.data(), level.size()},
                     {message.payload.data(), message.payload.size()}, out);
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<Formatter>();
  }

 private:
  spdlog::pattern_formatter text_{kPattern};
};

/// Writes everything, waiting for a reader if need be. False when it cannot be written.
bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      // Whoever started us made the pipe non-blocking.
      pollfd ready{fd, POLLOUT, 0};
      ::poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

/// Writes what goes without waiting for a reader longer than `milliseconds`. A pipe that has room
/// at all takes PIPE_BUF bytes at once.
void write_some(int fd, std::string_view text, int milliseconds) noexcept {
  while (!text.empty()) {
    pollfd ready{fd, POLLOUT, 0};
    if (::poll(&ready, 1, milliseconds) <= 0) return;
    const ssize_t n = ::write(fd, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

/// The queue of what is to be written, and the thread that writes it. Lives as long as the process:
/// others may log until its end, and the thread may wait for a reader for ever.
class Writer {
 public:
  void push(int fd, std::string text) noexcept {
    try {
      const std::lock_guard lock(mutex_);
      if (!running_) start();
      if (queued_ + text.size() > kMaxQueued) {
        ++dropped_;
        return;
      }
      if (dropped_ > told_) tell();
      enqueue({fd, std::move(text), 0});
    } catch (const std::system_error&) {
      // No thread is to be had; who starts with so little ends soon, and says why.
      write_some(fd, text, 0);
    } catch (const std::exception&) {
      ++dropped_;
    }
  }

  void drop() noexcept { ++dropped_; }

  void flush(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    written_.wait_for(lock, patience, [this] { return queued_ == 0; });
  }

  uint64_t dropped() const { return dropped_; }

 private:
  struct Line {
    int fd;
    std::string text;
    uint64_t tells;  ///< dropped lines that this one tells of
  };

  void start() {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    // The thread inherits it: a closed pipe or a full file is its own affair, and the program's
    // signals go to others.
    pthread_sigmask(SIG_BLOCK, &all, &before);
    try {
      std::thread([this] { run(); }).detach();
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    running_ = true;
  }

  void enqueue(Line line) {
    queued_ += line.text.size();
    lines_.push_back(std::move(line));
    pushed_.notify_one();
  }

  /// Says how many lines are missing at this place of the log.
  void tell() {
    const uint64_t count = dropped_ - told_;
    spdlog::memory_buf_t text;
    formatter_.format({spdlog::string_view_t("moesaic"), spdlog::level::warn,
                       fmt::format("{} lines of the log are missing here: nobody read them, or "
                                   "they could not be written",
                                   count)},
                      text);
    enqueue({STDERR_FILENO, fmt::to_string(text), count});
    told_ += count;
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      pushed_.wait(lock, [this] { return !lines_.empty(); });
      const Line line = std::move(lines_.front());
      lines_.pop_front();
      lock.unlock();
      const bool written = write_all(line.fd, line.text);
      lock.lock();
      queued_ -= line.text.size();
      if (!written) {
        told_ -= line.tells;
        if (line.tells == 0) ++dropped_;
      } else if (lines_.empty() && dropped_ > told_) {
        try {
          tell();
        } catch (const std::exception&) {
          // Without memory for it now, the next line tries again.
        }
      }
      if (queued_ == 0) written_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable pushed_;
  std::condition_variable written_;
  std::deque<Line> lines_;
  size_t queued_ = 0;  ///< bytes, those being written included
  uint64_t told_ = 0;
  std::atomic<uint64_t> dropped_{0};
  bool running_ = false;
  Formatter formatter_;
};

Writer& writer() {
  static auto* const instance = new Writer;
  return *instance;
}

class Sink : public spdlog::sinks::base_sink<std::mutex> {
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t buffer;
    formatter_->format(message, buffer);
    std::string text = fmt::to_string(buffer);
    if (colours_ && message.color_range_end > message.color_range_start) {
      text.insert(message.color_range_end, "\x1b[m");
      text.insert(message.color_range_start, color(message.level));
    }
    writer().push(STDERR_FILENO, std::move(text));
  }
  void flush_() override {}

  static const char* color(spdlog::level::level_enum level) {
    if (level >= spdlog::level::err) return "\x1b[31m\x1b[1m";
    if (level == spdlog::level::warn) return "\x1b[33m\x1b[1m";
    return level == spdlog::level::info ? "\x1b[32m" : "\x1b[36m";
  }

  static bool no_color() {
    const char* value = std::getenv("NO_COLOR");
    return value != nullptr && *value != '\0';
  }

  const bool colours_ = is_smart_terminal(STDERR_FILENO) && !no_color();
};

}  // namespace

void init_logging(std::string_view level, LogFormat format) {
  static const std::map<std::string, spdlog::level::level_enum> kLevels = {
      {"trace", spdlog::level::trace},       {"debug", spdlog::level::debug},
      {"info", spdlog::level::info},         {"warning", spdlog::level::warn},
      {"warn", spdlog::level::warn},         {"error", spdlog::level::err},
      {"critical", spdlog::level::critical}, {"off", spdlog::level::off}};
  std::string lower(level);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto found = kLevels.find(lower);
  if (found == kLevels.end()) {
    throw UsageError("unknown log level '" + std::string(level) +
                     "'; use trace, debug, info, warning, error, critical or off");
  }
  if (!spdlog::get("moesaic")) {
    const auto logger = std::make_shared<spdlog::logger>("moesaic", std::make_shared<Sink>());
    logger->set_formatter(std::make_unique<Formatter>());
    // A line that cannot even be put together, for want of memory. The default handler would write
    // to stderr itself.
    logger->set_error_handler([](const std::string&) { writer().drop(); });
    spdlog::set_default_logger(logger);
  }
  spdlog::set_level(found->second);
  g_format = format;
}

LogFormat log_format() { return g_format; }

void print_with_log(int fd, std::string text) { writer().push(fd, std::move(text)); }

void flush_log(std::chrono::milliseconds patience) { writer().flush(patience); }

uint64_t dropped_log_lines() { return writer().dropped(); }

void write_last_error(const std::string& message) {
  if (g_format == LogFormat::kText) return write_last_words("moesaic: " + message + "\n");
  spdlog::memory_buf_t line;
  append_json_line(std::chrono::system_clock::now(), "critical", message, line);
  write_last_words({line.data(), line.size()});
}

void write_last_words(std::string_view text) noexcept {
  constexpr int kPatience = 1000;
  write_some(STDERR_FILENO, text, kPatience);
}

}  // namespace moesaic::base
