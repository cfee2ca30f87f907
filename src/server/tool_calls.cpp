#include "server/tool_calls.h"

#include <algorithm>
#include <utility>

#include "server/marks.h"

namespace moesaic::server {
namespace {

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

/// Bytes at the end of `text` that may be the beginning of one of the marks.
size_t partial_marks(std::string_view text, const std::vector<std::string_view>& marks) {
  size_t most = 0;
  for (const std::string_view mark : marks) most = std::max(most, partial_mark(text, mark));
  return most;
}

}  // namespace

ToolCallParser::ToolCallParser(const CallForm& form, std::shared_ptr<const TextParameters> texts)
    : form_(&form), texts_(std::move(texts)) {
  const auto collect = [&](std::vector<std::string_view>& into,
                           std::initializer_list<std::string_view> marks) {
    for (const std::string_view mark : marks) {
      if (!mark.empty()) into.push_back(mark);
      longest_mark_ = std::max(longest_mark_, mark.size());
    }
  };
  collect(outside_, {form.open, form.before, form.after});
  // A call without a closing mark ends where the next one begins.
  collect(within_, {form.close.empty() ? form.open : form.close});
}

/// Line breaks behind calls say nothing.
void ToolCallParser::show(std::string_view text, Pieces& out) {
  if (after_call_ && is_blank(text)) return;
  out.content += text;
  if (!text.empty()) after_call_ = false;
}

void ToolCallParser::close_call(std::string_view body, std::string_view closing, Pieces& out) {
  static const TextParameters kNone;
  if (form_->read(body, texts_ ? *texts_ : kNone, out.calls)) {
    after_call_ = true;
  } else {
    show(opening_ + std::string(body) + std::string(closing), out);
  }
  opening_.clear();
}

/// Whether the text is calls from its beginning on, as far as that can be told.
void ToolCallParser::begin() {
  const size_t first = held_.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return;
  started_ = true;
  inside_ = form_->bare != 0 && held_[first] == form_->bare;
}

/// Where the first mark begins that matters here, and which it is; npos without one.
size_t ToolCallParser::find_mark(std::string_view& found) const {
  // What was searched before cannot hold a whole mark, only its beginning.
  const size_t from = searched_ - std::min(searched_, longest_mark_ - 1);
  size_t first = std::string::npos;
  for (const std::string_view mark : inside_ ? within_ : outside_) {
    const size_t at = held_.find(mark, from);
    if (at < first) {
      first = at;
      found = mark;
    }
  }
  return first;
}

/// Goes on to the next mark; false when there is none yet.
bool ToolCallParser::step(Pieces& out) {
  std::string_view mark;
  const size_t at = find_mark(mark);
  searched_ = held_.size();
  if (at == std::string::npos) return false;
  searched_ = 0;
  const std::string before = held_.substr(0, at);
  held_.erase(0, at + mark.size());
  const bool opens = mark == form_->open;
  if (inside_) {
    close_call(before, opens ? std::string_view() : mark, out);
  } else {
    show(before, out);
  }
  inside_ = opens;
  if (inside_) opening_ = mark;
  return true;
}

ToolCallParser::Pieces ToolCallParser::add(std::string_view text) {
  Pieces out;
  held_ += text;
  if (!started_) begin();
  if (!started_) return out;
  while (step(out)) {
  }
  if (inside_) return out;
  const std::string certain = held_.substr(0, held_.size() - partial_marks(held_, outside_));
  if (after_call_ && is_blank(certain)) return out;
  show(certain, out);
  held_.erase(0, certain.size());
  searched_ = 0;
  return out;
}

ToolCallParser::Pieces ToolCallParser::end() {
  Pieces out;
  if (inside_) {
    close_call(held_, "", out);
  } else {
    show(held_, out);
  }
  held_.clear();
  return out;
}

}  // namespace moesaic::server
