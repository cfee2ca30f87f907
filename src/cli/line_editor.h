#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

namespace moesaic::cli {

/// Lines typed at a terminal, with editing, and with the earlier ones on the arrow keys: libedit.
/// Alt-Enter and pasted text put a new line into a line; nothing typed is kept on disk.
class LineEditor {
 public:
  enum class End : uint8_t {
    kLine,
    kInterrupted,  ///< Ctrl-C; the line is what had been typed
    kClosed,       ///< Ctrl-D on an empty line, or the terminal is gone
  };
  struct Line {
    End end = End::kClosed;
    std::string text;  ///< without its line end
  };

  /// `interrupted` becomes true with SIGINT, whose handler is the caller's.
  explicit LineEditor(std::atomic<bool>& interrupted);
  ~LineEditor();

  /// Reads a line behind `prompt`.
  Line read(const std::string& prompt);
  /// Puts a text among the earlier ones, unless it is the last of them.
  void remember(const std::string& text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Makes characters beyond ASCII count as one each, whatever the environment says.
void use_utf8();

}  // namespace moesaic::cli
