#pragma once

// A driver of the decoder for the golden tests: a scheduler in its plainest form.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "checkpoint/checkpoint.h"
#include "model/decoder.h"
#include "model/family.h"
#include "model/weights.h"

namespace moesaic::model::golden {

using Tokens = std::vector<int32_t>;

inline constexpr int64_t kBlockSize = 16;
inline constexpr int64_t kMaxRows = 2048;

inline std::unique_ptr<backend::Backend> make_backend(const std::string& name, int threads) {
  if (name == "reference") return backend::make_reference_backend();
  return backend::make_cpu_backend({.threads = threads, .pin = false, .isa = name});
}

/// "reference" and every instruction set of the cpu backend that this machine has.
inline std::vector<std::string> backend_names(bool with_reference) {
  std::vector<std::string> names = backend::available_cpu_isas();
  if (with_reference) names.insert(names.begin(), "reference");
  return names;
}

/// What a sequence produced.
struct Produced {
  Tokens tokens;                                 ///< after the prompt
  std::map<int32_t, std::vector<float>> logits;  ///< by position: those asked for, and each step's
};

/// A model folder on a backend.
class Runner {
 public:
  /// One thread unless said otherwise: tiny models do not gain from a second, and on a busy machine
  /// wait for it.
  Runner(const std::filesystem::path& folder, const std::string& backend_name, tensor::DType dtype,
         int threads = 1)
      : backend_(make_backend(backend_name, threads)),
        spec_(load_spec(folder)),
        weights_(load_weights(plan_weights(spec_, *backend_, dtype), *backend_,
                              checkpoint::Checkpoint::open(folder), {})),
        decoder_(spec_, weights_, *backend_, kMaxRows),
        dtype_(dtype) {}

  const ModelSpec& spec() const { return spec_; }

  /// Feeds each prompt, at most `chunk` of its tokens per step, all prompts in the same steps; then
  /// `count` greedy tokens each. Keeps the logits of `positions` as well.
  std::vector<Produced> run(const std::vector<Tokens>& prompts, int64_t chunk, size_t count,
                            const std::vector<std::set<int32_t>>& positions) {
    std::vector<Sequence> sequences;
    int64_t blocks = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      Sequence sequence;
      sequence.tokens = prompts[i];
      sequence.prompt = prompts[i].size();
      if (i < positions.size()) sequence.positions = positions[i];
      sequence.blocks = static_cast<int64_t>(prompts[i].size() + count) / kBlockSize + 1;
      blocks += sequence.blocks;
      sequences.push_back(std::move(sequence));
    }
    // Blocks are dealt out backwards and interleaved, so that no sequence lies in one piece.
    int64_t next = blocks;
    for (bool dealt = true; dealt;) {
      dealt = false;
      for (Sequence& sequence : sequences) {
        if (static_cast<int64_t>(sequence.table.size()) == sequence.blocks) continue;
        sequence.table.push_back(static_cast<int32_t>(--next));
        dealt = true;
      }
    }
    KvCache cache(spec_, *backend_, dtype_, kBlockSize, blocks);
    while (step(sequences, chunk, count, cache)) {
    }
    std::vector<Produced> produced;
    for (Sequence& sequence : sequences) produced.push_back(std::move(sequence.produced));
    return produced;
  }

 private:
  struct Sequence {
    Tokens tokens, table;
    std::set<int32_t> positions;
    int64_t blocks = 0;
    size_t prompt = 0, computed = 0;
    Produced produced;
  };

  /// One decoder step over all unfinished sequences; false when there was none.
  bool step(std::vector<Sequence>& sequences, int64_t chunk, size_t count, KvCache& cache) {
    StepBatch batch;
    batch.seq_starts = {0};
    for (const Sequence& sequence : sequences) {
      batch.max_blocks = std::max(batch.max_blocks, sequence.blocks);
    }
    std::vector<std::pair<Sequence*, int32_t>> wanted;  // and the position
    for (Sequence& sequence : sequences) {
      if (sequence.produced.tokens.size() < count) append(sequence, chunk, batch, wanted);
    }
    if (batch.rows() == 0) return false;
    const auto vocab = static_cast<size_t>(spec_.vocab_size);
    const LogitsSink sink = [&](int64_t first, int64_t rows, float* logits) {
      for (int64_t i = 0; i < rows; ++i) {
        auto& [sequence, position] = wanted[static_cast<size_t>(first + i)];
        const float* row = logits + static_cast<size_t>(i) * vocab;
        sequence->produced.logits[position].assign(row, row + vocab);
      }
    };
    ExpertCounts counts;
    decoder_.forward(batch, cache, sink, counts);
    check(counts, batch.rows());
    for (Sequence& sequence : sequences) sample(sequence, count);
    return true;
  }

  static void append(Sequence& sequence, int64_t chunk, StepBatch& batch,
                     std::vector<std::pair<Sequence*, int32_t>>& wanted) {
    const size_t end =
        std::min(sequence.tokens.size(), sequence.computed + static_cast<size_t>(chunk));
    for (size_t p = sequence.computed; p < end; ++p) {
      const auto position = static_cast<int32_t>(p);
      const int64_t block = sequence.table[p / kBlockSize];
      if (p + 1 == sequence.tokens.size() || sequence.positions.contains(position)) {
        batch.logit_rows.push_back(static_cast<int32_t>(batch.rows()));
        wanted.emplace_back(&sequence, position);
      }
      batch.token_ids.push_back(sequence.tokens[p]);
      batch.positions.push_back(position);
      batch.slots.push_back(block * kBlockSize + position % kBlockSize);
    }
    sequence.computed = end;
    batch.seq_starts.push_back(static_cast<int32_t>(batch.rows()));
    batch.context_lens.push_back(static_cast<int32_t>(end));
    const auto width = static_cast<size_t>(batch.max_blocks);
    Tokens table = sequence.table;
    table.resize(width, -1);  // an entry that must not be read
    batch.block_tables.insert(batch.block_tables.end(), table.begin(), table.end());
  }

  static void sample(Sequence& sequence, size_t count) {
    if (sequence.computed < sequence.tokens.size() || sequence.produced.tokens.size() >= count) {
      return;
    }
    const auto& row = sequence.produced.logits.at(static_cast<int32_t>(sequence.computed) - 1);
    const auto best = std::max_element(row.begin(), row.end()) - row.begin();
    sequence.tokens.push_back(static_cast<int32_t>(best));
    sequence.produced.tokens.push_back(static_cast<int32_t>(best));
  }

  void check(const ExpertCounts& counts, int64_t rows) const {
    ASSERT_EQ(counts.layers, spec_.moe_layers());
    ASSERT_EQ(counts.counts.size(), static_cast<size_t>(counts.layers * counts.experts));
    int64_t sum = 0;
    for (int32_t count : counts.counts) sum += count;
    EXPECT_EQ(sum, rows * spec_.max_top_k() * spec_.moe_layers());
  }

  std::unique_ptr<backend::Backend> backend_;
  ModelSpec spec_;
  LoadedWeights weights_;
  Decoder decoder_;
  tensor::DType dtype_;
};

}  // namespace moesaic::model::golden
