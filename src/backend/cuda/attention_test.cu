// Attention against float64 loops, and its bits against itself: alone and in a batch, whole and in
// chunks, decode and prefill.

#include "backend/cuda/attention.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "backend/cuda/device_testing.h"

namespace moesaic::backend::cuda {
namespace {

using testing::as_bf16;
using testing::DeviceArray;
using testing::Random;

class AttentionTest : public testing::DeviceTest {};

/// Rows [past, past + rows) of a sequence.
struct Span {
  int sequence;
  int past;
  int rows;
};

/// Sequences with fixed queries, keys and values at every position, their cache, and steps over it.
/// Cache blocks are handed out in a shuffled order, and what nothing was written to is NaN. Table
/// entries that a step must not read point far outside.
class Rig {
 public:
  Rig(const AttentionShape& shape, const std::vector<int>& lengths, uint64_t seed,
      float query_scale = 1, size_t partial_bytes = size_t{64} << 20)
      : shape_(shape), lengths_(lengths), dim_(padded_head_dim(shape.head_dim)) {
    Random random(seed);
    const int size = shape.block_size;
    int blocks = 3;  // some that are no sequence's
    for (int length : lengths) blocks += (length + size - 1) / size;
    std::vector<int32_t> order(static_cast<size_t>(blocks));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    size_t next = 0;
    std::vector<uint8_t> cache(static_cast<size_t>(blocks) * kv_block_bytes(shape), 0xff);
    for (int length : lengths) {
      max_blocks_ = std::max(max_blocks_, (length + size - 1) / size + 2);
      std::vector<int32_t> table;
      for (int b = 0; b * size < length; ++b) table.push_back(order[next++]);
      tables_.push_back(table);
      queries_.push_back(random.bf16s(
          static_cast<size_t>(length) * static_cast<size_t>(shape.heads * shape.head_dim),
          query_scale));
      for (int p = 0; p < length; ++p) {
        for (int h = 0; h < shape.kv_heads; ++h) {
          for (int kv = 0; kv < 2; ++kv) {
            for (int d = 0; d < dim_; ++d) {
              write(cache.data() + place(table, p, h, kv, d),
                    d < shape.head_dim ? random.normal() : 0);
            }
          }
        }
      }
    }
    host_cache_ = cache;
    cache_ = std::make_unique<DeviceArray<uint8_t>>(cache);
    limits_.max_sequences = 64;
    limits_.max_rows = 4096;
    limits_.partial_bytes = partial_bytes;
    work_ = std::make_unique<DeviceArray<uint8_t>>(attention_work_bytes(shape, limits_));
  }

  /// The outputs' bits, row after row, of a step with these spans.
  std::vector<uint16_t> step(const std::vector<Span>& spans, StepKind kind, bool graph = false) {
    std::vector<int32_t> starts{0};
    std::vector<int32_t> contexts;
    std::vector<int32_t> tables(spans.size() * static_cast<size_t>(max_blocks_), 1 << 28);
    std::vector<uint16_t> q;
    const size_t width = static_cast<size_t>(shape_.heads * shape_.head_dim);
    const size_t stride = width + 2 * static_cast<size_t>(shape_.kv_heads * shape_.head_dim);
    for (size_t s = 0; s < spans.size(); ++s) {
      const auto [sequence, past, rows] = spans[s];
      const auto from = static_cast<size_t>(sequence);
      starts.push_back(starts.back() + rows);
      contexts.push_back(past + rows);
      const int first = shape_.window > 0 ? std::max(0, past - shape_.window + 1) : 0;
      for (int b = first / shape_.block_size; b * shape_.block_size < past + rows; ++b) {
        tables[s * static_cast<size_t>(max_blocks_) + static_cast<size_t>(b)] =
            tables_[from][static_cast<size_t>(b)];
      }
      for (int p = past; p < past + rows; ++p) {
        const auto* row = queries_[from].data() + static_cast<size_t>(p) * width;
        q.insert(q.end(), row, row + width);
        q.resize(q.size() + stride - width, 0xffff);
      }
    }
    const DeviceArray<int32_t> count(std::vector<int32_t>{static_cast<int32_t>(spans.size())});
    const DeviceArray<int32_t> device_starts(starts);
    const DeviceArray<int32_t> device_contexts(contexts);
    const DeviceArray<int32_t> device_tables(tables);
    const DeviceArray<uint16_t> device_q(q);
    const DeviceArray<uint16_t> out(static_cast<size_t>(starts.back()) * width);
    const AttentionSequences sequences{count.get(), device_starts.get(), device_contexts.get(),
                                       device_tables.get(), max_blocks_};
    const auto enqueue = [&](cudaStream_t stream) {
      plan_attention(shape_, limits_, sequences, kind, work_->get(), stream);
      // Three times, as layers would: counters and tickets must be left as they were. The second
      // and the third may read ahead: the plan is over when the first begins.
      for (int layer = 0; layer < 3; ++layer) {
        attention(shape_, limits_, sequences, kind, work_->get(), as_bf16(device_q),
                  static_cast<int64_t>(stride), cache_->get(), as_bf16(out), stream,
                  layer > 0 ? Settled::kPast : Settled::kNothing);
      }
    };
    if (graph) {
      testing::run_as_graph(enqueue, 2);
    } else {
      enqueue(nullptr);
    }
    return out.read();
  }

