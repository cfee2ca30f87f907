#include "model/decoder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>
#include <span>

#include "model/family.h"
#include "model/weights.h"

namespace moesaic::model {
namespace {

ModelSpec golden_spec(const std::string& name) {
  return load_spec(std::filesystem::path(MOESAIC_SOURCE_DIR) / "tests/golden/checkpoints" / name);
}

/// One sequence of `rows` tokens from position 0, in blocks 0, 1, ...
StepBatch prompt(int64_t rows, int64_t block_size) {
  StepBatch batch;
  for (int64_t i = 0; i < rows; ++i) {
    batch.token_ids.push_back(static_cast<int32_t>(i % 7));
    batch.positions.push_back(static_cast<int32_t>(i));
    batch.slots.push_back(i);
  }
  batch.seq_starts = {0, static_cast<int32_t>(rows)};
  batch.context_lens = {static_cast<int32_t>(rows)};
  batch.max_blocks = (rows + block_size - 1) / block_size;
  batch.block_tables.resize(static_cast<size_t>(batch.max_blocks));
  std::iota(batch.block_tables.begin(), batch.block_tables.end(), 0);
  return batch;
}

/// A model of dummy weights on the reference backend.
struct Model {
  explicit Model(ModelSpec model_spec, int64_t max_rows)
      : spec(std::move(model_spec)),
        weights(make_dummy_weights(lay_out_weights(spec, *backend, tensor::DType::kF32), *backend,
                                   pool, 1, {})),
        decoder(spec, weights, *backend, solo, max_rows),
        cache(spec, {}, *backend, tensor::DType::kF32, 16, 8) {}

