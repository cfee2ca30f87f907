#include "model/module_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

namespace moesaic::model {
namespace {

constexpr size_t kMostStates = 4096;
constexpr int kDeepest = 32;

using Characters = std::bitset<256>;

size_t index_of(char c) { return static_cast<unsigned char>(c); }

Characters range(char first, char last) {
  Characters set;
  for (size_t c = index_of(first); c <= index_of(last); ++c) set.set(c);
  return set;
}

Characters one(char c) { return range(c, c); }

/// What \d, \w, \s and their opposites stand for; nothing for another letter.
std::optional<Characters> named_class(char letter) {
  const Characters digits = range('0', '9');
  const Characters word = digits | range('a', 'z') | range('A', 'Z') | one('_');
  const Characters space = range('\t', '\r') | one(' ');
  switch (letter) {
    case 'd':
      return digits;
    case 'D':
      return ~digits;
    case 'w':
      return word;
    case 'W':
      return ~word;
    case 's':
      return space;
    case 'S':
      return ~space;
    default:
      return std::nullopt;
  }
}

bool is_letter_or_digit(char c) { return (named_class('w').value() & ~one('_')).test(index_of(c)); }

}  // namespace

/// Recursive descent: alternatives of sequences of repeated atoms. Programs hold relative jumps, so
/// that pieces can be appended and repeated.
class PatternParser {
 public:
  using Program = ModulePattern::Program;
  using State = ModulePattern::State;
  using Step = ModulePattern::Step;

  PatternParser(std::string_view text, size_t most_states) : text_(text), most_(most_states) {}

  Program run() {
    Program program = alternatives(0);
    if (at_ < text_.size()) fail("has a ) without its (");
    return program;
  }

  static State one_of(const Characters& characters) {
    return {.step = Step::kOneOf, .characters = characters};
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw std::invalid_argument(fmt::format("{} (at character {})", problem, at_));
  }

  bool more() const { return at_ < text_.size(); }
  bool next_is(char c) const { return more() && text_[at_] == c; }
  bool take(char c) {
    if (!next_is(c)) return false;
    ++at_;
    return true;
  }
  char take_any(const char* missing) {
    if (!more()) fail(missing);
    return text_[at_++];
  }

  void append(Program& to, const Program& more) const {
    if (to.size() + more.size() > most_) fail("is too large");
    to.insert(to.end(), more.begin(), more.end());
  }

  static Program split(size_t to, size_t also) {
    return {{.step = Step::kSplit,
             .to = static_cast<int32_t>(to),
             .also = static_cast<int32_t>(also),
             .characters = {}}};
  }
  static Program jump(int64_t to) {
    return {{.step = Step::kJump, .to = static_cast<int32_t>(to), .characters = {}}};
  }

  Program alternatives(int depth) {
    if (depth > kDeepest) fail("is nested too deeply");
    Program left = sequence(depth);
    while (take('|')) {
      const Program right = sequence(depth);
      Program both = split(1, left.size() + 2);
      append(both, left);
      append(both, jump(static_cast<int64_t>(right.size()) + 1));
      append(both, right);
      left = std::move(both);
    }
    return left;
  }

  Program sequence(int depth) {
    Program all;
    while (more() && !next_is('|') && !next_is(')')) append(all, repeated(atom(depth)));
    return all;
  }

  Program optional(const Program& piece) const {
    Program made = split(1, piece.size() + 1);
    append(made, piece);
    return made;
  }

  Program any_number(const Program& piece) const {
    Program made = split(1, piece.size() + 2);
    append(made, piece);
    append(made, jump(-static_cast<int64_t>(piece.size()) - 1));
    return made;
  }

  /// `least` times `piece`, then up to `most` times (-1: any number).
  Program times(const Program& piece, int64_t least, int64_t most) const {
    Program made;
    for (int64_t i = 0; i < least; ++i) append(made, piece);
    if (most < 0) append(made, any_number(piece));
    for (int64_t i = least; i < most; ++i) append(made, optional(piece));
    return made;
  }

  Program repeated(Program piece) {
    for (bool first = true; more(); first = false) {
      int64_t least = 0;
      int64_t most = -1;
      if (take('*')) {
        least = 0;
      } else if (take('+')) {
        least = 1;
      } else if (take('?')) {
        most = 1;
      } else if (!braces(least, most)) {
        break;
      }
      if (!first) fail("repeats a repetition");
      take('?');  // which of several matches is found makes no difference here
      piece = times(piece, least, most);
    }
    return piece;
  }

  /// {m}, {m,}, {,n} or {m,n}.
  bool braces(int64_t& least, int64_t& most) {
    if (!take('{')) return false;
    const std::optional<int64_t> from = number();
    least = from.value_or(0);
    most = least;
    if (take(',')) {
      most = number().value_or(-1);
    } else if (!from) {
      fail("has a { without a number");
    }
    if (!take('}')) fail("has a { without its }");
    if (most >= 0 && most < least) fail("repeats at most fewer times than at least");
    return true;
  }

  std::optional<int64_t> number() {
    if (!more() || !range('0', '9').test(index_of(text_[at_]))) return std::nullopt;
    int64_t value = 0;
    while (more() && range('0', '9').test(index_of(text_[at_]))) {
      value = value * 10 + (text_[at_++] - '0');
      if (value > static_cast<int64_t>(kMostStates)) fail("repeats too often");
    }
    return value;
  }

