#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <type_traits>

#include "base/error.h"
#include "model/family.h"
#include "model/gguf_model.h"
#include "model/stored_formats.h"
#include "model/weights.h"
#include "tensor/integers.h"

namespace moesaic::model {

namespace {

/// Dummy value of the norm before attention or FFN. With 1, what attention adds outweighs a random
/// embedding; it is an average over the context, nearly the same for neighbouring tokens, and they
/// would all be routed to a few experts. This keeps each token itself, as training does.
constexpr float kDummyBranchNorm = 1.0f / 1024;

std::string substitute(std::string text, std::string_view placeholder, int64_t value) {
  const size_t at = text.find(placeholder);
  if (at != std::string::npos) text.replace(at, placeholder.size(), std::to_string(value));
  return text;
}

/// A tensor of a checkpoint, whole.
Slice whole(const std::string& name, int64_t rows, int64_t cols = 1) {
  return {.name = name, .tensor_rows = rows, .tensor_cols = cols, .rows = rows, .cols = cols};
}
Slice rows_of(Slice slice, const Share& share) {
  slice.row = share.first;
  slice.rows = share.count;
  return slice;
}
Slice cols_of(Slice slice, const Share& share) {
  slice.col = share.first;
  slice.cols = share.count;
  return slice;
}
/// Heads of a tensor that has head_dim rows for each.
Share elements(const Share& heads, int64_t head_dim) {
  return {heads.first * head_dim, heads.count * head_dim};
}

/// Walks the spec once, describing every item; then hands out places in the buffer.
class Planner {
 public:
  Planner(const ModelSpec& spec, const backend::Backend& backend,
          const tensor::WeightFormat& format, const Shard& shard, const TensorNames& names)
      : spec_(spec), backend_(backend), format_(format), shard_(shard), names_(names) {}

  WeightLayout run() {
    WeightLayout layout;
    layout.shard = shard_;
    layout.format = format_;
    const Share vocabulary = share_of(spec_.vocab_size, shard_);
    const auto table = [&](const std::string& name) {
      const Slice slice = rows_of(whole(name, spec_.vocab_size, spec_.hidden), vocabulary);
      const tensor::WeightFormat* stored = kept(std::span(&slice, 1));
      if (stored != nullptr) return matrix(*stored, {slice});
      return matrix(format_.plain() ? format_ : tensor::DType::kBF16, {slice});
    };
    layout.embed = table(names_.embed);
    for (size_t i = 0; i < spec_.layers.size(); ++i) {
      prefix_ = substitute(names_.layer, "{L}", static_cast<int64_t>(i));
      layout.layers.push_back(layer(spec_.layers[i]));
    }
    layout.final_norm = vector(1.0f, {whole(names_.final_norm, spec_.hidden)});
    if (!spec_.tied_embeddings) layout.lm_head = table(names_.lm_head);
    for_each_item(layout, [&](auto& placed, WeightPart, size_t) { place(placed, layout.bytes); });
    layout.ignored_suffixes = names_.ignored_suffixes;
    // Files of tied models often repeat the embedding as the head.
    if (spec_.tied_embeddings) layout.ignored_suffixes.push_back(names_.lm_head);
    return layout;
  }

 private:
  /// Gives what is described a place, unless it is empty.
  template <typename Item>
  void place(Placed<Item>& placed, size_t& bytes) const {
    placed.offset = -1;
    const size_t size = packed_bytes(backend_, placed.item);
    if (size == 0) return;
    placed.offset = static_cast<int64_t>(bytes);
    const size_t alignment = backend_.packed_alignment();
    bytes += (size + alignment - 1) / alignment * alignment;
  }

  /// Tensors stacked over their rows.
  static Placed<MatrixItem> matrix(const tensor::WeightFormat& format, std::vector<Slice> slices) {
    Placed<MatrixItem> placed;
    placed.item.desc = {.n = 0, .k = slices.front().cols, .format = format};
    int64_t at = 0;
    for (Slice& slice : slices) {
      slice.stacked_at = at;
      at += slice.tensor_rows;
      placed.item.desc.n += slice.rows;
    }
    placed.item.slices = std::move(slices);
    return placed;
  }

  static Placed<VectorItem> vector(float dummy, std::vector<Slice> slices) {
    return {.item = {.slices = std::move(slices), .dummy = dummy}};
  }

