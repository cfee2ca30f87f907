#pragma once

// What `bench serve` asks: prompts of a file, or random ones of a wanted length.

#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace moesaic::cli {

/// Whole numbers from low to high, both included.
struct NumberRange {
  int64_t low = 0;
  int64_t high = 0;
};

/// "256" or "128..512", each within `allowed`. Throws UsageError naming `origin`.
NumberRange parse_range(const std::string& origin, const std::string& text,
                        const NumberRange& allowed);

enum class Endpoint : uint8_t { kCompletions, kChat };

struct Prompt {
  boost::json::value value;       ///< of "prompt" or "messages"
  std::optional<int64_t> tokens;  ///< nothing: only the server can tell
};

/// Gives prompts one after another, without end.
class Prompts {
 public:
  /// Each of a random length and of random token ids, for completions.
  static Prompts random(const NumberRange& lengths, const NumberRange& ids);

  /// The lines of a file in turn, empty ones left out: a prompt as it stands, or a JSON object
  /// with "prompt" (text, or token ids for completions) or "messages" (for chat). For chat a text
  /// becomes one message of the user. Throws UsageError naming the line, and as base::read_file.
  static Prompts of_file(const std::string& path, Endpoint endpoint);

  /// Of a file; 0 of random ones.
  int64_t count() const { return static_cast<int64_t>(lines_.size()); }

  Prompt next(std::mt19937_64& random);

 private:
  std::vector<Prompt> lines_;
  size_t at_ = 0;
  NumberRange lengths_, ids_;
};

}  // namespace moesaic::cli
