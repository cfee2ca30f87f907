#pragma once

// How models write calls of tools, one row for each form. ToolCallParser finds calls in a text as
// it arrives; what stands between the marks of a row is read here.

#include <boost/json/array.hpp>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::server {

struct ToolCall {
  std::string name;
  /// JSON as the model wrote it: nearly always an object, but it may be any value.
  std::string arguments;
  std::string id;  ///< as the model wrote it; "" = it has none
};

/// Parameters that are texts, by function: some forms write their values without quotes.
using TextParameters = std::map<std::string, std::set<std::string, std::less<>>, std::less<>>;
TextParameters text_parameters(const boost::json::array& tools);

struct CallForm {
  std::string_view name;  ///< as --tool-call-parser takes it
  /// A call, or some, begin with one mark and end with the other. Without the second they go on to
  /// the next call or the end of the text.
  std::string_view open, close;
  /// Marks around all calls, of which nothing is shown.
  std::string_view before, after;
  /// A text that begins with this, blanks aside, is calls from there on; 0 = none is.
  char bare = 0;
  /// Reads what stands between the marks. False when it is no call, and so text.
  bool (*read)(std::string_view body, const TextParameters& texts, std::vector<ToolCall>& out);
  /// What tells in a chat template that its model writes so; "" = nothing does.
  std::string_view sign;
};

/// All of them; the first one is taken where nothing says which.
std::span<const CallForm> call_forms();
/// The form of a name; null when there is none.
const CallForm* find_call_form(std::string_view name);
/// The form that a chat template shows.
const CallForm& call_form_of(std::string_view chat_template);

}  // namespace moesaic::server
