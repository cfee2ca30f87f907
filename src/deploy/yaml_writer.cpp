#include "deploy/yaml_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace moesaic::deploy {
namespace {

namespace json = boost::json;

/// Words that YAML 1.1 or 1.2 reads as a bool or null; compared without case.
constexpr std::array<std::string_view, 10> kWords = {"null", "true", "false", "yes", "no",
                                                     "on",   "off",  "y",     "n",   "~"};

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// A letter, '/' or '_' first, then only characters that mean nothing to YAML; no number, date,
/// time or special float starts so.
bool is_plain(std::string_view text) {
  if (text.empty() || !(is_letter(text[0]) || text[0] == '/' || text[0] == '_')) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (is_letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.' || c == '/') {
      continue;
    }
    if (c == ':' && i + 1 < text.size() && text[i + 1] != ' ') continue;
    return false;
  }
  return std::none_of(kWords.begin(), kWords.end(), [&](std::string_view word) {
    return word.size() == text.size() && std::equal(word.begin(), word.end(), text.begin(),
                                                    [](char a, char b) { return a == (b | 0x20); });
  });
}

/// A text of several lines that a literal block keeps exactly.
bool fits_block(std::string_view text) {
  if (text.size() < 2 || text.find('\n') == std::string_view::npos || text[0] == ' ' ||
      text[0] == '\n' || text.ends_with("\n\n")) {
    return false;
  }
  if (text.find(" \n") != std::string_view::npos || text.ends_with(' ')) return false;
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); });
}

class Writer {
 public:
  std::string run(const json::value& value) {
    if (value.is_object() && !value.as_object().empty()) {
      object(value.as_object(), 0);
    } else if (value.is_array() && !value.as_array().empty()) {
      array(value.as_array(), 0);
    } else {
      out_ += scalar(value, 0) + "\n";
    }
    return std::move(out_);
  }

 private:
  static std::string scalar(const json::value& value, size_t indent) {
    if (value.is_object()) return "{}";
    if (value.is_array()) return "[]";
    if (!value.is_string()) return json::serialize(value);
    const std::string_view text = value.as_string();
    if (!fits_block(text)) return yaml_scalar(text);
    std::string block = text.ends_with('\n') ? "|" : "|-";
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      block += '\n';
      if (end > at) block += std::string(indent, ' ') + std::string(text.substr(at, end - at));
      at = end + 1;
    }
    return block;
  }

  /// What follows "key:" or "-".
  void value_after(const json::value& value, size_t indent, bool in_array) {
    if (value.is_object() && !value.as_object().empty()) {
      out_ += in_array ? " " : "\n";
      object(value.as_object(), indent + 2, in_array);
    } else if (value.is_array() && !value.as_array().empty()) {
      out_ += "\n";
      array(value.as_array(), in_array ? indent + 2 : indent);
    } else {
      out_ += " " + scalar(value, indent + 2) + "\n";
    }
  }

  void object(const json::object& entries, size_t indent, bool first_in_line = false) {
    for (const auto& entry : entries) {
      if (!first_in_line) out_.append(indent, ' ');
      first_in_line = false;
      out_ += yaml_scalar(entry.key()) + ":";
      value_after(entry.value(), indent, false);
    }
  }

  void array(const json::array& items, size_t indent) {
    for (const json::value& item : items) {
      out_.append(indent, ' ');
      out_ += "-";
      value_after(item, indent, true);
    }
  }

  std::string out_;
};

void pretty(const json::value& value, size_t indent, std::string& out) {
  const std::string inner(indent + 2, ' ');
  if (value.is_object() && !value.as_object().empty()) {
    std::string_view separator = "{\n";
    for (const auto& entry : value.as_object()) {
      out += separator;
      out += inner + json::serialize(json::string(entry.key())) + ": ";
      pretty(entry.value(), indent + 2, out);
      separator = ",\n";
    }
    out += "\n" + std::string(indent, ' ') + "}";
  } else if (value.is_array() && !value.as_array().empty()) {
    std::string_view separator = "[\n";
    for (const json::value& item : value.as_array()) {
      out += separator;
      out += inner;
      pretty(item, indent + 2, out);
      separator = ",\n";
    }
    out += "\n" + std::string(indent, ' ') + "]";
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

std::string yaml_scalar(std::string_view text) {
  if (is_plain(text)) return std::string(text);
  std::string quoted = "\"";
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += text[i];
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (c < ' ' || c == 0x7f) {
      quoted += fmt::format("\\x{:02x}", c);
    } else if (text.substr(i, 3) == "\xe2\x80\xa8" || text.substr(i, 3) == "\xe2\x80\xa9" ||
               text.substr(i, 3) == "\xef\xbb\xbf") {
      // Line and paragraph separators and the byte order mark, which YAML does not print.
      quoted += text[i] == '\xef' ? "\\ufeff" : text[i + 2] == '\xa8' ? "\\u2028" : "\\u2029";
      i += 2;
    } else if (c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
    } else {
      quoted += text[i];
    }
  }
  return quoted + "\"";
}

std::string to_yaml(const json::value& value) { return Writer().run(value); }

std::string pretty_json(const json::value& value) {
  std::string out;
  pretty(value, 0, out);
  return out + "\n";
}

}  // namespace moesaic::deploy
