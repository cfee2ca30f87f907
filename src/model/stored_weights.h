#pragma once

// The tensors of a quantised checkpoint that hold one module's weight: found by the rules of its
// config, checked against the format, and put together as a part of a matrix.

#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "model/quantization_rules.h"
#include "tensor/weight_format.h"

namespace moesaic::model {

/// A tensor whose content must be looked at before it is used: scales that are numbers, groups that
/// exist.
struct StoredCheck {
  const checkpoint::TensorEntry* tensor = nullptr;
  int64_t groups = 0;  ///< 0: the tensor has scales; else numbers of groups below this
};

/// A quantised matrix, whole, as it lies in the checkpoint.
struct StoredMatrix {
  tensor::Part part;
  const tensor::WeightFormat* format = nullptr;  ///< of the rules
  std::vector<std::string_view> names;           ///< of its tensors
  std::vector<StoredCheck> checks;
};

class StoredWeights {
 public:
  /// `rules` may be null: nothing is quantised. Both outlive this.
  StoredWeights(const checkpoint::Checkpoint& checkpoint, const QuantizationRules* rules)
      : checkpoint_(checkpoint), rules_(rules) {}

  /// The matrix [outputs, inputs] that stands for the tensor `weight`, such as "x.weight"; nothing
  /// where the checkpoint has that tensor in floats, or nothing of that module. Throws
  /// ModelFileError, naming the tensor, where one is missing, misshapen or of the wrong type, or
  /// where the config says nothing of it.
  std::optional<StoredMatrix> find(const std::string& weight, int64_t outputs,
                                   int64_t inputs) const;

  /// The weight whose storage a tensor is part of, "x.weight" for "x.qzeros"; empty for others.
  std::string weight_of(std::string_view tensor) const;

  /// A tensor that quantising tools write and nothing here needs: scales of cached keys and values,
  /// a bias of zeros where the architecture has none.
  bool unneeded(const checkpoint::TensorEntry& tensor) const;

 private:
  const checkpoint::Checkpoint& checkpoint_;
  const QuantizationRules* rules_;
};

/// Throws ModelFileError for the first tensor that fails its check. Reads the tensors, on the
/// threads of `pool`.
void check_stored(const std::vector<StoredCheck>& checks, base::ThreadPool& pool);

}  // namespace moesaic::model
