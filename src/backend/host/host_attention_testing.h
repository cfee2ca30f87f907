#pragma once

// A paged cache filled through a backend's own qkv_rope_append, for the attention cases.

#include "backend/host/host_ops_testing.h"

namespace moesaic::backend::testing {

/// A sequence of a step: its positions before the step, and the rows it has in it.
struct Span {
  int64_t past;
  int64_t rows;
};

struct AttentionCase {
  const char* name;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t block_size;
  DType kv;
  int64_t window;
  std::vector<Span> spans;
  float q_scale = 1.0f;  ///< large: one key takes all
};

inline void PrintTo(const AttentionCase& row, std::ostream* out) { *out << row.name; }

/// The projections of whole sequences of a case, from a seed; every step takes its rows from these.
class AttentionInputs {
 public:
  explicit AttentionInputs(const AttentionCase& row) : row_(row) {
    desc_.heads = row.heads;
    desc_.kv_heads = row.kv_heads;
    desc_.head_dim = row.head_dim;
    desc_.rotary_dim = row.head_dim;
    desc_.scale = 1.0f / std::sqrt(static_cast<float>(row.head_dim));
    desc_.sliding_window = row.window;
    for (size_t s = 0; s < row.spans.size(); ++s) {
      const int64_t positions = row.spans[s].past + row.spans[s].rows;
      Floats qkv = random_floats(1000 + s, positions * width());
      for (int64_t p = 0; p < positions; ++p) {
        for (int64_t i = 0; i < row.heads * row.head_dim; ++i) {
          qkv[static_cast<size_t>(p * width() + i)] *= row.q_scale;
        }
      }
      qkv_.push_back(std::move(qkv));
    }
  }

  const AttentionDesc& desc() const { return desc_; }
  int64_t width() const { return (row_.heads + 2 * row_.kv_heads) * row_.head_dim; }
  int64_t out_width() const { return row_.heads * row_.head_dim; }
  KvDesc kv_desc() const { return {row_.kv_heads, row_.head_dim, row_.block_size, row_.kv}; }
  /// The projections at a position of a sequence.
  const float* at(size_t sequence, int64_t position) const {
    return qkv_[sequence].data() + position * width();
  }
  int64_t positions(size_t sequence) const {
    return row_.spans[sequence].past + row_.spans[sequence].rows;
  }

 private:
  AttentionCase row_;
  AttentionDesc desc_;
  std::vector<Floats> qkv_;
};

/// The cache of a case on a backend, and steps over it. Blocks are handed out in a shuffled order,
/// and start as NaN.
class PagedRun {
 public:
  PagedRun(HostOps& ops, const AttentionInputs& inputs, size_t sequences)
      : ops_(ops), inputs_(inputs), cached_(sequences, 0) {
    const KvDesc desc = inputs.kv_desc();
    int64_t blocks = 1;
    for (size_t s = 0; s < sequences; ++s) {
      const int64_t own = (inputs.positions(s) + desc.block_size - 1) / desc.block_size;
      max_blocks_ = std::max(max_blocks_, own + 1);
      blocks += own;
    }
    std::vector<int32_t> order(static_cast<size_t>(blocks));
    for (int32_t i = 0; i < blocks; ++i) order[static_cast<size_t>(i)] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937(7));
    tables_.assign(sequences * static_cast<size_t>(max_blocks_), -1);
    size_t next = 0;
    for (size_t s = 0; s < sequences; ++s) {
      const int64_t own = (inputs.positions(s) + desc.block_size - 1) / desc.block_size;
      for (int64_t b = 0; b < own; ++b) table(s)[b] = order[next++];
    }
    bytes_ = std::make_unique<Bytes>(ops.kv_block_bytes(desc) * static_cast<size_t>(blocks));
    cache_ = {desc, RawAddress::of(bytes_->data()), blocks};
  }

