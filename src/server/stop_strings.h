#pragma once

// Finds stop strings in text that arrives in pieces, and holds back only what could still become
// one.

#include <string>
#include <string_view>
#include <vector>

namespace moesaic::server {

class StopMatcher {
 public:
  /// `include_stop`: the stop string itself is part of the text.
  StopMatcher(std::vector<std::string> stops, bool include_stop)
      : stops_(std::move(stops)), include_stop_(include_stop) {}

  /// Adds text that is only held for now, without looking for stops in it.
  void pass(std::string_view text) { held_ += text; }
  /// Adds text; true when a stop string is complete. The earliest end wins, then the longest stop.
  bool add(std::string_view text);
  /// Text that can be shown: after a match all that is left, else without a tail that may be the
  /// beginning of a stop string. `end` releases that tail as well.
  std::string take(bool end);
  /// The stop string found; "" before.
  const std::string& found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  bool include_stop_;
  std::string held_;
  std::string found_;
};

}  // namespace moesaic::server
