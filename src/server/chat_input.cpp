#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/serialize.hpp>

#include "base/error.h"
#include "server/fields.h"
#include "server/json_strict.h"
#include "server/openai_request.h"
#include "server/request_fields.h"

namespace moesaic::server {
namespace {

namespace json = boost::json;

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

/// Names a template gets from this program or that are Jinja's own; a request may not replace them.
constexpr std::array<std::string_view, 18> kReservedNames = {"messages",
                                                             "tools",
                                                             "documents",
                                                             "add_generation_prompt",
                                                             "continue_final_message",
                                                             "tokenize",
                                                             "bos_token",
                                                             "eos_token",
                                                             "unk_token",
                                                             "pad_token",
                                                             "range",
                                                             "loop",
                                                             "dict",
                                                             "namespace",
                                                             "raise_exception",
                                                             "strftime_now",
                                                             "chat_template",
                                                             "self"};

/// What a message says, in the shape that its template shows.
struct Said {
  json::value content;    ///< a string, or parts
  std::string text;       ///< all of it as a string
  std::string reasoning;  ///< of thinking parts that are not among the parts
  bool has_text = false;
  bool has_reasoning = false;
};

/// The string in a member of a part; nothing where it is null, which has nothing to say.
std::optional<std::string> part_text(const json::object& part, const std::string& where,
                                     const char* member) {
  if (!part.contains(member)) schema_error(where + "." + member, "is required");
  return Fields(part, where).string(member);
}

/// Adds a line to `text`.
void add_line(std::string& text, bool& any, const std::string& line) {
  if (any) text += '\n';
  text += line;
  any = true;
}

/// The text of a part of type thinking or reasoning: in the member of that name or in `text`, a
/// string or text parts.
std::string thinking_text(const json::object& part, const std::string& where) {
  for (const char* member : {"thinking", "reasoning", "text"}) {
    const json::value* value = part.if_contains(member);
    if (value == nullptr || value->is_null()) continue;
    if (!value->is_array()) return Fields(part, where).string(member).value_or("");
    std::string text;
    for (const json::value& inner : value->get_array()) {
      if (!inner.is_object()) schema_error(where + "." + member, "must hold text parts");
      text += part_text(inner.get_object(), where + "." + member, "text").value_or("");
    }
    return text;
  }
  return "";
}

bool is_thinking(std::string_view type) { return type == "thinking" || type == "reasoning"; }

void add_part(Said& said, json::array& parts, const json::value& part, const std::string& where,
              bool keeps_thinking) {
  if (part.is_string()) {
    const std::string text(view(part.get_string()));
    add_line(said.text, said.has_text, text);
    parts.push_back(json::object{{"type", "text"}, {"text", text}});
    return;
  }
  if (!part.is_object()) schema_error(where, "must be an object with a type");
  const json::object& object = part.get_object();
  const auto type = Fields(object, where).string("type");
  if (!type) schema_error(where + ".type", "is required");
  if (is_thinking(*type)) {
    const std::string thought = thinking_text(object, where);
    if (keeps_thinking) {
      parts.push_back(json::object{{"type", "thinking"}, {"thinking", thought}});
    } else {
      add_line(said.reasoning, said.has_reasoning, thought);
    }
    return;
  }
  if (*type != "text" && *type != "refusal" && *type != "input_text" && *type != "output_text") {
    value_error("messages", "this model takes text only; a content part has another type");
  }
  const auto text = part_text(object, where, *type == "refusal" ? "refusal" : "text");
  if (!text) return;
  add_line(said.text, said.has_text, *text);
  parts.push_back(json::object{{"type", "text"}, {"text", *text}});
}

/// Whether content goes to the template as parts. Where it shows both shapes content stays as it
/// came, but a tool's result is text.
bool takes_parts(const ContentRules& rules, const text::ChatTemplate::Shapes& shapes,
                 std::string_view role, bool came_as_parts) {
  if (rules.format == ContentRules::Format::kString) return false;
  const bool only_parts = shapes.part && !shapes.text;
  if (role == "tool" || role == "function") return only_parts;
  if (rules.format == ContentRules::Format::kParts) return true;
  return only_parts || (came_as_parts && shapes.parts);
}

Said normalise_content(const json::value* content, const std::string& where, std::string_view role,
                       const ContentRules& rules) {
  Said said;
  said.content = "";
  if (content == nullptr || content->is_null()) return said;
  text::ChatTemplate::Shapes shapes;
  if (rules.chat_template != nullptr) shapes = rules.chat_template->shapes(role);
  const bool as_parts = takes_parts(rules, shapes, role, content->is_array());
  json::array parts;
  if (content->is_string()) {
    add_part(said, parts, *content, where, false);
  } else if (content->is_array()) {
    for (size_t i = 0; i < content->get_array().size(); ++i) {
      add_part(said, parts, content->get_array()[i], fmt::format("{}.{}", where, i),
               as_parts && shapes.thinking);
    }
  } else {
    schema_error(where, "must be a string or an array of parts");
  }
  if (said.has_reasoning && role != "assistant") {
    value_error("messages", "only an assistant's message can have thinking in its content");
  }
  if (shapes.part && !shapes.parts && parts.size() > 1) {
    parts = {json::object{{"type", "text"}, {"text", said.text}}};
  }
  said.content = as_parts ? json::value(std::move(parts)) : json::value(said.text);
  return said;
}

/// The arguments a client sends back are JSON in a string; templates want an object, and get an
/// empty one where a model wrote something else: the conversation must be able to go on.
json::value call_arguments(const json::value* given, const std::string& where) {
  json::value parsed;
  if (given != nullptr && given->is_string()) {
    const std::string_view text = view(given->get_string());
    try {
      parsed = parse_json(text, kBodyLimits, "body." + where, {}, base::JsonNumbers::kAsWritten);
    } catch (const base::RequestError&) {
      if (has_half_character(text)) throw;
    }
  } else if (given != nullptr) {
    parsed = *given;
  }
  return parsed.is_object() && !written_number(parsed) ? parsed : json::object{};
}

json::value normalise_tool_calls(const json::array& calls, const std::string& where) {
  json::array out;
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string at = fmt::format("{}.{}", where, i);
    if (!calls[i].is_object()) schema_error(at, "must be an object");
    json::object call = calls[i].get_object();
    const Fields fields(calls[i].get_object(), at);
    const json::object* function = fields.object("function");
    if (function == nullptr) schema_error(at + ".function", "is required");
    const Fields inner(*function, at + ".function");
    if (!inner.string("name")) schema_error(at + ".function.name", "is required");
    json::object named = *function;
    named["arguments"] = call_arguments(inner.find("arguments"), inner.path("arguments"));
    call["function"] = std::move(named);
    out.push_back(std::move(call));
  }
  return out;
}

/// The reasoning of an earlier answer, under the names that templates read.
void set_reasoning(const Fields& fields, const Said& said, json::object& out) {
  std::optional<std::string> known;
  if (said.has_reasoning) known = said.reasoning;
  for (const char* name : {"thinking", "reasoning_content", "reasoning"}) {
    if (auto text = fields.string(name)) {
      out[name] = *text;
      known = std::move(text);
    }
  }
  if (!known) return;
  for (const char* name : {"reasoning", "reasoning_content"}) out.emplace(name, *known);
  // Templates that read this name refuse it beside both content and calls.
  const bool crowded = out.contains("tool_calls") && !said.text.empty();
  if (!crowded) out.emplace("thinking", *known);
}

/// `said` is what the message says.
json::object normalise_message(const json::value& message, size_t index, const ContentRules& rules,
                               Said& said) {
  const std::string where = fmt::format("messages.{}", index);
  if (!message.is_object()) schema_error(where, "must be an object");
  const Fields fields(message.get_object(), where);
  const auto role = fields.name("role");
  if (!role || role->empty()) schema_error(where + ".role", "is required");
  const json::array* calls = fields.array("tool_calls");
  const json::value* content = message.get_object().if_contains("content");
  if (content == nullptr && calls == nullptr && *role != "assistant") {
    schema_error(where + ".content", "is required");
  }
  said = normalise_content(content, where + ".content", *role, rules);
  json::object out;
  out["role"] = *role;
  out["content"] = said.content;
  for (const char* name : {"name", "tool_call_id"}) {
    if (const auto text = fields.string(name)) out[name] = *text;
  }
  if (calls != nullptr && !calls->empty()) {
    out["tool_calls"] = normalise_tool_calls(*calls, where + ".tool_calls");
  }
  set_reasoning(fields, said, out);
  return out;
}

json::value normalise_tools(const Fields& fields) {
  const json::array* tools = fields.array("tools");
  if (tools == nullptr) return nullptr;
  if (tools->empty()) value_error("tools", "tools must not be empty; leave it out instead");
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string where = fmt::format("tools.{}", i);
    if (!(*tools)[i].is_object()) schema_error(where, "must be an object");
    const Fields tool((*tools)[i].get_object(), where);
    if (tool.string("type").value_or("function") != "function") {
      value_error("tools", "a tool must have type function");
    }
    const json::object* function = tool.object("function");
    if (function == nullptr) schema_error(where + ".function", "is required");
    const Fields inner(*function, where + ".function");
    const auto name = inner.name("name");
    if (!name || name->empty()) schema_error(where + ".function.name", "is required");
    inner.object("parameters");
    inner.string("description");
    inner.boolean("strict");
  }
  return *tools;
}

