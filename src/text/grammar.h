#pragma once

// Grammars that answers obey: JSON Schema, regular expressions, and rules in Lark or GBNF, over the
// tokens of one model.

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace moesaic::text {

/// One answer's way through a grammar, used by one thread at a time.
class GrammarPath {
 public:
  ~GrammarPath();

  /// Sets bit t % 32 of word t / 32 for each token t that may come next, and clears the others.
  /// Where the answer may end the tokens that end it are among them, where it must they are alone.
  /// Throws when the grammar has become too much.
  void allowed(std::span<uint32_t> words);
  /// Goes on with a token that was allowed; after the end, with any. Throws as allowed() does.
  void accept(int32_t token);

 private:
  friend class Grammar;
  struct Impl;
  explicit GrammarPath(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Immutable, and used from many threads; its paths share what they find out.
class Grammar {
 public:
  ~Grammar();

  /// That it takes now, with its paths and what was found out on them.
  uint64_t bytes() const;
  /// Throws when the grammar failed on an earlier path: it must be made again.
  std::unique_ptr<GrammarPath> start() const;

 private:
  friend class Grammars;
  struct Impl;
  explicit Grammar(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class Grammars {
 public:
  enum class Kind : uint8_t {
    kJsonSchema,
    kRegex,  ///< of the whole answer
    kRules,  ///< Lark, or GBNF where there is a "::="
  };

  /// For a model of `vocab_size` tokens whose answers end with one of `ends`. Throws RequestError
  /// when there is no such token, UnavailableError without memory.
  Grammars(const Tokenizer& tokenizer, int64_t vocab_size, const std::vector<int32_t>& ends);
  ~Grammars();

  /// What comes before an answer that obeys: anything up to the text or special token `close`. It
  /// must come where `open` is empty; else it may, and begins with that. Nothing without `close`.
  struct Thought {
    std::string_view open, close;
  };

  /// Throws RequestError(400) that says what is wrong with `text`, or that it is too much.
  std::shared_ptr<const Grammar> compile(Kind kind, std::string_view text,
                                         const Thought& thought = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::text
