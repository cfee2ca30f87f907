#include "cli/word_wrap.h"

#include <algorithm>
#include <cwchar>

#include "base/utf8.h"

namespace moesaic::cli {
namespace {

/// The code point of one character of valid UTF-8.
wchar_t code_point(std::string_view character) {
  if (character.size() == 1) return static_cast<unsigned char>(character[0]);
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(character[i]); };
  auto code = static_cast<wchar_t>(byte(0) & (0xff >> (character.size() + 1)));
  for (size_t i = 1; i < character.size(); ++i) {
    code = static_cast<wchar_t>(code << 6 | (byte(i) & 0x3f));
  }
  return code;
}

size_t columns_of(std::string_view character) {
  return static_cast<size_t>(std::max(0, ::wcwidth(code_point(character))));
}

}  // namespace

size_t terminal_columns(std::string_view text) {
  size_t columns = 0;
  while (!text.empty()) {
    const size_t size = std::max<size_t>(base::utf8_size(text), 1);
    columns += columns_of(text.substr(0, size));
    text.remove_prefix(size);
  }
  return columns;
}

void WordWrap::add(std::string_view text) {
  bytes_ += text;
  std::string_view rest = bytes_;
  while (!rest.empty()) {
    const size_t size = base::utf8_size(rest);
    // What is no character yet may become one with the next bytes.
    if (size == 0 && rest.size() < 4) break;
    add_character(rest.substr(0, std::max<size_t>(size, 1)));
    rest.remove_prefix(std::max<size_t>(size, 1));
  }
  bytes_.erase(0, bytes_.size() - rest.size());
}

void WordWrap::add_character(std::string_view character) {
  if (character == "\n") {
    end_word();
    write_("\n");
    spaces_.clear();
    column_ = 0;
  } else if (character == " " || character == "\t") {
    if (!word_.empty()) end_word();
    spaces_ += character == " " ? " " : "    ";
  } else if (columns_of(character) == 2) {
    end_word();
    word_ = character;
    end_word();
  } else {
    word_ += character;
  }
}

/// Shows the word and the spaces before it, which a new line takes the place of.
void WordWrap::end_word() {
  if (word_.empty()) return;
  const size_t columns = columns_();
  const size_t width = terminal_columns(word_);
  if (columns > 0 && column_ > 0 && column_ + spaces_.size() + width > columns) {
    write_("\n");
    column_ = 0;
    spaces_.clear();
  }
  write_(spaces_ + word_);
  column_ += spaces_.size() + width;
  // A word longer than a line is broken by the terminal.
  if (columns > 0 && column_ > columns) column_ %= columns;
  spaces_.clear();
  word_.clear();
}

void WordWrap::finish() {
  word_ += bytes_;
  bytes_.clear();
  end_word();
  spaces_.clear();
  column_ = 0;
}

}  // namespace moesaic::cli