void parse_template_kwargs(const Fields& fields, ChatInput& out) {
  const json::object* kwargs = fields.object("chat_template_kwargs");
  if (kwargs == nullptr) return;
  for (const auto& [key, value] : *kwargs) {
    const std::string_view name(key.data(), key.size());
    if (std::find(kReservedNames.begin(), kReservedNames.end(), name) != kReservedNames.end()) {
      value_error("chat_template_kwargs", "chat_template_kwargs may not replace a built-in name");
    }
  }
  out.template_kwargs = *kwargs;
}

}  // namespace

ChatInput parse_chat_input(const json::object& body, const ContentRules& content) {
  const Fields fields(body, kChat | kTokenizeChat);
  ChatInput out;
  const json::array* messages = fields.array("messages");
  if (messages == nullptr) schema_error("messages", "is required");
  if (messages->empty()) value_error("messages", "messages must hold at least one message");
  Said last;
  for (size_t i = 0; i < messages->size(); ++i) {
    out.messages.push_back(normalise_message((*messages)[i], i, content, last));
  }
  out.last_role = std::string(view(out.messages.back().at("role").get_string()));
  out.last_content = std::move(last.text);
  out.tools = normalise_tools(fields);
  if (const json::array* documents = fields.array("documents")) out.documents = *documents;
  parse_template_kwargs(fields, out);
  out.continue_final_message = fields.boolean("continue_final_message").value_or(false);
  const auto prompt = fields.boolean("add_generation_prompt");
  if (out.continue_final_message && prompt.value_or(false)) {
    value_error("continue_final_message",
                "continue_final_message and add_generation_prompt exclude each other");
  }
  out.add_generation_prompt = prompt.value_or(true) && !out.continue_final_message;
  if (const auto effort = fields.string("reasoning_effort")) {
    out.template_kwargs.emplace("reasoning_effort", json::value(*effort));
  }
  return out;
}

}  // namespace moesaic::server
