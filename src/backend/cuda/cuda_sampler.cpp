#include "backend/cuda/cuda_sampler.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace moesaic::backend::cuda {
namespace {

constexpr int64_t kChances = 1 + kMostLogprobs;
constexpr int32_t kSlotStep = 16;

static_assert(ListLimits::kBiases <= kMostBiases);
static_assert(ListLimits::kStopIds < kMostStopIds);  // EOS ids come on top
static_assert(ListLimits::kBadWords <= kMostBadWords);
static_assert(ListLimits::kBadWordTokens <= kMostWordTokens);
static_assert(ListLimits::kBadWord <= kTail);

/// Where the parts lie in one piece of memory, in bytes; the host's copy has the same order.
struct Layout {
  size_t tokens = 0, broken = 0, chances = 0, rows = 0, work = 0, bytes = 0;

  Layout(int64_t vocab, int64_t most, int64_t at_once) {
    const auto n = static_cast<size_t>(most);
    tokens = take(n * sizeof(int32_t));
    broken = take(n * sizeof(int32_t));
    chances = take(n * kChances * sizeof(TokenChance));
    rows = take(n * sizeof(SampleRow));
    if (at_once > 0) {
      work = take(sampler_work_bytes(static_cast<int>(vocab), static_cast<int>(at_once)));
    }
  }
  size_t take(size_t size) {
    const size_t at = bytes;
    bytes += (size + 255) / 256 * 256;
    return at;
  }
};

bool wants_chances(const backend::SampleRow& row) { return row.logprobs >= 0; }

SampleRow device_row(const backend::SampleRow& row, int64_t index, uint32_t uses) {
  SampleRow out;
  out.row = static_cast<int32_t>(index);
  out.slot = row.state;
  out.temperature = row.temperature;
  out.top_p = row.top_p;
  out.min_p = row.min_p;
  out.top_k = row.top_k;
  out.repetition_penalty = row.repetition_penalty;
  out.frequency_penalty = row.frequency_penalty;
  out.presence_penalty = row.presence_penalty;
  out.position = static_cast<int32_t>(row.position);
  out.min_tokens = row.min_tokens;
  out.logprobs = row.logprobs;
  out.given = row.target;
  out.uses = uses;
  out.seed = row.seed;
  return out;
}

}  // namespace

SampledRows::SampledRows(int64_t rows, int64_t vocab)
    : memory_(Layout(0, rows, 0).bytes), most_(rows), vocab_(vocab) {}

std::vector<backend::Sampled> SampledRows::results() const {
  const Layout layout(0, most_, 0);
  const auto* tokens = memory_.as<const int32_t>(layout.tokens);
  const auto* broken = memory_.as<const int32_t>(layout.broken);
  const auto* chances = memory_.as<const TokenChance>(layout.chances);
  const auto logprob = [](const TokenChance& chance) {
    return TokenLogprob{chance.id, chance.logprob, chance.rank};
  };
  std::vector<backend::Sampled> results(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    backend::Sampled& result = results[i];
    const backend::SampleRow& row = rows_[i];
    result.broken = broken[i] != 0;
    result.token = row.target >= 0 ? row.target : tokens[i];
    if (result.broken || !wants_chances(row)) continue;
    const TokenChance* own = chances + i * kChances;
    result.logprobs.token = logprob(own[0]);
    const int64_t best = std::min<int64_t>(row.logprobs, vocab_);
    for (int64_t k = 1; k <= best; ++k) result.logprobs.top.push_back(logprob(own[k]));
  }
  return results;
}

size_t Sampler::bytes(int64_t vocab, int64_t rows, int64_t rows_at_once) {
  return Layout(vocab, rows, rows_at_once).bytes;
}

Sampler::Sampler(int64_t vocab, int64_t rows, int64_t rows_at_once)
    : vocab_(vocab), memory_(bytes(vocab, rows, rows_at_once)) {
  const Layout layout(vocab, rows, rows_at_once);
  tokens_ = memory_.as<int32_t>(layout.tokens);
  broken_ = memory_.as<int32_t>(layout.broken);
  chances_ = memory_.as<TokenChance>(layout.chances);
  rows_ = memory_.as<SampleRow>(layout.rows);
  work_ = memory_.as<std::byte>(layout.work);
  memory_.clear();
}

Unsupported Sampler::samples(int64_t vocab, const backend::SampleRow& row) {
  if (vocab > kMostVocab) {
    return fmt::format("the device chooses among at most {} tokens", kMostVocab);
  }
  if (row.logprobs > kMostLogprobs) {
    return fmt::format("the device tells at most {} log-probabilities", kMostLogprobs);
  }
  if (row.constrained) return "the host knows what the request's grammar allows";
  return row.long_lists ? "the request's lists of tokens are too long for the device" : "";
}

