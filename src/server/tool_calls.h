#pragma once

// Tool calls in a model's text, in any of the forms of call_forms.h. Linear in the text; no regular
// expressions.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/call_forms.h"

namespace moesaic::server {

/// Separates content from tool calls while the text arrives.
class ToolCallParser {
 public:
  ToolCallParser() : ToolCallParser(call_forms().front(), nullptr) {}
  /// `texts` may be null.
  ToolCallParser(const CallForm& form, std::shared_ptr<const TextParameters> texts);

  struct Pieces {
    std::string content;
    std::vector<ToolCall> calls;
  };
  /// What became certain with `text`.
  Pieces add(std::string_view text);
  /// The rest. A call that never closed is one if it is whole, and content otherwise.
  Pieces end();

 private:
  void begin();
  bool step(Pieces& out);
  void show(std::string_view text, Pieces& out);
  void close_call(std::string_view body, std::string_view closing, Pieces& out);
  size_t find_mark(std::string_view& found) const;

  const CallForm* form_;
  std::shared_ptr<const TextParameters> texts_;
  std::vector<std::string_view> outside_;  ///< marks that matter outside of a call, and
  std::vector<std::string_view> within_;   ///< those inside
  size_t longest_mark_ = 1;
  std::string held_;
  std::string opening_;  ///< what began the call that is open
  size_t searched_ = 0;  ///< bytes of held_ known to hold no whole mark
  bool started_ = false;
  bool inside_ = false;
  bool after_call_ = false;  ///< nothing but blanks since
};

}  // namespace moesaic::server