  /// ||out - reference|| / ||reference|| of one query head of one row.
  double error(const Span& span, int row, int head, const uint16_t* out) const {
    const int position = span.past + row;
    const auto& table = tables_[static_cast<size_t>(span.sequence)];
    const int first = shape_.window > 0 ? std::max(0, position - shape_.window + 1) : 0;
    const int kv_head = head / (shape_.heads / shape_.kv_heads);
    const int dim = shape_.head_dim;
    const uint16_t* q =
        queries_[static_cast<size_t>(span.sequence)].data() +
        static_cast<size_t>(position * shape_.heads + head) * static_cast<size_t>(dim);
    std::vector<double> scores;
    for (int p = first; p <= position; ++p) {
      double dot = 0;
      for (int d = 0; d < dim; ++d) {
        dot += static_cast<double>(testing::from_bf16(q[d])) * read(table, p, kv_head, 0, d);
      }
      scores.push_back(dot * shape_.scale * shape_.k_scale);
    }
    const double best = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& x : scores) sum += x = std::exp(x - best);
    double difference = 0;
    double norm = 0;
    for (int d = 0; d < dim; ++d) {
      double value = 0;
      for (int p = first; p <= position; ++p) {
        value += scores[static_cast<size_t>(p - first)] * read(table, p, kv_head, 1, d);
      }
      value *= shape_.v_scale / sum;
      const double got = testing::from_bf16(out[d]);
      difference += (got - value) * (got - value);
      norm += value * value;
    }
    return std::sqrt(difference / norm);
  }

  /// The largest error over some heads of rows of a step; NaN counts as infinite.
  double largest_error(const std::vector<Span>& spans, const std::vector<uint16_t>& out,
                       int samples) const {
    Random random(7);
    const auto width = static_cast<size_t>(shape_.heads * shape_.head_dim);
    double largest = 0;
    size_t row = 0;
    for (const Span& span : spans) {
      for (int i = 0; i < std::max(1, samples * std::min(span.rows, 8) / 8); ++i) {
        // The first, the last and others.
        const int r = i == 0 ? span.rows - 1 : i == 1 ? 0 : random.between(0, span.rows - 1);
        const int head = random.between(0, shape_.heads - 1);
        const double e = error(span, r, head,
                               out.data() + (row + static_cast<size_t>(r)) * width +
                                   static_cast<size_t>(head * shape_.head_dim));
        largest = std::max(largest, e == e ? e : INFINITY);
      }
      row += static_cast<size_t>(span.rows);
    }
    return largest;
  }

  size_t width() const { return static_cast<size_t>(shape_.heads * shape_.head_dim); }

 private:
  size_t element() const { return shape_.kv == KvType::kBF16 ? 2 : 1; }
  /// Where one value of a position's key (0) or value (1) lies in the cache.
  size_t place(const std::vector<int32_t>& table, int position, int head, int kv, int d) const {
    const int rows = shape_.block_size;
    const auto block = static_cast<size_t>(table[static_cast<size_t>(position / rows)]);
    const int row_bytes = dim_ * static_cast<int>(element());
    const int at = d * static_cast<int>(element());
    return ((block * static_cast<size_t>(shape_.kv_heads) + static_cast<size_t>(head)) * 2 +
            static_cast<size_t>(kv)) *
               static_cast<size_t>(rows * row_bytes) +
           static_cast<size_t>(kv_chunk_offset(at / 16, position % rows, rows, row_bytes / 16) +
                               at % 16);
  }
  void write(uint8_t* to, float x) const {
    if (shape_.kv == KvType::kBF16) {
      const uint16_t bits = testing::to_bf16(x);
      std::memcpy(to, &bits, 2);
    } else {
      // Any byte that is not NaN will do; of a size near x.
      const int code = std::clamp(static_cast<int>(std::fabs(x) * 20), 0, 0x4f);
      *to = static_cast<uint8_t>(x == 0 ? 0 : (x < 0 ? 0x80 : 0) | code);
    }
  }
  double read(const std::vector<int32_t>& table, int position, int head, int kv, int d) const {
    const uint8_t* from = host_cache_.data() + place(table, position, head, kv, d);
    if (shape_.kv == KvType::kE4M3) return testing::from_e4m3(*from);
    uint16_t bits;
    std::memcpy(&bits, from, 2);
    return testing::from_bf16(bits);
  }