  Program atom(int depth) {
    const char c = take_any("ends too early");
    switch (c) {
      case '(':
        return group(depth);
      case '[':
        return {one_of(bracket())};
      case '.':
        return {one_of(~one('\n'))};
      case '^':
        return {{.step = Step::kStart, .characters = {}}};
      case '$':
        return {{.step = Step::kEnd, .characters = {}}};
      case '\\':
        return {one_of(escape())};
      case '*':
      case '+':
      case '?':
      case '{':
        --at_;
        fail("repeats nothing");
      default:
        return {one_of(one(c))};
    }
  }

  Program group(int depth) {
    if (take('?') && !take(':')) {
      fail("looks ahead or behind, or sets flags, which is not supported");
    }
    Program inside = alternatives(depth + 1);
    if (!take(')')) fail("has a ( without its )");
    return inside;
  }

  Characters escape() {
    const char c = take_any("ends in a backslash");
    if (const auto named = named_class(c)) return *named;
    if (is_letter_or_digit(c)) fail(fmt::format("has \\{}, which is not supported", c));
    return one(c);
  }

  Characters bracket() {
    const bool inverted = take('^');
    Characters set;
    for (bool first = true; first || !next_is(']'); first = false) {
      char from = take_any("has a [ without its ]");
      if (from == '\\') {
        const Characters escaped = escape();
        set |= escaped;
        if (escaped.count() != 1) continue;
        from = text_[at_ - 1];
      }
      set |= one(from);
      const bool to_another = next_is('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']';
      if (!to_another) continue;
      ++at_;
      const char to = take_any("has a [ without its ]");
      if (index_of(to) < index_of(from) || to == '\\')
        fail("has a range that ends before it begins");
      set |= range(from, to);
    }
    ++at_;
    return inverted ? ~set : set;
  }

  std::string_view text_;
  size_t most_;
  size_t at_ = 0;
};

ModulePattern ModulePattern::regex(std::string_view text, size_t most_states) {
  ModulePattern made;
  made.program_ = PatternParser(text, most_states).run();
  return made;
}

ModulePattern ModulePattern::glob(std::string_view text, size_t most_states) {
  std::string written;
  for (const char c : text) {
    if (c == '*') {
      written += ".*";
    } else if (c == '?') {
      written += '.';
    } else {
      if (!is_letter_or_digit(c)) written += '\\';
      written += c;
    }
  }
  return regex(written + "$", most_states);
}

/// Activates `first` and whatever it leads to without a character.
void ModulePattern::add(std::vector<bool>& active, std::vector<size_t>& list, size_t first,
                        bool start, bool end) const {
  std::vector<size_t> todo = {first};
  while (!todo.empty()) {
    const size_t at = todo.back();
    todo.pop_back();
    if (active[at]) continue;
    active[at] = true;
    list.push_back(at);
    if (at == program_.size()) continue;
    const State& state = program_[at];
    const auto lead = [&](int32_t by) { todo.push_back(at + static_cast<size_t>(by)); };
    if (state.step == Step::kSplit) lead(state.also);
    if (state.step == Step::kSplit || state.step == Step::kJump) lead(state.to);
    if (state.step == Step::kStart && start) lead(1);
    if (state.step == Step::kEnd && end) lead(1);
  }
}

bool ModulePattern::matches(std::string_view name) const {
  std::vector<bool> active(program_.size() + 1);
  std::vector<size_t> list;
  add(active, list, 0, true, name.empty());
  for (size_t i = 0; !list.empty() && !active[program_.size()] && i < name.size(); ++i) {
    std::vector<size_t> next;
    std::fill(active.begin(), active.end(), false);
    for (const size_t at : list) {
      const State& state = program_[at];
      if (state.step != Step::kOneOf || !state.characters.test(index_of(name[i]))) continue;
      add(active, next, at + 1, false, i + 1 == name.size());
    }
    list = std::move(next);
  }
  return active[program_.size()];
}

void ModuleSet::add(std::string_view entry) {
  constexpr std::string_view kRegex = "re:";
  if (entry.starts_with(kRegex)) {
    add_regex(entry.substr(kRegex.size()));
  } else if (entry.find_first_of("*?") != std::string_view::npos) {
    keep(ModulePattern::glob(entry, states_left()));
  } else {
    while (entry.ends_with('.')) entry.remove_suffix(1);
    while (entry.starts_with('.')) entry.remove_prefix(1);
    if (!entry.empty()) names_.emplace(entry);
  }
}

void ModuleSet::add_regex(std::string_view pattern) {
  keep(ModulePattern::regex(pattern, states_left()));
}

size_t ModuleSet::states_left() const { return kMostStates - states_; }

void ModuleSet::keep(ModulePattern pattern) {
  states_ += std::min(states_left(), pattern.states() + 1);
  patterns_.push_back(std::move(pattern));
}

bool ModuleSet::contains(std::string_view module) const {
  // Every run of whole dotted parts may be listed.
  for (size_t first = 0; !names_.empty() && first < module.size();) {
    for (size_t end = first; end != std::string_view::npos;) {
      end = module.find('.', end + 1);
      if (names_.contains(std::string(module.substr(first, end - first)))) return true;
    }
    const size_t dot = module.find('.', first);
    if (dot == std::string_view::npos) break;
    first = dot + 1;
  }
  return std::any_of(patterns_.begin(), patterns_.end(),
                     [&](const ModulePattern& pattern) { return pattern.matches(module); });
}

}  // namespace moesaic::model
