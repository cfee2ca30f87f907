#pragma once

// Choosing tokens on the device for a backend: its parameters, states and results on their way
// there and back (sample.h has the kernels).

#include <span>
#include <vector>

#include "backend/cuda/cuda_memory.h"
#include "backend/cuda/sample.h"
#include "backend/ops.h"
#include "backend/sampling/sampling.h"

namespace moesaic::backend::cuda {

/// What the rows of one step chose, on its way to the host. One for each step in flight.
class SampledRows {
 public:
  /// Bytes of pinned memory for `rows` rows.
  SampledRows(int64_t rows, int64_t vocab);

  /// Forgets the step before.
  void begin() { rows_.clear(); }
  /// By wanted row; after the copies have ended.
  std::vector<backend::Sampled> results() const;

 private:
  friend class Sampler;
  PinnedMemory memory_;
  int64_t most_;
  int64_t vocab_;
  std::vector<backend::SampleRow> rows_;  ///< by wanted row
};

class Sampler {
 public:
  /// For at most `rows` rows a step, `rows_at_once` of them in one call of sample().
  Sampler(int64_t vocab, int64_t rows, int64_t rows_at_once);

  static size_t bytes(int64_t vocab, int64_t rows, int64_t rows_at_once);
  static Unsupported samples(int64_t vocab, const backend::SampleRow& row);

  void set_state(int32_t slot, const SamplingState& state);
  /// Chooses for the rows of `logits` [rows, stride], which are wanted rows [first, ...) of the
  /// step; `count` is their number in device memory.
  void sample(const float* logits, int64_t stride, int64_t first,
              std::span<const backend::SampleRow> rows, const int32_t* count, SampledRows& into,
              const Stream& stream);
  /// Sends what the step's `wanted` rows chose to the host.
  void finish(int64_t wanted, SampledRows& into, const Stream& stream);

  /// What each wanted row of the last step chose, in device memory.
  const int32_t* chosen() const { return tokens_; }

 private:
  void send_updates(const Stream& stream);
  void make_room_for_slots(const Stream& stream);

  int64_t vocab_;
  DeviceMemory memory_;
  SampleRow* rows_ = nullptr;
  int32_t* tokens_ = nullptr;
  int32_t* broken_ = nullptr;
  TokenChance* chances_ = nullptr;
  void* work_ = nullptr;

  DeviceMemory states_;
  int32_t slots_ = 0;           ///< that states_ has room for
  int32_t most_slot_ = -1;      ///< that was ever set
  SlotUpdates updates_;         ///< not sent yet
  std::vector<uint32_t> uses_;  ///< by slot
  DeviceMemory sent_;           ///< updates and their payload
};

}  // namespace moesaic::backend::cuda
