#pragma once

// Tool calls in a model's text, in the form that Hermes and Qwen models are trained on:
// <tool_call>{"name": "...", "arguments": {...}}</tool_call>. Linear in the text; no regular
// expressions.

#include <string>
#include <string_view>
#include <vector>

namespace moesaic::server {

struct ToolCall {
  std::string name;
  /// JSON as the model wrote it: nearly always an object, but it may be any value.
  std::string arguments;
};

/// Separates content from tool calls while the text arrives.
class ToolCallParser {
 public:
  struct Pieces {
    std::string content;
    std::vector<ToolCall> calls;
  };
  /// What became certain with `text`.
  Pieces add(std::string_view text);
  /// The rest. A call that never closed is one if its JSON is whole, and content otherwise.
  Pieces end();

  bool any_calls() const { return any_calls_; }

 private:
  void close_call(std::string_view body, std::string_view closing, Pieces& out);

  std::string held_;
  size_t searched_ = 0;  ///< bytes of held_ known to hold no whole mark
  bool inside_ = false;
  bool any_calls_ = false;
};

}  // namespace moesaic::server