  /// The integers that all these slices are stored in and the backend computes with; null: some are
  /// not, or are cut within a group. `stacked`: the tensor that all of them are part of instead.
  const tensor::WeightFormat* kept(std::span<const Slice> slices,
                                   const std::string& stacked = {}) const {
    if (spec_.stored == nullptr) return nullptr;
    const tensor::WeightFormat* common = nullptr;
    for (const Slice& slice : slices) {
      const tensor::WeightFormat* format = spec_.stored->find(
          stacked.empty() ? slice.name : stacked, slice.tensor_rows, slice.tensor_cols);
      if (format == nullptr || (common != nullptr && *common != *format)) return nullptr;
      const int64_t block = tensor::integers_of(*format)->block;
      if (slice.col % block != 0) return nullptr;
      common = format;
    }
    return common != nullptr && backend_.supports(*common).empty() ? common : nullptr;
  }

  /// Keeps experts as they are stored, where both of their products are in integers then.
  void keep(ExpertsItem& item) const {
    std::vector<Slice> gated = item.gate;
    gated.insert(gated.end(), item.up.begin(), item.up.end());
    const tensor::WeightFormat* gate_up = kept(gated);
    const tensor::WeightFormat* down = kept(item.down);
    if (gate_up == nullptr && !item.stacked_gate.empty()) {
      gate_up = kept(item.gate, item.stacked_gate);
      const tensor::WeightFormat* up = kept(item.up, item.stacked_up);
      if (up == nullptr || gate_up == nullptr || *up != *gate_up) gate_up = nullptr;
      down = kept(item.down, item.stacked_down);
    }
    if (gate_up == nullptr && !item.fused_gate_up.empty()) {
      gate_up = kept(item.gate, item.fused_gate_up);
      down = kept(item.down, item.fused_down);
    }
    if (gate_up == nullptr || down == nullptr) return;
    item.desc.format = *gate_up;
    if (*down != *gate_up) item.desc.down_format = *down;
  }

  /// The stacked projections, in one matrix or, where v is stored otherwise, in two.
  void projections(std::vector<Slice> slices, LayerLayout& layout) const {
    const tensor::WeightFormat* all = kept(slices);
    const tensor::WeightFormat* first = kept(std::span(slices).first(2));
    const tensor::WeightFormat* last = kept(std::span(slices).last(1));
    layout.qkv = matrix(all != nullptr ? *all : format_, slices);
    if (all != nullptr || first == nullptr || last == nullptr) return;
    const Slice v = layout.qkv.item.slices.back();
    slices.pop_back();
    layout.qkv = matrix(*first, std::move(slices));
    layout.v = matrix(*last, {v});
    layout.v.item.slices.front().stacked_at = v.stacked_at;
  }

  /// `count` experts of `full_width`, of which this rank holds `experts` and of each `width`.
  Placed<ExpertsItem> experts(int64_t count, int64_t full_width, const Share& experts,
                              const Share& width, const FfnNames& names) const {
    Placed<ExpertsItem> placed;
    ExpertsItem& item = placed.item;
    item.desc = {.experts = width.count > 0 ? experts.count : 0,
                 .hidden = spec_.hidden,
                 .width = width.count,
                 .format = format_};
    item.first_expert = experts.first;
    item.tensor_experts = count;
    for (int64_t e = experts.first; e < experts.first + item.desc.experts; ++e) {
      const auto name = [&](const std::string& pattern) {
        return substitute(prefix_ + pattern, "{E}", e);
      };
      item.gate.push_back(rows_of(whole(name(names.gate), full_width, spec_.hidden), width));
      item.up.push_back(rows_of(whole(name(names.up), full_width, spec_.hidden), width));
      item.down.push_back(cols_of(whole(name(names.down), spec_.hidden, full_width), width));
    }
    return placed;
  }

  /// An FFN that is not one of several.
  Placed<ExpertsItem> single(int64_t full_width, const Share& width, const FfnNames& names) const {
    return experts(1, full_width, {0, 1}, width, names);
  }

  /// Queries' or keys' rows, as they are stored.
  Slice heads_of(Slice slice, const Share& rows, int64_t head_dim) const {
    if (spec_.rope_pairs) slice.paired_rows = head_dim;
    return rows_of(std::move(slice), rows);
  }

