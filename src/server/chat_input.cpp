#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/serialize.hpp>

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

/// Text of one content part; parts that are not text cannot be served.
std::string part_text(const json::value& part, const std::string& where) {
  if (part.is_string()) return std::string(view(part.get_string()));
  if (!part.is_object()) schema_error(where, "must be an object with a type");
  const Fields fields(part.get_object(), where);
  const auto type = fields.string("type");
  if (!type) schema_error(where + ".type", "is required");
  const char* member = *type == "refusal" ? "refusal" : "text";
  if (*type != "text" && *type != "refusal" && *type != "input_text" && *type != "output_text") {
    value_error("messages", "this model takes text only; a content part has another type");
  }
  const auto text = fields.string(member);
  if (!text) schema_error(where + "." + member, "is required");
  return *text;
}

json::value normalise_content(const json::value& content, const std::string& where,
                              ContentFormat format) {
  if (content.is_null()) return "";
  if (content.is_string()) {
    if (format == ContentFormat::kString) return content;
    return json::array{json::object{{"type", "text"}, {"text", content}}};
  }
  if (!content.is_array()) schema_error(where, "must be a string or an array of parts");
  std::string joined;
  json::array parts;
  for (size_t i = 0; i < content.get_array().size(); ++i) {
    const std::string text = part_text(content.get_array()[i], fmt::format("{}.{}", where, i));
    if (i > 0) joined += '\n';
    joined += text;
    parts.push_back(json::object{{"type", "text"}, {"text", text}});
  }
  if (format == ContentFormat::kParts) return parts;
  return json::value(joined);
}

/// The arguments a client sends back are JSON in a string; templates want the object.
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
    if (!inner.name("name")) schema_error(at + ".function.name", "is required");
    const json::value* arguments = inner.find("arguments");
    json::value parsed = json::object{};
    if (arguments != nullptr && arguments->is_object()) parsed = *arguments;
    if (arguments != nullptr && arguments->is_string() && !arguments->get_string().empty()) {
      parsed = parse_json(view(arguments->get_string()), kBodyLimits,
                          "body." + at + ".function.arguments");
      if (!parsed.is_object()) schema_error(at + ".function.arguments", "must hold an object");
    }
    json::object named = *function;
    named["arguments"] = std::move(parsed);
    call["function"] = std::move(named);
    out.push_back(std::move(call));
  }
  return out;
}

json::value normalise_message(const json::value& message, size_t index, ContentFormat format) {
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
  json::object out;
  out["role"] = *role;
  out["content"] =
      normalise_content(content == nullptr ? json::value() : *content, where + ".content", format);
  for (const char* name : {"name", "tool_call_id", "reasoning", "reasoning_content"}) {
    if (const auto text = fields.string(name)) out[name] = *text;
  }
  if (calls != nullptr && !calls->empty()) {
    out["tool_calls"] = normalise_tool_calls(*calls, where + ".tool_calls");
  }
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

ChatInput parse_chat_input(const json::object& body, ContentFormat format) {
  const Fields fields(body, kChat | kTokenizeChat);
  ChatInput out;
  const json::array* messages = fields.array("messages");
  if (messages == nullptr) schema_error("messages", "is required");
  if (messages->empty()) value_error("messages", "messages must hold at least one message");
  for (size_t i = 0; i < messages->size(); ++i) {
    out.messages.push_back(normalise_message((*messages)[i], i, format));
  }
  const json::object& last = (*messages)[messages->size() - 1].get_object();
  const json::value plain =
      normalise_content(last.contains("content") ? last.at("content") : json::value(),
                        "messages.content", ContentFormat::kString);
  out.last_role = std::string(view(last.at("role").get_string()));
  out.last_content = std::string(view(plain.get_string()));
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
