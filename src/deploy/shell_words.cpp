#include "deploy/shell_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"

namespace moesaic::deploy {
namespace {

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

class Splitter {
 public:
  Splitter(std::string_view script, const Variables& variables)
      : text_(script), variables_(variables) {}

  std::vector<std::vector<std::string>> run() {
    while (at_ < text_.size()) step();
    end_command();
    return std::move(commands_);
  }

 private:
  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  void step() {
    const char c = peek();
    if (c == '\\') {
      if (peek(1) != '\n') take(peek(1));
      at_ += 2;
    } else if (c == '\'') {
      single_quoted();
    } else if (c == '"') {
      double_quoted();
    } else if (c == '$') {
      variable(false);
    } else if (c == '#' && !in_word_) {
      while (at_ < text_.size() && peek() != '\n') ++at_;
    } else if (c == '>' || c == '<') {
      redirection();
    } else if (c == '\n' || c == ';' || c == '&' || c == '|' || c == '(' || c == ')') {
      end_command();
      ++at_;
    } else if (c == ' ' || c == '\t' || c == '\r') {
      end_word();
      ++at_;
    } else {
      take(c);
      ++at_;
    }
  }

  void take(char c) {
    if (c == '\0') return;
    word_ += c;
    in_word_ = true;
  }

  void single_quoted() {
    in_word_ = true;
    const size_t end = std::min(text_.find('\'', at_ + 1), text_.size());
    word_ += text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
  }

  void double_quoted() {
    in_word_ = true;
    ++at_;
    while (at_ < text_.size() && peek() != '"') {
      if (peek() == '\\' && (peek(1) == '"' || peek(1) == '\\' || peek(1) == '$' ||
                             peek(1) == '`' || peek(1) == '\n')) {
        if (peek(1) != '\n') word_ += peek(1);
        at_ += 2;
      } else if (peek() == '$') {
        variable(true);
      } else {
        word_ += text_[at_++];
      }
    }
    ++at_;
  }

  void variable(bool quoted) {
    if (peek(1) == '(') {
      substitution(quoted);
    } else if (peek(1) == '{') {
      const size_t end = std::min(text_.find('}', at_), text_.size());
      const std::string_view inside = text_.substr(at_ + 2, end - at_ - 2);
      at_ = end + 1;
      size_t length = 0;
      while (length < inside.size() && is_name_char(inside[length])) ++length;
      std::string_view fallback = inside.substr(length);
      const bool has_fallback = fallback.starts_with(":-") || fallback.starts_with("-");
      fallback.remove_prefix(fallback.starts_with(":-") ? 2 : has_fallback ? 1 : 0);
      value_of(std::string(inside.substr(0, length)),
               has_fallback ? std::optional(std::string(fallback)) : std::nullopt, quoted);
    } else {
      size_t length = 0;
      while (is_name_char(peek(1 + length))) ++length;
      if (length == 0) {
        take('$');
        ++at_;
        return;
      }
      const std::string name(text_.substr(at_ + 1, length));
      at_ += 1 + length;
      value_of(name, std::nullopt, quoted);
    }
  }

  void value_of(const std::string& name, const std::optional<std::string>& fallback, bool quoted) {
    const auto set = set_.find(name);
    const std::optional<std::string> value =
        set == set_.end() ? variables_(name) : std::optional(set->second);
    put(value ? *value : fallback ? *fallback : "$(" + name + ")", quoted);
  }

  /// Outside quotes a value's spaces part words, and an empty one is none.
  void put(const std::string& value, bool quoted) {
    expanded_ += value.size();
    check_expanded(expanded_);
    if (quoted || is_assignment(word_)) {
      in_word_ = true;
      word_ += value;
      return;
    }
    for (char c : value) {
      if (c == ' ' || c == '\t' || c == '\n') {
        end_word();
      } else {
        take(c);
      }
    }
  }

  /// Kubernetes fills in $(NAME) before the shell starts; anything else is the shell's, and stays.
  void substitution(bool quoted) {
    size_t depth = 0;
    const size_t begin = at_++;
    do {
      depth += peek() == '(' ? 1 : 0;
      depth -= peek() == ')' ? 1 : 0;
      ++at_;
    } while (depth > 0 && at_ < text_.size());
    const std::string whole(text_.substr(begin, at_ - begin));
    const std::string value = expand_references(whole, variables_);
    if (value == whole) {
      word_ += whole;
      in_word_ = true;
    } else {
      put(value, quoted);
    }
  }

  /// Where a command's output goes is not one of its words.
  void redirection() {
    if (std::all_of(word_.begin(), word_.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      word_.clear();
      in_word_ = false;
    }
    end_word();
    while (peek() == '>' || peek() == '<' || peek() == '&') ++at_;
    while (peek() == ' ') ++at_;
    while (at_ < text_.size() && std::string_view(" \t\n;|&").find(peek()) == std::string::npos) {
      ++at_;
    }
  }

  /// What "NAME=value" and "export NAME=value" set is known to the commands after them.
  void remember() {
    const size_t first = !words_.empty() && words_[0] == "export" ? 1 : 0;
    if (!std::all_of(words_.begin() + static_cast<std::ptrdiff_t>(std::min(first, words_.size())),
                     words_.end(), is_assignment)) {
      return;
    }
    for (size_t i = first; i < words_.size(); ++i) {
      const size_t equals = words_[i].find('=');
      set_[words_[i].substr(0, equals)] = words_[i].substr(equals + 1);
    }
  }

  void end_word() {
    if (in_word_) words_.push_back(std::move(word_));
    word_.clear();
    in_word_ = false;
  }

  void end_command() {
    end_word();
    remember();
    if (!words_.empty()) commands_.push_back(std::move(words_));
    words_.clear();
  }

  std::string_view text_;
  const Variables& variables_;
  size_t at_ = 0;
  std::string word_;
  bool in_word_ = false;
  std::vector<std::string> words_;
  std::vector<std::vector<std::string>> commands_;
  std::map<std::string, std::string> set_;  ///< by the script itself
  size_t expanded_ = 0;                     ///< bytes that variables became
};

}  // namespace

bool is_assignment(const std::string& word) {
  const size_t equals = word.find('=');
  return equals != std::string::npos && equals > 0 &&
         std::all_of(word.begin(), word.begin() + static_cast<std::ptrdiff_t>(equals),
                     is_name_char);
}

void check_expanded(size_t bytes) {
  if (bytes <= kMaxExpandedText) return;
  throw base::UsageError(fmt::format(
      "its variables expand to more than {} bytes; no server takes that", kMaxExpandedText));
}

std::vector<std::vector<std::string>> shell_commands(std::string_view script,
                                                     const Variables& variables) {
  return Splitter(script, variables).run();
}

std::string expand_references(std::string_view text, const Variables& variables) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text.substr(at, 3) == "$$(") {
      out += "$(";
      at += 3;
      continue;
    }
    if (text.substr(at, 2) != "$(") {
      out += text[at++];
      continue;
    }
    const size_t end = text.find(')', at);
    if (end == std::string_view::npos) return out.append(text.substr(at));
    const std::string name(text.substr(at + 2, end - at - 2));
    const std::optional<std::string> value = variables(name);
    out += value ? *value : "$(" + name + ")";
    check_expanded(out.size());
    at = end + 1;
  }
  return out;
}

}  // namespace moesaic::deploy
