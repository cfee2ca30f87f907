#include "model/stored_formats.h"

#include "model/quantization_rules.h"
#include "model/stored_weights.h"
#include "tensor/integers.h"

namespace moesaic::model {
namespace {

namespace fs = std::filesystem;

bool has_tensors(const fs::path& path) {
  std::error_code error;
  return checkpoint::find_gguf(path).has_value() || fs::exists(path / "model.safetensors", error) ||
         fs::exists(path / "model.safetensors.index.json", error);
}

}  // namespace

StoredFormats::StoredFormats(fs::path path, std::shared_ptr<const QuantizationRules> rules)
    : path_(std::move(path)), rules_(std::move(rules)) {}

const checkpoint::Checkpoint* StoredFormats::tensors() const {
  std::call_once(opened_, [&] {
    if (has_tensors(path_)) checkpoint_.emplace(checkpoint::Checkpoint::open(path_));
  });
  return checkpoint_ ? &*checkpoint_ : nullptr;
}

const tensor::WeightFormat* StoredFormats::find(const std::string& weight, int64_t outputs,
                                                int64_t inputs) const {
  const auto if_integers = [](const tensor::WeightFormat* format) {
    return format != nullptr && tensor::integers_of(*format) ? format : nullptr;
  };
  const checkpoint::Checkpoint* checkpoint = tensors();
  if (checkpoint != nullptr && checkpoint->metadata() != nullptr) {
    const checkpoint::TensorEntry* entry = checkpoint->find(weight);
    return entry == nullptr ? nullptr : if_integers(entry->format);
  }
  if (rules_ == nullptr) return nullptr;
  if (checkpoint == nullptr) {
    constexpr std::string_view kWeight = ".weight";
    if (!weight.ends_with(kWeight)) return nullptr;
    const StoredFormat* stored =
        rules_->find(std::string_view(weight).substr(0, weight.size() - kWeight.size()));
    return stored == nullptr || stored->order_needed ? nullptr : if_integers(&stored->format);
  }
  const auto stored = StoredWeights(*checkpoint, rules_.get()).find(weight, outputs, inputs);
  if (!stored || if_integers(stored->format) == nullptr) return nullptr;
  return tensor::in_order(*stored->format, stored->part) ? stored->format : nullptr;
}

}  // namespace moesaic::model
