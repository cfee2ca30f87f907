#pragma once

// The sampler on the device: backend/sampling's choice of tokens, in its order of operations, from
// logits and from what a slot of state knows of the sequence. A row's choice depends on its logits,
// its SampleRow and its slot alone, bit for bit.
//
// The order of the random walk over the tokens kept is, as in backend/sampling: ascending id where
// neither top_k nor top_p is on; best first (ties by id) otherwise where at most 4096 tokens are
// kept; ascending id again for more.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/cuda/step.h"

namespace moesaic::backend::cuda {

constexpr int kMostVocab = 262144;
constexpr int kMostLogprobs = 20;
constexpr int kMostBiases = 1024;   ///< logit_bias entries of a sequence
constexpr int kMostStopIds = 128;   ///< EOS and stop ids together
constexpr int kMostBadWords = 128;  ///< and their tokens together:
constexpr int kMostWordTokens = 1024;
constexpr int kTail = 64;  ///< output tokens that bad words can look back on

/// How to choose the token of one row of logits. All fields are validated by the engine.
struct SampleRow {
  int32_t row = 0;           ///< of the logits
  int32_t slot = -1;         ///< of the state; -1 = the sequence needs none
  float temperature = 1.0f;  ///< below 1e-5 = greedy
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = 0;  ///< 0 or less = off
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  int32_t position = 0;    ///< tokens of output so far
  int32_t min_tokens = 0;  ///< the slot's stop ids are forbidden before
  int32_t logprobs = -1;   ///< -1 = none; k = the token and the k best, at most kMostLogprobs
  int32_t given = -1;      ///< not -1: nothing is chosen, log-probabilities are of this token
  uint32_t uses = 0;       ///< kUses...
  uint64_t seed = 0;
};
constexpr uint32_t kUsesAllowed = 1;  ///< the slot's allowed ids are a mask
constexpr uint32_t kUsesLists = 2;    ///< biases or bad words are set
constexpr uint32_t kUsesOutput = 4;   ///< the chosen token is counted in the slot

struct TokenChance {
  int32_t id;
  float logprob;  ///< log-softmax of the raw logits
  int32_t rank;   ///< 1 = most likely
};

/// What comes back, in device memory, for each SampleRow.
struct Sampled {
  int32_t* tokens = nullptr;  ///< [rows]; 0 where the row is broken
  /// [rows] 1 where the logits hold NaN or +inf or nothing can be chosen: that request has failed.
  int32_t* broken = nullptr;
  TokenChance* chances = nullptr;  ///< [rows, 1 + kMostLogprobs] the token, then the best
};

/// What a slot is to know. Ids outside the vocabulary are ignored.
struct SlotContents {
  std::span<const int32_t> prompt;
  std::span<const int32_t> output;  ///< so far: not empty after a preemption
  std::span<const int32_t> allowed;
  std::span<const std::pair<int32_t, float>> biases;
  std::span<const int32_t> stop_ids;  ///< EOS ids too
  std::span<const std::vector<int32_t>> bad_words;
};

/// One slot's new contents as the kernel reads them: counts of what follows each other in the
/// payload from `at`: prompt, output, allowed, bias ids, biases, stop ids, words (each its length,
/// then its tokens).
struct SlotUpdate {
  int32_t slot, at, prompt, output, allowed, biases, stop_ids, words;
};

/// Gathers the updates of a step for one upload.
class SlotUpdates {
 public:
  /// Empty where the contents fit a slot, else what there is too much of.
  static const char* problem(const SlotContents& contents);
  /// The contents have no problem.
  void add(int32_t slot, const SlotContents& contents);
  std::span<const SlotUpdate> updates() const { return updates_; }
  std::span<const int32_t> payload() const { return payload_; }
  void clear();

 private:
  std::vector<SlotUpdate> updates_;
  std::vector<int32_t> payload_;
};

/// Device memory of all slots, 256-byte aligned; it needs no initialisation.
size_t sampler_state_bytes(int vocab, int slots);
/// Replaces what slots know. `updates` and `payload` are device memory.
void update_slots(int vocab, void* state, const SlotUpdate* updates, int count,
                  const int32_t* payload, cudaStream_t stream);

/// Scratch for `rows` rows, 256-byte aligned; it needs no initialisation.
size_t sampler_work_bytes(int vocab, int rows);
/// Chooses a token for each of `rows` SampleRows from logits [., stride >= vocab], stride a
/// multiple of 4. The logits stay as they are.
void sample(int vocab, const float* logits, int64_t stride, const SampleRow* sample_rows,
            RowCount rows, void* state, void* work, const Sampled& sampled, cudaStream_t stream);

}  // namespace moesaic::backend::cuda
