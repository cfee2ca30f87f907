#include "server/call_forms.h"

#include <algorithm>
#include <array>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "server/json_strict.h"

namespace moesaic::server {
namespace {

namespace json = boost::json;

constexpr std::string_view kBlanks = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) + 1 - first);
}

/// Takes `mark` off the front of `text`, blanks before it aside.
bool take(std::string_view& text, std::string_view mark) {
  const std::string_view rest = text.substr(std::min(text.find_first_not_of(kBlanks), text.size()));
  if (!rest.starts_with(mark)) return false;
  text = rest.substr(mark.size());
  return true;
}

/// Takes off what stands before `mark`, and the mark; nothing when it is not there.
std::optional<std::string_view> take_to(std::string_view& text, std::string_view mark) {
  const size_t at = text.find(mark);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view before = text.substr(0, at);
  text.remove_prefix(at + mark.size());
  return before;
}

// --- JSON

/// Shows `see` each character outside of strings, with its place, until that is done.
template <class See>
void outside_strings(std::string_view text, const See& see) {
  bool in_string = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string) {
      if (c == '\\') ++at;
      in_string = c != '"';
      continue;
    }
    in_string = c == '"';
    if (see(at, c)) return;
  }
}

/// Bytes of the object or list that `text` begins with; 0 when it does not end.
size_t bracketed(std::string_view text) {
  int depth = 0;
  size_t size = 0;
  outside_strings(text, [&](size_t at, char c) {
    if (c == '{' || c == '[') ++depth;
    if ((c == '}' || c == ']') && --depth == 0) size = at + 1;
    return size > 0;
  });
  return size;
}

/// The text of the value of member number `index`. `object` is the text of a JSON object.
std::string_view member_text(std::string_view object, size_t index) {
  int depth = 0;
  size_t start = 0;  // of the value, once its member is there
  std::string_view value;
  outside_strings(object, [&](size_t at, char c) {
    const bool closes = c == '}' || c == ']';
    if (c == '{' || c == '[') ++depth;
    if (c == ':' && depth == 1 && index == 0) start = object.find_first_not_of(kBlanks, at + 1);
    if (depth == 1 && (c == ',' || closes)) {
      if (start > 0) value = trimmed(object.substr(start, at - start));
      --index;
    }
    if (closes) --depth;
    return !value.empty();
  });
  return value;
}

std::optional<json::value> parsed(std::string_view text) {
  try {
    return parse_json(text, kBodyLimits, "tool_call");
  } catch (const base::RequestError&) {
    return std::nullopt;  // the model wrote something else
  }
}

bool is_object(std::string_view text) {
  const auto value = parsed(text);
  return value && value->is_object();
}

/// The arguments as the model wrote them, numbers and all. Some models write the object inside a
/// string once more.
std::string arguments_text(std::string_view call, const json::object& object) {
  auto found = object.find("arguments");
  if (found == object.end()) found = object.find("parameters");
  if (found == object.end() || found->value().is_null()) return "{}";
  if (const json::string* inner = found->value().if_string()) {
    const std::string_view text(inner->data(), inner->size());
    if (is_object(text)) return std::string(text);
  }
  return std::string(member_text(call, static_cast<size_t>(found - object.begin())));
}

/// {"name": ..., "arguments": ...}; the second may be "parameters", or missing.
bool read_object(std::string_view body, std::vector<ToolCall>& out) {
  const auto value = parsed(body);
  const json::object* object = value ? value->if_object() : nullptr;
  if (object == nullptr) return false;
  const json::value* name = object->if_contains("name");
  if (name == nullptr || !name->is_string() || name->get_string().empty()) return false;
  ToolCall call;
  call.name.assign(name->get_string().data(), name->get_string().size());
  call.arguments = arguments_text(body, *object);
  out.push_back(std::move(call));
  return true;
}

/// Such objects, one after the other or in a list.
bool read_objects(std::string_view body, const TextParameters&, std::vector<ToolCall>& out) {
  std::vector<ToolCall> calls;
  for (bool fenced = take(body, "```json"); !trimmed(body).empty();) {
    body.remove_prefix(body.find_first_not_of(kBlanks));
    if (fenced && take(body, "```")) continue;
    if (std::string_view("[],;").find(body.front()) != std::string_view::npos) {
      body.remove_prefix(1);
      continue;
    }
    const size_t size = body.front() == '{' ? bracketed(body) : 0;
    if (size == 0 || !read_object(body.substr(0, size), calls)) return false;
    body.remove_prefix(size);
  }
  std::move(calls.begin(), calls.end(), std::back_inserter(out));
  return !calls.empty();
}

/// Whether a text without quotes can be a function's name.
bool is_name(std::string_view text) {
  constexpr size_t kLongest = 256;
  return !text.empty() && text.size() <= kLongest &&
         text.find_first_of(" \t\r\n<>{}[]()\"'`,;") == std::string_view::npos;
}

