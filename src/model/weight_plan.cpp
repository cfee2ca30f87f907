#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "model/family.h"
#include "model/weights.h"

namespace moesaic::model {

namespace {

/// Packed items start here: a cache line, and the widest vector.
constexpr size_t kAlignment = 64;

/// Dummy value of the norm before attention or FFN. With 1, what attention adds outweighs a random
/// embedding; it is an average over the context, nearly the same for neighbouring tokens, and they
/// would all be routed to a few experts. This keeps each token itself, as training does.
constexpr float kDummyBranchNorm = 1.0f / 64;

std::string substitute(std::string text, std::string_view placeholder, int64_t value) {
  const size_t at = text.find(placeholder);
  if (at != std::string::npos) text.replace(at, placeholder.size(), std::to_string(value));
  return text;
}

/// Walks the spec once, handing out places in the region.
class Planner {
 public:
  Planner(const ModelSpec& spec, const backend::Backend& backend, tensor::DType dtype,
          const TensorNames& names)
      : spec_(spec), backend_(backend), dtype_(dtype), names_(names) {}

  WeightPlan run() {
    WeightPlan plan;
    plan.embed = matrix(dtype_, spec_.hidden, {{names_.embed, spec_.vocab_size}});
    for (size_t i = 0; i < spec_.layers.size(); ++i) {
      prefix_ = substitute(names_.layer, "{L}", static_cast<int64_t>(i));
      plan.layers.push_back(layer(spec_.layers[i]));
    }
    plan.final_norm = vector(1.0f, {{names_.final_norm, spec_.hidden}});
    if (!spec_.tied_embeddings) {
      plan.lm_head = matrix(dtype_, spec_.hidden, {{names_.lm_head, spec_.vocab_size}});
    }
    plan.bytes = bytes_;
    plan.ignored_suffixes = names_.ignored_suffixes;
    // Files of tied models often repeat the embedding as the head.
    if (spec_.tied_embeddings) plan.ignored_suffixes.push_back(names_.lm_head);
    return plan;
  }

 private:
  using Parts = std::vector<std::pair<std::string, int64_t>>;

  int64_t place(size_t bytes) {
    const size_t offset = bytes_;
    bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return static_cast<int64_t>(offset);
  }

  Placed<MatrixItem> matrix(tensor::DType dtype, int64_t columns, const Parts& parts) {
    Placed<MatrixItem> placed;
    placed.item.desc = {.n = 0, .k = columns, .dtype = dtype};
    for (const auto& [name, rows] : parts) {
      placed.item.parts.push_back(name);
      placed.item.part_rows.push_back(rows);
      placed.item.desc.n += rows;
    }
    placed.offset = place(backend_.packed_bytes(placed.item.desc));
    return placed;
  }

  Placed<VectorItem> vector(float dummy, const Parts& parts) {
    Placed<VectorItem> placed;
    placed.item.dummy = dummy;
    int64_t size = 0;
    for (const auto& [name, part] : parts) {
      placed.item.parts.push_back(name);
      placed.item.part_sizes.push_back(part);
      size += part;
    }
    placed.offset = place(static_cast<size_t>(size) * sizeof(float));
    return placed;
  }

  Placed<ExpertsItem> experts(int64_t count, int64_t width, const std::string& gate,
                              const std::string& up, const std::string& down) {
    Placed<ExpertsItem> placed;
    placed.item.desc = {.experts = count, .hidden = spec_.hidden, .width = width, .dtype = dtype_};
    for (int64_t e = 0; e < count; ++e) {
      placed.item.gate.push_back(substitute(prefix_ + gate, "{E}", e));
      placed.item.up.push_back(substitute(prefix_ + up, "{E}", e));
      placed.item.down.push_back(substitute(prefix_ + down, "{E}", e));
    }
    placed.offset = place(backend_.packed_bytes(placed.item.desc));
    return placed;
  }

  /// One FFN named `part` + {gate,up,down}_proj.weight.
  Placed<ExpertsItem> single(int64_t width, const std::string& part) {
    return experts(1, width, part + "gate_proj.weight", part + "up_proj.weight",
                   part + "down_proj.weight");
  }

