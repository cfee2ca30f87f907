#include "plan/memory.h"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::plan {

namespace {

using model::AttentionKind;
using model::Cut;
using model::FfnSpec;
using model::LayerSpec;
using model::ModelSpec;
using model::Part;
using model::SpecTensor;

/// Bytes of what quantisation leaves alone.
constexpr double kPlainBytes = 2;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
double real(int64_t value) { return static_cast<double>(value); }

/// The share of a tensor that one device holds, copies aside.
double share_of(const SpecTensor& tensor, const Layout& layout, const WeightFormat& format) {
  const int64_t devices = layout.stage_devices();
  switch (tensor.cut) {
    case Cut::kNone:
      return 1;
    case Cut::kHeads:
    case Cut::kKvHeads:
    case Cut::kVocab:
      return real(ceil_div(tensor.units, devices)) / real(tensor.units);
    case Cut::kWidth:
      break;
  }
  if (tensor.part == Part::kExpert) {
    return real(expert_share(tensor.units, layout, format)) / real(tensor.units);
  }
  return real(ceil_div(tensor.units, devices)) / real(tensor.units);
}

double element_bytes(const SpecTensor& tensor, const WeightFormat& format) {
  const double plain = format.value_bits > 16 ? format.bytes_per_weight() : kPlainBytes;
  if (!tensor.linear) return plain;
  if (format.experts_only && tensor.part != Part::kExpert) return plain;
  return format.bytes_per_weight();
}

void add(const SpecTensor& tensor, double bytes, MemoryTerms& terms) {
  const auto whole = static_cast<uint64_t>(bytes);
  switch (tensor.part) {
    case Part::kEmbedding:
      terms.embeddings += whole;
      return;
    case Part::kExpert:
      terms.experts += whole;
      return;
    case Part::kSharedExpert:
    case Part::kDenseFfn:
      terms.shared_experts += whole;
      return;
    case Part::kEncoder:
      terms.encoder += whole;
      return;
    case Part::kAttention:
    case Part::kNorm:
    case Part::kRouter:
      terms.attention += whole;
  }
}

MemoryTerms stage_terms(const ModelSpec& spec, const Layout& layout, const WeightFormat& format,
                        int64_t stage) {
  MemoryTerms terms;
  const auto count = [&](const SpecTensor& tensor) {
    add(tensor, tensor_bytes(tensor, layout, format), terms);
  };
  const auto [first, last] = stage_layers(spec.layers.size(), layout, stage);
  for (size_t i = first; i < last; ++i) {
    for (const SpecTensor& tensor : layer_tensors(spec, spec.layers[i])) count(tensor);
  }
  const bool head = stage == layout.pp - 1;
  if (stage == 0) {
    for (const SpecTensor& tensor : input_tensors(spec)) count(tensor);
  } else if (head && spec.tied_embeddings) {
    count(embedding_tensor(spec));
  }
  if (head) {
    for (const SpecTensor& tensor : output_tensors(spec)) count(tensor);
  }
  return terms;
}

/// Heads of which one device keeps keys and values.
int64_t kv_heads_held(const model::AttentionSpec& attention, const Layout& layout) {
  return std::max<int64_t>(1, ceil_div(attention.kv_heads, layout.stage_devices()));
}

/// Values that a row of the attention part takes beside the residual stream, on one device.
double attention_width(const model::AttentionSpec& attention, const Layout& layout) {
  const double devices = real(layout.stage_devices());
  if (attention.kind == AttentionKind::kNone) return 0;
  if (attention.kind == AttentionKind::kRecurrent) {
    return real(attention.recurrent.in_width + attention.recurrent.out_width) / devices;
  }
  const double heads = real(ceil_div(attention.heads, layout.stage_devices()));
  const double kv = 2 * real(kv_heads_held(attention, layout) * attention.head_dim);
  return heads * real(attention.head_dim) + kv + real(attention.output_width()) / devices;
}

}  // namespace

std::pair<size_t, size_t> stage_layers(size_t layers, const Layout& layout, int64_t stage) {
  const auto stages = static_cast<size_t>(layout.pp);
  const auto index = static_cast<size_t>(stage);
  const size_t each = layers / stages;
  const size_t longer = layers % stages;  // the first stages have one layer more
  const size_t first = index * each + std::min(index, longer);
  return {first, first + each + (index < longer ? 1 : 0)};
}

