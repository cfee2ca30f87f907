// The oracle: every operator as the plainest loop that is right, one thread, sums in double.
// Weights are row-major in their own dtype, the KV cache is [position in block][K heads, then V
// heads][dim].

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/host/host_ops.h"
#include "backend/raw_address.h"
#include "base/error.h"

namespace moesaic::backend {
namespace {

constexpr int64_t kRowsPerUnit = 256;

/// A row of parts stacked over their rows.
void read_stacked_row(std::span<const SourcePart> parts, int64_t row, std::span<float> out) {
  for (const SourcePart& part : parts) {
    if (row < part.rows) return read_row(part, row, std::ssize(out), out.data());
    row -= part.rows;
  }
  base::assertion_failed("the parts cover the matrix", __FILE__, __LINE__);
}

const std::byte* bytes(Address address) { return RawAddress::pointer(address); }

double dot(const float* x, DType dtype, const std::byte* w, int64_t first, int64_t k) {
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    sum += static_cast<double>(x[i]) * tensor::load_float(dtype, w, first + i);
  }
  return sum;
}

float silu(double x) { return static_cast<float>(x / (1.0 + std::exp(-x))); }

void norm_row(const float* x, const float* weight, float eps, int64_t width, float* out) {
  double squares = 0;
  for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + eps);
  for (int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(x[i] * scale * weight[i]);
}

/// Half-split rotation of the first rotary_dim dims of one head.
void rotate(float* head, const float* cos, const float* sin, int64_t rotary_dim) {
  const int64_t half = rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[i + half];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half] = b * cos[i] + a * sin[i];
  }
}

class ReferenceOps final : public HostOps {
 public:
  std::string_view name() const override { return "reference"; }
  std::string layout_id() const override { return "reference-rowmajor-1"; }
  std::string description() const override { return "reference, plain loops, 1 thread"; }

  Unsupported supports(const WeightFormat& format) const override {
    const DType type = format.base;
    const bool known = type == DType::kF32 || type == DType::kBF16 || type == DType::kF16;
    if (format.plain() && known) return {};
    const std::string_view name = format.plain() ? tensor::to_string(type) : format.name;
    return "weights of type " + std::string(name) + " are not supported";
  }

  size_t packed_bytes(const MatrixDesc& desc) const override {
    return static_cast<size_t>(desc.n * desc.k) * tensor::size_of(desc.format.base);
  }
  size_t packed_bytes(const ExpertsDesc& desc) const override {
    return static_cast<size_t>(desc.experts * 3 * desc.hidden * desc.width) *
           tensor::size_of(desc.format.base);
  }
  int64_t pack_units(const MatrixDesc& desc) const override {
    return (desc.n + kRowsPerUnit - 1) / kRowsPerUnit;
  }
  int64_t pack_units(const ExpertsDesc& desc) const override { return desc.experts * 3; }

  PackUnit pack_unit(const MatrixDesc& desc, int64_t unit) const override {
    const size_t row = packed_bytes({1, desc.k, desc.format});
    const int64_t first = unit * kRowsPerUnit;
    const int64_t rows = std::min(desc.n - first, kRowsPerUnit);
    return {row * static_cast<size_t>(first), row * static_cast<size_t>(rows)};
  }
  /// Unit 3e + m writes expert e's gate, up or down matrix; they lie one after the other.
  PackUnit pack_unit(const ExpertsDesc& desc, int64_t unit) const override {
    const size_t bytes = packed_bytes(matrix_of(desc, unit % 3));
    return {bytes * static_cast<size_t>(unit), bytes};
  }

