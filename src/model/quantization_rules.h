#pragma once

// In which format each module of a quantised Hugging Face checkpoint is stored, and under which
// names its tensors lie: what "quantization_config" says, as rules over the names of modules.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config_reader.h"
#include "model/module_pattern.h"
#include "tensor/weight_format.h"

namespace moesaic::model {

/// Names of the tensors that hold one module's weight, after the module's own; empty: none.
struct StoredNames {
  std::string_view values;
  std::string_view scales;
  std::string_view other_scales;  ///< another spelling of `scales`
  std::string_view zeros;
  std::string_view order;
  std::string_view outer_scales;
  std::string_view codes;
  std::string_view scale_codes;
  std::string_view shape;  ///< two integers, outputs and inputs
  std::string_view state;  ///< JSON in bytes (bitsandbytes)
  /// Known and not needed: of activations that are quantised beforehand, kinds of storage.
  std::array<std::string_view, 2> unused;
};

/// How the weight of a module is stored.
struct StoredFormat {
  tensor::WeightFormat format;
  const StoredNames* names = nullptr;
  bool order_needed = false;  ///< inputs were reordered before grouping

  /// "4-bit AWQ in groups of 128".
  std::string description() const;
};

class QuantizationRules {
 public:
  /// Reads "quantization_config" itself. Throws ModelFileError for keys of the wrong type and for
  /// methods, widths and packings that cannot be read, naming them.
  explicit QuantizationRules(const ConfigReader& config);

  /// How the weight of a module, such as "model.layers.3.mlp.experts.7.gate_proj", is stored where
  /// it is stored quantised at all; null for a module that the config leaves alone.
  const StoredFormat* find(std::string_view module) const;

  /// "4-bit AWQ in groups of 128", several separated by commas.
  std::string description() const;

  /// Every name after a module's that a tensor of these formats can have.
  const std::vector<std::string_view>& suffixes() const { return suffixes_; }
  /// Changes with what the config says.
  uint64_t digest() const { return digest_; }

 private:
  struct Rule {
    ModuleSet modules;
    bool every = false;  ///< all that no other rule has
    StoredFormat stored;
  };

  void add(const StoredFormat& stored);
  void read_awq(const ConfigReader& config);
  void read_gptq(const ConfigReader& config);
  void read_gptq_overrides(const ConfigReader& overrides, const StoredFormat& usual);
  void read_fp8(const ConfigReader& config, const std::string& method);
  void read_bitsandbytes(const ConfigReader& config);
  void read_compressed_tensors(const ConfigReader& config);
  void read_group(const ConfigReader& group, const std::string& usual_packing);
  void read_modelopt(const ConfigReader& config);

  ModuleSet ignored_;
  std::vector<Rule> rules_;
  std::vector<std::string_view> suffixes_;
  uint64_t digest_ = 0;
};

}  // namespace moesaic::model
