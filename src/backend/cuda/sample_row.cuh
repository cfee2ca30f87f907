#pragma once

// One row of logits as the sampler's kernels see it: raw, or with its sequence's masks, biases and
// penalties, computed anew at each look instead of being stored.

#include "backend/cuda/device.cuh"
#include "backend/cuda/sample.h"

namespace moesaic::backend::cuda {

/// Statistics are kept for runs of 128 ids: a warp's float4 load.
constexpr int kGranule = 128;
constexpr int kMostGranules = kMostVocab / kGranule;
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kGreedyBelow = 1e-5f;

inline __host__ __device__ int granules_of(int vocab) { return (vocab + kGranule - 1) / kGranule; }

/// A run's largest value (NaN if it holds one or +inf) and its sum of exp((x - largest) / T).
struct GranuleStats {
  float largest, sum;
};

/// The lists of a slot.
struct SlotLists {
  int32_t biases, stop_ids, words, padding;
  int32_t bias_id[kMostBiases];
  float bias[kMostBiases];
  int32_t stop_id[kMostStopIds];
  int32_t word_end[kMostBadWords];  // in word_token
  int32_t word_token[kMostWordTokens];
  int32_t tail[kTail];  // output token p at p % kTail
};

/// Where the parts of a slot lie, in bytes from its beginning.
struct SlotLayout {
  size_t prompt, allowed, special, counts, lists, bytes;

  __host__ __device__ explicit SlotLayout(int vocab) {
    const size_t bits = (static_cast<size_t>(vocab) + 127) / 128 * 16;
    prompt = 0;
    allowed = bits;
    special = 2 * bits;  // ids that the lists name
    counts = 3 * bits;   // of each id in the output
    lists = counts + (static_cast<size_t>(vocab) + 3) / 4 * 16;
    bytes = (lists + sizeof(SlotLists) + 255) / 256 * 256;
  }
};

struct SlotView {
  uint32_t* prompt;
  uint32_t* allowed;
  uint32_t* special;
  int32_t* counts;
  SlotLists* lists;

  __device__ SlotView(int vocab, void* state, int slot) {
    const SlotLayout layout(vocab);
    auto* base = static_cast<uint8_t*>(state) + static_cast<int64_t>(slot) * layout.bytes;
    prompt = reinterpret_cast<uint32_t*>(base + layout.prompt);
    allowed = reinterpret_cast<uint32_t*>(base + layout.allowed);
    special = reinterpret_cast<uint32_t*>(base + layout.special);
    counts = reinterpret_cast<int32_t*>(base + layout.counts);
    lists = reinterpret_cast<SlotLists*>(base + layout.lists);
  }
};

/// Whether a bad word's beginning is what the output ends with; then its last token is forbidden.
__device__ inline bool word_matches(const SlotLists& lists, int word, int position) {
  const int begin = word == 0 ? 0 : lists.word_end[word - 1];
  const int head = lists.word_end[word] - begin - 1;
  if (head > position) return false;
  for (int i = 0; i < head; ++i) {
    if (lists.word_token[begin + i] != lists.tail[(position - head + i) % kTail]) return false;
  }
  return true;
}

/// The row of one SampleRow, for shared memory. `matched` [kMostBadWords] is shared memory that
/// prepare() fills.
class LogitsRow {
 public:
  __device__ LogitsRow(int vocab, const float* logits, int64_t stride, const SampleRow& row,
                       void* state, bool* matched)
      : vocab_(vocab),
        logits_(logits + row.row * stride),
        row_(row),
        slot_(vocab, state, max(row.slot, 0)),
        matched_(matched) {
    const bool has_slot = row.slot >= 0;
    young_ = has_slot && row.position < row.min_tokens;
    masked_ = has_slot && (row.uses & kUsesAllowed) != 0;
    listed_ = has_slot && ((row.uses & kUsesLists) != 0 || young_);
    repeats_ = has_slot && row.repetition_penalty != 1.0f;
    counts_ = has_slot && (row.frequency_penalty != 0 || row.presence_penalty != 0);
  }

  /// Whether the choice does not see the logits as they came.
  __device__ bool changed() const { return masked_ || listed_ || repeats_ || counts_; }

  /// Called by all threads of the block before the first look.
  __device__ void prepare() {
    if (!listed_) return;
    for (int w = static_cast<int>(threadIdx.x); w < slot_.lists->words;
         w += static_cast<int>(blockDim.x)) {
      matched_[w] = word_matches(*slot_.lists, w, row_.position);
    }
    __syncthreads();
  }

  /// Entries id to id + 3 as they came; id is a multiple of 4. Past the vocabulary: -inf.
  __device__ float4 raw(int id) const {
    if (id + 4 <= vocab_) return *reinterpret_cast<const float4*>(logits_ + id);
    const auto at = [&](int i) { return i < vocab_ ? logits_[i] : kNegativeInfinity; };
    return make_float4(at(id), at(id + 1), at(id + 2), at(id + 3));
  }
  __device__ float raw_one(int id) const { return logits_[id]; }

