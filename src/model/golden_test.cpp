// The decoder against transformers: tests/golden/make_golden.py made the checkpoints and what is
// expected of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/value_to.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "checkpoint/checkpoint.h"
#include "model/decoder.h"
#include "model/family.h"
#include "model/weights.h"

namespace moesaic::model {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int64_t kBlockSize = 16;
constexpr int64_t kMaxRows = 2048;
constexpr float kTolerance = 1e-3f;

std::filesystem::path checkpoints() {
  return std::filesystem::path(MOESAIC_SOURCE_DIR) / "tests/golden/checkpoints";
}

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints())) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Prompt {
  Tokens tokens, greedy;
  std::map<int32_t, std::vector<float>> logits;  ///< by position
};

std::vector<Prompt> read_prompts(const std::string& name, int64_t vocab) {
  const std::filesystem::path folder = checkpoints() / name;
  const boost::json::object expected =
      checkpoint::read_json_file(folder / "expected.json", size_t{1} << 20);
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

std::unique_ptr<backend::Backend> make_backend(const std::string& name) {
  if (name == "reference") return backend::make_reference_backend();
  return backend::make_cpu_backend({.threads = 2, .pin = false, .isa = name});
}

/// "reference" and every instruction set of the cpu backend that this machine has.
std::vector<std::string> backend_names(bool with_reference) {
  std::vector<std::string> names = backend::available_cpu_isas();
  if (with_reference) names.insert(names.begin(), "reference");
  return names;
}

/// What a sequence produced.
struct Produced {
  Tokens tokens;                                 ///< after the prompt
  std::map<int32_t, std::vector<float>> logits;  ///< by position: those asked for, and each step's
};

/// A model on a backend, and a driver for its decoder: a scheduler in its plainest form.
class Runner {
 public:
  Runner(const std::string& name, const std::string& backend_name, tensor::DType dtype)
      : backend_(make_backend(backend_name)),
        spec_(load_spec(checkpoints() / name)),
        weights_(load_weights(plan_weights(spec_, *backend_, dtype), *backend_,
                              checkpoint::Checkpoint::open(checkpoints() / name), {})),
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

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float difference = std::fabs(a[i] - b[i]);
    if (!(difference <= largest)) largest = difference;  // NaN sticks
  }
  return largest;
}

std::vector<std::set<int32_t>> wanted_positions(const std::vector<Prompt>& prompts) {
  std::vector<std::set<int32_t>> all;
  for (const Prompt& prompt : prompts) {
    std::set<int32_t>& positions = all.emplace_back();
    for (const auto& [position, row] : prompt.logits) positions.insert(position);
  }
  return all;
}

void expect_golden(const std::vector<Prompt>& prompts, const std::vector<Produced>& produced) {
  ASSERT_EQ(prompts.size(), produced.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    SCOPED_TRACE("prompt " + std::to_string(i));
    for (const auto& [position, row] : prompts[i].logits) {
      const auto found = produced[i].logits.find(position);
      ASSERT_NE(found, produced[i].logits.end()) << "position " << position;
      EXPECT_LE(largest_difference(row, found->second), kTolerance) << "position " << position;
    }
    EXPECT_EQ(prompts[i].greedy, produced[i].tokens);
  }
}

void expect_identical(const Produced& alone, const Produced& other) {
  EXPECT_EQ(alone.tokens, other.tokens);
  for (const auto& [position, row] : alone.logits) {
    const auto found = other.logits.find(position);
    ASSERT_NE(found, other.logits.end());
    // Compared as bits, so that 0 and -0 differ and NaN equals itself.
    ASSERT_EQ(0, std::memcmp(row.data(), found->second.data(), row.size() * sizeof(float)))
        << "position " << position << ", difference " << largest_difference(row, found->second);
  }
}

using Case = std::tuple<std::string, std::string>;  // golden, backend

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
}

class Golden : public testing::TestWithParam<Case> {};

TEST_P(Golden, LogitsAndGreedyTokensAreThoseOfTransformers) {
  const auto& [name, backend_name] = GetParam();
  Runner runner(name, backend_name, tensor::DType::kF32);
  const std::vector<Prompt> prompts = read_prompts(name, runner.spec().vocab_size);
  ASSERT_EQ(prompts.size(), 3u);
  ASSERT_GT(prompts.back().tokens.size(), static_cast<size_t>(4 * kBlockSize));
  std::vector<Tokens> inputs;
  for (const Prompt& prompt : prompts) {
    ASSERT_EQ(prompt.greedy.size(), 48u);
    inputs.push_back(prompt.tokens);
  }
  const auto positions = wanted_positions(prompts);
  const std::vector<Produced> whole = runner.run(inputs, kMaxRows, 48, positions);
  expect_golden(prompts, whole);
  const std::vector<Produced> chunked = runner.run(inputs, 7, 48, positions);
  expect_golden(prompts, chunked);
  for (size_t i = 0; i < inputs.size(); ++i) {
    SCOPED_TRACE("in chunks, prompt " + std::to_string(i));
    expect_identical(whole[i], chunked[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Golden,
                         testing::Combine(testing::ValuesIn(golden_names()),
                                          testing::ValuesIn(backend_names(true))),
                         case_name);

TEST(Golden, EveryFamilyHasOne) {
  std::set<std::string> seen;
  for (const std::string& name : golden_names()) {
    seen.insert(load_spec(checkpoints() / name).family);
  }
  for (const Family& family : families()) EXPECT_TRUE(seen.contains(family.model_type));
}

class Batched : public testing::TestWithParam<Case> {};

/// 16 prompts of different lengths, cut from the golden ones.
std::vector<Tokens> sixteen_prompts(const std::vector<Prompt>& prompts) {
  const Tokens& source = prompts.back().tokens;
  std::vector<Tokens> cut;
  for (size_t i = 0; i < 16; ++i) {
    const size_t length = 1 + i * 5;
    cut.emplace_back(source.begin() + static_cast<ptrdiff_t>(i % 3),
                     source.begin() + static_cast<ptrdiff_t>(i % 3 + length));
  }
  return cut;
}

TEST_P(Batched, EachPromptGivesBitForBitWhatItGivesAlone) {
  const auto& [name, backend_name] = GetParam();
  for (const tensor::DType dtype : {tensor::DType::kF32, tensor::DType::kBF16}) {
    SCOPED_TRACE(std::string(tensor::to_string(dtype)));
    Runner runner(name, backend_name, dtype);
    const std::vector<Tokens> inputs =
        sixteen_prompts(read_prompts(name, runner.spec().vocab_size));
    const std::vector<Produced> together = runner.run(inputs, kMaxRows, 16, {});
    // In chunks, prompts of different length reach their decoding at different steps, so that
    // prefill and decode mix.
    const std::vector<Produced> mixed = runner.run(inputs, 11, 16, {});
    for (size_t i = 0; i < inputs.size(); ++i) {
      SCOPED_TRACE("prompt " + std::to_string(i));
      const std::vector<Produced> alone = runner.run({inputs[i]}, kMaxRows, 16, {});
      expect_identical(alone[0], together[i]);
      expect_identical(alone[0], mixed[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Batched,
                         testing::Combine(testing::Values("mixtral", "mixtral_window", "qwen2_moe",
                                                          "olmoe", "qwen3_moe", "llama_odd",
                                                          "llama_dynamic"),
                                          testing::ValuesIn(backend_names(false))),
                         case_name);

}  // namespace
}  // namespace moesaic::model
