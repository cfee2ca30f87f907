#include "text/grammar.h"

#include "base/memory_claim.h"
#include "text/rust_error.h"

namespace moesaic::text {
namespace {

/// Memory for each token of a vocabulary: its bytes and its places in some tries (measured: 330 on
/// the demo model's, 290 on one of 151,936).
constexpr uint64_t kTokenBytes = 512;
/// Memory to make a grammar: at most so much, and for each byte of its text (measured: 480, of a
/// regular expression that is nothing but parentheses).
constexpr uint64_t kGrammarBytes = 8 << 20;
constexpr uint64_t kGrammarByte = 640;

}  // namespace

struct GrammarPath::Impl {
  explicit Impl(MoesaicMatcher* handle) : matcher(handle) {}
  ~Impl() { moesaic_matcher_free(matcher); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  MoesaicMatcher* matcher;
};

struct Grammar::Impl {
  explicit Impl(MoesaicGrammar* handle) : grammar(handle) {}
  ~Impl() { moesaic_grammar_free(grammar); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  MoesaicGrammar* grammar;
};

struct Grammars::Impl {
  explicit Impl(MoesaicGrammars* handle) : grammars(handle) {}
  ~Impl() { moesaic_grammars_free(grammars); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  MoesaicGrammars* grammars;
};

GrammarPath::GrammarPath(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrammarPath::~GrammarPath() = default;

void GrammarPath::allowed(std::span<uint32_t> words) {
  MoesaicTextError error = no_error();
  if (!moesaic_matcher_allowed(impl_->matcher, words.data(), words.size(), &error)) raise(error);
}

void GrammarPath::accept(int32_t token) {
  MoesaicTextError error = no_error();
  if (!moesaic_matcher_accept(impl_->matcher, token, &error)) raise(error);
}

Grammar::Grammar(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Grammar::~Grammar() = default;

uint64_t Grammar::bytes() const { return moesaic_grammar_bytes(impl_->grammar); }

std::unique_ptr<GrammarPath> Grammar::start() const {
  MoesaicTextError error = no_error();
  MoesaicMatcher* handle = moesaic_matcher_new(impl_->grammar, &error);
  if (handle == nullptr) raise(error);
  return std::unique_ptr<GrammarPath>(new GrammarPath(std::make_unique<GrammarPath::Impl>(handle)));
}

Grammars::Grammars(const Tokenizer& tokenizer, int64_t vocab_size,
                   const std::vector<int32_t>& ends) {
  const base::MemoryClaim claim(static_cast<uint64_t>(vocab_size) * kTokenBytes,
                                "grammars for this model's tokens");
  MoesaicTextError error = no_error();
  MoesaicGrammars* handle = moesaic_grammars_new(
      tokenizer.handle(), static_cast<uint32_t>(vocab_size), ends.data(), ends.size(), &error);
  if (handle == nullptr) raise(error);
  impl_ = std::make_unique<Impl>(handle);
}
Grammars::~Grammars() = default;

std::shared_ptr<const Grammar> Grammars::compile(Kind kind, std::string_view text,
                                                 const Thought& thought) const {
  const base::MemoryClaim claim(kGrammarBytes + kGrammarByte * text.size(), "this grammar");
  const int32_t number = kind == Kind::kJsonSchema ? MOESAIC_GRAMMAR_JSON_SCHEMA
                         : kind == Kind::kRegex    ? MOESAIC_GRAMMAR_REGEX
                                                   : MOESAIC_GRAMMAR_RULES;
  MoesaicTextError error = no_error();
  MoesaicGrammar* handle = moesaic_grammar_compile(
      impl_->grammars, number, bytes_of(text), text.size(), bytes_of(thought.open),
      thought.open.size(), bytes_of(thought.close), thought.close.size(), &error);
  if (handle == nullptr) raise(error);
  return std::shared_ptr<const Grammar>(new Grammar(std::make_unique<Grammar::Impl>(handle)));
}

}  // namespace moesaic::text