  /// What the slot says of four entries.
  struct Marks {
    uint32_t allowed, special, prompt;  // a bit an entry
    int4 counts;
  };
  __device__ Marks marks(int id) const {
    Marks m{15, 0, 0, make_int4(0, 0, 0, 0)};
    if (id >= vocab_) return m;
    const int word = id / 32;
    const int bit = id % 32;
    if (masked_) m.allowed = slot_.allowed[word] >> bit;
    if (listed_) m.special = slot_.special[word] >> bit;
    if (repeats_) m.prompt = slot_.prompt[word] >> bit;
    if (repeats_ || counts_) m.counts = *reinterpret_cast<const int4*>(slot_.counts + id);
    return m;
  }
  /// The entries as the choice sees them, given the raw ones. A function of its own: its code is
  /// long, and most rows do not need it.
  __device__ __noinline__ float4 changed(int id, float4 x, const Marks m) const {
    x.x = one(x.x, id, m.allowed & 1, m.special & 1, m.prompt & 1, m.counts.x);
    x.y = one(x.y, id + 1, m.allowed & 2, m.special & 2, m.prompt & 2, m.counts.y);
    x.z = one(x.z, id + 2, m.allowed & 4, m.special & 4, m.prompt & 4, m.counts.z);
    x.w = one(x.w, id + 3, m.allowed & 8, m.special & 8, m.prompt & 8, m.counts.w);
    return x;
  }
  __device__ float4 seen(int id) const {
    const float4 x = raw(id);
    return changed() ? changed(id, x, marks(id)) : x;
  }

  /// Counts a chosen token. Called by one thread, when no other looks any more.
  __device__ void count(int token) {
    if (row_.slot < 0 || (row_.uses & kUsesOutput) == 0) return;
    ++slot_.counts[token];
    slot_.lists->tail[row_.position % kTail] = token;
  }

 private:
  // Rounded as the CPU does: no product is fused with a sum.
  __device__ float one(float x, int id, bool allowed, bool special, bool prompt, int count) const {
    if (!allowed) x = kNegativeInfinity;
    if (special) x = listed(x, id);
    if (repeats_ && (prompt || count > 0)) {
      x = x > 0 ? __fdiv_rn(x, row_.repetition_penalty) : __fmul_rn(x, row_.repetition_penalty);
    }
    if (counts_ && count > 0) {
      x = __fsub_rn(x, __fadd_rn(__fmul_rn(row_.frequency_penalty, static_cast<float>(count)),
                                 row_.presence_penalty));
    }
    return x;
  }

  /// Bad words, stop ids and biases of an id that some list names.
  __device__ float listed(float x, int id) const {
    const SlotLists& lists = *slot_.lists;
    for (int w = 0; w < lists.words; ++w) {
      if (matched_[w] && lists.word_token[lists.word_end[w] - 1] == id) x = kNegativeInfinity;
    }
    for (int i = 0; young_ && i < lists.stop_ids; ++i) {
      if (lists.stop_id[i] == id) x = kNegativeInfinity;
    }
    for (int i = 0; i < lists.biases; ++i) {
      if (lists.bias_id[i] == id) x = __fadd_rn(x, lists.bias[i]);
    }
    return x;
  }

  int vocab_;
  const float* logits_;
  const SampleRow& row_;
  SlotView slot_;
  bool* matched_;
  bool young_, masked_, listed_, repeats_, counts_;
};

/// The weight of a value: exp((x - best) / T), `scale` being log2(e) / T.
__device__ __forceinline__ float weight_of(float x, float best, float scale) {
  return exp2_fast((x - best) * scale);
}

__device__ __forceinline__ float lane_of(const float4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

/// Sums of eight values over the lanes; lane l gets that of value l / 4 (whose bits are the lane's
/// upper three). The order is fixed.
__device__ inline float sum_of_eight(float (&x)[8]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = 4, step = 16; half > 0; half /= 2, step /= 2) {
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = upper ? x[i] : x[i + half];
      const float kept = upper ? x[i + half] : x[i];
      x[i] = kept + __shfl_xor_sync(kAllLanes, given, step);
    }
  }
  x[0] += __shfl_xor_sync(kAllLanes, x[0], 2);
  return x[0] + __shfl_xor_sync(kAllLanes, x[0], 1);
}

/// Where the statistics of a step's rows lie.
struct SampleWork {
  GranuleStats* seen;  // [rows, granules]
  GranuleStats* raw;   // [rows, granules], where log-probabilities are wanted
};

struct SampleParams {
  int vocab;
  const float* logits;
  int64_t stride;
  const SampleRow* rows;
  const int32_t* count;
  void* state;
  SampleWork work;
  Sampled sampled;
};

void start_sample_scan(const SampleParams& params, int most_rows, cudaStream_t stream);
void start_sample_choose(const SampleParams& params, int most_rows, cudaStream_t stream);

}  // namespace moesaic::backend::cuda