  void pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
            std::byte* destination) const override {
    const int64_t first = unit * kRowsPerUnit;
    pack_rows(desc, source.parts, first, std::min(desc.n, first + kRowsPerUnit), destination);
  }
  void pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
            std::byte* destination) const override {
    const auto& list = unit % 3 == 0 ? source.gate : unit % 3 == 1 ? source.up : source.down;
    const MatrixDesc matrix = matrix_of(desc, unit % 3);
    pack_rows(matrix, std::span(&list[static_cast<size_t>(unit / 3)], 1), 0, matrix.n,
              destination + pack_unit(desc, unit).offset);
  }

  size_t kv_block_bytes(const KvDesc& desc) const override {
    return static_cast<size_t>(desc.block_size * 2 * desc.kv_heads * desc.head_dim) *
           tensor::size_of(desc.dtype);
  }

  size_t scratch_bytes(const ModelShape::Ffn&, int64_t) const override { return 0; }
  void reserve(const ModelShape::Ffn&, int64_t) override {}

  void embed(const Matrix& table, std::span<const int32_t> ids, float* out) override {
    const int64_t k = table.desc.k;
    for (int32_t id : ids) {
      const bool known = id >= 0 && id < table.desc.n;
      for (int64_t col = 0; col < k; ++col) {
        *out++ = known
                     ? tensor::load_float(table.desc.format.base, bytes(table.packed), id * k + col)
                     : 0.0f;
      }
    }
  }

  void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
                float* out) override {
    for (int64_t r = 0; r < rows; ++r) norm_row(x + r * width, weight, eps, width, out + r * width);
  }

  void add_rms_norm(float* residual, const float* delta, const float* weight, float eps,
                    int64_t rows, int64_t width, float* out) override {
    for (int64_t i = 0; i < rows * width; ++i) residual[i] += delta[i];
    rms_norm(residual, weight, eps, rows, width, out);
  }

  void linear(const Matrix& w, const float* bias, const float* x, int64_t rows, float* y,
              int64_t stride) override {
    const auto [n, k, format] = w.desc;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < n; ++o) {
        const double sum = dot(x + r * k, format.base, bytes(w.packed), o * k, k);
        y[r * stride + o] = static_cast<float>(sum + (bias != nullptr ? bias[o] : 0.0f));
      }
    }
  }

  void qkv_rope_append(const AttentionDesc& desc, const QkvInputs& inputs, int64_t rows, float* qkv,
                       const KvLayer& cache) override {
    const int64_t dim = desc.head_dim;
    const int64_t q_width = desc.heads * dim;
    const int64_t kv_width = desc.kv_heads * dim;
    for (int64_t r = 0; r < rows; ++r) {
      float* q = qkv + r * (q_width + 2 * kv_width);
      float* k = q + q_width;
      float* v = k + kv_width;
      const float* squares = inputs.squares == nullptr ? nullptr : inputs.squares + 2 * r;
      normalise(desc, q, desc.heads, inputs.q_norm, squares, desc.all_heads);
      normalise(desc, k, desc.kv_heads, inputs.k_norm, squares == nullptr ? nullptr : squares + 1,
                desc.all_kv_heads);
      if (desc.clip_qkv > 0) {
        for (float* p = q; p < v + kv_width; ++p) {
          *p = std::clamp(*p, -desc.clip_qkv, desc.clip_qkv);
        }
      }
      const float* cos = inputs.cos + r * desc.rotary_dim / 2;
      const float* sin = inputs.sin + r * desc.rotary_dim / 2;
      for (int64_t h = 0; h < desc.heads; ++h) rotate(q + h * dim, cos, sin, desc.rotary_dim);
      for (int64_t h = 0; h < desc.kv_heads; ++h) rotate(k + h * dim, cos, sin, desc.rotary_dim);
      const int64_t place = inputs.slots[static_cast<size_t>(r)] * 2 * kv_width;
      for (int64_t i = 0; i < 2 * kv_width; ++i) {
        tensor::store_float(cache.desc.dtype, RawAddress::pointer(cache.data), place + i, k[i]);
      }
    }
  }

  std::unique_ptr<AttentionPlan> plan_attention(const AttentionDesc&,
                                                const AttentionBatch&) const override {
    return std::make_unique<AttentionPlan>();
  }
  void attention(const AttentionDesc& desc, const KvLayer& cache, const AttentionBatch& batch,
                 const AttentionPlan&, const float* qkv, float* out) override {
    const int64_t width = (desc.heads + 2 * desc.kv_heads) * desc.head_dim;
    for (size_t s = 0; s < batch.context_lens.size(); ++s) {
      const int32_t first = batch.seq_starts[s];
      const int32_t last = batch.seq_starts[s + 1];
      for (int32_t row = first; row < last; ++row) {
        const int64_t position = batch.context_lens[s] - (last - row);
        for (int64_t h = 0; h < desc.heads; ++h) {
          attend(desc, cache,
                 batch.block_tables.data() + static_cast<int64_t>(s) * batch.max_blocks, position,
                 h, qkv + row * width + h * desc.head_dim,
                 out + (row * desc.heads + h) * desc.head_dim);
        }
      }
    }
  }

  void route(const RouterDesc& desc, const float* logits, int64_t rows, Routing& routing) override {
    routing.rows = rows;
    routing.top_k = desc.top_k;
    routing.experts.resize(static_cast<size_t>(rows * desc.top_k));
    routing.weights.resize(static_cast<size_t>(rows * desc.top_k));
    std::vector<double> scores(static_cast<size_t>(desc.experts));
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = logits + r * desc.experts;
      score(desc, row, scores);
      const std::vector<int32_t> order = best_of(row, desc);
      double sum = 0;
      for (int32_t expert : order) sum += scores[static_cast<size_t>(expert)];
      for (int64_t i = 0; i < desc.top_k; ++i) {
        const int32_t expert = order[static_cast<size_t>(i)];
        const double weight = scores[static_cast<size_t>(expert)] / (desc.renormalize ? sum : 1.0);
        routing.experts[static_cast<size_t>(r * desc.top_k + i)] = expert;
        routing.weights[static_cast<size_t>(r * desc.top_k + i)] =
            static_cast<float>(weight * desc.scale);
      }
    }
  }

  void experts(const Experts& w, const Routing& routing, const float* x, int64_t rows,
               bool accumulate, float* y) override {
    const int64_t hidden = w.desc.hidden;
    const int64_t width = w.desc.width;
    const DType dtype = w.desc.format.base;
    const std::byte* packed = bytes(w.packed);
    std::vector<float> h(static_cast<size_t>(width));
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<double> sums(static_cast<size_t>(hidden), 0.0);
      std::vector<int64_t> chosen(static_cast<size_t>(routing.top_k));
      std::iota(chosen.begin(), chosen.end(), r * routing.top_k);
      std::sort(chosen.begin(), chosen.end(), [&](int64_t a, int64_t b) {
        return routing.experts[static_cast<size_t>(a)] < routing.experts[static_cast<size_t>(b)];
      });
      for (int64_t choice : chosen) {
        const int64_t expert = routing.experts[static_cast<size_t>(choice)];
        if (expert < 0) continue;
        const int64_t gate = expert * 3 * width * hidden;
        const int64_t up = gate + width * hidden;
        const int64_t down = up + width * hidden;
        for (int64_t i = 0; i < width; ++i) {
          h[static_cast<size_t>(i)] =
              silu(dot(x + r * hidden, dtype, packed, gate + i * hidden, hidden)) *
              static_cast<float>(dot(x + r * hidden, dtype, packed, up + i * hidden, hidden));
        }
        for (int64_t o = 0; o < hidden; ++o) {
          sums[static_cast<size_t>(o)] += routing.weights[static_cast<size_t>(choice)] *
                                          dot(h.data(), dtype, packed, down + o * width, width);
        }
      }
      for (int64_t o = 0; o < hidden; ++o) {
        const double before = accumulate ? y[r * hidden + o] : 0.0;
        y[r * hidden + o] = static_cast<float>(before + sums[static_cast<size_t>(o)]);
      }
    }
  }

 private:
  static MatrixDesc matrix_of(const ExpertsDesc& desc, int64_t part) {
    if (part == 2) return {desc.hidden, desc.width, desc.format};
    return {desc.width, desc.hidden, desc.format};
  }

  static void pack_rows(const MatrixDesc& desc, std::span<const SourcePart> parts, int64_t first,
                        int64_t end, std::byte* destination) {
    std::vector<float> values(static_cast<size_t>(desc.k));
    for (int64_t row = first; row < end; ++row) {
      read_stacked_row(parts, row, values);
      for (int64_t col = 0; col < desc.k; ++col) {
        tensor::store_float(desc.format.base, destination, row * desc.k + col,
                            values[static_cast<size_t>(col)]);
      }
    }
  }

  /// `squares` is the sum of squares over `all_heads` heads; null: over x's own.
  static void normalise(const AttentionDesc& desc, float* x, int64_t heads, const float* weight,
                        const float* squares, int64_t all_heads) {
    if (desc.qk_norm == QkNorm::kFull && squares != nullptr) {
      const auto width = static_cast<double>(all_heads * desc.head_dim);
      const double scale = 1.0 / std::sqrt(*squares / width + desc.norm_eps);
      for (int64_t i = 0; i < heads * desc.head_dim; ++i) {
        x[i] = static_cast<float>(x[i] * scale * weight[i]);
      }
    } else if (desc.qk_norm == QkNorm::kFull) {
      norm_row(x, weight, desc.norm_eps, heads * desc.head_dim, x);
    } else if (desc.qk_norm == QkNorm::kPerHead) {
      for (int64_t h = 0; h < heads; ++h) {
        float* head = x + h * desc.head_dim;
        norm_row(head, weight, desc.norm_eps, desc.head_dim, head);
      }
    }
  }

  /// One head of one row: softmax over the visible positions, then the weighted sum of values.
  static void attend(const AttentionDesc& desc, const KvLayer& cache, const int32_t* blocks,
                     int64_t position, int64_t head, const float* q, float* out) {
    const int64_t dim = desc.head_dim;
    const int64_t kv_head = head / (desc.heads / desc.kv_heads);
    const int64_t first =
        desc.sliding_window > 0 ? std::max<int64_t>(0, position - desc.sliding_window + 1) : 0;
    auto place = [&](int64_t p) {
      const int64_t slot =
          blocks[p / cache.desc.block_size] * cache.desc.block_size + p % cache.desc.block_size;
      return (slot * 2 * desc.kv_heads + kv_head) * dim;
    };
    std::vector<double> scores;
    for (int64_t p = first; p <= position; ++p) {
      scores.push_back(desc.scale * dot(q, cache.desc.dtype, bytes(cache.data), place(p), dim));
    }
    const double best = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - best);
    for (int64_t i = 0; i < dim; ++i) {
      double value = 0;
      for (int64_t p = first; p <= position; ++p) {
        value += scores[static_cast<size_t>(p - first)] *
                 tensor::load_float(cache.desc.dtype, bytes(cache.data),
                                    place(p) + desc.kv_heads * dim + i);
      }
      out[i] = static_cast<float>(value / sum);
    }
  }

  /// The top_k experts of a row, best first. By logit, which is the order of the scores without the
  /// ties that rounding makes; not by sorting, which a NaN would confuse.
  static std::vector<int32_t> best_of(const float* logits, const RouterDesc& desc) {
    std::vector<int32_t> order;
    for (int64_t i = 0; i < desc.top_k; ++i) {
      int32_t best = -1;
      for (int32_t e = 0; e < desc.experts; ++e) {
        if (std::find(order.begin(), order.end(), e) != order.end()) continue;
        if (best < 0 || logits[e] > logits[best]) best = e;
      }
      order.push_back(best);
    }
    return order;
  }

  static void score(const RouterDesc& desc, const float* logits, std::vector<double>& scores) {
    if (desc.scoring == Scoring::kSigmoid) {
      for (size_t e = 0; e < scores.size(); ++e) scores[e] = 1.0 / (1.0 + std::exp(-logits[e]));
      return;
    }
    const double best = *std::max_element(logits, logits + desc.experts);
    double sum = 0;
    for (size_t e = 0; e < scores.size(); ++e) sum += scores[e] = std::exp(logits[e] - best);
    for (double& value : scores) value /= sum;
  }
};

}  // namespace

std::unique_ptr<HostOps> make_reference_ops() { return std::make_unique<ReferenceOps>(); }

}  // namespace moesaic::backend
