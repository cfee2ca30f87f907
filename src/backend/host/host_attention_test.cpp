// The attention cases of the operator suite (host_ops_test.cpp): every backend against the
// reference, the reference against the definition, and the promise that a sequence's rows do not
// depend on what else is in the step, on how its prompt was cut, or on the threads.

#include "backend/host/host_attention_testing.h"

namespace moesaic::backend::testing {
namespace {

/// K and V are rounded before anything is summed, so the type of the cache adds no error of its
/// own; but with bf16 products (cpu/attention_test.cpp) queries and weights are rounded too, by at
/// most 2^-9 each.
double tolerance(const std::string& subject, DType cache) {
  const bool rounds = cache == kBF16 && (subject == "avx512" || subject == "amx");
  return rounds ? 4e-2 : 2e-5;
}

const std::vector<AttentionCase>& cases() {
  static const std::vector<AttentionCase> rows = {
      // name, heads, kv_heads, head_dim, block_size, cache, window, {past, rows}...
      {"one_token", 4, 4, 64, 16, kF32, 0, {{0, 1}}},
      {"decode", 4, 4, 128, 16, kBF16, 0, {{299, 1}}},
      {"decode_f16", 4, 4, 128, 16, kF16, 0, {{200, 1}}},
      {"decode_f32", 4, 4, 128, 16, kF32, 0, {{200, 1}}},
      {"decode_many", 2, 2, 64, 16, kBF16, 0, {{15, 1}, {16, 1}, {63, 1}, {64, 1}, {129, 1}}},
      {"prefill", 2, 2, 128, 16, kBF16, 0, {{0, 150}}},
      {"prefill_f16", 2, 2, 64, 16, kF16, 0, {{0, 70}}},
      {"prefill_continued", 2, 2, 64, 16, kF32, 0, {{77, 60}}},
      {"long_context", 4, 1, 64, 16, kBF16, 0, {{695, 5}}},
      {"longer_than_a_segment", 4, 2, 64, 16, kBF16, 0, {{1300, 3}, {10, 1}}},
      {"mixed", 4, 2, 64, 16, kBF16, 0, {{0, 40}, {33, 1}, {90, 17}, {5, 1}, {0, 1}, {127, 1}}},
      {"nothing_to_do", 4, 2, 64, 16, kF32, 0, {}},
      {"prefill_over_segments", 1, 1, 32, 16, kBF16, 0, {{0, 620}}},
      {"gqa_4", 8, 2, 64, 16, kF32, 0, {{0, 33}, {80, 1}}},
      {"gqa_4_bf16", 8, 2, 128, 16, kBF16, 0, {{0, 20}, {130, 1}}},
      {"gqa_8", 8, 1, 128, 16, kBF16, 0, {{0, 21}, {64, 1}}},
      {"gqa_7", 14, 2, 64, 16, kF16, 0, {{40, 9}, {70, 1}}},
      {"gqa_64", 64, 1, 64, 16, kF32, 0, {{20, 3}}},
      {"head_dim_80", 4, 4, 80, 16, kBF16, 0, {{0, 30}, {100, 1}}},
      {"head_dim_96", 4, 2, 96, 16, kF16, 0, {{0, 30}, {100, 1}}},
      {"head_dim_256", 2, 1, 256, 16, kF32, 0, {{0, 30}, {70, 1}}},
      {"head_dim_20", 2, 1, 20, 16, kBF16, 0, {{0, 30}, {70, 1}}},
      {"block_1", 4, 2, 64, 1, kBF16, 0, {{0, 70}, {66, 1}}},
      {"block_8", 4, 2, 64, 8, kF32, 0, {{0, 70}, {66, 1}}},
      {"block_24", 4, 2, 64, 24, kF16, 0, {{0, 70}, {66, 1}}},
      {"block_32", 4, 2, 64, 32, kBF16, 0, {{0, 70}, {66, 1}}},
      {"block_128", 4, 2, 64, 128, kBF16, 0, {{0, 70}, {166, 1}}},
      {"window_1", 2, 2, 64, 16, kF32, 1, {{0, 70}, {66, 1}}},
      {"window_32", 4, 2, 64, 16, kBF16, 32, {{0, 150}, {200, 1}, {10, 1}}},
      {"window_100", 2, 1, 64, 16, kF32, 100, {{150, 60}, {700, 1}}},
      {"window_over_segments", 2, 2, 64, 16, kBF16, 600, {{1250, 4}}},
      {"sharp", 2, 2, 64, 16, kF32, 0, {{0, 80}}, 25.0f},
  };
  return rows;
}

std::vector<size_t> all_of(const AttentionCase& row) {
  std::vector<size_t> sequences(row.spans.size());
  for (size_t s = 0; s < sequences.size(); ++s) sequences[s] = s;
  return sequences;
}

/// The case's step on a backend: the past is appended first, then all spans in one call.
Floats run_whole(HostOps& ops, const AttentionInputs& inputs, const AttentionCase& row) {
  PagedRun run(ops, inputs, row.spans.size());
  std::vector<int64_t> past;
  std::vector<int64_t> rows;
  for (const Span& span : row.spans) {
    past.push_back(span.past);
    rows.push_back(span.rows);
  }
  run.append(all_of(row), past);
  return run.step(all_of(row), rows);
}

/// The rows of one sequence, all its positions from 0 on, fed to the backend in chunks.
Floats run_chunked(HostOps& ops, const AttentionInputs& inputs, const AttentionCase& row,
                   size_t sequence, const std::vector<int64_t>& chunks) {
  PagedRun run(ops, inputs, row.spans.size());
  Floats all;
  int64_t left = inputs.positions(sequence);
  for (size_t i = 0; left > 0; ++i) {
    const int64_t rows = std::min(left, chunks[std::min(i, chunks.size() - 1)]);
    const Floats out = run.step({sequence}, {rows});
    all.insert(all.end(), out.begin(), out.end());
    left -= rows;
  }
  return all;
}

using Attention = OpTest<AttentionCase>;

TEST_P(Attention, AgreesWithTheReference) {
  const AttentionInputs inputs(row());
  const Floats actual = run_whole(ops(), inputs, row());
  if (subject() != "reference") {
    expect_close(run_whole(reference(), inputs, row()), actual, tolerance(subject(), row().kv),
                 "attention");
    return;
  }
  Floats expected;
  for (size_t s = 0; s < row().spans.size(); ++s) {
    for (int64_t r = 0; r < row().spans[s].rows; ++r) {
      const Floats one = attention_by_definition(inputs, row(), s, row().spans[s].past + r);
      expected.insert(expected.end(), one.begin(), one.end());
    }
  }
  expect_close(expected, actual, 1e-6, "attention by definition");
}

TEST_P(Attention, RowsDoNotDependOnTheBatchOrTheThreads) {
  const AttentionInputs inputs(row());
  const Floats together = run_whole(ops(), inputs, row());
  const float* at = together.data();
  for (size_t s = 0; s < row().spans.size(); ++s) {
    const Span span = row().spans[s];
    PagedRun run(ops(), inputs, row().spans.size());
    run.append({s}, {span.past});
    const Floats alone = run.step({s}, {span.rows});
    expect_same_bits(alone.data(), at, span.rows * inputs.out_width(), "alone and in the batch");
    at += span.rows * inputs.out_width();
  }
  for (int threads : {1, 3}) {
    const Floats again = run_whole(ops(threads), inputs, row());
    expect_same_bits(together.data(), again.data(), static_cast<int64_t>(again.size()),
                     std::to_string(threads) + " threads");
  }
}

TEST_P(Attention, RowsDoNotDependOnHowThePromptIsCut) {
  const AttentionInputs inputs(row());
  for (size_t s = 0; s < std::min<size_t>(row().spans.size(), 2); ++s) {
    const int64_t work = inputs.positions(s) * inputs.positions(s) * inputs.out_width();
    if (work > 20'000'000) continue;  // for the reference's sake
    const Floats whole = run_chunked(ops(), inputs, row(), s, {100000});
    for (const auto& chunks : std::vector<std::vector<int64_t>>{{1}, {1, 7, 48, 65}, {30, 2}}) {
      const Floats cut = run_chunked(ops(), inputs, row(), s, chunks);
      expect_same_bits(whole.data(), cut.data(), static_cast<int64_t>(whole.size()),
                       "whole and in chunks of " + std::to_string(chunks.back()));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Attention,
                         ::testing::Combine(::testing::ValuesIn(subjects()),
                                            ::testing::ValuesIn(cases())),
                         CaseName{});

}  // namespace
}  // namespace moesaic::backend::testing
