#pragma once

// What a model thinks before it answers, told apart from the answer while the text arrives.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace moesaic::server {

struct ReasoningForm {
  std::string_view name;  ///< as --reasoning-parser takes it
  std::string_view open, close;
  std::string_view sign;  ///< what tells in a chat template that its model writes so
  bool always = false;    ///< the model thinks even where nothing opens it
};

std::span<const ReasoningForm> reasoning_forms();
/// The form of a name; null when there is none.
const ReasoningForm* find_reasoning_form(std::string_view name);
/// The form that a chat template shows; null when it shows none.
const ReasoningForm* reasoning_form_of(std::string_view chat_template);

/// What a prompt leaves to come.
enum class Reasoning : uint8_t {
  kNone,     ///< an answer
  kMayCome,  ///< a thought, or an answer at once
  kOpened,   ///< a thought that has begun
};
Reasoning reasoning_after(const ReasoningForm& form, std::string_view prompt);

class ReasoningParser {
 public:
  ReasoningParser() : ReasoningParser(nullptr, Reasoning::kNone) {}
  /// `form` may be null where nothing comes but an answer.
  ReasoningParser(const ReasoningForm* form, Reasoning coming);

  struct Pieces {
    std::string reasoning;
    std::string answer;
  };
  /// What became certain with `text`.
  Pieces add(std::string_view text);
  /// The rest.
  Pieces end();

 private:
  enum class State {
    kBefore,  ///< nothing yet
    kOpened,  ///< inside, by the prompt; the model may open it once more
    kInside,
    kAfter,  ///< and nothing of the answer yet
    kAnswer,
  };
  void go_on(Pieces& out);

  const ReasoningForm* form_;
  State state_;
  std::string held_;
  bool shown_ = false;  ///< some of the reasoning
};

}  // namespace moesaic::server