  void attention(const AttentionSpec& spec, const LayerShare& share, LayerLayout& layout) const {
    const auto name = [&](const std::string& part, const char* suffix = "") {
      return prefix_ + part + suffix;
    };
    const int64_t q_width = spec.heads * spec.head_dim;
    const int64_t kv_width = spec.kv_heads * spec.head_dim;
    const Share q = elements(share.heads, spec.head_dim);
    const Share kv = elements(share.kv_heads, spec.head_dim);
    if (q.count > 0) {
      projections(
          {heads_of(whole(name(names_.q, "weight"), q_width, spec_.hidden), q, spec.head_dim),
           heads_of(whole(name(names_.k, "weight"), kv_width, spec_.hidden), kv, spec.head_dim),
           rows_of(whole(name(names_.v, "weight"), kv_width, spec_.hidden), kv)},
          layout);
      const Slice o = cols_of(whole(name(names_.o, "weight"), spec_.hidden, q_width), q);
      const tensor::WeightFormat* stored = kept(std::span(&o, 1));
      layout.o = matrix(stored != nullptr ? *stored : format_, {o});
    }
    if (spec.qkv_bias) {
      layout.qkv_bias =
          vector(0.0f, {heads_of(whole(name(names_.q, "bias"), q_width), q, spec.head_dim),
                        heads_of(whole(name(names_.k, "bias"), kv_width), kv, spec.head_dim),
                        rows_of(whole(name(names_.v, "bias"), kv_width), kv)});
    }
    if (spec.qk_norm == backend::QkNorm::kPerHead) {
      layout.q_norm = vector(1.0f, {whole(name(names_.q_norm), spec.head_dim)});
      layout.k_norm = vector(1.0f, {whole(name(names_.k_norm), spec.head_dim)});
    } else if (spec.qk_norm == backend::QkNorm::kFull) {
      layout.q_norm = vector(1.0f, {rows_of(whole(name(names_.q_norm), q_width), q)});
      layout.k_norm = vector(1.0f, {rows_of(whole(name(names_.k_norm), kv_width), kv)});
    }
    // Added once: by a rank that has heads, and rank 0 has some if any rank has.
    if (spec.o_bias && shard_.rank == 0) {
      layout.o_bias = vector(0.0f, {whole(name(names_.o, "bias"), spec_.hidden)});
    }
  }

  void moe(const FfnSpec& spec, const LayerShare& share, LayerLayout& layout) const {
    // Router and gate stay float32: they are small, and a choice of experts that rounding flips
    // changes the whole row. Every rank routes every row.
    layout.router =
        matrix(tensor::DType::kF32, {whole(prefix_ + names_.router, spec.experts, spec_.hidden)});
    layout.experts = experts(spec.experts, spec.width, share.experts, share.width, names_.expert);
    ExpertsItem& item = layout.experts.item;
    item.fused_gate_up = prefix_ + names_.fused_gate_up;
    item.fused_down = prefix_ + names_.fused_down;
    if (!names_.stacked.gate.empty()) {
      item.stacked_gate = prefix_ + names_.stacked.gate;
      item.stacked_up = prefix_ + names_.stacked.up;
      item.stacked_down = prefix_ + names_.stacked.down;
    }
    keep(item);
    if (spec.shared_width == 0) return;
    layout.shared = single(spec.shared_width, share.shared_width, names_.shared);
    keep(layout.shared.item);
    if (spec.shared_gate) {
      layout.shared_gate =
          matrix(tensor::DType::kF32, {whole(prefix_ + names_.shared_gate, 1, spec_.hidden)});
    }
  }

  LayerLayout layer(const LayerSpec& spec) const {
    const LayerShare share(spec, shard_);
    LayerLayout layout;
    layout.moe = spec.ffn.moe;
    layout.input_norm =
        vector(kDummyBranchNorm, {whole(prefix_ + names_.input_norm, spec_.hidden)});
    attention(spec.attention, share, layout);
    layout.post_attention_norm =
        vector(kDummyBranchNorm, {whole(prefix_ + names_.post_attention_norm, spec_.hidden)});
    if (spec.ffn.moe) {
      moe(spec.ffn, share, layout);
    } else {
      layout.experts = single(spec.ffn.width, share.width, names_.dense);
      keep(layout.experts.item);
    }
    return layout;
  }

