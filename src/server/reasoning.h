#pragma once

// What a model thinks before it answers, told apart from the answer while the text arrives.

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
/// Whether a prompt ends inside of a thought that it opens.
bool opens_reasoning(const ReasoningForm& form, std::string_view prompt);

class ReasoningParser {
 public:
  ReasoningParser() : ReasoningParser(nullptr, false) {}
  /// `form` null: everything is answer. `inside`: the prompt has opened a thought.
  ReasoningParser(const ReasoningForm* form, bool inside);

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
