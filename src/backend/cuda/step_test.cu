// The small kernels and routing against float64 loops.

#include "backend/cuda/step.h"

#include <algorithm>
#include <numeric>

#include "backend/cuda/device_testing.h"
#include "backend/cuda/products/split.h"
#include "backend/cuda/route.h"

namespace moesaic::backend::cuda {
namespace {

using testing::as_bf16;
using testing::DeviceArray;
using testing::from_bf16;
using testing::Random;
using testing::to_bf16;

class StepTest : public testing::DeviceTest {};

constexpr cudaStream_t kStream = nullptr;

/// A bf16 result may be half a unit in the last place off, at most 2^-8 of it, and the float sums
/// behind it a little.
::testing::AssertionResult near_bf16(float got, double wanted) {
  if (std::fabs(got - wanted) <= std::fabs(wanted) * (1.0 / 256 + 1e-5) + 1e-6) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << got << " is not " << wanted;
}

/// A graph for more rows than there are: the count says how many.
struct DeviceCount {
  explicit DeviceCount(int count)
      : device(std::vector<int32_t>{count}), rows{device.get(), count + 3} {}
  DeviceArray<int32_t> device;
  RowCount rows;
};

TEST_F(StepTest, EmbedsAndResolvesTokensOfTheStepBefore) {
  Random random(1);
  constexpr int kVocab = 500;
  constexpr int kWidth = 264;
  const std::vector<uint16_t> table = random.bf16s(kVocab * kWidth);
  const std::vector<int32_t> ids{3, -1, 499, -3, 0, -2};
  const std::vector<int32_t> previous{77, 88, 99};
  const std::vector<int32_t> resolved{3, 77, 499, 99, 0, 88};
  const DeviceArray<uint16_t> device_table(table);
  const DeviceArray<int32_t> device_ids(ids);
  const DeviceArray<int32_t> device_previous(previous);
  const LinearShape shape{.n = kVocab, .k = kWidth};
  const DeviceArray<uint8_t> packed(packed_bytes(shape));
  auto* place = reinterpret_cast<std::byte*>(packed.get());
  pack(shape, 0, {.values = device_table.get(), .rows = kVocab, .stride = kWidth}, place, kStream);
  const DeviceArray<float> residual(ids.size() * kWidth);
  const DeviceCount rows(static_cast<int>(ids.size()));
  embed({shape, place}, device_ids.get(), device_previous.get(), rows.rows, residual.get(),
        kStream);
  const std::vector<float> out = residual.read();
  for (size_t r = 0; r < ids.size(); ++r) {
    for (size_t i = 0; i < kWidth; ++i) {
      ASSERT_EQ(out[r * kWidth + i],
                from_bf16(table[static_cast<size_t>(resolved[r]) * kWidth + i]));
    }
  }
}

TEST_F(StepTest, NormsRowsAndGathers) {
  Random random(2);
  for (int width : {8, 64, 1000, 2048, 2880, 4096, 5120, 8192, 16384}) {
    SCOPED_TRACE(width);
    constexpr int kRows = 5;
    constexpr float kEps = 1e-5f;
    const auto size = static_cast<size_t>(kRows * width);
    const std::vector<float> residual = random.normals(size, 3.0f);
    const std::vector<uint16_t> delta = random.bf16s(size);
    const std::vector<float> weight = random.normals(static_cast<size_t>(width));
    const std::vector<int32_t> wanted{4, 0, 2};
    const DeviceArray<uint16_t> device_delta(delta);
    const DeviceArray<float> device_weight(weight);
    const DeviceArray<int32_t> device_wanted(wanted);
    for (int way = 0; way < 3; ++way) {
      SCOPED_TRACE(way);
      const bool adds = way != 1;
      const bool gathers = way == 2;
      const int rows = gathers ? 3 : kRows;
      const DeviceArray<float> device_residual(residual);
      const DeviceArray<uint16_t> out(static_cast<size_t>((rows + 1) * width));
      const DeviceCount count(rows);
      const __nv_bfloat16* added = adds ? as_bf16(device_delta) : nullptr;
      if (gathers) {
        gather_rms_norm(device_residual.get(), added, device_weight.get(), kEps, width,
                        device_wanted.get(), count.rows, as_bf16(out), kStream);
      } else {
        add_rms_norm(device_residual.get(), added, device_weight.get(), kEps, width, count.rows,
                     as_bf16(out), kStream);
      }
      const std::vector<uint16_t> got = out.read();
      const std::vector<float> after = device_residual.read();
      for (int r = 0; r < rows; ++r) {
        const auto from =
            static_cast<size_t>((gathers ? wanted[static_cast<size_t>(r)] : r) * width);
        const auto at = static_cast<size_t>(r * width);
        double squares = 0;
        std::vector<float> x(static_cast<size_t>(width));
        for (size_t i = 0; i < x.size(); ++i) {
          x[i] = residual[from + i] + (adds ? from_bf16(delta[from + i]) : 0.0f);
          squares += static_cast<double>(x[i]) * x[i];
          ASSERT_EQ(after[from + i], gathers ? residual[from + i] : x[i]);
        }
        const double scale = 1 / std::sqrt(squares / width + kEps);
        for (size_t i = 0; i < x.size(); ++i) {
          ASSERT_TRUE(near_bf16(from_bf16(got[at + i]), x[i] * scale * weight[i])) << i;
        }
      }
      ASSERT_EQ(got[static_cast<size_t>(rows * width)], 0xffff);  // a row there is not
    }
  }
}

struct QkvCase {
  int heads, kv_heads, head_dim, rotary_dim, block_size;
  KvType kv;
  QkNormKind norm;
  float clip;
};

TEST_F(StepTest, GatesASharedExpert) {
  Random random(7);
  for (const int width : {8, 704, 2048, 5120}) {
    SCOPED_TRACE(width);
    constexpr int kRows = 37;
    const std::vector<uint16_t> x = random.bf16s(static_cast<size_t>(kRows * width));
    const std::vector<float> gate = random.normals(static_cast<size_t>(width), 0.05f);
    const DeviceArray<uint16_t> device_x(x);
    const DeviceArray<float> device_gate(gate);
    const DeviceArray<float> weights(kRows + 1);
    const DeviceCount count(kRows);
    sigmoid_gate(as_bf16(device_x), device_gate.get(), width, count.rows, weights.get(), kStream);
    const std::vector<float> got = weights.read();
    for (int r = 0; r < kRows; ++r) {
      double sum = 0;
      for (int i = 0; i < width; ++i) {
        sum += static_cast<double>(from_bf16(x[static_cast<size_t>(r * width + i)])) *
               gate[static_cast<size_t>(i)];
      }
      ASSERT_NEAR(got[static_cast<size_t>(r)], 1 / (1 + std::exp(-sum)), 1e-5) << "row " << r;
    }
  }
}

TEST_F(StepTest, NormsRotatesAndAppends) {
  Random random(3);
  for (const QkvCase& c : {QkvCase{4, 2, 128, 128, 16, KvType::kBF16, QkNormKind::kPerHead, 0},
                           QkvCase{4, 1, 64, 64, 32, KvType::kE4M3, QkNormKind::kNone, 0},
                           QkvCase{3, 3, 128, 128, 64, KvType::kBF16, QkNormKind::kFull, 0},
                           QkvCase{6, 2, 80, 20, 16, KvType::kBF16, QkNormKind::kNone, 1.5f},
                           QkvCase{2, 2, 72, 36, 128, KvType::kE4M3, QkNormKind::kPerHead, 2.0f},
                           QkvCase{20, 4, 256, 64, 16, KvType::kBF16, QkNormKind::kFull, 0.75f},
                           QkvCase{2, 1, 96, 0, 16, KvType::kBF16, QkNormKind::kNone, 0}}) {
    SCOPED_TRACE(c.head_dim);
    constexpr int kRows = 7;
    QkvShape shape;
    shape.attention.heads = c.heads;
    shape.attention.kv_heads = c.kv_heads;
    shape.attention.head_dim = c.head_dim;
    shape.attention.block_size = c.block_size;
    shape.attention.kv = c.kv;
    shape.attention.k_scale = c.kv == KvType::kE4M3 ? 0.5f : 1.0f;
    shape.attention.v_scale = c.kv == KvType::kE4M3 ? 2.0f : 1.0f;
    shape.rotary_dim = c.rotary_dim;
    shape.norm = c.norm;
    shape.eps = 1e-6f;
    shape.clip = c.clip;
    const int padded = padded_head_dim(c.head_dim);
    const int all = c.heads + 2 * c.kv_heads;
    const int half = c.rotary_dim / 2;
    const std::vector<uint16_t> qkv =
        random.bf16s(static_cast<size_t>(kRows * all * c.head_dim), 2.0f);
    const bool full = c.norm == QkNormKind::kFull;
    const std::vector<float> q_norm =
        random.normals(static_cast<size_t>(c.head_dim * (full ? c.heads : 1)));
    const std::vector<float> k_norm =
        random.normals(static_cast<size_t>(c.head_dim * (full ? c.kv_heads : 1)));
    constexpr int kAngles = 40;
    std::vector<float> cosines;
    std::vector<float> sines;
    for (int i = 0; i < kAngles * half; ++i) {
      const double angle = 6.28 * random.uniform();
      cosines.push_back(static_cast<float>(std::cos(angle)));
      sines.push_back(static_cast<float>(std::sin(angle)));
    }
    const std::vector<int32_t> angle_rows{5, 39, 0, 17, 5, 6, 21};
    constexpr int kBlocks = 5;
    std::vector<int64_t> slots;
    for (int r = 0; r < kRows; ++r) {
      slots.push_back(static_cast<int64_t>((r * 3) % kBlocks) * c.block_size +
                      (r * 5) % c.block_size);
    }
    slots[4] = -1;
    const DeviceArray<uint16_t> device_qkv(qkv);
    const DeviceArray<float> device_q_norm(q_norm), device_k_norm(k_norm);
    const DeviceArray<float> device_cos(cosines), device_sin(sines);
    const DeviceArray<int32_t> device_angles(angle_rows);
    const DeviceArray<int64_t> device_slots(slots);
    const DeviceArray<uint8_t> cache(kBlocks * kv_block_bytes(shape.attention));
    const DeviceCount rows(kRows);
    QkvInputs inputs;
    inputs.q_norm = device_q_norm.get();
    inputs.k_norm = device_k_norm.get();
    inputs.cos = device_cos.get();
    inputs.sin = device_sin.get();
    inputs.angle_rows = device_angles.get();
    inputs.slots = device_slots.get();
    qkv_rope_append(shape, inputs, rows.rows, as_bf16(device_qkv), cache.get(), kStream);
    const std::vector<uint16_t> got = device_qkv.read();
    const std::vector<uint8_t> cached = cache.read();

    const auto value = [&](int r, int head, int d) {
      return static_cast<double>(
          from_bf16(qkv[static_cast<size_t>((r * all + head) * c.head_dim + d)]));
    };
    for (int r = 0; r < kRows; ++r) {
      for (int head = 0; head < all; ++head) {
        const bool is_query = head < c.heads;
        const bool is_value = head >= c.heads + c.kv_heads;
        std::vector<double> x;
        for (int d = 0; d < c.head_dim; ++d) x.push_back(value(r, head, d));
        if (!is_value && c.norm != QkNormKind::kNone) {
          const int first = !full ? head : is_query ? 0 : c.heads;
          const int heads = !full ? 1 : is_query ? c.heads : c.kv_heads;
          double squares = 0;
          for (int h = first; h < first + heads; ++h) {
            for (int d = 0; d < c.head_dim; ++d) squares += value(r, h, d) * value(r, h, d);
          }
          const double scale = 1 / std::sqrt(squares / (heads * c.head_dim) + shape.eps);
          const std::vector<float>& weight = is_query ? q_norm : k_norm;
          for (int d = 0; d < c.head_dim; ++d) {
            x[static_cast<size_t>(d)] *=
                scale * weight[static_cast<size_t>((head - first) * (full ? c.head_dim : 0) + d)];
          }
        }
        for (double& y : x) {
          if (c.clip > 0) y = std::clamp<double>(y, -c.clip, c.clip);
        }
        for (int i = 0; i < half && !is_value; ++i) {
          const auto angle = static_cast<size_t>(angle_rows[static_cast<size_t>(r)] * half + i);
          const double a = x[static_cast<size_t>(i)];
          const double b = x[static_cast<size_t>(i + half)];
          x[static_cast<size_t>(i)] = a * cosines[angle] - b * sines[angle];
          x[static_cast<size_t>(i + half)] = b * cosines[angle] + a * sines[angle];
        }
        if (is_query) {
          for (int d = 0; d < c.head_dim; ++d) {
            ASSERT_TRUE(
                near_bf16(from_bf16(got[static_cast<size_t>((r * all + head) * c.head_dim + d)]),
                          x[static_cast<size_t>(d)]))
                << "row " << r << " head " << head << " dim " << d;
          }
          continue;
        }
        const int64_t slot = slots[static_cast<size_t>(r)];
        if (slot < 0) continue;
        const int kv_head = (head - c.heads) % c.kv_heads;
        const int64_t block = slot / c.block_size;
        const int element = c.kv == KvType::kBF16 ? 2 : 1;
        const int64_t rows_before =
            ((block * c.kv_heads + kv_head) * 2 + (is_value ? 1 : 0)) * c.block_size;
        const double scale = is_value ? shape.attention.v_scale : shape.attention.k_scale;
        for (int d = 0; d < padded; ++d) {
          const auto at = static_cast<size_t>(rows_before * padded * element +
                                              kv_chunk_offset(d * element / 16,
                                                              static_cast<int>(slot % c.block_size),
                                                              c.block_size, padded * element / 16) +
                                              d * element % 16);
          const double wanted = d < c.head_dim ? x[static_cast<size_t>(d)] : 0;
          if (c.kv == KvType::kBF16) {
            uint16_t bits;
            std::memcpy(&bits, cached.data() + at, 2);
            ASSERT_TRUE(near_bf16(from_bf16(bits), wanted)) << "dim " << d;
          } else {
            // Half a unit: 2^-4 of the value, or 2^-10 where it is subnormal.
            const double stored = testing::from_e4m3(cached[at]);
            ASSERT_NEAR(stored, wanted / scale,
                        std::max(std::fabs(wanted / scale) * 0.0626, 0.00098))
                << "dim " << d;
          }
        }
      }
    }
    // Slots that nothing was written to are as they were.
    const auto untouched = std::count(cached.begin(), cached.end(), 0xff);
    EXPECT_GT(untouched, static_cast<ptrdiff_t>(cached.size() / 2));
  }
}

// ---------------------------------------------------------------------------------------------

struct RouteCase {
  RouteShape shape;
  int rows;
  bool bias;
  bool ties;  // logits are small integers
};

class RouteTest : public StepTest {
 protected:
  struct Outcome {
    std::vector<int32_t> experts;
    std::vector<float> weights;
    std::vector<uint64_t> totals;
  };

