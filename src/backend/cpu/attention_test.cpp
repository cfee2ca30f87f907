#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

#include "backend/cpu/attention.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/rows.h"
#include "backend/host/host_ops_testing.h"

// Attention with products of bf16 pairs, on vectors and on tiles (emulated where there are none),
// against its definition in double with the same roundings. What all kinds of attention promise is
// in host_attention_test.cpp.

namespace moesaic::backend::cpu {

extern const AttentionTable kAttentionAmxEmulated;

namespace {

using testing::Floats;

struct Target {
  std::string name;
  const AttentionTable* kernels;
};

std::vector<Target> targets() {
  std::vector<Target> list;
  for (Isa isa : available_isas()) {
    if (isa == Isa::kAvx512) {
      list.push_back({"avx512", &kAttentionAvx512});
      list.push_back({"amx, emulated", &kAttentionAmxEmulated});
    }
    if (isa == Isa::kAmx) list.push_back({"amx", &kAttentionAmx});
  }
  return list;
}

float bf16(double value) {
  uint32_t bits = 0;
  tensor::store_float(DType::kBF16, &bits, 0, static_cast<float>(value));
  return tensor::load_float(DType::kBF16, &bits, 0);
}

struct Case {
  int64_t heads, kv_heads, head_dim, block_size, window, tokens;
};
constexpr Case kCases[] = {{4, 4, 128, 16, 0, 150},  {8, 2, 64, 16, 0, 70},
                           {4, 2, 32, 48, 0, 33},    {2, 1, 96, 16, 0, 600},
                           {3, 1, 64, 32, 100, 230}, {16, 1, 64, 16, 0, 75}};

/// One sequence with all its tokens in the cache.
class Sequence {
 public:
  explicit Sequence(const Case& c) : case_(c), pool_(2) {
    desc_.heads = c.heads;
    desc_.kv_heads = c.kv_heads;
    desc_.head_dim = desc_.rotary_dim = c.head_dim;
    desc_.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    desc_.sliding_window = c.window;
    qkv_ = testing::random_floats(77, c.tokens * width());
    const int64_t blocks = (c.tokens + c.block_size - 1) / c.block_size;
    const KvDesc kv{c.kv_heads, c.head_dim, c.block_size, DType::kBF16};
    memory_.assign(static_cast<size_t>(blocks) * kv_block_bytes(kv), std::byte{0xff});  // NaN
    cache_ = {kv, RawAddress::of(memory_.data()), blocks};
    std::vector<int64_t> slots;
    for (int32_t b = 0; b < blocks; ++b) table_.push_back(static_cast<int32_t>(blocks) - 1 - b);
    for (int64_t p = 0; p < c.tokens; ++p) {
      const int64_t block = table_[static_cast<size_t>(p / c.block_size)];
      slots.push_back(block * c.block_size + p % c.block_size);
    }
    const Floats cos(static_cast<size_t>(c.tokens * c.head_dim / 2), 1.0f);
    const Floats sin(cos.size(), 0.0f);
    QkvInputs inputs;
    inputs.cos = cos.data();
    inputs.sin = sin.data();
    inputs.slots = slots;
    qkv_rope_append(pool_, kRowsBaseline, desc_, inputs, c.tokens, qkv_.data(), cache_);
  }

  int64_t out_width() const { return case_.heads * case_.head_dim; }

  /// Tokens [first, first + rows).
  Floats run(const AttentionTable& kernels, int64_t first, int64_t rows) {
    Floats out(static_cast<size_t>(rows * out_width()));
    base::Region scratch(base::MemoryTag::kActivations, attention_scratch_bytes(pool_.size()));
    const std::vector<int32_t> starts = {0, static_cast<int32_t>(rows)};
    const std::vector<int32_t> lengths = {static_cast<int32_t>(first + rows)};
    const AttentionBatch batch{starts, lengths, table_, static_cast<int64_t>(table_.size())};
    attention(pool_, kernels, desc_, cache_, batch, *plan_attention(pool_, desc_, batch),
              qkv_.data() + first * width(), out.data(), scratch.as<float>());
    return out;
  }

