#include "server/constraint.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "server/fields.h"

namespace moesaic::server {
namespace {

namespace json = boost::json;
using Kind = text::Grammars::Kind;

/// Bytes that are kept of grammars that nobody uses, and how many.
constexpr uint64_t kKeptBytes = 64 << 20;
constexpr size_t kKeptGrammars = 256;

std::string text_of(const json::string& text) { return {text.data(), text.size()}; }

/// How the JSON of a schema may be written.
struct JsonOptions : JsonForm {
  std::optional<std::string> blanks;
};

/// Every object of the schema that lists its properties has no others, unless it says so.
void close_objects(json::value& schema) {
  if (schema.is_array()) {
    for (json::value& item : schema.get_array()) close_objects(item);
  }
  if (!schema.is_object()) return;
  json::object& object = schema.get_object();
  for (auto& member : object) close_objects(member.value());
  const bool says = object.contains("additionalProperties") || object.contains("patternProperties");
  const json::value* properties = object.if_contains("properties");
  if (properties != nullptr && properties->is_object() && !says) {
    object["additionalProperties"] = false;
  }
}

/// A schema, or the text of one.
ConstraintText schema_constraint(const json::value& given, const std::string& param,
                                 const JsonOptions& options) {
  json::value schema = given;
  if (given.is_string()) {
    boost::system::error_code error;
    schema = json::parse(given.get_string(), error);
    if (error) value_error(param, fmt::format("{} is not JSON", param));
  }
  if (!schema.is_object() && !schema.is_bool()) {
    value_error(param, fmt::format("{} must be a JSON Schema", param));
  }
  if (!options.more_properties) close_objects(schema);
  if (schema.is_object()) {
    json::object guidance;
    if (!options.any_blanks) guidance["whitespace_flexible"] = false;
    if (options.blanks) guidance["whitespace_pattern"] = *options.blanks;
    if (!guidance.empty()) schema.get_object()["x-guidance"] = std::move(guidance);
  }
  return {Kind::kJsonSchema, json::serialize(schema), param};
}

/// A text as Lark has it.
std::string lark_text(std::string_view text) {
  return json::serialize(json::value(json::string_view(text.data(), text.size())));
}

ConstraintText choice_constraint(const Fields& fields, std::string_view name) {
  const json::array& choices = *fields.array(name);
  const std::string param = fields.path(name);
  if (choices.empty()) value_error(param, fmt::format("{} must not be empty", param));
  std::string rules = "start: ";
  for (const json::value& choice : choices) {
    if (!choice.is_string() || choice.get_string().empty()) {
      schema_error(param, "must be an array of strings that are not empty");
    }
    if (&choice != &choices.front()) rules += " | ";
    rules += lark_text(text_of(choice.get_string()));
  }
  return {Kind::kRules, rules + "\n", param};
}

ConstraintText text_constraint(const Fields& fields, std::string_view name, Kind kind) {
  const std::string param = fields.path(name);
  std::string text = *fields.string(name);
  if (text.empty()) value_error(param, fmt::format("{} must not be empty", param));
  return {kind, std::move(text), param};
}

/// {"type": "json" or "regex", "value": ...}, as TGI has it.
ConstraintText typed_constraint(const json::object& object, const std::string& param,
                                const JsonForm& form) {
  const Fields fields(object, param);
  const std::string type = fields.string("type").value_or("");
  if (type == "regex") return text_constraint(fields, "value", Kind::kRegex);
  const bool is_json = type == "json" || type == "json_object" || type == "json_schema";
  if (!is_json || !fields.has("value")) {
    value_error(param, fmt::format("{} must have a type, json or regex, and a value", param));
  }
  return schema_constraint(*fields.find("value"), fields.path("value"), {form, {}});
}

/// Collects what a body says; it may say one thing.
class Collector {
 public:
  void add(ConstraintText text) {
    if (found_) {
      value_error(text.param, fmt::format("{} and {} both say how the answer is to be built; keep "
                                          "one",
                                          found_->param, text.param));
    }
    found_ = std::move(text);
  }
  std::optional<ConstraintText> take() { return std::move(found_); }

