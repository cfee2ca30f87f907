#pragma once

// Chooses tokens from logits. A choice depends only on the row's logits, the request's parameters,
// the sequence's own tokens, its seed and its position, never on the batch.

#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/request.h"

namespace moesaic::engine {

/// What a sequence brings to the choice of its next token.
struct SamplingContext {
  const SamplingParams* params = nullptr;
  std::span<const int32_t> output;
  /// The prompt's ids, ascending, each once; needed only with a repetition penalty.
  std::span<const int32_t> prompt_ids;
  /// Occurrences in `output`; needed only with presence, frequency or repetition penalty.
  const std::unordered_map<int32_t, int32_t>* output_counts = nullptr;
  std::span<const int32_t> eos_ids;
  uint64_t seed = 0;
};

struct Sampled {
  int32_t token = 0;
  PositionLogprobs logprobs;  ///< filled when asked for
};

/// The k best entries and the token itself, as log-softmax of the raw logits; ranks count entries
/// that are greater, plus one. None when the logits hold NaN or +inf, or no finite value.
std::optional<PositionLogprobs> logprobs_of(std::span<const float> logits, int32_t token,
                                            int32_t k);

/// Chooses the next token; writes over `logits`. None when they hold NaN or +inf, or when nothing
/// can be chosen: that request has failed.
///
/// In this order: log-probabilities are taken from the raw logits; allowed_token_ids, bad_words,
/// min_tokens and logit_bias change them; then repetition penalty (x > 0 divides, else multiplies),
/// frequency (count times) and presence penalty; then temperature, min_p, top_k, top_p. Ties go to
/// the lowest id.
std::optional<Sampled> sample(std::span<float> logits, const SamplingContext& context);

/// The seed of sequence `index` of a request with `seed`.
uint64_t sequence_seed(uint64_t seed, int32_t index);

}  // namespace moesaic::engine
