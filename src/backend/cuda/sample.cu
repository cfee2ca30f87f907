// The sampler's host side: memory, updates of slots, and the two kernels in a row.

#include "backend/cuda/sample.h"

#include <bit>

#include "backend/cuda/launch.h"
#include "backend/cuda/sample_row.cuh"

namespace moesaic::backend::cuda {
namespace {

size_t stats_bytes(int vocab, int rows) {
  const size_t bytes =
      sizeof(GranuleStats) * static_cast<size_t>(granules_of(vocab)) * static_cast<size_t>(rows);
  return (bytes + 255) / 256 * 256;
}

}  // namespace

const char* SlotUpdates::problem(const SlotContents& contents) {
  if (contents.biases.size() > kMostBiases) return "logit_bias entries";
  if (contents.stop_ids.size() > kMostStopIds) return "stop token ids";
  size_t words = 0;
  size_t tokens = 0;
  for (const std::vector<int32_t>& word : contents.bad_words) {
    if (word.empty()) continue;
    ++words;
    tokens += word.size();
    if (word.size() > kTail) return "tokens in a bad word";
  }
  if (words > kMostBadWords) return "bad words";
  if (tokens > kMostWordTokens) return "tokens in bad words";
  return "";
}

void SlotUpdates::add(int32_t slot, const SlotContents& contents) {
  MOESAIC_ASSERT(*problem(contents) == '\0');
  const auto size = [](const auto& list) { return static_cast<int32_t>(list.size()); };
  const auto append = [this](std::span<const int32_t> list) {
    payload_.insert(payload_.end(), list.begin(), list.end());
  };
  SlotUpdate update{slot,
                    static_cast<int32_t>(payload_.size()),
                    size(contents.prompt),
                    size(contents.output),
                    size(contents.allowed),
                    size(contents.biases),
                    size(contents.stop_ids),
                    0};
  append(contents.prompt);
  append(contents.output);
  append(contents.allowed);
  for (const auto& [id, bias] : contents.biases) payload_.push_back(id);
  for (const auto& [id, bias] : contents.biases) payload_.push_back(std::bit_cast<int32_t>(bias));
  append(contents.stop_ids);
  for (const std::vector<int32_t>& word : contents.bad_words) {
    if (word.empty()) continue;
    ++update.words;
    payload_.push_back(size(word));
    append(word);
  }
  updates_.push_back(update);
}

void SlotUpdates::clear() {
  updates_.clear();
  payload_.clear();
}

size_t sampler_state_bytes(int vocab, int slots) {
  return SlotLayout(vocab).bytes * static_cast<size_t>(slots);
}

size_t sampler_work_bytes(int vocab, int rows) { return 2 * stats_bytes(vocab, rows); }

void sample(int vocab, const float* logits, int64_t stride, const SampleRow* sample_rows,
            RowCount rows, void* state, void* work, const Sampled& sampled, cudaStream_t stream) {
  MOESAIC_ASSERT(vocab > 0 && vocab <= kMostVocab && stride >= vocab && stride % 4 == 0);
  if (rows.most == 0) return;
  auto* base = static_cast<std::byte*>(work);
  SampleParams p{};
  p.vocab = vocab;
  p.logits = logits;
  p.stride = stride;
  p.rows = sample_rows;
  p.count = rows.count;
  p.state = state;
  p.work.seen = reinterpret_cast<GranuleStats*>(base);
  p.work.raw = reinterpret_cast<GranuleStats*>(base + stats_bytes(vocab, rows.most));
  p.sampled = sampled;
  start_sample_scan(p, rows.most, stream);
  start_sample_choose(p, rows.most, stream);
}

}  // namespace moesaic::backend::cuda
