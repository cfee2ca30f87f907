#include "server/reasoning.h"

#include <algorithm>
#include <array>
#include <utility>

#include "server/marks.h"

namespace moesaic::server {
namespace {

// clang-format off
constexpr std::array kForms = {
    // name, marks, sign in a template, whether a model always thinks
    ReasoningForm{"qwen3", "<think>", "</think>", "think>", false},
    ReasoningForm{"deepseek_r1", "<think>", "</think>", "", true},
    ReasoningForm{"mistral", "[THINK]", "[/THINK]", "[THINK]", false},
    ReasoningForm{"granite", "Here is my thought process:", "Here is my response:", "Here is my thought process:", false},
};
// clang-format on

/// Names that other servers have for them.
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"glm45", "qwen3"},         {"deepseek_v3", "qwen3"}, {"minimax_m2", "deepseek_r1"},
    {"minimax", "deepseek_r1"}, {"step3", "deepseek_r1"}, {"ernie45", "deepseek_r1"},
};

constexpr std::string_view kBlanks = " \t\r\n";

}  // namespace

std::span<const ReasoningForm> reasoning_forms() { return kForms; }

const ReasoningForm* find_reasoning_form(std::string_view name) {
  for (const auto& [alias, of] : kAliases) {
    if (name == alias) name = of;
  }
  const auto found = std::find_if(kForms.begin(), kForms.end(),
                                  [&](const ReasoningForm& form) { return form.name == name; });
  return found == kForms.end() ? nullptr : &*found;
}

const ReasoningForm* reasoning_form_of(std::string_view chat_template) {
  const auto found = std::find_if(kForms.begin(), kForms.end(), [&](const ReasoningForm& form) {
    return !form.sign.empty() && chat_template.find(form.sign) != std::string_view::npos;
  });
  return found == kForms.end() ? nullptr : &*found;
}

Reasoning reasoning_after(const ReasoningForm& form, std::string_view prompt) {
  const size_t end = prompt.find_last_not_of(kBlanks);
  if (end != std::string_view::npos) prompt = prompt.substr(0, end + 1);
  if (prompt.ends_with(form.open)) return Reasoning::kOpened;
  // A thought that the prompt closes, to have none.
  if (prompt.ends_with(form.close)) return Reasoning::kNone;
  return form.always ? Reasoning::kOpened : Reasoning::kMayCome;
}

ReasoningParser::ReasoningParser(const ReasoningForm* form, Reasoning coming)
    : form_(form),
      state_(form == nullptr || coming == Reasoning::kNone ? State::kAnswer
             : coming == Reasoning::kOpened                ? State::kOpened
                                                           : State::kBefore) {}

/// Gives out what is certain of held_.
void ReasoningParser::go_on(Pieces& out) {
  if (state_ == State::kBefore || state_ == State::kOpened) {
    held_.erase(0, std::min(held_.find_first_not_of(kBlanks), held_.size()));
    if (held_.empty()) return;
    if (held_.starts_with(form_->open)) {
      held_.erase(0, form_->open.size());
      state_ = State::kInside;
    } else if (form_->open.starts_with(held_)) {
      return;  // it may become the mark
    } else {
      state_ = state_ == State::kBefore ? State::kAnswer : State::kInside;
    }
  }
  if (state_ == State::kInside) {
    if (!shown_) held_.erase(0, std::min(held_.find_first_not_of(kBlanks), held_.size()));
    const size_t at = held_.find(form_->close);
    const bool closes = at != std::string::npos;
    // Blanks before the mark are not shown, and so held until something follows.
    const size_t certain = closes ? at : held_.size() - partial_mark(held_, form_->close);
    const size_t last = held_.find_last_not_of(kBlanks, certain == 0 ? 0 : certain - 1);
    const size_t shown = certain == 0 || last == std::string::npos ? 0 : last + 1;
    out.reasoning += held_.substr(0, shown);
    shown_ = shown_ || shown > 0;
    held_.erase(0, closes ? at + form_->close.size() : shown);
    if (!closes) return;
    state_ = State::kAfter;
  }
  if (state_ == State::kAfter) {
    held_.erase(0, std::min(held_.find_first_not_of(kBlanks), held_.size()));
    if (held_.empty()) return;
    state_ = State::kAnswer;
  }
  out.answer += std::exchange(held_, {});
}

ReasoningParser::Pieces ReasoningParser::add(std::string_view text) {
  Pieces out;
  held_ += text;
  go_on(out);
  return out;
}

ReasoningParser::Pieces ReasoningParser::end() {
  Pieces out;
  const bool thinks = state_ == State::kInside || state_ == State::kOpened;
  (thinks ? out.reasoning : out.answer) = std::exchange(held_, {});
  return out;
}

}  // namespace moesaic::server
