#include "base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <utility>

#include "base/log.h"
#include "base/terminal.h"

namespace moesaic::base {
namespace {

constexpr int kMaxColumns = 80;
constexpr int kMaxBar = 24;
constexpr int kMinBar = 5;
constexpr double kRedrawSeconds = 0.1;
constexpr double kLineSeconds = 5;
constexpr double kLineGapSeconds = 0.5;

struct Unit {
  const char* name;
  double bytes;
};

Unit unit_of(double bytes) {
  static constexpr std::array<Unit, 4> kUnits = {
      {{"TiB", 0x1p40}, {"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 0x1p10}}};
  for (const Unit& unit : kUnits) {
    if (bytes >= unit.bytes) return unit;
  }
  return {"B", 1};
}

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::min(seconds + 0.5, 1e9));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

Progress::Output standard_error() {
  Progress::Output output;
  const bool json = log_format() == LogFormat::kJson;
  output.terminal = !json && is_smart_terminal(STDERR_FILENO);
  struct winsize size {};
  if (output.terminal && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    // A full last column would wrap on some terminals.
    output.columns = std::min<int>(kMaxColumns, size.ws_col - 1);
  }
  output.write = [](std::string_view text) { print_with_log(STDERR_FILENO, std::string(text)); };
  if (json) {
    output.write = [](std::string_view text) {
      spdlog::info("{}", text.substr(0, text.find('\n')));
    };
  }
  output.now = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
  return output;
}

}  // namespace

std::string format_progress(std::string_view title, uint64_t done, uint64_t total, double seconds,
                            int columns, bool with_bar) {
  done = std::min(done, total);
  const double share = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  const Unit unit = unit_of(static_cast<double>(total));
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const Unit rate_unit = unit_of(rate);
  std::string facts = fmt::format("{:3.0f}%  {:.1f}/{:.1f} {}", std::floor(share * 100),
                                  static_cast<double>(done) / unit.bytes,
                                  static_cast<double>(total) / unit.bytes, unit.name);
  if (rate > 0) facts += fmt::format("  {:.1f} {}/s", rate / rate_unit.bytes, rate_unit.name);
  if (done == total) {
    facts += "  in " + (seconds < 10 ? fmt::format("{:.1f} s", seconds) : duration(seconds));
  } else if (rate > 0) {
    facts += fmt::format("  {} left", duration(static_cast<double>(total - done) / rate));
  }
  std::string line(title);
  const int bar = std::min(kMaxBar, columns - static_cast<int>(line.size() + facts.size()) - 4);
  if (with_bar && bar >= kMinBar) {
    const auto filled = static_cast<size_t>(share * bar);
    line +=
        " [" + std::string(filled, '#') + std::string(static_cast<size_t>(bar) - filled, '.') + "]";
  }
  line += " " + facts;
  return line.substr(0, static_cast<size_t>(std::max(columns, 0)));
}

Progress::Progress(std::string title, uint64_t total)
    : Progress(std::move(title), total, standard_error()) {}

Progress::Progress(std::string title, uint64_t total, Output output)
    : title_(std::move(title)),
      total_(total),
      output_(std::move(output)),
      started_(output_.now()),
      shown_(started_) {}

Progress::~Progress() {
  if (line_open_) output_.write("\n");
}

void Progress::update(uint64_t done) {
  if (finished_) return;
  if (done >= total_) return finish();
  done_ = done;
  const double now = output_.now();
  const double waited = now - shown_;
  if (output_.terminal) {
    if (waited >= kRedrawSeconds || !line_open_) draw(now);
    return;
  }
  const auto tenth =
      static_cast<uint64_t>(10.0 * static_cast<double>(done_) / static_cast<double>(total_));
  if ((tenth != shown_tenth_ && waited >= kLineGapSeconds) || waited >= kLineSeconds) {
    shown_tenth_ = tenth;
    draw(now);
  }
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  done_ = total_;
  draw(output_.now());
  if (line_open_) output_.write("\n");
  line_open_ = false;
}

void Progress::draw(double now) {
  shown_ = now;
  const std::string line =
      format_progress(title_, done_, total_, now - started_, std::min(output_.columns, kMaxColumns),
                      output_.terminal);
  if (output_.terminal) {
    output_.write("\r" + line + "\x1b[K");  // the rest of a longer line before it goes
    line_open_ = true;
  } else {
    output_.write(line + "\n");
  }
}

}  // namespace moesaic::base