  /// The definition, with queries, keys, values and weights rounded, and weights relative to the
  /// largest score of the segment so far.
  Floats expected() const {
    Floats out;
    for (int64_t t = 0; t < case_.tokens; ++t) {
      for (int64_t h = 0; h < case_.heads; ++h) {
        const Floats row = expected_row(t, h);
        out.insert(out.end(), row.begin(), row.end());
      }
    }
    return out;
  }

 private:
  int64_t width() const { return (case_.heads + 2 * case_.kv_heads) * case_.head_dim; }
  const float* at(int64_t token, int64_t head) const {
    return qkv_.data() + token * width() + head * case_.head_dim;
  }

  double score(int64_t token, int64_t head, int64_t position) const {
    const float* q = at(token, head);
    const float* k = at(position, case_.heads + head * case_.kv_heads / case_.heads);
    double sum = 0;
    for (int64_t d = 0; d < case_.head_dim; ++d) {
      sum += static_cast<double>(bf16(q[d])) * bf16(k[d]);
    }
    return sum * desc_.scale;
  }

  Floats expected_row(int64_t token, int64_t head) const {
    const int64_t value_head = case_.heads + case_.kv_heads + head * case_.kv_heads / case_.heads;
    const int64_t from = case_.window > 0 ? std::max<int64_t>(0, token - case_.window + 1) : 0;
    std::vector<double> sums(static_cast<size_t>(case_.head_dim));
    double total = 0;
    double best = -1e300;
    double reached = -1e300;  // in this segment
    for (int64_t first = from / kChunk * kChunk; first <= token; first += kChunk) {
      const int64_t end = std::min(token + 1, first + kChunk);
      if (first % kSegment == 0) reached = -1e300;
      for (int64_t p = std::max(first, from); p < end; ++p) {
        reached = std::max(reached, score(token, head, p));
      }
      const double now = std::max(best, reached);
      for (double& sum : sums) sum *= std::exp(best - now);
      total *= std::exp(best - now);
      best = now;
      for (int64_t p = std::max(first, from); p < end; ++p) {
        const double weight = std::exp(score(token, head, p) - reached);
        total += weight * std::exp(reached - best);
        for (int64_t d = 0; d < case_.head_dim; ++d) {
          sums[static_cast<size_t>(d)] +=
              bf16(weight) * std::exp(reached - best) * bf16(at(p, value_head)[d]);
        }
      }
    }
    Floats out;
    for (double sum : sums) out.push_back(static_cast<float>(sum / total));
    return out;
  }

  Case case_;
  base::ThreadPool pool_;
  AttentionDesc desc_;
  Floats qkv_;
  std::vector<std::byte> memory_;
  KvLayer cache_;
  std::vector<int32_t> table_;
};

TEST(PairAttention, IsItsDefinitionWithTheSameRoundings) {
  if (targets().empty()) GTEST_SKIP() << "this processor has no products of bf16 pairs";
  for (const Case& c : kCases) {
    Sequence sequence(c);
    const Floats expected = sequence.expected();
    for (const Target& target : targets()) {
      // A weight whose last bits differ may round to the neighbouring bf16, 2^-8 away: rare, so the
      // mean error (an eighth of this) is far below it.
      testing::expect_close(expected, sequence.run(*target.kernels, 0, c.tokens), 4e-3,
                            target.name + ", " + std::to_string(c.tokens) + " tokens");
    }
  }
}

TEST(PairAttention, FewRowsAndManyHaveTheSameBits) {
  if (targets().empty()) GTEST_SKIP() << "this processor has no products of bf16 pairs";
  for (const Case& c : kCases) {
    Sequence sequence(c);
    for (const Target& target : targets()) {
      const Floats whole = sequence.run(*target.kernels, 0, c.tokens);
      for (int64_t first = 0, rows = 1; first < c.tokens; first += rows, rows = rows % 3 + 1) {
        rows = std::min(rows, c.tokens - first);
        const Floats some = sequence.run(*target.kernels, first, rows);
        testing::expect_same_bits(whole.data() + first * sequence.out_width(), some.data(),
                                  static_cast<int64_t>(some.size()), target.name);
      }
    }
  }
}

}  // namespace
}  // namespace moesaic::backend::cpu