  /// The first logit of a chunk's row `index`.
  float first_logit(int64_t index) const {
    float value = 0;
    const backend::Activation logits = backend->activation(backend::ActivationKind::kLogits);
    backend->wait(
        backend->read(logits.address + static_cast<size_t>(index * logits.stride) * sizeof(float),
                      std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }

  base::ThreadPool pool{1};
  std::unique_ptr<backend::Backend> backend = backend::make_reference_backend();
  ModelSpec spec;
  LoadedWeights weights;
  backend::SoloCommunicator solo;
  Decoder decoder;
  KvCache cache;
};

TEST(Decoder, LeavesLogitsInBoundedChunks) {
  // A vocabulary so large that 64 MiB hold 16 rows of it; the rest as small as can be.
  ModelSpec spec = golden_spec("llama");
  spec.vocab_size = int64_t{1} << 20;
  spec.hidden = 8;
  spec.layers.resize(1);
  spec.layers[0].ffn.width = 8;
  Model model(spec, 64);
  StepBatch batch = prompt(40, 16);
  for (int32_t row = 1; row < 40; ++row) batch.logit_rows.push_back(row);

  std::vector<std::pair<int64_t, int64_t>> chunks;
  std::vector<float> first_of_row;
  model.decoder.forward(batch, model.cache,
                        [&](const backend::StepView& step, int64_t first, int64_t count) {
                          EXPECT_EQ(step.rows, 40);
                          chunks.emplace_back(first, count);
                          for (int64_t i = 0; i < count; ++i)
                            first_of_row.push_back(model.first_logit(i));
                        });
  EXPECT_EQ(chunks, (std::vector<std::pair<int64_t, int64_t>>{{0, 16}, {16, 16}, {32, 7}}));

  // The last row of the last chunk is what that row alone gives.
  StepBatch last = prompt(40, 16);
  last.logit_rows = {39};
  std::vector<float> alone;
  model.decoder.forward(last, model.cache,
                        [&](const backend::StepView&, int64_t first, int64_t count) {
                          EXPECT_EQ(first, 0);
                          EXPECT_EQ(count, 1);
                          alone.push_back(model.first_logit(0));
                        });
  ASSERT_EQ(alone.size(), 1u);
  EXPECT_EQ(alone[0], first_of_row.back());
}

TEST(Decoder, CountsRowsPerExpertOfMoeLayersOnly) {
  // Layer 1 of this model is dense.
  Model model(golden_spec("qwen2_moe"), 32);
  int calls = 0;
  const LogitsSink sink = [&](const backend::StepView&, int64_t, int64_t) { ++calls; };
  model.decoder.forward(prompt(20, 16), model.cache, sink);
  EXPECT_EQ(calls, 0) << "no logits were wanted";
  ASSERT_EQ(model.spec.moe_layers(), 2);
  ASSERT_EQ(model.spec.max_experts(), 6);
  for (uint64_t steps = 1; steps <= 2; ++steps) {
    std::vector<uint64_t> counts(12);
    model.backend->expert_counts(counts);
    for (size_t layer = 0; layer < 2; ++layer) {
      const auto begin = counts.begin() + static_cast<ptrdiff_t>(layer * 6);
      EXPECT_EQ(std::accumulate(begin, begin + 6, uint64_t{0}), steps * 20 * 4)
          << "MoE layer " << layer;
    }
    model.decoder.forward(prompt(20, 16), model.cache, sink);
  }
}

/// A token that stands for what the step before chose is as good as the token itself.
TEST(Decoder, TakesTokensThatTheStepBeforeChose) {
  Model model(golden_spec("mixtral"), 8);
  const auto logit_of = [&](const StepBatch& batch, bool sample) {
    float logit = 0;
    const backend::Fence end = model.decoder.forward(
        batch, model.cache, [&](const backend::StepView& step, int64_t first, int64_t count) {
          logit = model.first_logit(0);
          const backend::SampleRow greedy{.temperature = 0};
          if (sample) model.backend->sample(step, first, std::span(&greedy, 1));
          EXPECT_EQ(count, 1);
        });
    return std::pair(logit, model.backend->take_samples(end).at(0).token);
  };
  StepBatch first = prompt(3, 16);
  first.logit_rows = {2};
  const int32_t chosen = logit_of(first, true).second;
  StepBatch next;
  next.token_ids = {chosen};
  next.positions = {3};
  next.slots = {3};
  next.seq_starts = {0, 1};
  next.context_lens = {4};
  next.block_tables = {0};
  next.max_blocks = 1;
  next.logit_rows = {0};
  const float known = logit_of(next, false).first;
  logit_of(first, true);
  next.token_ids = {-1};
  EXPECT_EQ(logit_of(next, false).first, known);
}

TEST(DecoderDeathTest, RefusesWhatWouldReadOutOfBounds) {
  Model model(golden_spec("mixtral"), 8);
  const auto forward = [&](const StepBatch& batch) {
    model.decoder.forward(batch, model.cache, [](const backend::StepView&, int64_t, int64_t) {});
  };
  StepBatch token = prompt(4, 16);
  token.token_ids[2] = static_cast<int32_t>(model.spec.vocab_size);
  EXPECT_DEATH(forward(token), "token_ids");
  StepBatch slot = prompt(4, 16);
  slot.slots[3] = 8 * 16;
  EXPECT_DEATH(forward(slot), "slots");
  StepBatch block = prompt(4, 16);
  block.block_tables[0] = 8;
  EXPECT_DEATH(forward(block), "block_tables");
  EXPECT_DEATH(forward(prompt(9, 16)), "max_rows");
  StepBatch nothing;
  nothing.seq_starts = {0};
  EXPECT_DEATH(forward(nothing), "rows");
}

TEST(KvCacheTest, LayersLieApart) {
  const auto backend = backend::make_reference_backend();
  const ModelSpec spec = golden_spec("mistral");
  const KvCache cache(spec, {}, *backend, tensor::DType::kBF16, 16, 5);
  const size_t block = KvCache::block_bytes(spec, {}, *backend, tensor::DType::kBF16, 16);
  ASSERT_EQ(spec.layers.size(), 2u);
  EXPECT_EQ(cache.layer(1).data - cache.layer(0).data, static_cast<ptrdiff_t>(5 * block / 2));
  EXPECT_EQ(cache.layer(0).num_blocks, 5);
  EXPECT_GE(block / 2, backend->kv_block_bytes(cache.layer(0).desc));
}

}  // namespace
}  // namespace moesaic::model