  AttentionShape shape_;
  AttentionLimits limits_;
  std::vector<int> lengths_;
  int dim_;
  int max_blocks_ = 0;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<std::vector<uint16_t>> queries_;
  std::vector<uint8_t> host_cache_;
  std::unique_ptr<DeviceArray<uint8_t>> cache_, work_;
};

AttentionShape make_shape(int heads, int kv_heads, int head_dim, int block_size, KvType kv,
                          int window) {
  AttentionShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.block_size = block_size;
  shape.kv = kv;
  shape.window = window;
  shape.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  if (kv == KvType::kE4M3) {
    shape.k_scale = 0.75f;
    shape.v_scale = 1.5f;
  }
  return shape;
}

/// Weights are rounded to bf16 or f16 and outputs to bf16: each errs by up to 2^-9, evenly spread,
/// in the mean 1.1e-3.
constexpr double kTolerance = 4e-3;

// Steps that cross block and split boundaries, with decodes, short and long chunks.
const std::vector<int> kLengths{1, 128, 256, 257, 512, 701, 5, 64, 300, 263, 600, 1025};
const std::vector<Span> kMixed{{0, 0, 1},   {1, 127, 1},  {2, 255, 1},    {3, 256, 1},
                               {4, 511, 1}, {5, 700, 1},  {6, 0, 5},      {7, 0, 64},
                               {8, 0, 300}, {9, 250, 13}, {10, 500, 100}, {11, 1023, 2}};

struct Case {
  int heads, kv_heads, head_dim, block_size;
  KvType kv;
  int window;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.heads << "/" << c.kv_heads << "x" << c.head_dim << " block " << c.block_size
       << (c.kv == KvType::kBF16 ? " bf16" : " e4m3") << " window " << c.window;
}

class AttentionCases : public AttentionTest, public ::testing::WithParamInterface<Case> {};

TEST_P(AttentionCases, AgreeWithFloat64AndWithThemselves) {
  const Case& c = GetParam();
  const AttentionShape shape =
      make_shape(c.heads, c.kv_heads, c.head_dim, c.block_size, c.kv, c.window);
  Rig rig(shape, kLengths, 11);
  const std::vector<uint16_t> out = rig.step(kMixed, StepKind::kMixed);
  EXPECT_LT(rig.largest_error(kMixed, out, 6), kTolerance);

  // Every sequence alone gives the same bits; so does everything by the kernel for decode.
  size_t at = 0;
  for (const Span& span : kMixed) {
    const size_t size = static_cast<size_t>(span.rows) * rig.width();
    const std::vector<uint16_t> alone = rig.step({span}, StepKind::kMixed);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), out.begin() + static_cast<ptrdiff_t>(at)))
        << "sequence " << span.sequence << " alone";
    at += size;
  }
  EXPECT_EQ(rig.step(kMixed, StepKind::kDecode), out) << "narrow tiles only";
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionCases,
    ::testing::Values(Case{8, 2, 128, 16, KvType::kBF16, 0}, Case{8, 1, 128, 64, KvType::kE4M3, 0},
                      Case{8, 8, 64, 16, KvType::kBF16, 0}, Case{4, 2, 64, 32, KvType::kE4M3, 100},
                      Case{10, 2, 80, 16, KvType::kBF16, 37}, Case{6, 2, 80, 64, KvType::kE4M3, 0},
                      Case{4, 1, 96, 128, KvType::kBF16, 300}, Case{4, 4, 96, 16, KvType::kE4M3, 0},
                      Case{16, 1, 128, 32, KvType::kBF16, 128},
                      Case{32, 1, 128, 16, KvType::kBF16, 0}, Case{4, 2, 256, 16, KvType::kBF16, 0},
                      Case{4, 2, 256, 64, KvType::kE4M3, 65}, Case{4, 2, 72, 16, KvType::kBF16, 0},
                      Case{6, 3, 40, 16, KvType::kE4M3, 0}, Case{4, 2, 112, 16, KvType::kBF16, 64},
                      Case{2, 2, 192, 32, KvType::kBF16, 1},
                      Case{14, 2, 128, 128, KvType::kE4M3, 256}),
    [](const auto& info) { return "case" + std::to_string(info.index); });

/// Rows of one prompt by position, from steps of the given chunk lengths.
std::vector<uint16_t> in_chunks(Rig& rig, int length, const std::vector<int>& chunks) {
  std::vector<uint16_t> all;
  int past = 0;
  for (size_t i = 0; past < length; ++i) {
    const int rows = std::min(length - past, chunks[i % chunks.size()]);
    const std::vector<uint16_t> part = rig.step({{0, past, rows}}, StepKind::kMixed);
    all.insert(all.end(), part.begin(), part.end());
    past += rows;
  }
  return all;
}

