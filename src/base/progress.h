#pragma once

// How far a long piece of work has come, on stderr: one line that redraws itself on a terminal, a
// plain line now and then elsewhere.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace moesaic::base {

/// A progress line of at most `columns` characters, without line end:
/// "title [####....]  42%  5.9/14.0 GiB  1.2 GiB/s  7 s left"; narrow ones do without the bar.
std::string format_progress(std::string_view title, uint64_t done, uint64_t total, double seconds,
                            int columns, bool with_bar);

/// Shows bytes done of a total. update() is cheap enough to call for every small piece; it draws at
/// most ten times a second on a terminal, and elsewhere every 10 % but no more than twice a second,
/// or every 5 s. Not thread-safe.
class Progress {
 public:
  /// What the display depends on; tests replace it.
  struct Output {
    bool terminal = false;
    int columns = 80;
    std::function<void(std::string_view)> write;
    std::function<double()> now;  ///< seconds on a steady clock
  };

  Progress(std::string title, uint64_t total);
  Progress(std::string title, uint64_t total, Output output);
  /// Leaves the cursor on a fresh line, also when the work was abandoned.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` may fall: work that starts over. At the total it finishes.
  void update(uint64_t done);
  /// Shows the end and the average rate. More than one call does nothing.
  void finish();

 private:
  void draw(double now);

  std::string title_;
  uint64_t total_;
  Output output_;
  uint64_t done_ = 0;
  uint64_t shown_tenth_ = 0;
  double started_;
  double shown_;
  bool line_open_ = false;
  bool finished_ = false;
};

}  // namespace moesaic::base