  const ModelSpec& spec_;
  const backend::Backend& backend_;
  const tensor::WeightFormat& format_;
  const Shard& shard_;
  const TensorNames& names_;
  std::string prefix_;
};

void add_names(const MatrixItem& item, std::unordered_set<std::string>& names) {
  for (const Slice& slice : item.slices) names.insert(slice.name);
}
void add_names(const VectorItem& item, std::unordered_set<std::string>& names) {
  for (const Slice& slice : item.slices) names.insert(slice.name);
}
void add_names(const ExpertsItem& item, std::unordered_set<std::string>& names) {
  for (const auto* slices : {&item.gate, &item.up, &item.down}) {
    for (const Slice& slice : *slices) names.insert(slice.name);
  }
  for (const auto* name : {&item.fused_gate_up, &item.fused_down, &item.stacked_gate,
                           &item.stacked_up, &item.stacked_down}) {
    if (!name->empty()) names.insert(*name);
  }
}

/// Of every tensor that a layout's items are made of, in any spelling.
std::unordered_set<std::string> tensor_names(const WeightLayout& layout) {
  std::unordered_set<std::string> names;
  for_each_item(layout, [&](const auto& placed, WeightPart, size_t) {
    if (placed.present()) add_names(placed.item, names);
  });
  return names;
}

}  // namespace

int64_t VectorItem::size() const {
  int64_t total = 0;
  for (const Slice& slice : slices) total += slice.rows;
  return total;
}

size_t packed_bytes(const backend::Backend& backend, const MatrixItem& item) {
  return item.desc.n > 0 ? backend.packed_bytes(item.desc) : 0;
}
size_t packed_bytes(const backend::Backend& backend, const ExpertsItem& item) {
  return item.desc.experts > 0 ? backend.packed_bytes(item.desc) : 0;
}
size_t packed_bytes(const backend::Backend&, const VectorItem& item) {
  return static_cast<size_t>(item.size()) * sizeof(float);
}

std::vector<std::pair<std::string, uint64_t>> format_bytes(const WeightLayout& layout,
                                                           const backend::Backend& backend) {
  std::vector<std::pair<std::string, uint64_t>> found;
  const auto add = [&](const tensor::WeightFormat& format, size_t bytes) {
    const std::string name(format.label.empty() ? format.name : format.label);
    auto known = std::find_if(found.begin(), found.end(),
                              [&](const auto& other) { return other.first == name; });
    if (known == found.end()) known = found.insert(found.end(), {name, 0});
    known->second += bytes;
  };
  for_each_item(layout, [&](const auto& placed, WeightPart, size_t) {
    using Item = std::decay_t<decltype(placed.item)>;
    if (!placed.present()) return;
    if constexpr (std::is_same_v<Item, MatrixItem>) {
      add(placed.item.desc.format, packed_bytes(backend, placed.item));
    } else if constexpr (std::is_same_v<Item, ExpertsItem>) {
      // Two thirds of the values are gate and up.
      const backend::ExpertsDesc& desc = placed.item.desc;
      const double gated = 2 * desc.format.bytes_per_weight();
      const double share = gated / (gated + desc.down().bytes_per_weight());
      const size_t bytes = packed_bytes(backend, placed.item);
      const auto first = static_cast<size_t>(share * static_cast<double>(bytes));
      add(desc.format, first);
      add(desc.down(), bytes - first);
    }
  });
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.second > b.second; });
  return found;
}

WeightParts weight_parts(const WeightLayout& layout) {
  WeightParts parts;
  uint64_t* const counts[] = {&parts.attention, &parts.experts, &parts.shared, &parts.embeddings};
  std::vector<std::pair<uint64_t, WeightPart>> starts;
  for_each_item(layout, [&](const auto& placed, WeightPart part, size_t) {
    if (placed.present()) starts.emplace_back(placed.offset, part);
  });
  for (size_t i = 0; i < starts.size(); ++i) {
    const uint64_t end = i + 1 < starts.size() ? starts[i + 1].first : layout.bytes;
    *counts[static_cast<size_t>(starts[i].second)] += end - starts[i].first;
  }
  return parts;
}

WeightLayout lay_out_weights(const ModelSpec& spec, const backend::Backend& backend,
                             const tensor::WeightFormat& format, const Shard& shard) {
  MOESAIC_ASSERT(shard.ranks > 0 && shard.rank >= 0 && shard.rank < shard.ranks);
  const Family* family = find_family(spec.family);
  MOESAIC_ASSERT(family != nullptr && family->can_serve);
  const backend::Unsupported reason = backend.supports(format);
  if (!reason.empty()) throw base::ConfigError(reason);
  const TensorNames& names = spec.gguf ? gguf_names() : family->names;
  WeightLayout layout = Planner(spec, backend, format, shard, names).run();
  layout.stored_as = spec.quantization.rules;
  if (shard.ranks > 1) {
    layout.elsewhere = tensor_names(Planner(spec, backend, format, {}, names).run());
    for (const std::string& own : tensor_names(layout)) layout.elsewhere.erase(own);
  }
  return layout;
}

}  // namespace moesaic::model
