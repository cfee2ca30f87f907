#include "model/memory_needs.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "backend/backends_testing.h"
#include "base/error.h"
#include "base/memory.h"
#include "checkpoint/checkpoint.h"
#include "model/decoder.h"
#include "model/family.h"
#include "model/weights.h"

namespace moesaic::model {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

std::filesystem::path golden() {
  return std::filesystem::path(MOESAIC_SOURCE_DIR) / "tests/golden";
}

class MemoryNeedsTest : public testing::Test {
 protected:
  MemoryNeedsTest() { inputs_.max_model_len = 4096; }

  std::string failure() {
    try {
      memory_needs(olmoe_, *backend_, inputs_);
    } catch (const base::UnavailableError& error) {
      return error.what();
    }
    return "";
  }

  std::unique_ptr<backend::Backend> backend_ = backend::make_reference_backend();
  ModelSpec olmoe_ = load_spec(golden() / "configs/olmoe-1b-7b.json");
  MemoryInputs inputs_;
};

TEST_F(MemoryNeedsTest, FillsWhatIsLeftWithKvBlocks) {
  inputs_.device_bytes = 24 * kGiB;
  const MemoryNeeds needs = memory_needs(olmoe_, *backend_, inputs_);
  EXPECT_GE(needs.weights, 6919161856u * 2);
  EXPECT_LE(needs.weights, 6919161856u * 2 + 200 * 1024 * 1024);
  EXPECT_LE(needs.total(), 24 * kGiB * 9 / 10);
  const size_t block = KvCache::block_bytes(olmoe_, {}, *backend_, inputs_.kv_dtype, 16);
  EXPECT_GT(needs.total() + block, 24 * kGiB * 9 / 10) << "another block would have fitted";
  EXPECT_EQ(needs.kv_cache, static_cast<uint64_t>(needs.kv_blocks) * block);
  EXPECT_EQ(needs.kv_tokens, needs.kv_blocks * 16);
}

TEST_F(MemoryNeedsTest, TakesNoMoreKvThanTheSequencesCanUse) {
  inputs_.device_bytes = 1024 * kGiB;
  inputs_.max_sequences = 3;
  inputs_.max_model_len = 1000;
  EXPECT_EQ(memory_needs(olmoe_, *backend_, inputs_).kv_blocks, 3 * 63);
}

TEST_F(MemoryNeedsTest, FixedKvSizesWin) {
  inputs_.device_bytes = 64 * kGiB;
  inputs_.kv_bytes = 2 * kGiB;
  const size_t block = KvCache::block_bytes(olmoe_, {}, *backend_, inputs_.kv_dtype, 16);
  EXPECT_EQ(memory_needs(olmoe_, *backend_, inputs_).kv_blocks,
            static_cast<int64_t>(2 * kGiB / block));
  inputs_.kv_blocks = 300;
  EXPECT_EQ(memory_needs(olmoe_, *backend_, inputs_).kv_blocks, 300);
}

TEST_F(MemoryNeedsTest, WeightsThatDoNotFitSayWhatToDo) {
  inputs_.device_bytes = 8 * kGiB;
  const std::string message = failure();
  for (const char* part : {"weights 12.", "activations", "runtime", "7.20 GiB",
                           "--gpu-memory-utilization", "--max-num-batched-tokens"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST_F(MemoryNeedsTest, KvThatHoldsNoSequenceNamesTheLengthThatFits) {
  inputs_.device_bytes = 17 * kGiB;
  inputs_.max_model_len = 1 << 20;
  const std::string message = failure();
  EXPECT_NE(message.find("--max-model-len 1048576"), std::string::npos) << message;
  const size_t at = message.find("lower --max-model-len to ");
  ASSERT_NE(at, std::string::npos) << message;
  inputs_.max_model_len = std::stoll(message.substr(at + 25));
  EXPECT_GT(inputs_.max_model_len, 0);
  EXPECT_EQ(failure(), "") << "the remedy must work";
}

TEST_F(MemoryNeedsTest, FixedKvThatDoesNotFitIsRefused) {
  inputs_.device_bytes = 20 * kGiB;
  inputs_.kv_bytes = 10 * kGiB;
  EXPECT_NE(failure().find("KV cache asked for does not fit"), std::string::npos);
  inputs_.kv_bytes = 0;
  inputs_.kv_blocks = 10;
  EXPECT_NE(failure().find("cannot hold one sequence"), std::string::npos);
}

/// What is planned is what is allocated, term by term.
TEST_F(MemoryNeedsTest, IsWhatIsAllocated) {
  for (const char* name : {"mixtral", "qwen2_moe", "llama_odd", "qwen3_moe"}) {
    SCOPED_TRACE(name);
    const std::filesystem::path folder = golden() / "checkpoints" / name;
    const ModelSpec spec = load_spec(folder);
    for (const std::string& isa : backend::available_cpu_isas()) {
      SCOPED_TRACE(isa);
      const backend::testing::NamedBackend named(isa);
      backend::Backend* const backend = named.backend.get();
      MemoryInputs inputs;
      inputs.device_bytes = 2 * kGiB;
      inputs.max_rows = 96;
      inputs.max_model_len = 128;
      inputs.max_sequences = 4;
      const MemoryNeeds needs = memory_needs(spec, *backend, inputs);

      const size_t weights_before = base::allocated_bytes(base::MemoryTag::kWeights);
      const size_t kv_before = base::allocated_bytes(base::MemoryTag::kKvCache);
      const size_t activations_before = base::allocated_bytes(base::MemoryTag::kActivations);
      const LoadedWeights weights =
          load_weights(lay_out_weights(spec, *backend, inputs.format), *backend, *named.pool,
                       checkpoint::Checkpoint::open(folder), {});
      const KvCache cache(spec, {}, *backend, inputs.kv_dtype, inputs.block_size, needs.kv_blocks);
      backend::SoloCommunicator solo;
      const Decoder decoder(spec, weights, *backend, solo, inputs.max_rows);
      EXPECT_EQ(base::allocated_bytes(base::MemoryTag::kWeights) - weights_before, needs.weights);
      EXPECT_EQ(base::allocated_bytes(base::MemoryTag::kKvCache) - kv_before, needs.kv_cache);
      EXPECT_EQ(base::allocated_bytes(base::MemoryTag::kActivations) - activations_before,
                needs.activations);
    }
  }
}

}  // namespace
}  // namespace moesaic::model
