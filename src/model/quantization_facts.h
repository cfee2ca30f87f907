#pragma once

#include <cstdint>
#include <string>

namespace moesaic::model {

/// How the weights of a checkpoint are quantised, as its files say.
struct QuantizationFacts {
  std::string method;  ///< quant_method, or the tool that writes such a file; empty = 16 bits
  std::string format;  ///< the nearest tensor::WeightFormat by name; empty = none is known
  int64_t bits = 0;    ///< of a weight; 0 = the format's
  int64_t group = 0;   ///< weights that share a scale; 0 = the format's, -1 = a whole row
  bool experts_only = false;  ///< attention, shared experts and dense layers stay in 16 bits
  std::string found;          ///< where and what, for messages: `config.json: quant_method "awq"`
};

}  // namespace moesaic::model
