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
    case Part::kEncoder:
      return count.encoder;
    case Part::kExpert:
      break;
  }
  return count.experts;
}

}  // namespace

ParameterCount count_parameters(const ModelSpec& spec) {
  ParameterCount count;
  double idle = 0;  // parameters that a token of text does not meet
  const auto add = [&](const SpecTensor& tensor) {
    place_of(count, tensor.part) += tensor.elements();
    count.total += tensor.elements();
  };
  for (const SpecTensor& tensor : input_tensors(spec)) add(tensor);
  for (const SpecTensor& tensor : output_tensors(spec)) add(tensor);
  for (const LayerSpec& layer : spec.layers) {
    for (const SpecTensor& tensor : layer_tensors(spec, layer)) {
      add(tensor);
      if (tensor.part != Part::kExpert) continue;
      const double one = static_cast<double>(tensor.rows * tensor.columns);
      idle += one * (static_cast<double>(tensor.copies) - layer.ffn.chosen());
    }
  }
  count.active = count.total - count.encoder - static_cast<int64_t>(idle);
  return count;
}

}  // namespace moesaic::model