 private:
  std::optional<ConstraintText> found_;
};

void read_response_format(const json::object& body, const JsonForm& form, Collector& out) {
  const json::object* format = Fields(body).object("response_format");
  if (format == nullptr) return;
  const Fields fields(*format, "response_format");
  const std::string type = fields.string("type").value_or("text");
  if (type == "text") return;
  if (type == "json_object") {
    // With a schema as llama.cpp and others have it.
    const bool has_schema = fields.has("schema");
    return out.add(schema_constraint(
        has_schema ? *fields.find("schema") : json::value(json::object{{"type", "object"}}),
        has_schema ? "response_format.schema" : "response_format", {form, {}}));
  }
  if (type == "json" || type == "regex") {
    return out.add(typed_constraint(*format, "response_format", form));
  }
  if (type != "json_schema") {
    not_yet("response_format", fmt::format("a response_format of that type (other than text, "
                                           "json_object, json_schema and regex)"));
  }
  const json::object* holder = fields.object("json_schema");
  if (holder == nullptr) {
    value_error("response_format", "response_format of type json_schema needs json_schema");
  }
  const Fields inner(*holder, "response_format.json_schema");
  if (!inner.has("schema")) {
    value_error("response_format", "response_format.json_schema needs a schema");
  }
  out.add(schema_constraint(*inner.find("schema"), inner.path("schema"), {form, {}}));
}

void read_structured_outputs(const json::object& body, const JsonForm& form, Collector& out) {
  const json::object* object = Fields(body).object("structured_outputs");
  if (object == nullptr) return;
  const Fields fields(*object, "structured_outputs");
  JsonOptions options;
  options.any_blanks = !fields.boolean("disable_any_whitespace").value_or(!form.any_blanks);
  options.more_properties =
      !fields.boolean("disable_additional_properties").value_or(!form.more_properties);
  options.blanks = fields.string("whitespace_pattern");
  Collector inner;
  if (fields.has("json")) {
    inner.add(schema_constraint(*fields.find("json"), fields.path("json"), options));
  }
  if (fields.has("regex")) inner.add(text_constraint(fields, "regex", Kind::kRegex));
  if (fields.has("choice")) inner.add(choice_constraint(fields, "choice"));
  if (fields.has("grammar")) inner.add(text_constraint(fields, "grammar", Kind::kRules));
  if (fields.boolean("json_object").value_or(false)) {
    inner.add(
        schema_constraint(json::object{{"type", "object"}}, fields.path("json_object"), options));
  }
  if (fields.has("structural_tag")) not_yet("structured_outputs", "structural_tag");
  auto found = inner.take();
  if (!found) {
    value_error("structured_outputs",
                "structured_outputs needs one of json, regex, choice, grammar and json_object");
  }
  out.add(std::move(*found));
}

/// The names that vLLM had before, and those of SGLang, llama.cpp and TGI.
void read_older_names(const Fields& fields, const JsonForm& form, Collector& out) {
  const auto asks = [&](std::string_view name) {
    const json::value* value = fields.find(name);
    return value != nullptr && !is_nothing(*value);
  };
  JsonOptions options{form, {}};
  if (asks("guided_whitespace_pattern"))
    options.blanks = fields.string("guided_whitespace_pattern");
  for (const char* name : {"guided_json", "json_schema"}) {
    if (asks(name)) {
      out.add(schema_constraint(*fields.find(name), fields.path(name), options));
    }
  }
  if (asks("guided_json_object") && *fields.boolean("guided_json_object")) {
    out.add(schema_constraint(json::object{{"type", "object"}}, fields.path("guided_json_object"),
                              options));
  }
  for (const char* name : {"guided_regex", "regex"}) {
    if (asks(name)) out.add(text_constraint(fields, name, Kind::kRegex));
  }
  if (asks("guided_choice")) out.add(choice_constraint(fields, "guided_choice"));
  for (const char* name : {"guided_grammar", "ebnf"}) {
    if (asks(name)) out.add(text_constraint(fields, name, Kind::kRules));
  }
  if (!asks("grammar")) return;
  const json::value& grammar = *fields.find("grammar");
  if (grammar.is_object()) {
    out.add(typed_constraint(grammar.get_object(), fields.path("grammar"), form));
  } else {
    out.add(text_constraint(fields, "grammar", Kind::kRules));
  }
}

/// A sequence's way; the first failure is its last word.
class GrammarConstraint : public engine::Constraint {
 public:
  explicit GrammarConstraint(std::shared_ptr<const text::Grammar> grammar)
      : grammar_(std::move(grammar)) {}

  std::unique_ptr<Path> start() const noexcept override {
    try {
      return std::make_unique<Way>(grammar_->start());
    } catch (const std::exception& error) {
      spdlog::warn("an answer's grammar cannot be started: {}", error.what());
      return nullptr;
    }
  }

 private:
  class Way : public Path {
   public:
    explicit Way(std::unique_ptr<text::GrammarPath> path) : path_(std::move(path)) {}
    bool allow(std::span<uint32_t> words) noexcept override {
      return attempt([&] { path_->allowed(words); });
    }
    void accept(int32_t token) noexcept override {
      attempt([&] { path_->accept(token); });
    }

   private:
    template <typename Work>
    bool attempt(const Work& work) noexcept {
      if (!path_) return false;
      try {
        work();
        return true;
      } catch (const std::exception& error) {
        spdlog::warn("an answer ends, because its grammar fails: {}", error.what());
        path_ = nullptr;
        return false;
      }
    }
    std::unique_ptr<text::GrammarPath> path_;
  };

