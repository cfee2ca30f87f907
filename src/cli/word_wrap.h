#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace moesaic::cli {

/// Columns that a UTF-8 text takes on a terminal: two for each character of Chinese, Japanese and
/// Korean, none for what only changes the one before.
size_t terminal_columns(std::string_view text);

/// Text that comes in pieces, onto a terminal, without a word broken at its margin. A word is shown
/// when it is whole; scripts that have no spaces may be broken between any two characters.
class WordWrap {
 public:
  /// `columns` tells the terminal's width, which may change; 0 leaves all as it is.
  WordWrap(std::function<size_t()> columns, std::function<void(std::string_view)> write)
      : columns_(std::move(columns)), write_(std::move(write)) {}

  void add(std::string_view text);
  /// Shows the word that may not be whole yet. The next text begins a line.
  void finish();

 private:
  void add_character(std::string_view character);
  void end_word();

  std::function<size_t()> columns_;
  std::function<void(std::string_view)> write_;
  std::string bytes_;   ///< of a character that has not come whole
  std::string word_;    ///< not shown yet
  std::string spaces_;  ///< before it, not shown yet
  size_t column_ = 0;   ///< where the cursor is
};

}  // namespace moesaic::cli