  static Outcome run(const RouteShape& shape, const std::vector<float>& logits,
                     const std::vector<float>& bias, int rows, int times, int spare = 100) {
    const auto experts = static_cast<size_t>(shape.experts);
    const size_t slots = static_cast<size_t>(rows) * static_cast<size_t>(shape.top_k);
    const DeviceArray<float> device_logits(in_parts(shape, logits)), device_bias(bias);
    const DeviceArray<int32_t> ids(slots);
    const DeviceArray<float> weights(slots);
    DeviceArray<uint64_t> totals(experts);
    totals.clear();
    const DeviceArray<int32_t> count(std::vector<int32_t>{rows});
    for (int i = 0; i < times; ++i) {
      route(shape, device_logits.get(), bias.empty() ? nullptr : device_bias.get(),
            {count.get(), rows + spare}, {ids.get(), weights.get(), totals.get()}, kStream);
    }
    return {ids.read(), weights.read(), totals.read()};
  }

  /// Logits [rows, experts] as [rows, parts, experts] that sum up to them.
  static std::vector<float> in_parts(const RouteShape& shape, const std::vector<float>& logits) {
    if (shape.parts == 1) return logits;
    const auto experts = static_cast<size_t>(shape.experts);
    std::vector<float> parts(kSplitParts * logits.size());
    for (size_t i = 0; i < logits.size(); ++i) {
      const auto split = split_f32(logits[i]);
      for (size_t part = 0; part < kSplitParts; ++part) {
        parts[(i / experts * kSplitParts + part) * experts + i % experts] =
            tensor::to_float(split[part]);
      }
    }
    return parts;
  }
};

/// What experts are chosen by and weighed by, in float64.
void scores_of(const RouteShape& shape, const float* logits, std::vector<double>& scores) {
  scores.assign(logits, logits + shape.experts);
  if (shape.scoring == RouteScoring::kSigmoid) {
    for (double& x : scores) x = 1 / (1 + std::exp(-x));
    return;
  }
  const double best = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& x : scores) sum += x = std::exp(x - best);
  for (double& x : scores) x /= sum;
}

/// Indices of the `count` greatest, ties to the lowest.
std::vector<int32_t> best_of(const std::vector<double>& values, int count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(count));
  return order;
}