/// A name and its arguments, an object.
bool add_named(std::string_view name, std::string_view arguments, std::vector<ToolCall>& out,
               std::string_view id = {}) {
  name = trimmed(name);
  arguments = trimmed(arguments);
  if (arguments.empty()) arguments = "{}";
  if (!is_name(name) || !is_object(arguments)) return false;
  out.push_back({std::string(name), std::string(arguments), std::string(id)});
  return true;
}

/// A list of objects, or since version 11 NAME{...}, later NAME[CALL_ID]ID[ARGS]{...}.
bool read_mistral(std::string_view body, const TextParameters& texts, std::vector<ToolCall>& out) {
  body = trimmed(body);
  if (body.starts_with('[') || body.starts_with('{')) return read_objects(body, texts, out);
  const size_t brace = body.find('{');
  if (brace == std::string_view::npos) return false;
  std::string_view head = body.substr(0, brace);
  const std::string_view arguments = body.substr(brace);
  if (const auto before = take_to(head, "[CALL_ID]")) {
    const auto id = take_to(head, "[ARGS]");
    return id && add_named(*before, arguments, out, *id);
  }
  const auto name = take_to(head, "[ARGS]");
  return add_named(name.value_or(head), arguments, out);
}

constexpr std::string_view kDeepseekSeparator = "<｜tool▁sep｜>";

/// function SEP NAME and JSON in a fence, since version 3.1 NAME SEP JSON.
bool read_deepseek(std::string_view body, const TextParameters&, std::vector<ToolCall>& out) {
  const auto before = take_to(body, kDeepseekSeparator);
  if (!before) return false;
  if (trimmed(*before) != "function") return add_named(*before, body, out);
  const auto name = take_to(body, "\n");
  if (!name || !take(body, "```json")) return false;
  return add_named(*name, take_to(body, "\n```").value_or(body), out);
}

/// functions.NAME:NUMBER, which is the call's id, a mark and JSON.
bool read_kimi(std::string_view body, const TextParameters&, std::vector<ToolCall>& out) {
  const auto before = take_to(body, "<|tool_call_argument_begin|>");
  if (!before) return false;
  const std::string_view id = trimmed(*before);
  std::string_view name = id;
  take(name, "functions.");
  return add_named(name.substr(0, name.rfind(':')), body, out, id);
}

// --- values without quotes

std::string json_text(std::string_view text) {
  return json::serialize(json::value(json::string_view(text.data(), text.size())));
}

/// An object from its members, whose values are JSON already; of two with one key the last counts.
class ObjectText {
 public:
  void add(std::string_view key, std::string value) {
    const auto known = std::find_if(members_.begin(), members_.end(),
                                    [&](const auto& member) { return member.first == key; });
    if (known != members_.end()) {
      known->second = std::move(value);
    } else {
      members_.emplace_back(key, std::move(value));
    }
  }
  std::string text() const {
    std::string out = "{";
    for (const auto& [key, value] : members_) {
      if (out.size() > 1) out += ", ";
      out += json_text(key) + ": " + value;
    }
    return out + "}";
  }

 private:
  std::vector<std::pair<std::string, std::string>> members_;
};

/// A call from its parts; a value is JSON unless its parameter is a text or it is none.
class CallBuilder {
 public:
  CallBuilder(std::string_view name, const TextParameters& texts) : name_(trimmed(name)) {
    if (const auto found = texts.find(name_); found != texts.end()) texts_ = &found->second;
  }
  void add(std::string_view key, std::string_view value) {
    key = trimmed(key);
    const bool is_text = texts_ != nullptr && texts_->contains(key);
    const bool is_json = !is_text && parsed(value).has_value();
    arguments_.add(key, is_json ? std::string(trimmed(value)) : json_text(value));
  }
  bool finish(std::vector<ToolCall>& out) const {
    if (!is_name(name_)) return false;
    out.push_back({name_, arguments_.text(), ""});
    return true;
  }

 private:
  std::string name_;
  const std::set<std::string, std::less<>>* texts_ = nullptr;
  ObjectText arguments_;
};

