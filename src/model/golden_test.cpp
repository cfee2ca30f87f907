// The decoder against transformers: tests/golden/make_golden.py made the checkpoints and what is
// expected of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/value_to.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "checkpoint/checkpoint.h"
#include "model/family.h"
#include "model/golden_testing.h"

namespace moesaic::model {
namespace {

using golden::backend_names;
using golden::kBlockSize;
using golden::kMaxRows;
using golden::Produced;
using golden::Runner;
using golden::Tokens;

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
  Runner runner(checkpoints() / name, backend_name, tensor::DType::kF32);
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
  for (const Family& family : families()) {
    EXPECT_EQ(seen.contains(family.model_type), family.can_serve) << family.model_type;
  }
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
    // Two threads against one, so that the split of the work is shown not to matter either.
    Runner runner(checkpoints() / name, backend_name, dtype, 2);
    Runner single(checkpoints() / name, backend_name, dtype, 1);
    const std::vector<Tokens> inputs =
        sixteen_prompts(read_prompts(name, runner.spec().vocab_size));
    const std::vector<Produced> together = runner.run(inputs, kMaxRows, 16, {});
    // In chunks, prompts of different length reach their decoding at different steps, so that
    // prefill and decode mix.
    const std::vector<Produced> mixed = runner.run(inputs, 11, 16, {});
    for (size_t i = 0; i < inputs.size(); ++i) {
      SCOPED_TRACE("prompt " + std::to_string(i));
      const std::vector<Produced> alone = single.run({inputs[i]}, kMaxRows, 16, {});
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