  /// One step: the next `rows[i]` positions of sequence `sequences[i]`; returns attention's output.
  Floats step(const std::vector<size_t>& sequences, const std::vector<int64_t>& rows) {
    append(sequences, rows);
    std::vector<int32_t> starts = {0};
    std::vector<int32_t> contexts;
    std::vector<int32_t> tables;
    for (size_t i = 0; i < sequences.size(); ++i) {
      starts.push_back(starts.back() + static_cast<int32_t>(rows[i]));
      contexts.push_back(static_cast<int32_t>(cached_[sequences[i]]));
      tables.insert(tables.end(), table(sequences[i]), table(sequences[i]) + max_blocks_);
    }
    Floats out(static_cast<size_t>(starts.back() * inputs_.out_width()), std::nanf(""));
    const AttentionBatch batch{starts, contexts, tables, max_blocks_};
    const auto plan = ops_.plan_attention(inputs_.desc(), batch);
    ops_.attention(inputs_.desc(), cache_, batch, *plan, qkv_.data(), out.data());
    return out;
  }

  /// Puts the next positions into the cache without attending.
  void append(const std::vector<size_t>& sequences, const std::vector<int64_t>& rows) {
    qkv_.clear();
    std::vector<int64_t> slots;
    const int64_t block_size = cache_.desc.block_size;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const size_t s = sequences[i];
      for (int64_t r = 0; r < rows[i]; ++r) {
        const int64_t p = cached_[s]++;
        qkv_.insert(qkv_.end(), inputs_.at(s, p), inputs_.at(s, p) + inputs_.width());
        slots.push_back(table(s)[p / block_size] * block_size + p % block_size);
      }
    }
    const auto count = static_cast<int64_t>(slots.size());
    const Floats cos(static_cast<size_t>(count * inputs_.desc().rotary_dim / 2), 1.0f);
    const Floats sin(cos.size(), 0.0f);
    QkvInputs inputs;
    inputs.cos = cos.data();
    inputs.sin = sin.data();
    inputs.slots = slots;
    ops_.qkv_rope_append(inputs_.desc(), inputs, count, qkv_.data(), cache_);
  }

 private:
  int32_t* table(size_t sequence) {
    return tables_.data() + sequence * static_cast<size_t>(max_blocks_);
  }

  HostOps& ops_;
  const AttentionInputs& inputs_;
  std::vector<int64_t> cached_;
  int64_t max_blocks_ = 0;
  std::vector<int32_t> tables_;
  std::unique_ptr<Bytes> bytes_;
  KvLayer cache_;
  Floats qkv_;
};

/// Attention of the query at `position` of a sequence by the definition, in double, from K and V as
/// they are after rounding to the cache's type; no pages.
inline Floats attention_by_definition(const AttentionInputs& inputs, const AttentionCase& row,
                                      size_t sequence, int64_t position) {
  const int64_t dim = row.head_dim;
  Floats out;
  for (int64_t h = 0; h < row.heads; ++h) {
    const int64_t kv_head = h * row.kv_heads / row.heads;
    const float* q = inputs.at(sequence, position) + h * dim;
    std::vector<double> sums(static_cast<size_t>(dim), 0.0);
    double total = 0;
    // Without subtracting the maximum: the cases' scores are small enough for a double.
    for (int64_t p = 0; p <= position; ++p) {
      if (row.window > 0 && position - p >= row.window) continue;
      const float* k = inputs.at(sequence, p) + (row.heads + kv_head) * dim;
      const float* v = k + row.kv_heads * dim;
      double score = 0;
      for (int64_t i = 0; i < dim; ++i) score += static_cast<double>(q[i]) * rounded(row.kv, k[i]);
      const double weight = std::exp(score * inputs.desc().scale);
      total += weight;
      for (int64_t i = 0; i < dim; ++i) {
        sums[static_cast<size_t>(i)] += weight * rounded(row.kv, v[i]);
      }
    }
    for (double sum : sums) out.push_back(static_cast<float>(sum / total));
  }
  return out;
}

}  // namespace moesaic::backend::testing