/// Without the line break after an opening mark and that before a closing one.
std::string_view without_line_breaks(std::string_view text) {
  if (text.starts_with('\n')) text.remove_prefix(1);
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

/// Functions with parameters inside, each between marks that name it up to `quote`.
struct TagMarks {
  std::string_view function, end_of_function, parameter, end_of_parameter, quote;
};

bool read_tags(const TagMarks& marks, std::string_view body, const TextParameters& texts,
               std::vector<ToolCall>& out) {
  std::vector<ToolCall> calls;
  while (take(body, marks.function)) {
    const auto name = take_to(body, marks.quote);
    if (!name) return false;
    CallBuilder call(*name, texts);
    while (take(body, marks.parameter)) {
      const auto key = take_to(body, marks.quote);
      const auto value = key ? take_to(body, marks.end_of_parameter) : std::nullopt;
      if (!value) return false;
      call.add(*key, without_line_breaks(*value));
    }
    const bool ends = take(body, marks.end_of_function) || trimmed(body).empty();
    if (!ends || !call.finish(calls)) return false;
  }
  if (!trimmed(body).empty()) return false;
  std::move(calls.begin(), calls.end(), std::back_inserter(out));
  return !calls.empty();
}

bool read_qwen3(std::string_view body, const TextParameters& texts, std::vector<ToolCall>& out) {
  return read_tags({"<function=", "</function>", "<parameter=", "</parameter>", ">"}, body, texts,
                   out);
}

bool read_minimax(std::string_view body, const TextParameters& texts, std::vector<ToolCall>& out) {
  return read_tags({"<invoke name=\"", "</invoke>", "<parameter name=\"", "</parameter>", "\">"},
                   body, texts, out);
}

/// A name, and then keys and values between marks.
bool read_glm(std::string_view body, const TextParameters& texts, std::vector<ToolCall>& out) {
  const size_t first = std::min(body.find("<arg_key>"), body.size());
  CallBuilder call(body.substr(0, first), texts);
  body.remove_prefix(first);
  while (take(body, "<arg_key>")) {
    const auto key = take_to(body, "</arg_key>");
    if (!key || !take(body, "<arg_value>")) return false;
    const auto value = take_to(body, "</arg_value>");
    if (!value) return false;
    call.add(*key, *value);
  }
  return trimmed(body).empty() && call.finish(out);
}

// --- Python

/// Reads calls as Python has them, with literals for arguments.
class PythonReader {
 public:
  explicit PythonReader(std::string_view text) : text_(text) {}

  /// [f(a=1), g()]; one call may stand without the brackets.
  bool calls(std::vector<ToolCall>& out) {
    const bool list = take(text_, "[");
    std::vector<ToolCall> found;
    do {
      if (!call(found)) return false;
    } while (list && take(text_, ","));
    if (list && !take(text_, "]")) return false;
    if (!trimmed(text_).empty()) return false;
    std::move(found.begin(), found.end(), std::back_inserter(out));
    return true;
  }

 private:
  static constexpr int kMostDepth = 32;

  static bool of_name(char c) {
    return c == '_' || c == '.' || c == '-' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
           (c >= 'A' && c <= 'Z');
  }
  std::string_view word() {
    text_ = text_.substr(std::min(text_.find_first_not_of(kBlanks), text_.size()));
    const auto end = std::find_if_not(text_.begin(), text_.end(), of_name);
    const std::string_view found = text_.substr(0, static_cast<size_t>(end - text_.begin()));
    text_.remove_prefix(found.size());
    return found;
  }

  bool call(std::vector<ToolCall>& out) {
    const std::string_view name = word();
    if (name.empty() || !take(text_, "(")) return false;
    ObjectText arguments;
    while (!take(text_, ")")) {
      const std::string_view key = word();
      if (key.empty() || !take(text_, "=")) return false;
      auto argument = value(0);
      if (!argument) return false;
      arguments.add(key, std::move(*argument));
      if (!goes_on(')')) return false;
    }
    out.push_back({std::string(name), arguments.text(), ""});
    return true;
  }

  /// Passes a comma; without one only the end may follow.
  bool goes_on(char end) { return take(text_, ",") || trimmed(text_).starts_with(end); }

  /// As JSON; nothing when it is no literal.
  std::optional<std::string> value(int depth) {
    if (depth > kMostDepth) return std::nullopt;
    if (take(text_, "[")) return list(']', depth);
    if (take(text_, "(")) return list(')', depth);
    if (take(text_, "{")) return dictionary(depth);
    if (auto text = string()) return json_text(*text);
    const std::string_view word = this->word();
    constexpr std::pair<std::string_view, const char*> kWords[] = {
        {"True", "true"}, {"False", "false"}, {"None", "null"}};
    for (const auto& [python, json] : kWords) {
      if (word == python) return json;
    }
    return parsed(word) ? std::optional<std::string>(word) : std::nullopt;
  }

  std::optional<std::string> list(char end, int depth) {
    std::string out = "[";
    while (!take(text_, std::string_view(&end, 1))) {
      const auto item = value(depth + 1);
      if (!item) return std::nullopt;
      if (out.size() > 1) out += ", ";
      out += *item;
      if (!goes_on(end)) return std::nullopt;
    }
    return out + "]";
  }

  std::optional<std::string> dictionary(int depth) {
    ObjectText out;
    while (!take(text_, "}")) {
      const auto key = string();
      if (!key || !take(text_, ":")) return std::nullopt;
      auto item = value(depth + 1);
      if (!item) return std::nullopt;
      out.add(*key, std::move(*item));
      if (!goes_on('}')) return std::nullopt;
    }
    return out.text();
  }

  std::optional<std::string> string() {
    const char quote = take(text_, "'") ? '\'' : take(text_, "\"") ? '"' : '\0';
    if (quote == '\0') return std::nullopt;
    std::string out;
    while (!text_.empty()) {
      const char c = text_.front();
      text_.remove_prefix(1);
      if (c == quote) return out;
      if (c != '\\' || text_.empty()) {
        out += c;
        continue;
      }
      const char escaped = text_.front();
      text_.remove_prefix(1);
      out += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped == 'r' ? '\r' : escaped;
    }
    return std::nullopt;
  }

  std::string_view text_;
};

bool read_python(std::string_view body, const TextParameters&, std::vector<ToolCall>& out) {
  take(body, "<|python_start|>");
  if (const auto inner = take_to(body, "<|python_end|>")) body = *inner;
  return PythonReader(body).calls(out);
}

// clang-format off
constexpr std::array kForms = {
    // name, marks of a call, marks around all, bare, reader, sign in a template
    CallForm{"hermes", "<tool_call>", "</tool_call>", "", "", 0, read_objects, "<tool_call>"},
    CallForm{"qwen3_coder", "<tool_call>", "</tool_call>", "", "", 0, read_qwen3, "<function="},
    CallForm{"glm45", "<tool_call>", "</tool_call>", "", "", 0, read_glm, "<arg_key>"},
    CallForm{"mistral", "[TOOL_CALLS]", "", "", "", 0, read_mistral, "[TOOL_CALLS]"},
    CallForm{"deepseek_v3", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁begin｜>",
             "<｜tool▁calls▁end｜>", 0, read_deepseek, kDeepseekSeparator},
    CallForm{"kimi_k2", "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_calls_section_begin|>",
             "<|tool_calls_section_end|>", 0, read_kimi, "<|tool_calls_section_begin|>"},
    CallForm{"minimax_m2", "<minimax:tool_call>", "</minimax:tool_call>", "", "", 0, read_minimax,
             "<minimax:tool_call>"},
    CallForm{"granite", "<|tool_call|>", "", "", "", 0, read_objects, "<|tool_call|>"},
    CallForm{"jamba", "<tool_calls>", "</tool_calls>", "", "", 0, read_objects, "<tool_calls>"},
    CallForm{"llama4_pythonic", "<|python_start|>", "<|python_end|>", "", "", '[', read_python,
             "<|python_start|>"},
    CallForm{"llama3_json", "<|python_tag|>", "", "", "", '{', read_objects, "<|python_tag|>"},
    CallForm{"pythonic", "", "", "", "", '[', read_python, ""},
    CallForm{"xlam", "", "", "", "", '[', read_objects, ""},
};
// clang-format on

/// Names that other servers have for them.
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"qwen3_xml", "qwen3_coder"},   {"glm47", "glm45"},   {"deepseek_v31", "deepseek_v3"},
    {"llama4_json", "llama3_json"}, {"minimax", "jamba"}, {"phi4_mini_json", "xlam"},
    {"granite-20b-fc", "granite"},
};

}  // namespace

