#include "server/tool_calls.h"

#include <algorithm>
#include <boost/json/value.hpp>
#include <optional>

#include "base/error.h"
#include "server/json_strict.h"

namespace moesaic::server {
namespace {

constexpr std::string_view kOpen = "<tool_call>";
constexpr std::string_view kClose = "</tool_call>";

/// The text of the value of member number `index`. `object` is the text of a JSON object.
std::string_view member_text(std::string_view object, size_t index) {
  constexpr std::string_view kSpace = " \t\r\n";
  int depth = 0;
  bool in_string = false;
  size_t start = 0;  // of the value, once its member is there
  for (size_t at = 0; at < object.size(); ++at) {
    const char c = object[at];
    if (in_string) {
      if (c == '\\') ++at;
      in_string = c != '"';
      continue;
    }
    in_string = c == '"';
    const bool closes = c == '}' || c == ']';
    if (c == '{' || c == '[') ++depth;
    if (c == ':' && depth == 1 && index == 0) start = object.find_first_not_of(kSpace, at + 1);
    if (depth == 1 && (c == ',' || closes)) {
      if (start > 0) {
        const std::string_view value = object.substr(start, at - start);
        return value.substr(0, value.find_last_not_of(kSpace) + 1);
      }
      --index;
    }
    if (closes) --depth;
  }
  return {};
}

bool is_object(std::string_view text) {
  try {
    return parse_json(text, kBodyLimits, "arguments").is_object();
  } catch (const base::RequestError&) {
    return false;
  }
}

/// The arguments as the model wrote them, numbers and all. Some models write the object inside a
/// string once more.
std::string arguments_text(std::string_view call, const boost::json::object& object) {
  auto found = object.find("arguments");
  if (found == object.end()) found = object.find("parameters");
  if (found == object.end() || found->value().is_null()) return "{}";
  if (const boost::json::string* inner = found->value().if_string()) {
    const std::string_view text(inner->data(), inner->size());
    if (is_object(text)) return std::string(text);
  }
  return std::string(member_text(call, static_cast<size_t>(found - object.begin())));
}

std::optional<ToolCall> read_call(std::string_view body) {
  try {
    const boost::json::value value = parse_json(body, kBodyLimits, "tool_call");
    const boost::json::object* object = value.if_object();
    if (object == nullptr) return std::nullopt;
    const boost::json::value* name = object->if_contains("name");
    if (name == nullptr || !name->is_string() || name->get_string().empty()) return std::nullopt;
    ToolCall call;
    call.name.assign(name->get_string().data(), name->get_string().size());
    call.arguments = arguments_text(body, *object);
    return call;
  } catch (const base::RequestError&) {
    return std::nullopt;  // the model wrote something else; it stays text
  }
}

/// Bytes at the end of `text` that may be the beginning of `mark`.
size_t partial_mark(std::string_view text, std::string_view mark) {
  for (size_t size = std::min(mark.size() - 1, text.size()); size > 0; --size) {
    if (text.ends_with(mark.substr(0, size))) return size;
  }
  return 0;
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

}  // namespace

void ToolCallParser::close_call(std::string_view body, std::string_view closing, Pieces& out) {
  if (auto call = read_call(body)) {
    out.calls.push_back(std::move(*call));
    any_calls_ = true;
  } else {
    out.content += kOpen;
    out.content += body;
    out.content += closing;
  }
}

ToolCallParser::Pieces ToolCallParser::add(std::string_view text) {
  Pieces out;
  held_ += text;
  for (;;) {
    const std::string_view mark = inside_ ? kClose : kOpen;
    // What was searched before cannot hold a whole mark, only its beginning.
    const size_t at = held_.find(mark, searched_ - std::min(searched_, mark.size() - 1));
    searched_ = held_.size();
    if (at == std::string::npos) break;
    searched_ = 0;
    const std::string before = held_.substr(0, at);
    held_.erase(0, at + mark.size());
    if (inside_) {
      close_call(before, kClose, out);
    } else if (!(any_calls_ && is_blank(before))) {
      out.content += before;  // line breaks between two calls say nothing
    }
    inside_ = !inside_;
  }
  if (inside_) return out;
  const std::string certain = held_.substr(0, held_.size() - partial_mark(held_, kOpen));
  if (any_calls_ && is_blank(certain)) return out;
  out.content += certain;
  held_.erase(0, certain.size());
  searched_ = 0;
  return out;
}

ToolCallParser::Pieces ToolCallParser::end() {
  Pieces out;
  if (inside_) {
    close_call(held_, "", out);
  } else if (!(any_calls_ && is_blank(held_))) {
    out.content = held_;
  }
  held_.clear();
  return out;
}

}  // namespace moesaic::server
