// The declarative suite: tables of operator cases, each row run on every backend and instruction
// set this machine has. The reference backend is held against independent loops here, the others
// against the reference, and every backend against its own promise that a row does not depend on
// the rows beside it nor on the number of threads. Attention has its
// file, host_attention_test.cpp, routing and experts theirs, host_ffn_test.cpp, packing
// host_packing_test.cpp.

#include <numeric>

#include "backend/host/host_attention_testing.h"

namespace moesaic::backend::testing {
namespace {

// --- embed

struct EmbedCase {
  const char* name;
  int64_t vocabulary;
  int64_t width;
  DType dtype;
  int64_t rows;
};
void PrintTo(const EmbedCase& row, std::ostream* out) { *out << row.name; }

using Embed = OpTest<EmbedCase>;

TEST_P(Embed, IsTheRoundedRow) {
  const auto [name, vocabulary, width, dtype, rows] = row();
  const Floats values = random_floats(1, vocabulary * width);
  const MatrixDesc desc{vocabulary, width, dtype};
  const PackedMatrix table =
      pack_matrix(ops(), desc, {.parts = {part_of(values, vocabulary, width)}});
  std::vector<int32_t> ids;
  for (int64_t r = 0; r < rows; ++r) ids.push_back(static_cast<int32_t>(r * 37 % vocabulary));
  // Rows of the vocabulary that another rank holds.
  if (rows > 3) ids[1] = -5;
  if (rows > 3) ids[3] = static_cast<int32_t>(vocabulary);
  Floats out(static_cast<size_t>(rows * width), -1.0f);
  ops().embed(table.matrix, ids, out.data());
  Floats expected;
  for (int32_t id : ids) {
    for (int64_t i = 0; i < width; ++i) {
      const bool known = id >= 0 && id < vocabulary;
      expected.push_back(known ? rounded(dtype, values[static_cast<size_t>(id * width + i)])
                               : 0.0f);
    }
  }
  expect_same_bits(expected.data(), out.data(), rows * width, "embed");
}

INSTANTIATE_TEST_SUITE_P(Ops, Embed,
                         ::testing::Combine(::testing::ValuesIn(subjects()),
                                            ::testing::Values(EmbedCase{"f32", 100, 64, kF32, 9},
                                                              EmbedCase{"bf16", 97, 72, kBF16, 40},
                                                              EmbedCase{"f16", 97, 33, kF16, 40},
                                                              EmbedCase{"none", 97, 32, kBF16, 0})),
                         CaseName{});

// --- linear

struct LinearCase {
  const char* name;
  int64_t n;
  int64_t k;
  DType dtype;
  int64_t rows;
  bool bias = false;
  int parts = 1;
};
void PrintTo(const LinearCase& row, std::ostream* out) { *out << row.name; }

const std::vector<LinearCase>& linear_cases() {
  static const std::vector<LinearCase> rows = {
      {"f32", 128, 256, kF32, 5},
      {"bf16", 128, 256, kBF16, 5},
      {"f16", 128, 256, kF16, 5},
      {"f32_odd", 203, 331, kF32, 7, true},
      {"bf16_odd", 203, 331, kBF16, 7, true},
      {"f16_odd", 203, 331, kF16, 7, true},
      {"bf16_tiny", 1, 1, kBF16, 3, true},
      {"f32_narrow", 8, 64, kF32, 33},
      {"bf16_narrow", 8, 64, kBF16, 33},
      {"bf16_one_row", 320, 512, kBF16, 1, true},
      {"bf16_many_rows", 96, 160, kBF16, 147, true},
      {"f32_many_rows", 96, 160, kF32, 147},
      {"f16_many_rows", 65, 96, kF16, 130},
      {"bf16_stacked", 144, 64, kBF16, 4, true, 3},
      {"bf16_no_rows", 64, 64, kBF16, 0},
  };
  return rows;
}

using Linear = OpTest<LinearCase>;

MatrixSource stacked(const Floats& values, const LinearCase& row) {
  MatrixSource source;
  const int64_t each = row.n / row.parts;
  for (int64_t p = 0; p < row.parts; ++p) {
    SourcePart part = part_of(values, each, row.k);
    part.part.values.data += static_cast<size_t>(p * each * row.k) * sizeof(float);
    source.parts.push_back(part);
  }
  return source;
}

Floats run_linear(HostOps& ops, const LinearCase& row, const Floats& weights, const Floats& bias,
                  const Floats& x, int64_t rows) {
  const PackedMatrix w = pack_matrix(ops, {row.n, row.k, row.dtype}, stacked(weights, row));
  // Between columns that belong to somebody else.
  const int64_t stride = row.n + 5;
  Floats wide(static_cast<size_t>(rows * stride + 2), 7.0f);
  ops.linear(w.matrix, row.bias ? bias.data() : nullptr, x.data(), rows, wide.data() + 2, stride);
  Floats y;
  for (int64_t r = 0; r < rows; ++r) {
    const auto begin = wide.begin() + 2 + r * stride;
    y.insert(y.end(), begin, begin + row.n);
    EXPECT_TRUE(std::all_of(begin + row.n, begin + stride, [](float v) { return v == 7.0f; }));
  }
  return y;
}

TEST_P(Linear, AgreesWithTheReference) {
  const Floats weights = random_floats(1, row().n * row().k, 0.1f);
  const Floats bias = random_floats(2, row().n);
  // Inputs that rounding to the weights' type does not change leave only the order of sums.
  const Floats x = rounded(row().dtype, random_floats(3, row().rows * row().k));
  const Floats raw = random_floats(4, row().rows * row().k);
  const Floats actual = run_linear(ops(), row(), weights, bias, x, row().rows);
  if (subject() != "reference") {
    expect_close(run_linear(reference(), row(), weights, bias, x, row().rows), actual, kExact,
                 "representable inputs");
    expect_close(run_linear(reference(), row(), weights, bias, raw, row().rows),
                 run_linear(ops(), row(), weights, bias, raw, row().rows),
                 product_tolerance(row().dtype), "any inputs");
    return;
  }
  Floats expected;
  for (int64_t r = 0; r < row().rows; ++r) {
    for (int64_t o = 0; o < row().n; ++o) {
      double sum = row().bias ? bias[static_cast<size_t>(o)] : 0.0;
      for (int64_t i = row().k - 1; i >= 0; --i) {
        sum += static_cast<double>(x[static_cast<size_t>(r * row().k + i)]) *
               rounded(row().dtype, weights[static_cast<size_t>(o * row().k + i)]);
      }
      expected.push_back(static_cast<float>(sum));
    }
  }
  expect_close(expected, actual, 1e-6, "independent loops");
}

TEST_P(Linear, RowsDoNotDependOnTheBatchOrTheThreads) {
  const Floats weights = random_floats(1, row().n * row().k, 0.1f);
  const Floats bias = random_floats(2, row().n);
  const Floats x = random_floats(3, row().rows * row().k);
  const Floats together = run_linear(ops(), row(), weights, bias, x, row().rows);
  const Floats threads1 = run_linear(ops(1), row(), weights, bias, x, row().rows);
  expect_same_bits(together.data(), threads1.data(), row().rows * row().n, "1 thread");
  for (int64_t r = 0; r < row().rows; r += std::max<int64_t>(1, row().rows / 7)) {
    const Floats one(x.begin() + r * row().k, x.begin() + (r + 1) * row().k);
    const Floats alone = run_linear(ops(), row(), weights, bias, one, 1);
    expect_same_bits(alone.data(), together.data() + r * row().n, row().n, "alone");
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Linear,
                         ::testing::Combine(::testing::ValuesIn(subjects()),
                                            ::testing::ValuesIn(linear_cases())),
                         CaseName{});

// --- norms

struct NormCase {
  const char* name;
  int64_t rows;
  int64_t width;
  float scale = 1.0f;
};
void PrintTo(const NormCase& row, std::ostream* out) { *out << row.name; }

using Norm = OpTest<NormCase>;

constexpr float kEps = 1e-5f;

Floats norm_by_definition(const Floats& x, const Floats& weight, int64_t width) {
  Floats out;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t first = i / static_cast<size_t>(width) * static_cast<size_t>(width);
    double squares = 0;
    for (int64_t j = 0; j < width; ++j) squares += std::pow(x[first + static_cast<size_t>(j)], 2.0);
    out.push_back(static_cast<float>(x[i] / std::sqrt(squares / static_cast<double>(width) + kEps) *
                                     weight[i - first]));
  }
  return out;
}

TEST_P(Norm, IsTheDefinition) {
  const auto [name, rows, width, scale] = row();
  const Floats x = random_floats(1, rows * width, scale);
  const Floats delta = random_floats(2, rows * width, scale);
  const Floats weight = random_floats(3, width);
  Floats out(x.size(), std::nanf(""));
  ops().rms_norm(x.data(), weight.data(), kEps, rows, width, out.data());
  expect_close(norm_by_definition(x, weight, width), out, 2e-6, "rms_norm");

  Floats residual = x;
  Floats sum = x;
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += delta[i];
  std::fill(out.begin(), out.end(), std::nanf(""));
  ops().add_rms_norm(residual.data(), delta.data(), weight.data(), kEps, rows, width, out.data());
  expect_same_bits(sum.data(), residual.data(), rows * width, "residual + delta");
  expect_close(norm_by_definition(sum, weight, width), out, 2e-6, "add_rms_norm");
}

TEST_P(Norm, RowsDoNotDependOnTheBatchOrTheThreads) {
  const auto [name, rows, width, scale] = row();
  const Floats x = random_floats(1, rows * width, scale);
  const Floats weight = random_floats(3, width);
  Floats together(x.size());
  Floats threads1(x.size());
  ops().rms_norm(x.data(), weight.data(), kEps, rows, width, together.data());
  ops(1).rms_norm(x.data(), weight.data(), kEps, rows, width, threads1.data());
  expect_same_bits(together.data(), threads1.data(), rows * width, "1 thread");
  for (int64_t r = 0; r < rows; ++r) {
    Floats alone(static_cast<size_t>(width));
    ops().rms_norm(x.data() + r * width, weight.data(), kEps, 1, width, alone.data());
    expect_same_bits(alone.data(), together.data() + r * width, width, "alone");
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ops, Norm,
    ::testing::Combine(::testing::ValuesIn(subjects()),
                       ::testing::Values(NormCase{"one", 1, 512}, NormCase{"odd", 3, 333},
                                         NormCase{"tiny", 2, 1}, NormCase{"many", 67, 640},
                                         NormCase{"small_values", 4, 96, 1e-4f},
                                         NormCase{"large_values", 4, 96, 1e4f},
                                         NormCase{"none", 0, 64})),
    CaseName{});

// --- QK-norm, clip, rope and the cache

struct RopeCase {
  const char* name;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t rotary_dim;
  QkNorm norm;
  float clip;
  DType kv;
  int64_t block_size;
  int64_t rows;
};
void PrintTo(const RopeCase& row, std::ostream* out) { *out << row.name; }

const std::vector<RopeCase>& rope_cases() {
  static const std::vector<RopeCase> rows = {
      {"plain", 4, 2, 64, 64, QkNorm::kNone, 0, kF32, 16, 5},
      {"partial", 4, 2, 80, 32, QkNorm::kNone, 0, kBF16, 16, 5},
      {"none_rotates", 4, 2, 64, 0, QkNorm::kNone, 0, kF32, 16, 3},
      {"per_head", 8, 2, 128, 128, QkNorm::kPerHead, 0, kBF16, 16, 3},
      {"full", 4, 4, 96, 96, QkNorm::kFull, 0, kF16, 8, 3},
      {"clip", 4, 4, 64, 64, QkNorm::kNone, 0.5f, kF32, 16, 4},
      {"norm_then_clip", 4, 2, 64, 64, QkNorm::kFull, 0.5f, kBF16, 16, 4},
      {"head_256", 2, 1, 256, 128, QkNorm::kPerHead, 1.0f, kF32, 32, 3},
      {"odd_half", 2, 1, 20, 10, QkNorm::kNone, 0, kF16, 1, 30},
      {"many_rows", 4, 2, 64, 64, QkNorm::kFull, 0, kBF16, 16, 70},
      {"no_rows", 4, 2, 64, 64, QkNorm::kPerHead, 0, kBF16, 16, 0},
  };
  return rows;
}

/// Everything one qkv_rope_append makes: qkv in place, and the cached V and K as attention shows
/// them.
class RopeRun {
 public:
  explicit RopeRun(const RopeCase& row) : row_(row) {
    desc.heads = row.heads;
    desc.kv_heads = row.kv_heads;
    desc.head_dim = row.head_dim;
    desc.rotary_dim = row.rotary_dim;
    desc.qk_norm = row.norm;
    desc.norm_eps = kEps;
    desc.clip_qkv = row.clip;
    desc.scale = 0.1f;
    width = (row.heads + 2 * row.kv_heads) * row.head_dim;
    const bool full = row.norm == QkNorm::kFull;
    q_norm = random_floats(11, full ? row.heads * row.head_dim : row.head_dim);
    k_norm = random_floats(12, full ? row.kv_heads * row.head_dim : row.head_dim);
    qkv = random_floats(13, row.rows * width);
    for (float angle : random_floats(14, row.rows * row.rotary_dim / 2, 3.0f)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
  }

  /// Rows [first, first + count) on the backend: the qkv afterwards.
  Floats append(HostOps& ops, int64_t first, int64_t count) {
    const KvDesc kv{row_.kv_heads, row_.head_dim, row_.block_size, row_.kv};
    const int64_t blocks = row_.rows / row_.block_size + 2;
    if (bytes == nullptr) {
      bytes = std::make_unique<Bytes>(ops.kv_block_bytes(kv) * static_cast<size_t>(blocks));
    }
    cache = {kv, RawAddress::of(bytes->data()), blocks};
    std::vector<int64_t> slots;
    for (int64_t r = 0; r < count; ++r) slots.push_back(row_.block_size + first + r);
    QkvInputs inputs;
    inputs.q_norm = q_norm.data();
    inputs.k_norm = k_norm.data();
    inputs.cos = cos.data() + first * row_.rotary_dim / 2;
    inputs.sin = sin.data() + first * row_.rotary_dim / 2;
    inputs.slots = slots;
    if (!squares.empty()) inputs.squares = squares.data() + 2 * first;
    Floats rows(qkv.begin() + first * width, qkv.begin() + (first + count) * width);
    ops.qkv_rope_append(desc, inputs, count, rows.data(), cache);
    return rows;
  }

  /// Attention of a fixed query over what is cached, and of each position alone, which is its V.
  Floats read_back(HostOps& ops) {
    Floats out;
    const Floats query = random_floats(15, width);
    const int64_t blocks = row_.rows / row_.block_size + 1;
    std::vector<int32_t> table(static_cast<size_t>(blocks));
    std::iota(table.begin(), table.end(), 1);
    const std::vector<int32_t> starts = {0, 1};
    for (int64_t p = 0; p < row_.rows; ++p) {
      AttentionDesc one = desc;
      for (int64_t window : {int64_t{1}, int64_t{0}}) {
        one.sliding_window = window;
        const std::vector<int32_t> contexts = {static_cast<int32_t>(p + 1)};
        Floats y(static_cast<size_t>(row_.heads * row_.head_dim));
        const AttentionBatch batch{starts, contexts, table, blocks};
        ops.attention(one, cache, batch, *ops.plan_attention(one, batch), query.data(), y.data());
        out.insert(out.end(), y.begin(), y.end());
      }
    }
    return out;
  }

  AttentionDesc desc;
  int64_t width = 0;
  Floats q_norm, k_norm, qkv, cos, sin;
  Floats squares;  ///< of q and k over all ranks' heads; empty: the rows' own
  std::unique_ptr<Bytes> bytes;
  KvLayer cache;

 private:
  RopeCase row_;
};

using Rope = OpTest<RopeCase>;

/// One head of one row by the formulas of ops.h, in double.
std::vector<double> head_by_definition(const RopeRun& run, const RopeCase& row, int64_t r,
                                       int64_t head) {
  const int64_t dim = row.head_dim;
  const float* all = run.qkv.data() + r * run.width;
  const bool is_q = head < row.heads;
  const bool is_k = !is_q && head < row.heads + row.kv_heads;
  const int64_t group = is_q ? 0 : row.heads;
  const int64_t group_heads = is_q ? row.heads : row.kv_heads;
  const Floats& weight = is_q ? run.q_norm : run.k_norm;
  std::vector<double> x(all + head * dim, all + (head + 1) * dim);
  if (row.norm != QkNorm::kNone && (is_q || is_k)) {
    const bool full = row.norm == QkNorm::kFull;
    const int64_t first = full ? group * dim : head * dim;
    const int64_t count = full ? group_heads * dim : dim;
    double squares = 0;
    for (int64_t i = first; i < first + count; ++i) squares += std::pow(all[i], 2.0);
    for (int64_t i = 0; i < dim; ++i) {
      const int64_t w = full ? (head - group) * dim + i : i;
      x[static_cast<size_t>(i)] *=
          weight[static_cast<size_t>(w)] / std::sqrt(squares / static_cast<double>(count) + kEps);
    }
  }
  if (row.clip > 0) {
    for (double& value : x) value = std::min<double>(row.clip, std::max<double>(-row.clip, value));
  }
  const int64_t half = row.rotary_dim / 2;
  for (int64_t i = 0; (is_q || is_k) && i < half; ++i) {
    const auto at = static_cast<size_t>(i);
    const double angle = std::atan2(run.sin[static_cast<size_t>(r * half) + at],
                                    run.cos[static_cast<size_t>(r * half) + at]);
    const double a = x[at];
    const double b = x[at + static_cast<size_t>(half)];
    x[at] = a * std::cos(angle) - b * std::sin(angle);
    x[at + static_cast<size_t>(half)] = a * std::sin(angle) + b * std::cos(angle);
  }
  return x;
}

TEST_P(Rope, IsTheDefinitionAndIsCached) {
  RopeRun run(row());
  const Floats actual = run.append(ops(), 0, row().rows);
  Floats expected;
  for (int64_t r = 0; r < row().rows; ++r) {
    for (int64_t head = 0; head < row().heads + 2 * row().kv_heads; ++head) {
      for (double value : head_by_definition(run, row(), r, head)) {
        expected.push_back(static_cast<float>(value));
      }
    }
  }
  expect_close(expected, actual, 5e-6, "qkv in place");

  // A query that sees one position gets exactly its V.
  const Floats seen = run.read_back(ops());
  const int64_t out_width = row().heads * row().head_dim;
  for (int64_t p = 0; p < row().rows; ++p) {
    const float* v =
        actual.data() + p * run.width + (row().heads + row().kv_heads) * row().head_dim;
    Floats values;
    for (int64_t h = 0; h < row().heads; ++h) {
      const float* head = v + h * row().kv_heads / row().heads * row().head_dim;
      for (int64_t i = 0; i < row().head_dim; ++i) values.push_back(rounded(row().kv, head[i]));
    }
    const Floats alone(seen.begin() + 2 * p * out_width, seen.begin() + (2 * p + 1) * out_width);
    EXPECT_EQ(values, alone) << "V at position " << p;
  }

  if (subject() == "reference") return;
  RopeRun other(row());
  other.append(reference(), 0, row().rows);
  // A K that differs in its last bit may round to the next bf16, and attention may round too.
  const double tolerance = row().kv == kBF16 ? 1e-2 : row().kv == kF16 ? 1e-3 : kExact;
  expect_close(other.read_back(reference()), seen, tolerance, "what is cached");
}

TEST_P(Rope, RowsDoNotDependOnTheBatchOrTheThreads) {
  RopeRun together(row());
  const Floats all = together.append(ops(), 0, row().rows);
  const Floats all_seen = together.read_back(ops());
  RopeRun threads1(row());
  const Floats again = threads1.append(ops(1), 0, row().rows);
  expect_same_bits(all.data(), again.data(), static_cast<int64_t>(all.size()), "1 thread");
  RopeRun alone(row());
  for (int64_t r = 0; r < row().rows; ++r) {
    const Floats one = alone.append(ops(), r, 1);
    expect_same_bits(one.data(), all.data() + r * alone.width, alone.width, "alone");
  }
  if (row().rows == 0) return;
  const Floats seen = alone.read_back(ops());
  expect_same_bits(all_seen.data(), seen.data(), static_cast<int64_t>(seen.size()), "cached");
}

/// Heads shared by two ranks: with the sums of squares over all heads each half is what it is
/// beside the other.
TEST_P(Rope, NormsHalvesOfTheHeadsByTheSumsOfAll) {
  if (row().norm != QkNorm::kFull || row().heads % 2 != 0 || row().kv_heads % 2 != 0) return;
  RopeRun whole(row());
  const Floats expected = whole.append(ops(), 0, row().rows);
  const int64_t dim = row().head_dim;
  const int64_t q_width = row().heads * dim;
  const int64_t kv_width = row().kv_heads * dim;
  Floats squares;
  for (int64_t r = 0; r < row().rows; ++r) {
    const float* q = whole.qkv.data() + r * whole.width;
    squares.push_back(std::inner_product(q, q + q_width, q, 0.0f));
    const float* k = q + q_width;
    squares.push_back(std::inner_product(k, k + kv_width, k, 0.0f));
  }
  RopeCase half = row();
  half.heads /= 2;
  half.kv_heads /= 2;
  for (int64_t rank = 0; rank < 2; ++rank) {
    RopeRun run(half);
    run.desc.all_heads = row().heads;
    run.desc.all_kv_heads = row().kv_heads;
    const auto take = [&](const Floats& all, Floats& part) {
      part.clear();
      for (int64_t r = 0; r < row().rows; ++r) {
        const float* at = all.data() + r * whole.width;
        for (const auto& [first, width] : std::vector<std::pair<int64_t, int64_t>>{
                 {0, q_width}, {q_width, kv_width}, {q_width + kv_width, kv_width}}) {
          const float* begin = at + first + rank * width / 2;
          part.insert(part.end(), begin, begin + width / 2);
        }
      }
    };
    take(whole.qkv, run.qkv);
    run.q_norm.assign(whole.q_norm.begin() + rank * q_width / 2,
                      whole.q_norm.begin() + (rank + 1) * q_width / 2);
    run.k_norm.assign(whole.k_norm.begin() + rank * kv_width / 2,
                      whole.k_norm.begin() + (rank + 1) * kv_width / 2);
    run.squares = squares;
    Floats wanted;
    take(expected, wanted);
    expect_close(wanted, run.append(ops(), 0, row().rows), 2e-6, "half");
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Rope,
                         ::testing::Combine(::testing::ValuesIn(subjects()),
                                            ::testing::ValuesIn(rope_cases())),
                         CaseName{});

}  // namespace
}  // namespace moesaic::backend::testing
