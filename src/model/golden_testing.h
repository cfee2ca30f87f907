#pragma once

// The checkpoints that tests/golden/make_golden.py made and what transformers makes of them, and a
// driver of the decoder for them: a scheduler in its plainest form.

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/value_to.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <set>
#include <span>

#include "backend/backends_testing.h"
#include "checkpoint/checkpoint.h"
#include "model/decoder.h"
#include "model/family.h"
#include "model/weights.h"

namespace moesaic::model::golden {

using backend::testing::backend_names;
using Tokens = std::vector<int32_t>;

inline constexpr int64_t kBlockSize = 16;
inline constexpr int64_t kMaxRows = 2048;

inline std::filesystem::path checkpoints() {
  return std::filesystem::path(MOESAIC_SOURCE_DIR) / "tests/golden/checkpoints";
}

inline std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints())) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// A prompt of a golden, and what transformers makes of it.
struct Prompt {
  Tokens tokens, greedy;
  std::map<int32_t, std::vector<float>> logits;  ///< by position
};

inline std::vector<Prompt> read_prompts(const std::string& name, int64_t vocab) {
  const std::filesystem::path folder = checkpoints() / name;
  const boost::json::object expected =
      checkpoint::read_json_file(folder, "expected.json", size_t{1} << 20).value();
  std::ifstream file(folder / "expected.bin", std::ios::binary);
  std::vector<Prompt> prompts;
  for (const boost::json::value& entry : expected.at("prompts").as_array()) {
    Prompt prompt;
    prompt.tokens = boost::json::value_to<Tokens>(entry.at("tokens"));
    prompt.greedy = boost::json::value_to<Tokens>(entry.at("greedy"));
    for (int32_t position : boost::json::value_to<Tokens>(entry.at("positions"))) {
      std::vector<float>& row = prompt.logits[position];
      row.resize(static_cast<size_t>(vocab));
      file.read(reinterpret_cast<char*>(row.data()),
                static_cast<std::streamsize>(row.size() * sizeof(float)));
    }
    prompts.push_back(std::move(prompt));
  }
  EXPECT_TRUE(file.good() && file.peek() == EOF) << name << "/expected.bin";
  return prompts;
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
  /// wait for it. Quantised weights are unpacked, or kept `as_stored` where the backend can.
  Runner(const std::filesystem::path& folder, const std::string& backend_name, tensor::DType dtype,
         int threads = 1, bool as_stored = false)
      : named_(backend_name, threads),
        backend_(*named_.backend),
        spec_(spec_of(folder, as_stored)),
        weights_(load_weights(lay_out_weights(spec_, backend_, dtype), backend_, *named_.pool,
                              checkpoint::Checkpoint::open(folder), {})),
        decoder_(spec_, weights_, backend_, solo_, kMaxRows),
        dtype_(dtype) {}

  static ModelSpec spec_of(const std::filesystem::path& folder, bool as_stored) {
    ModelSpec spec = load_spec(folder);
    if (!as_stored) spec.stored.reset();
    return spec;
  }
  const ModelSpec& spec() const { return spec_; }
  const LoadedWeights& weights() const { return weights_; }
  const backend::Backend& backend() const { return backend_; }

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
    const KvCache cache(spec_, {}, backend_, dtype_, kBlockSize, blocks);
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
  bool step(std::vector<Sequence>& sequences, int64_t chunk, size_t count, const KvCache& cache) {
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
    const LogitsSink sink = [&](const backend::StepView&, int64_t first, int64_t rows) {
      const backend::Activation from = backend_.activation(backend::ActivationKind::kLogits);
      backend::Address at = from.address;
      for (int64_t i = 0; i < rows; ++i) {
        auto& [sequence, position] = wanted[static_cast<size_t>(first + i)];
        std::vector<float>& logits = sequence->produced.logits[position];
        logits.resize(vocab);
        backend_.wait(backend_.read(at, std::as_writable_bytes(std::span(logits))));
        at = at + static_cast<size_t>(from.stride) * sizeof(float);
      }
    };
    backend_.take_samples(decoder_.forward(batch, cache, sink));
    count_rows(batch.rows());
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

  /// Each row of a step counts with top_k experts of each MoE layer.
  void count_rows(int64_t rows) {
    rows_ += rows;
    std::vector<uint64_t> counts(static_cast<size_t>(spec_.moe_layers() * spec_.max_experts()));
    backend_.expert_counts(counts);
    const uint64_t sum = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
    EXPECT_EQ(sum, static_cast<uint64_t>(rows_ * spec_.max_top_k() * spec_.moe_layers()));
  }

  backend::testing::NamedBackend named_;
  backend::Backend& backend_;
  ModelSpec spec_;
  LoadedWeights weights_;
  backend::SoloCommunicator solo_;
  Decoder decoder_;
  tensor::DType dtype_;
  int64_t rows_ = 0;
};

}  // namespace moesaic::model::golden
