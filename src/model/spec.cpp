#include "model/spec.h"

#include <algorithm>

#include "model/tensor_list.h"

namespace moesaic::model {

int64_t ModelSpec::moe_layers() const {
  return std::count_if(layers.begin(), layers.end(),
                       [](const LayerSpec& layer) { return layer.ffn.moe; });
}

int64_t ModelSpec::max_experts() const {
  int64_t most = 0;
  for (const LayerSpec& layer : layers) most = std::max(most, layer.ffn.experts);
  return most;
}

int64_t ModelSpec::max_top_k() const {
  int64_t most = 0;
  for (const LayerSpec& layer : layers) most = std::max(most, layer.ffn.router.top_k);
  return most;
}

namespace {

int64_t& place_of(ParameterCount& count, Part part) {
  switch (part) {
    case Part::kEmbedding:
      return count.embeddings;
    case Part::kAttention:
      return count.attention;
    case Part::kNorm:
      return count.norms;
    case Part::kRouter:
      return count.routers;
    case Part::kDenseFfn:
      return count.dense_ffn;
    case Part::kSharedExpert:
      return count.shared_experts;
    case Part::kExpert:
      break;
  }
  return count.experts;
}

}  // namespace

ParameterCount count_parameters(const ModelSpec& spec) {
  ParameterCount count;
  int64_t idle_experts = 0;  // parameters of experts that one token does not visit
  const auto add = [&](const SpecTensor& tensor) {
    place_of(count, tensor.part) += tensor.elements();
    count.total += tensor.elements();
  };
  add(embedding_tensor(spec));
  for (const SpecTensor& tensor : output_tensors(spec)) add(tensor);
  for (const LayerSpec& layer : spec.layers) {
    for (const SpecTensor& tensor : layer_tensors(spec, layer)) {
      add(tensor);
      if (tensor.part != Part::kExpert) continue;
      idle_experts += tensor.elements() / tensor.copies * (tensor.copies - layer.ffn.router.top_k);
    }
  }
  count.active = count.total - idle_experts;
  return count;
}

}  // namespace moesaic::model