TextParameters text_parameters(const json::array& tools) {
  TextParameters out;
  for (const json::value& tool : tools) {
    const json::object& function = tool.at("function").get_object();
    const json::value* parameters = function.if_contains("parameters");
    if (parameters == nullptr || !parameters->is_object()) continue;
    const json::value* properties = parameters->get_object().if_contains("properties");
    if (properties == nullptr || !properties->is_object()) continue;
    const json::string& name = function.at("name").get_string();
    auto& texts = out[std::string(name.data(), name.size())];
    for (const auto& [key, schema] : properties->get_object()) {
      const json::value* type =
          schema.is_object() ? schema.get_object().if_contains("type") : nullptr;
      if (type != nullptr && *type == "string") texts.emplace(key.data(), key.size());
    }
  }
  return out;
}

std::span<const CallForm> call_forms() { return kForms; }

const CallForm* find_call_form(std::string_view name) {
  for (const auto& [alias, of] : kAliases) {
    if (name == alias) name = of;
  }
  const auto found = std::find_if(kForms.begin(), kForms.end(),
                                  [&](const CallForm& form) { return form.name == name; });
  return found == kForms.end() ? nullptr : &*found;
}

const CallForm& call_form_of(std::string_view chat_template) {
  // The first form's sign is part of others.
  const auto found = std::find_if(kForms.begin() + 1, kForms.end(), [&](const CallForm& form) {
    return !form.sign.empty() && chat_template.find(form.sign) != std::string_view::npos;
  });
  return found == kForms.end() ? kForms.front() : *found;
}

}  // namespace moesaic::server
