#include "server/tool_calls.h"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <optional>

#include "base/error.h"
#include "server/json_strict.h"

namespace moesaic::server {
namespace {

constexpr std::string_view kOpen = "<tool_call>";
constexpr std::string_view kClose = "</tool_call>";

std::optional<ToolCall> read_call(std::string_view body) {
  try {
    const boost::json::value value = parse_json(body, kBodyLimits, "tool_call");
    const boost::json::object* object = value.if_object();
    if (object == nullptr) return std::nullopt;
    const boost::json::value* name = object->if_contains("name");
    if (name == nullptr || !name->is_string() || name->get_string().empty()) return std::nullopt;
    ToolCall call;
    call.name.assign(name->get_string().data(), name->get_string().size());
    const boost::json::value* arguments = object->if_contains("arguments");
    if (arguments == nullptr) arguments = object->if_contains("parameters");
    call.arguments = arguments == nullptr ? "{}" : boost::json::serialize(*arguments);
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
