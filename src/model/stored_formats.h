#pragma once

// In which integers the matrices of a model are stored, for backends that compute with them.

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "model/quantization_facts.h"
#include "tensor/weight_format.h"

namespace moesaic::model {

class StoredFormats {
 public:
  /// Of the model at `path`: a folder, its config.json or a GGUF file. The tensors are looked at
  /// when they are first asked for; without any, what the config says counts.
  StoredFormats(std::filesystem::path path, std::shared_ptr<const QuantizationRules> rules);

  /// The format of the tensor `weight`, [outputs, inputs] or a stack of such, if its values are
  /// integers (tensor/integers.h) whose groups lie in order; else null. It lives as long as this.
  /// Throws ModelFileError as StoredWeights::find does.
  const tensor::WeightFormat* find(const std::string& weight, int64_t outputs,
                                   int64_t inputs) const;

 private:
  const checkpoint::Checkpoint* tensors() const;

  std::filesystem::path path_;
  std::shared_ptr<const QuantizationRules> rules_;
  mutable std::once_flag opened_;
  mutable std::optional<checkpoint::Checkpoint> checkpoint_;
};

}  // namespace moesaic::model
