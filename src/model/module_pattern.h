#pragma once

// Names of modules as a quantised checkpoint's config gives them: whole names, parts of names,
// shell wildcards and Python's regular expressions.

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace moesaic::model {

/// A regular expression of Python's `re` without what needs backtracking (back references, looking
/// ahead or behind). Matching takes time in proportion to the name times the pattern, whatever they
/// are: a set of states is stepped through the name.
class ModulePattern {
 public:
  /// Throws std::invalid_argument, with the reason, for a pattern that is malformed, uses what is
  /// not supported, or takes more than `most_states`.
  static ModulePattern regex(std::string_view text, size_t most_states);
  /// The whole name, where * stands for anything and ? for one character.
  static ModulePattern glob(std::string_view text, size_t most_states);

  /// As `re.match` has it: the pattern fits the beginning of `name`.
  bool matches(std::string_view name) const;
  size_t states() const { return program_.size(); }

 private:
  friend class PatternParser;
  enum class Step : uint8_t { kOneOf, kSplit, kJump, kStart, kEnd };
  struct State {
    Step step = Step::kJump;
    int32_t to = 1;    ///< relative; of kSplit and kJump
    int32_t also = 1;  ///< relative; of kSplit
    std::bitset<256> characters;
  };
  using Program = std::vector<State>;

  void add(std::vector<bool>& active, std::vector<size_t>& list, size_t first, bool start,
           bool end) const;

  Program program_;  ///< one past its last state is success
};

/// Modules listed in a config.
class ModuleSet {
 public:
  /// One entry: "re:" and a regular expression; a name with wildcards; or a module's name or the
  /// last, first or middle dotted parts of it, which hold for all modules below it too. Throws
  /// std::invalid_argument as ModulePattern does, and for more than 4,096 states in all.
  void add(std::string_view entry);
  void add_regex(std::string_view pattern);

  bool contains(std::string_view module) const;
  bool empty() const { return names_.empty() && patterns_.empty(); }

 private:
  void keep(ModulePattern pattern);
  size_t states_left() const;

  std::unordered_set<std::string> names_;
  std::vector<ModulePattern> patterns_;
  size_t states_ = 0;
};

}  // namespace moesaic::model