std::string check_layout(const ModelSpec& spec, const Layout& layout) {
  const int64_t devices = layout.stage_devices();
  const auto layers = static_cast<int64_t>(spec.layers.size());
  if (layout.pp > layers) {
    return fmt::format("{} pipeline stages are more than the {} layers", layout.pp, layers);
  }
  for (const LayerSpec& layer : spec.layers) {
    const model::AttentionSpec& attention = layer.attention;
    const bool recurrent = attention.kind == AttentionKind::kRecurrent;
    const int64_t heads = recurrent ? attention.recurrent.heads : attention.heads;
    if (heads % devices != 0) {
      return fmt::format("{} {}heads do not divide over {} devices", heads,
                         recurrent ? "recurrent " : "", devices);
    }
    if (attention.kind == AttentionKind::kGqa && attention.kv_heads % devices != 0 &&
        devices % attention.kv_heads != 0) {
      return fmt::format("{} key-value heads neither divide over {} devices nor repeat evenly",
                         attention.kv_heads, devices);
    }
    if (layer.ffn.moe && layer.ffn.experts % layout.ep != 0) {
      return fmt::format("{} experts do not divide over {} groups", layer.ffn.experts, layout.ep);
    }
  }
  if (layout.ep > 1 && spec.moe_layers() == 0) return "there are no experts to deal out";
  return "";
}

int64_t expert_share(int64_t width, const Layout& layout, const WeightFormat& format) {
  if (layout.tp == 1) return width;
  return ceil_div(ceil_div(width, layout.tp), format.granule) * format.granule;
}

bool expert_widths_divide(const ModelSpec& spec, const Layout& layout, const WeightFormat& format) {
  return std::all_of(spec.layers.begin(), spec.layers.end(), [&](const LayerSpec& layer) {
    return !layer.ffn.moe ||
           expert_share(layer.ffn.width, layout, format) * layout.tp == layer.ffn.width;
  });
}

double tensor_bytes(const SpecTensor& tensor, const Layout& layout, const WeightFormat& format,
                    std::optional<double> experts) {
  const double held = tensor.part == Part::kExpert ? real(ceil_div(tensor.copies, layout.ep)) : 1;
  return real(tensor.rows * tensor.columns) * experts.value_or(held) *
         share_of(tensor, layout, format) * element_bytes(tensor, format);
}

MemoryTerms weight_terms(const ModelSpec& spec, const Layout& layout, const WeightFormat& format) {
  MemoryTerms fullest;
  for (int64_t stage = 0; stage < layout.pp; ++stage) {
    const MemoryTerms terms = stage_terms(spec, layout, format, stage);
    if (terms.weights() > fullest.weights()) fullest = terms;
  }
  return fullest;
}

uint64_t weight_bytes(const ModelSpec& spec, const WeightFormat& format) {
  return weight_terms(spec, {}, format).weights();
}

double cached_bytes(const model::AttentionSpec& attention, const Layout& layout,
                    double kv_element_bytes) {
  switch (attention.kind) {
    case AttentionKind::kMla:
      return attention.cached_bytes(kv_element_bytes);
    case AttentionKind::kGqa:
      return 2 * real(kv_heads_held(attention, layout) * attention.head_dim) * kv_element_bytes;
    case AttentionKind::kRecurrent:
    case AttentionKind::kNone:
      break;
  }
  return 0;
}

double state_bytes(const model::AttentionSpec& attention, const Layout& layout) {
  if (attention.kind != AttentionKind::kRecurrent) return 0;
  return attention.recurrent.state_bytes() / real(layout.stage_devices());
}

double sequence_bytes(const ModelSpec& spec, const Layout& layout, double kv_element_bytes,
                      double length) {
  double most = 0;
  for (int64_t stage = 0; stage < layout.pp; ++stage) {
    double bytes = 0;
    const auto [first, last] = stage_layers(spec.layers.size(), layout, stage);
    for (size_t i = first; i < last; ++i) {
      const model::AttentionSpec& attention = spec.layers[i].attention;
      const double window = real(attention.sliding_window);
      bytes += cached_bytes(attention, layout, kv_element_bytes) *
                   (window > 0 ? std::min(window, length) : length) +
               state_bytes(attention, layout);
    }
    most = std::max(most, bytes);
  }
  return most;
}

uint64_t activation_bytes(const ModelSpec& spec, const Layout& layout, int64_t rows,
                          int64_t sequences) {
  const int64_t devices = layout.stage_devices();
  double widest = 0;  // values per row, beside the residual stream
  for (const LayerSpec& layer : spec.layers) {
    const double attend = attention_width(layer.attention, layout);
    const FfnSpec& ffn = layer.ffn;
    double feed = 3 * real(ffn.width) / real(devices);  // gate, up and their product
    if (ffn.moe) {
      // Every row's chosen experts, of which a group of ep sees its share at the least; an uneven
      // batch may send all of them to one group, and must fit too.
      const double chosen = real(ffn.router.top_k);
      feed = chosen * (3 * real(ffn.width) / real(layout.tp) + real(spec.hidden)) +
             3 * real(ffn.shared_width) / real(devices) + 2 * real(ffn.experts);
    }
    widest = std::max({widest, attend, feed});
  }
  // Residual, its normed copy and the layer's output, all in 16 bits; logits and probabilities
  // in 32.
  const double stream = 3 * real(spec.hidden);
  const double logits = 2 * real(ceil_div(spec.vocab_size, devices)) * 4;
  return static_cast<uint64_t>(real(rows) * (stream + widest) * 2 + real(sequences) * logits);
}

}  // namespace moesaic::plan