void Sampler::set_state(int32_t slot, const SamplingState& state) {
  const TokenRules& rules = *state.rules;
  std::vector<int32_t> stop_ids = state.eos_ids;
  stop_ids.insert(stop_ids.end(), rules.stop_token_ids.begin(), rules.stop_token_ids.end());
  SlotContents contents;
  if (state.prompt_ids) contents.prompt = *state.prompt_ids;
  contents.output = state.output;
  contents.allowed = rules.allowed_token_ids;
  contents.biases = rules.logit_bias;
  contents.stop_ids = stop_ids;
  contents.bad_words = rules.bad_words;
  if (const char* much = SlotUpdates::problem(contents); *much != '\0') {
    throw CudaError(fmt::format("too many {} for a sampler slot", much));
  }
  updates_.add(slot, contents);
  most_slot_ = std::max(most_slot_, slot);
  if (uses_.size() <= static_cast<size_t>(slot)) uses_.resize(static_cast<size_t>(slot) + 1);
  uses_[static_cast<size_t>(slot)] =
      kUsesOutput | (rules.allowed_token_ids.empty() ? 0 : kUsesAllowed) |
      (rules.logit_bias.empty() && rules.bad_words.empty() ? 0 : kUsesLists);
}

void Sampler::make_room_for_slots(const Stream& stream) {
  if (most_slot_ < slots_) return;
  const int32_t slots = (most_slot_ / kSlotStep + 1) * kSlotStep;
  DeviceMemory larger(sampler_state_bytes(static_cast<int>(vocab_), slots));
  if (states_.size() > 0) {
    check(cudaMemcpyAsync(larger.data(), states_.data(), states_.size(), cudaMemcpyDeviceToDevice,
                          stream.get()),
          "moving sampler states");
  }
  stream.synchronize();
  states_ = std::move(larger);
  slots_ = slots;
}

void Sampler::send_updates(const Stream& stream) {
  const auto updates = updates_.updates();
  if (updates.empty()) return;
  make_room_for_slots(stream);
  const size_t payload_at = (updates.size_bytes() + 255) / 256 * 256;
  const size_t bytes = payload_at + updates_.payload().size_bytes();
  if (sent_.size() < bytes) {
    stream.synchronize();
    sent_ = DeviceMemory(2 * bytes);
  }
  const auto send = [&](size_t at, std::span<const std::byte> from) {
    if (from.empty()) return;
    // From pageable memory: it is copied away before the call returns.
    check(cudaMemcpyAsync(sent_.data() + at, from.data(), from.size(), cudaMemcpyHostToDevice,
                          stream.get()),
          "sending sampler states");
  };
  send(0, std::as_bytes(updates));
  send(payload_at, std::as_bytes(updates_.payload()));
  update_slots(static_cast<int>(vocab_), states_.data(), sent_.as<const SlotUpdate>(),
               static_cast<int>(updates.size()), sent_.as<const int32_t>(payload_at), stream.get());
  updates_.clear();
}

void Sampler::sample(const float* logits, int64_t stride, int64_t first,
                     std::span<const backend::SampleRow> rows, const int32_t* count,
                     SampledRows& into, const Stream& stream) {
  send_updates(stream);
  into.rows_.insert(into.rows_.end(), rows.begin(), rows.end());
  const Layout layout(0, into.most_, 0);
  auto* staged = into.memory_.as<SampleRow>(layout.rows) + first;
  for (size_t i = 0; i < rows.size(); ++i) {
    // What the host chooses for is chosen here as well, by the simplest way, and nobody looks.
    const bool ours = samples(vocab_, rows[i]).empty();
    const backend::SampleRow row = ours ? rows[i] : backend::SampleRow{.temperature = 0};
    const uint32_t uses = row.state >= 0 ? uses_[static_cast<size_t>(row.state)] : 0;
    staged[i] = device_row(row, static_cast<int64_t>(i), uses);
  }
  check(cudaMemcpyAsync(rows_ + first, staged,
                        rows.size_bytes() / sizeof(backend::SampleRow) * sizeof(SampleRow),
                        cudaMemcpyHostToDevice, stream.get()),
        "sending sample rows");
  cuda::sample(static_cast<int>(vocab_), logits, stride, rows_ + first,
               {count, static_cast<int>(rows.size())}, states_.data(), work_,
               {tokens_ + first, broken_ + first, chances_ + first * kChances}, stream.get());
}

void Sampler::finish(int64_t wanted, SampledRows& into, const Stream& stream) {
  const auto count = static_cast<size_t>(wanted);
  // Logits that nobody wanted sampled: the rows are there and have chosen nothing.
  into.rows_.resize(count);
  const Layout layout(0, into.most_, 0);
  const auto fetch = [&](size_t at, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(into.memory_.as(at), from, bytes, cudaMemcpyDeviceToHost, stream.get()),
          "fetching chosen tokens");
  };
  if (count == 0) return;
  fetch(layout.tokens, tokens_, count * sizeof(int32_t));
  fetch(layout.broken, broken_, count * sizeof(int32_t));
  if (std::any_of(into.rows_.begin(), into.rows_.end(), wants_chances)) {
    fetch(layout.chances, chances_, count * kChances * sizeof(TokenChance));
  }
}

}  // namespace moesaic::backend::cuda
