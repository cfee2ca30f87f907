#pragma once

// Chooses tokens from logits: the operator's definition, which backends on host memory run as it
// stands and others are held against. A choice depends only on the row's logits, its parameters,
// the sequence's own tokens, its seed and its position, never on the batch.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace moesaic::backend {

/// How long lists may be for every backend to take them; with longer ones the host chooses.
struct ListLimits {
  static constexpr size_t kBiases = 1024;
  static constexpr size_t kStopIds = 64;
  static constexpr size_t kBadWords = 128;
  static constexpr size_t kBadWord = 64;          ///< tokens of one
  static constexpr size_t kBadWordTokens = 1024;  ///< of all of them
};

/// What a request says of single tokens, made ready for the sampler by token_rules(). One object
/// for all sequences of a client's request, so that long lists are neither copied nor sorted again.
struct TokenRules {
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_token_ids;       ///< ascending; empty = all
  std::vector<std::vector<int32_t>> bad_words;  ///< token sequences never produced
  std::vector<int32_t> stop_token_ids;          ///< ascending
  bool long_lists = false;  ///< some list is longer than ListLimits; set by token_rules()

  /// Whether they change any logits, but for stop ids of a young output.
  bool change_logits() const {
    return !logit_bias.empty() || !allowed_token_ids.empty() || !bad_words.empty();
  }
};

/// Sorts the lists and drops what is in them twice.
std::shared_ptr<const TokenRules> token_rules(TokenRules lists);

/// A rule for whole outputs, such as a grammar. Thread-safe.
class Constraint {
 public:
  /// One sequence's way through it, used by one thread at a time.
  class Path {
   public:
    virtual ~Path() = default;
    /// Sets bit t % 32 of word t / 32 for each token t that may come next, and clears the others;
    /// where the output may end, the tokens that end it are among them. False when that cannot be
    /// told, and so nothing may come.
    virtual bool allow(std::span<uint32_t> words) noexcept = 0;
    /// Goes on with a token.
    virtual void accept(int32_t token) noexcept = 0;
  };
  virtual ~Constraint() = default;
  /// Null when there cannot be another path now.
  virtual std::unique_ptr<Path> start() const noexcept = 0;
};

/// One candidate token at one position.
struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
  int32_t rank = 0;  ///< 1 = most likely
};

/// One position's log-probabilities: the token that stands there first, then the best ones.
struct PositionLogprobs {
  TokenLogprob token;
  std::vector<TokenLogprob> top;
};

/// What is wanted of one row of logits.
struct SampleRow {
  int32_t target = -1;       ///< 0 or more: choose nothing, tell this token's log-probabilities
  int32_t state = -1;        ///< slot of the sequence's SamplingState; -1 = it needs none
  float temperature = 1.0f;  ///< below 1e-5 is greedy
  float top_p = 1.0f;
  int32_t top_k = 0;  ///< 0 or -1 = off
  float min_p = 0.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;
  uint64_t seed = 0;
  int64_t position = 0;      ///< tokens of the output so far
  int32_t min_tokens = 0;    ///< EOS and stop ids are masked before
  int32_t logprobs = -1;     ///< -1 = none; k = the token and the k best
  bool long_lists = false;   ///< TokenRules::long_lists of its state
  bool constrained = false;  ///< only what the path of its state allows
};

/// What choosing must know of a sequence beside its row, kept by the backend from token to token.
struct SamplingState {
  std::shared_ptr<const TokenRules> rules = token_rules({});  ///< never null
  /// The prompt's ids, ascending, each once; null when no repetition penalty wants them.
  std::shared_ptr<const std::vector<int32_t>> prompt_ids;
  std::vector<int32_t> eos_ids;
  Constraint::Path* path = nullptr;  ///< of a constrained sequence; lives as long as it
  std::vector<int32_t> output;
  std::unordered_map<int32_t, int32_t> counts;  ///< occurrences in `output`

  void append(int32_t token) {
    output.push_back(token);
    ++counts[token];
    if (path != nullptr) path->accept(token);
  }
};

/// What came of a row. Broken: its logits hold NaN or +inf, or nothing can be chosen.
struct Sampled {
  bool broken = false;
  int32_t token = -1;         ///< the chosen one, or the target
  PositionLogprobs logprobs;  ///< filled when asked for
};

/// The k best entries and the token itself, as log-softmax of the raw logits; ranks count entries
/// that are greater, plus one. None when the logits hold NaN or +inf, or no finite value.
std::optional<PositionLogprobs> logprobs_of(std::span<const float> logits, int32_t token,
                                            int32_t k);

/// Does what `row` wants; writes over `logits`. `state` is its slot's, null without one; a chosen
/// token is not appended to it.
///
/// In this order: log-probabilities are taken from the raw logits; the constraint,
/// allowed_token_ids, bad_words, min_tokens (unless the constraint allows nothing but the end) and
/// logit_bias change them; then repetition penalty (x > 0 divides, else multiplies;
/// over prompt and output), frequency (count times) and presence penalty (over the output); then
/// temperature, min_p, top_k, top_p. Ties go to the lowest id.
Sampled sample(std::span<float> logits, const SampleRow& row, const SamplingState* state);

/// The seed of sequence `index` of a request with `seed`.
uint64_t sequence_seed(uint64_t seed, int32_t index);

}  // namespace moesaic::backend
