#include "deploy/yaml_reader.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <charconv>
#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/file.h"

namespace moesaic::deploy {
namespace {

namespace json = boost::json;

[[noreturn]] void fail(const std::string& file, int line, const std::string& problem) {
  throw base::ModelFileError(file, fmt::format("line {}: {}", line, problem));
}

/// Bytes of the UTF-8 sequence at `at`; 0 when it is none.
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
  const unsigned first = byte(at);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first < 0xe0) return follows(at + 1) ? 2 : 0;
  if (first >= 0xe0 && first < 0xf0) {
    const bool wrong =
        (first == 0xe0 && byte(at + 1) < 0xa0) || (first == 0xed && byte(at + 1) >= 0xa0);
    return !wrong && follows(at + 1) && follows(at + 2) ? 3 : 0;
  }
  if (first >= 0xf0 && first < 0xf5) {
    const bool wrong =
        (first == 0xf0 && byte(at + 1) < 0x90) || (first == 0xf4 && byte(at + 1) >= 0x90);
    return !wrong && follows(at + 1) && follows(at + 2) && follows(at + 3) ? 4 : 0;
  }
  return 0;
}

/// Text a manifest can be: UTF-8 without control characters.
void check_text(std::string_view text, const std::string& file) {
  int line = 1;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    const size_t length = utf8_length(text, at);
    if (length == 0) fail(file, line, "this is not UTF-8 text; is it a YAML file?");
    if ((static_cast<unsigned char>(c) < ' ' && c != '\n' && c != '\t' && c != '\r') ||
        c == '\x7f') {
      fail(file, line,
           fmt::format("byte 0x{:02x} does not belong into text; is it a YAML file?",
                       static_cast<unsigned char>(c)));
    }
    if (c == '\n') ++line;
    at += length;
  }
}

/// What YAML's core schema makes of a plain scalar, as far as Kubernetes cares.
json::value plain(const std::string& text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") return {};
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  // "007" and "-0" are not written so by accident; they stay text.
  if (error == std::errc{} && end == text.data() + text.size() && fmt::to_string(number) == text) {
    return number;
  }
  return json::value(text);
}