TEST_F(RouteTest, ChoosesWeighsAndCounts) {
  using enum RouteScoring;
  const std::vector<RouteCase> cases{
      {{8, 2, kSoftmax, true, 1.0f}, 1, false, false},
      {{.experts = 128, .top_k = 8, .renormalize = true, .parts = 3}, 90, false, false},
      {{8, 2, kSoftmax, true, 1.0f}, 300, false, true},
      {{128, 8, kSoftmax, true, 1.0f}, 33, false, false},
      {{60, 4, kSoftmax, false, 1.0f}, 64, false, true},
      {{1, 1, kSigmoid, false, 1.0f}, 5, false, false},
      {{64, 6, kSoftmax, false, 16.0f, 8, 3, GroupScore::kBest}, 40, false, true},
      {{256, 8, kSigmoid, true, 2.5f, 8, 4, GroupScore::kTopTwo}, 100, true, false},
      {{160, 6, kSoftmax, false, 1.0f, 8, 3, GroupScore::kBest}, 31, false, false},
      {{384, 8, kSigmoid, true, 1.0f}, 17, true, false},
      {{512, 16, kSoftmax, true, 1.0f}, 50, false, false},
      {{128, 8, kSoftmax, true, 1.0f}, 8192, false, false},
      {{60, 4, kSigmoid, false, 1.0f}, 1000, false, true},
      {{512, 16, kSoftmax, true, 1.0f}, 700, false, false},
      {{32, 4, kSoftmax, true, 1.0f}, 0, false, false}};
  Random random(4);
  for (const RouteCase& c : cases) {
    const RouteShape& shape = c.shape;
    SCOPED_TRACE(std::to_string(shape.experts) + " experts, " + std::to_string(c.rows) + " rows");
    std::vector<float> logits(static_cast<size_t>(c.rows * shape.experts));
    for (float& x : logits) {
      x = c.ties ? static_cast<float>(random.between(-3, 3)) : 2 * random.normal();
    }
    std::vector<float> bias;
    if (c.bias) bias = random.normals(static_cast<size_t>(shape.experts), 0.1f);
    const Outcome got = run(shape, logits, bias, c.rows, 3);
    std::vector<int32_t> counts(static_cast<size_t>(shape.experts));
    std::vector<double> scores;
    int near_ties = 0;
    for (int r = 0; r < c.rows; ++r) {
      const float* row = logits.data() + r * shape.experts;
      scores_of(shape, row, scores);
      std::vector<double> by(row, row + shape.experts);
      const bool top_two = shape.groups > 1 && shape.group_score == GroupScore::kTopTwo;
      std::vector<double> group_by = by;
      for (size_t e = 0; e < by.size(); ++e) {
        if (top_two || c.bias) group_by[e] = scores[e] + (c.bias ? bias[e] : 0.0f);
        if (c.bias) by[e] = group_by[e];
      }
      if (shape.groups > 1) {
        const int size = shape.experts / shape.groups;
        std::vector<double> groups;
        for (int g = 0; g < shape.groups; ++g) {
          std::vector<double> own(group_by.begin() + g * size, group_by.begin() + (g + 1) * size);
          std::sort(own.rbegin(), own.rend());
          groups.push_back(own[0] + (top_two ? own[1] : 0));
        }
        const std::vector<int32_t> kept = best_of(groups, shape.top_groups);
        for (int e = 0; e < shape.experts; ++e) {
          if (std::find(kept.begin(), kept.end(), e / size) == kept.end()) {
            by[static_cast<size_t>(e)] = -INFINITY;
          }
        }
      }
      const std::vector<int32_t> wanted = best_of(by, shape.top_k);
      const auto* chosen = got.experts.data() + r * shape.top_k;
      if (!std::equal(wanted.begin(), wanted.end(), chosen)) {
        // With a bias, float32 scores may tie or cross where float64 scores nearly do.
        ASSERT_TRUE(c.bias) << "row " << r;
        ++near_ties;
      }
      double sum = 0;
      for (int i = 0; i < shape.top_k; ++i) sum += scores[static_cast<size_t>(chosen[i])];
      for (int i = 0; i < shape.top_k; ++i) {
        const double weight =
            scores[static_cast<size_t>(chosen[i])] / (shape.renormalize ? sum : 1.0) * shape.scale;
        ASSERT_NEAR(got.weights[static_cast<size_t>(r * shape.top_k + i)], weight,
                    weight * 3e-6 + 1e-12);
        ++counts[static_cast<size_t>(chosen[i])];
      }
    }
    EXPECT_LE(near_ties, c.rows / 50);
    for (size_t e = 0; e < counts.size(); ++e) {
      ASSERT_EQ(got.totals[e], 3 * static_cast<uint64_t>(counts[e]));
    }
  }
}