TEST(KvLayoutTest, GivesEveryChunkItsPlace) {
  for (int chunks : {4, 5, 6, 8, 10, 12, 16, 32}) {
    for (int rows : {16, 64, 128}) {
      std::vector<int> seen(static_cast<size_t>(rows * chunks));
      for (int row = 0; row < rows; ++row) {
        for (int chunk = 0; chunk < chunks; ++chunk) {
          const int offset = kv_chunk_offset(chunk, row, rows, chunks);
          ASSERT_EQ(offset % 16, 0);
          ASSERT_LT(offset, rows * chunks * 16);
          ++seen[static_cast<size_t>(offset / 16)];
        }
      }
      for (int count : seen) ASSERT_EQ(count, 1);
      // A column's chunks in eight rows lie in different groups of four banks.
      for (int chunk = 0; chunk < chunks; ++chunk) {
        unsigned banks = 0;
        for (int row = 0; row < 8; ++row) {
          banks |= 1u << (kv_chunk_offset(chunk, row, rows, chunks) / 16 % 8);
        }
        ASSERT_EQ(banks, 255u) << chunk << " of " << chunks;
      }
    }
  }
}

TEST_F(AttentionTest, ChunksAndDecodesGiveTheBitsOfTheWholePrompt) {
  for (const Case& c :
       {Case{8, 2, 128, 16, KvType::kBF16, 0}, Case{8, 2, 128, 64, KvType::kE4M3, 0},
        Case{4, 2, 64, 16, KvType::kBF16, 90}, Case{2, 1, 256, 32, KvType::kBF16, 0}}) {
    SCOPED_TRACE(::testing::PrintToString(c));
    constexpr int kLength = 777;
    Rig rig(make_shape(c.heads, c.kv_heads, c.head_dim, c.block_size, c.kv, c.window), {kLength},
            23, 2.0f);
    const std::vector<uint16_t> whole = rig.step({{0, 0, kLength}}, StepKind::kMixed);
    EXPECT_EQ(in_chunks(rig, kLength, {256}), whole);
    EXPECT_EQ(in_chunks(rig, kLength, {100, 1, 33, 64, 7, 300}), whole);
    for (int p : {0, 1, 15, 16, 63, 64, 127, 255, 256, 257, 319, 511, 512, 600, 767, 768, 776}) {
      const std::vector<uint16_t> row = rig.step({{0, p, 1}}, StepKind::kDecode);
      EXPECT_TRUE(std::equal(
          row.begin(), row.end(),
          whole.begin() + static_cast<ptrdiff_t>(p) * static_cast<ptrdiff_t>(rig.width())))
          << "decode at " << p;
    }
  }
}

TEST_F(AttentionTest, LongContextsAreCutAndFoldedAlike) {
  for (KvType kv : {KvType::kBF16, KvType::kE4M3}) {
    const AttentionShape shape = make_shape(8, 2, 128, 16, kv, 0);
    const std::vector<int> lengths{20000, 9000, 400, 3000};
    const std::vector<Span> spans{{0, 19999, 1}, {1, 8960, 40}, {2, 399, 1}, {3, 2996, 4}};
    Rig rig(shape, lengths, 31, 3.0f);
    const std::vector<uint16_t> out = rig.step(spans, StepKind::kMixed);
    EXPECT_LT(rig.largest_error(spans, out, 4), kTolerance);
    Rig whole(shape, lengths, 31, 3.0f, 0);  // no memory for partial results: nothing is cut
    EXPECT_EQ(whole.step(spans, StepKind::kMixed), out);
    Rig tight(shape, lengths, 31, 3.0f, size_t{600} << 10);  // some are cut
    EXPECT_EQ(tight.step(spans, StepKind::kMixed), out);
    const std::vector<uint16_t> alone = rig.step({spans[0]}, StepKind::kDecode);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), out.begin()));
  }
}

TEST_F(AttentionTest, GraphsServeAndScoresMayBeLarge) {
  // Scores of hundreds: one key takes all, others underflow.
  Rig rig(make_shape(8, 2, 128, 16, KvType::kBF16, 0), kLengths, 41, 60.0f);
  const std::vector<uint16_t> out = rig.step(kMixed, StepKind::kMixed);
  EXPECT_LT(rig.largest_error(kMixed, out, 6), 2e-2);  // f32 scores of 1000 err by 1e-4
  EXPECT_EQ(rig.step(kMixed, StepKind::kMixed, /*graph=*/true), out);
}

}  // namespace
}  // namespace moesaic::backend::cuda