/// Builds JSON from the parser's events, and stops as soon as a bound is crossed.
class Builder : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override {
    stack_.clear();
    anchors_.clear();
    root_ = nullptr;
    line_ = mark.line + 1;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    store(nullptr, {1, 0}, anchor, mark);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    store(tag == "?" ? plain(text) : json::value(text), {1, text.size()}, anchor, mark);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) {
      fail(mark.line + 1, "an alias stands inside what it is an alias of");
    }
    // Counted before it is copied: nine levels of nine aliases are refused here.
    count(found->second.size, mark);
    if (stack_.size() + found->second.depth > kMaxManifestDepth) too_deep(mark);
    place(found->second.value, found->second.depth, mark.line + 1);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(json::array(), anchor, mark);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(json::object(), anchor, mark);
  }
  void OnMapEnd() override { close(); }

  YamlDocument take() { return {std::move(root_), line_}; }

 private:
  struct Size {
    size_t values = 0;
    size_t bytes = 0;
  };
  struct Open {
    json::value value;
    YAML::anchor_t anchor = 0;
    Size before;      ///< of the document when it was opened
    std::string key;  ///< of the entry whose value comes next
    bool has_key = false;
    std::set<std::string> merged;  ///< keys that came from "<<" and may be given again
    size_t depth = 1;              ///< of what has been put into it
    int line = 0;
  };
  struct Anchored {
    json::value value;
    Size size;
    size_t depth = 0;
  };

  [[noreturn]] static void fail(int line, const std::string& problem) {
    YAML::Mark mark = YAML::Mark::null_mark();
    mark.line = line - 1;
    throw YAML::ParserException(mark, problem);
  }

  [[noreturn]] static void too_deep(const YAML::Mark& mark) {
    fail(mark.line + 1,
         fmt::format("nested more than {} deep, aliases expanded", kMaxManifestDepth));
  }

  /// Keeps what aliases may ask for. Anchors inside anchors keep their insides more than once, so
  /// these copies have a bound of their own.
  void keep(YAML::anchor_t anchor, Anchored anchored, int line) {
    kept_.values += anchored.size.values;
    kept_.bytes += anchored.size.bytes;
    if (kept_.values > kMaxManifestValues || kept_.bytes > kMaxManifestText) {
      fail(line, "the anchors hold more than any manifest has");
    }
    anchors_[anchor] = std::move(anchored);
  }

  void count(Size size, const YAML::Mark& mark) {
    total_.values += size.values;
    total_.bytes += size.bytes;
    if (total_.values > kMaxManifestValues) {
      fail(mark.line + 1,
           fmt::format("more than {} values, aliases expanded; no manifest is that large",
                       kMaxManifestValues));
    }
    if (total_.bytes > kMaxManifestText) {
      fail(mark.line + 1,
           fmt::format("more than {} bytes of text, aliases expanded; no manifest is that large",
                       kMaxManifestText));
    }
  }

  void open(json::value value, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (stack_.size() >= kMaxManifestDepth) too_deep(mark);
    if (!stack_.empty() && stack_.back().value.is_object() && !stack_.back().has_key) {
      fail(mark.line + 1, "a key must be a word");
    }
    const Size before = total_;
    count({1, 0}, mark);
    stack_.push_back({std::move(value), anchor, before, {}, false, {}, 1, mark.line + 1});
  }

  void close() {
    Open done = std::move(stack_.back());
    stack_.pop_back();
    if (done.anchor != 0) {
      const Size size{total_.values - done.before.values, total_.bytes - done.before.bytes};
      keep(done.anchor, {done.value, size, done.depth}, done.line);
    }
    place(std::move(done.value), done.depth, done.line);
  }

  void store(json::value value, Size size, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (anchor != 0) keep(anchor, {value, size, 0}, mark.line + 1);
    count(size, mark);
    place(std::move(value), 0, mark.line + 1);
  }

  /// Puts a whole value where it belongs: the document, a list, a key, or behind a key.
  void place(json::value value, size_t depth, int line) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return;
    }
    Open& top = stack_.back();
    top.depth = std::max(top.depth, depth + 1);
    if (top.value.is_array()) {
      top.value.get_array().push_back(std::move(value));
    } else if (!top.has_key) {
      take_key(top, value, line);
    } else {
      top.has_key = false;
      if (top.key == "<<") {
        merge(top, value, line);
      } else {
        top.value.get_object()[top.key] = std::move(value);
      }
    }
  }

  void take_key(Open& top, const json::value& value, int line) {
    if (value.is_object() || value.is_array() || value.is_null()) {
      fail(line, "a key must be a word");
    }
    top.key = value.is_string() ? std::string(value.get_string()) : json::serialize(value);
    top.has_key = true;
    if (top.key != "<<" && top.value.get_object().contains(top.key)) {
      if (top.merged.erase(top.key) == 0) {
        fail(line, fmt::format("the key '{}' stands there twice", top.key.substr(0, 60)));
      }
    }
  }

  static void merge_into(Open& into, const json::object& entries) {
    for (const auto& entry : entries) {
      if (into.value.get_object().insert(entry).second) into.merged.emplace(entry.key());
    }
  }

  static void merge(Open& into, const json::value& value, int line) {
    if (value.is_array()) {
      for (const json::value& item : value.get_array()) merge(into, item, line);
      return;
    }
    if (!value.is_object()) fail(line, "'<<' takes a mapping");
    merge_into(into, value.get_object());
  }

  int line_ = 1;
  json::value root_;
  std::vector<Open> stack_;
  std::map<YAML::anchor_t, Anchored> anchors_;
  Size total_;  ///< of all documents
  Size kept_;
};

/// Whether the line of that number, from 1, has the marks of Helm's, Jinja's or Mustache's
/// templates.
bool is_template(std::string_view text, int line) {
  for (; line > 1 && !text.empty(); --line) {
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
  }
  text = text.substr(0, text.find('\n'));
  return text.find("{{") != std::string_view::npos || text.find("{%") != std::string_view::npos;
}

std::vector<YamlDocument> parse(std::string_view text, const std::string& file) {
  std::vector<YamlDocument> documents;
  std::istringstream stream{std::string(text)};
  YAML::Parser parser(stream);
  Builder builder;
  try {
    while (parser.HandleNextDocument(builder)) {
      YamlDocument document = builder.take();
      if (!document.value.is_null()) documents.push_back(std::move(document));
    }
  } catch (const YAML::Exception& problem) {
    const int line = problem.mark.line + 1;
    // yaml-cpp finds some of a template's faults on the line after it.
    const bool templated = is_template(text, line) || is_template(text, line - 1);
    fail(file, line,
         templated
             ? problem.msg + "; this is a template, so render it first, as 'helm template' does"
             : problem.msg);
  }
  return documents;
}

}  // namespace

std::vector<YamlDocument> read_yaml(std::string_view text, const std::string& file) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  check_text(text, file);
  return parse(text, file);
}

std::string read_manifest_file(const std::filesystem::path& path) {
  std::optional<std::string> text = base::read_file(path, kMaxManifestBytes);
  if (!text) {
    throw base::ModelFileError(path.string(),
                               fmt::format("the file has {} bytes, and a file of manifests may "
                                           "have {}",
                                           std::filesystem::file_size(path), kMaxManifestBytes));
  }
  return std::move(*text);
}

}  // namespace moesaic::deploy