  std::shared_ptr<const text::Grammar> grammar_;
};

std::string call_rule(const json::object& function, const std::string& name) {
  const json::value* parameters = function.if_contains("parameters");
  json::value schema = json::object{{"type", "object"}};
  if (parameters != nullptr && parameters->is_object()) schema = *parameters;
  const std::string begin = fmt::format("{{\"name\": {}, \"arguments\": ",
                                        lark_text(text_of(function.at("name").get_string())));
  return fmt::format("{}: {} %json {} \"}}\"\n", name, lark_text(begin), json::serialize(schema));
}

}  // namespace

std::optional<ConstraintText> parse_constraint(const json::object& body, const JsonForm& form) {
  Collector out;
  read_response_format(body, form, out);
  read_structured_outputs(body, form, out);
  read_older_names(Fields(body), form, out);
  if (const json::object* extension = Fields(body).object("nvext")) {
    read_older_names(Fields(*extension, "nvext"), form, out);
  }
  return out.take();
}

ConstraintText call_rules(const json::array& tools, const CallRules& rules) {
  std::vector<std::string> names;
  std::string functions;
  for (const json::value& tool : tools) {
    const json::object& function = tool.at("function").get_object();
    if (!rules.only.empty() && text_of(function.at("name").get_string()) != rules.only) continue;
    names.push_back(fmt::format("f{}", names.size()));
    functions += call_rule(function, names.back());
  }
  std::string text;
  if (rules.must) {
    text = rules.parallel ? "start: call (\"\\n\" call)*\n" : "start: call\n";
    text += "call: \"<tool_call>\" body\n";
  } else {
    // Text up to a call, which is then whole; and text without one.
    text = fmt::format("start: (open body){} REST\n", rules.parallel ? "*" : "?");
    text += "open[lazy]: /(?s:.*)<tool_call>/\n";
    text += "REST: /(?s:.*)/ & ~/(?s:.*<tool_call>.*)/\n";
  }
  text += fmt::format("body: \"\\n\" ({}) \"\\n</tool_call>\"\n", fmt::join(names, " | "));
  return {Kind::kRules, text + functions, "tools"};
}

ConstraintCache::ConstraintCache(std::shared_ptr<const text::Tokenizer> tokenizer,
                                 int64_t vocab_size, std::vector<int32_t> ends)
    : tokenizer_(std::move(tokenizer)), vocab_size_(vocab_size), ends_(std::move(ends)) {}

const text::Grammars& ConstraintCache::grammars() {
  const std::lock_guard lock(making_);
  if (!grammars_) {
    grammars_ = std::make_unique<const text::Grammars>(*tokenizer_, vocab_size_, ends_);
  }
  return *grammars_;
}

uint64_t ConstraintCache::size_of(const Kept::value_type& entry) {
  return entry.second->bytes() + 2 * std::get<1>(entry.first).size();
}

std::shared_ptr<const text::Grammar> ConstraintCache::find(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(key);
  if (found == index_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found->second);
  return found->second->second;
}

void ConstraintCache::keep(const Key& key, std::shared_ptr<const text::Grammar> grammar) {
  const std::lock_guard lock(mutex_);
  if (const auto known = index_.find(key); known != index_.end()) kept_.erase(known->second);
  kept_.emplace_front(key, std::move(grammar));
  index_[key] = kept_.begin();
  // They grow while they are used, so their sizes are those of now.
  uint64_t bytes = 0;
  size_t count = 0;
  for (auto entry = kept_.begin(); entry != kept_.end();) {
    bytes += size_of(*entry);
    if (bytes <= kKeptBytes && ++count <= kKeptGrammars) {
      ++entry;
    } else {
      index_.erase(entry->first);
      entry = kept_.erase(entry);
    }
  }
}

ConstraintCache::Found ConstraintCache::get(const ConstraintText& text,
                                            const text::Grammars::Thought& thought) {
  if (!tokenizer_) {
    value_error(text.param, "this server runs without a tokenizer, which structured output needs");
  }
  const Key key{text.kind, text.text, std::string(thought.open), std::string(thought.close)};
  auto grammar = find(key);
  try {
    if (grammar) grammar->start();
  } catch (const std::runtime_error&) {
    grammar = nullptr;  // it failed under an earlier answer
  }
  if (!grammar) {
    try {
      grammar = grammars().compile(text.kind, text.text, thought);
    } catch (const base::RequestError& error) {
      throw base::RequestError(error.status(), error.type(),
                               fmt::format("{}: {}", text.param, error.what()), text.param);
    }
    keep(key, grammar);
  }
  return {std::make_shared<const GrammarConstraint>(grammar), grammar->bytes()};
}

}  // namespace moesaic::server
