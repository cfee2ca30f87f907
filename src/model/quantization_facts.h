#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace moesaic::model {

class QuantizationRules;

/// How the weights of a checkpoint are quantised, as its files say.
struct QuantizationFacts {
  std::string method;  ///< quant_method, or the tool that writes such a file; empty = 16 bits
  std::string format;  ///< the nearest tensor::WeightFormat by name; empty = none is known
  int64_t bits = 0;    ///< of a weight; 0 = the format's
  int64_t group = 0;   ///< weights that share a scale; 0 = the format's, -1 = a whole row
  bool experts_only = false;  ///< attention, shared experts and dense layers stay in 16 bits
  /// How each module is stored, where these weights can be read; null without quantisation.
  std::shared_ptr<const QuantizationRules> rules;
  std::string unreadable;  ///< why they cannot be read; empty = they can, or are not quantised
  std::string found;       ///< where and what, for messages: `config.json: quant_method "awq"`

  /// "4-bit AWQ in groups of 128"; empty where weights are not quantised or cannot be read.
  std::string stored_as() const;
};

}  // namespace moesaic::model
