#pragma once

// Structured output: what of a request says how its answer is to be built, as the text of a
// grammar, and the grammars that are made of such texts.

#include <boost/json/object.hpp>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "engine/request.h"
#include "text/grammar.h"

namespace moesaic::server {

struct ConstraintText {
  text::Grammars::Kind kind = text::Grammars::Kind::kJsonSchema;
  std::string text;
  std::string param;  ///< the member it comes from, for messages
};

/// How the JSON of answers is written where a request does not say.
struct JsonForm {
  bool any_blanks = true;       ///< between its parts
  bool more_properties = true;  ///< than an object's schema lists
};

/// What a generation body asks for, under whichever of its names: response_format,
/// structured_outputs, guided_json and its sisters, those of other servers. Throws RequestError
/// when there is more than one, or one that is not understood.
std::optional<ConstraintText> parse_constraint(const boost::json::object& body,
                                               const JsonForm& form = {});

/// Which calls an answer must make or may make.
struct CallRules {
  bool must = false;     ///< the answer is calls and nothing else
  bool parallel = true;  ///< more than one
  std::string only;      ///< the function to call; "" = any
};
/// The rules for the answer to a chat with these tools, in the form that ToolCallParser reads.
ConstraintText call_rules(const boost::json::array& tools, const CallRules& rules);

/// Grammars by their texts; those that were asked for last are kept.
class ConstraintCache {
 public:
  /// As text::Grammars.
  ConstraintCache(std::shared_ptr<const text::Tokenizer> tokenizer, int64_t vocab_size,
                  std::vector<int32_t> ends);

  struct Found {
    std::shared_ptr<const engine::Constraint> constraint;
    uint64_t bytes = 0;  ///< that it holds
  };
  /// Throws RequestError(400) when the grammar is wrong or too much. Thread-safe.
  Found get(const ConstraintText& text, const text::Grammars::Thought& thought = {});

 private:
  /// Kind, text, and how a thought before it begins and ends.
  using Key = std::tuple<text::Grammars::Kind, std::string, std::string, std::string>;
  using Kept = std::list<std::pair<Key, std::shared_ptr<const text::Grammar>>>;
  std::shared_ptr<const text::Grammar> find(const Key& key);
  void keep(const Key& key, std::shared_ptr<const text::Grammar> grammar);
  const text::Grammars& grammars();
  static uint64_t size_of(const Kept::value_type& entry);

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  int64_t vocab_size_;
  std::vector<int32_t> ends_;
  std::mutex making_;  ///< of grammars_, once
  std::unique_ptr<const text::Grammars> grammars_;
  std::mutex mutex_;  ///< of what follows
  Kept kept_;         ///< the last one asked for first
  std::map<Key, Kept::iterator> index_;
};

}  // namespace moesaic::server