TEST_F(RouteTest, RowsDoNotDependOnTheBatchAndNanChoosesDistinctExperts) {
  Random random(5);
  const RouteShape shape{96, 7, RouteScoring::kSoftmax, true, 1.0f};
  constexpr int kRows = 70;
  std::vector<float> logits = random.normals(kRows * 96);
  for (size_t i = 0; i < 96; ++i) logits[3 * 96 + i] = NAN;
  logits[5 * 96 + 17] = NAN;
  const Outcome all = run(shape, logits, {}, kRows, 1);
  for (int r : {0, 1, 31, 32, 69}) {
    const std::vector<float> row(logits.begin() + r * 96, logits.begin() + (r + 1) * 96);
    const Outcome alone = run(shape, row, {}, 1, 1);
    EXPECT_TRUE(
        std::equal(alone.experts.begin(), alone.experts.end(), all.experts.begin() + r * 7));
    EXPECT_EQ(std::memcmp(alone.weights.data(), all.weights.data() + r * 7, 7 * sizeof(float)), 0);
  }
  for (int r : {3, 5}) {
    std::vector<int32_t> chosen(all.experts.begin() + r * 7, all.experts.begin() + (r + 1) * 7);
    std::sort(chosen.begin(), chosen.end());
    EXPECT_EQ(std::unique(chosen.begin(), chosen.end()), chosen.end());
    EXPECT_GE(chosen.front(), 0);
    EXPECT_LT(chosen.back(), 96);
  }
}

}  // namespace
}  // namespace moesaic::backend::cuda
