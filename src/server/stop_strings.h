#pragma once

// Finds stop strings in text that arrives in pieces, and holds back only what could still become
// one. Each byte of text is looked at once, however long the stop strings are (Knuth, Morris and
// Pratt 1977).

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::server {

/// A stop string made ready for the search.
struct StopString {
  std::string text;
  /// [i]: the most bytes, fewer than i + 1, that text[0..i] both begins and ends with.
  std::vector<uint32_t> overlap;
};

/// The stop strings of a request, shared by all its choices. Those that are there twice count once.
using StopStrings = std::shared_ptr<const std::vector<StopString>>;
StopStrings stop_strings(std::vector<std::string> texts);

class StopMatcher {
 public:
  /// `include_stop`: the stop string itself is part of the text.
  StopMatcher(StopStrings stops, bool include_stop)
      : stops_(std::move(stops)), include_stop_(include_stop), begun_(stops_->size()) {}

  /// Adds text in which no stop string may end; one may begin in it.
  void pass(std::string_view text);
  /// Adds text; true when a stop string is complete. The earliest end wins, then the longest stop.
  bool add(std::string_view text);
  /// Text that can be shown: after a match all that is left, else without a tail that may be the
  /// beginning of a stop string. `end` releases that tail as well.
  std::string take(bool end);
  /// The stop string found; "" before.
  const std::string& found() const { return found_; }

 private:
  const StopString* step(char byte);

  StopStrings stops_;
  bool include_stop_;
  std::vector<uint32_t> begun_;  ///< bytes of each stop string that the text ends with
  std::string held_;
  std::string found_;
};

}  // namespace moesaic::server