  void attention(const AttentionSpec& spec, LayerPlan& plan) {
    const std::string base = prefix_ + names_.attention;
    const int64_t q_width = spec.heads * spec.head_dim;
    const int64_t kv_width = spec.kv_heads * spec.head_dim;
    plan.qkv = matrix(dtype_, spec_.hidden,
                      {{base + "q_proj.weight", q_width},
                       {base + "k_proj.weight", kv_width},
                       {base + "v_proj.weight", kv_width}});
    if (spec.qkv_bias) {
      plan.qkv_bias = vector(0.0f, {{base + "q_proj.bias", q_width},
                                    {base + "k_proj.bias", kv_width},
                                    {base + "v_proj.bias", kv_width}});
    }
    if (spec.qk_norm != backend::QkNorm::kNone) {
      const bool per_head = spec.qk_norm == backend::QkNorm::kPerHead;
      plan.q_norm = vector(1.0f, {{base + "q_norm.weight", per_head ? spec.head_dim : q_width}});
      plan.k_norm = vector(1.0f, {{base + "k_norm.weight", per_head ? spec.head_dim : kv_width}});
    }
    plan.o = matrix(dtype_, q_width, {{base + "o_proj.weight", spec_.hidden}});
    if (spec.o_bias) plan.o_bias = vector(0.0f, {{base + "o_proj.bias", spec_.hidden}});
  }

  void moe(const FfnSpec& spec, LayerPlan& plan) {
    // Router and gate stay float32: they are small, and a choice of experts that rounding flips
    // changes the whole row.
    plan.router =
        matrix(tensor::DType::kF32, spec_.hidden, {{prefix_ + names_.router, spec.experts}});
    plan.experts =
        experts(spec.experts, spec.width, names_.expert_gate, names_.expert_up, names_.expert_down);
    plan.experts.item.fused_gate_up = prefix_ + names_.fused_gate_up;
    plan.experts.item.fused_down = prefix_ + names_.fused_down;
    if (spec.shared_width == 0) return;
    plan.shared = single(spec.shared_width, names_.shared);
    if (spec.shared_gate) {
      plan.shared_gate =
          matrix(tensor::DType::kF32, spec_.hidden, {{prefix_ + names_.shared_gate, 1}});
    }
  }

  LayerPlan layer(const LayerSpec& spec) {
    LayerPlan plan;
    plan.input_norm = vector(kDummyBranchNorm, {{prefix_ + names_.input_norm, spec_.hidden}});
    attention(spec.attention, plan);
    plan.post_attention_norm =
        vector(kDummyBranchNorm, {{prefix_ + names_.post_attention_norm, spec_.hidden}});
    if (spec.ffn.moe) {
      moe(spec.ffn, plan);
    } else {
      plan.experts = single(spec.ffn.width, names_.dense);
    }
    return plan;
  }

  const ModelSpec& spec_;
  const backend::Backend& backend_;
  tensor::DType dtype_;
  const TensorNames& names_;
  std::string prefix_;
  size_t bytes_ = 0;
};

}  // namespace

WeightParts weight_parts(const WeightPlan& plan, const ModelSpec& spec) {
  WeightParts parts;
  std::vector<std::pair<int64_t, uint64_t*>> starts;  // of each item, and the part it belongs to
  const auto add = [&](const auto& placed, uint64_t& part) {
    if (placed.present()) starts.emplace_back(placed.offset, &part);
  };
  add(plan.embed, parts.embeddings);
  add(plan.lm_head, parts.embeddings);
  add(plan.final_norm, parts.attention);
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    const LayerPlan& layer = plan.layers[i];
    for (const auto* vector : {&layer.input_norm, &layer.post_attention_norm, &layer.q_norm,
                               &layer.k_norm, &layer.qkv_bias, &layer.o_bias}) {
      add(*vector, parts.attention);
    }
    for (const auto* matrix : {&layer.qkv, &layer.o, &layer.router}) add(*matrix, parts.attention);
    add(layer.experts, spec.layers[i].ffn.moe ? parts.experts : parts.shared);
    add(layer.shared_gate, parts.shared);
    add(layer.shared, parts.shared);
  }
  std::sort(starts.begin(), starts.end());
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t end =
        i + 1 < starts.size() ? starts[i + 1].first : static_cast<int64_t>(plan.bytes);
    *starts[i].second += static_cast<uint64_t>(end - starts[i].first);
  }
  return parts;
}

WeightPlan plan_weights(const ModelSpec& spec, const backend::Backend& backend,
                        tensor::DType dtype) {
  const Family* family = find_family(spec.family);
  MOESAIC_ASSERT(family != nullptr && family->can_serve);
  const backend::Unsupported reason = backend.supports(dtype);
  if (!reason.empty()) throw base::ConfigError(reason);
  return Planner(spec, backend, dtype, family->names).run();
}

}  // namespace moesaic::model
