#pragma once

// Time of a step from the roofline (https://doi.org/10.1145/1498765.1498785), with the number of
// distinct experts a batch is expected to read. The formulas are in docs/planning.md.

#include "plan/memory.h"

namespace moesaic::plan {

enum class Bound : uint8_t { kMemory, kArithmetic, kLink };
const char* to_string(Bound bound);

/// What limits a rate, and by how much.
struct Estimate {
  double tokens_per_s = 0;        ///< expected, all sequences together
  double ideal_tokens_per_s = 0;  ///< the roofline, with nothing lost
  double per_user = 0;            ///< expected, one sequence
  double step_seconds = 0;        ///< expected, through all pipeline stages
  Bound bound = Bound::kMemory;
  double memory_seconds = 0, arithmetic_seconds = 0, link_seconds = 0, fixed_seconds = 0;
  double distinct_experts = 0;  ///< expected in one layer
};

/// Distinct experts that `tokens` tokens touch when each chooses `top_k` of `experts` at random:
/// experts * (1 - (1 - top_k / experts)^tokens), the occupancy formula (W. Feller, An Introduction
/// to Probability Theory and Its Applications, vol. 1, IV.2) for draws of top_k without
/// replacement. It assumes even routing; a real router is more uneven and touches fewer.
double expected_experts(double experts, double top_k, double tokens);

/// The machine a model runs on.
struct Machine {
  const Accelerator* device = nullptr;
  const Efficiency* efficiency = nullptr;
  int64_t node_devices = 1;      ///< devices in one node
  double network_bandwidth = 0;  ///< bytes/s per device between nodes, one way
};

/// Generating one token for each of `sequences` sequences that have `context` tokens cached.
Estimate decode_estimate(const model::ModelSpec& spec, const Layout& layout,
                         const WeightFormat& format, double kv_element_bytes,
                         const Machine& machine, double sequences, double context);

/// Reading prompts of `prompt` tokens in steps of at most `rows` tokens.
Estimate prefill_estimate(const model::ModelSpec& spec, const Layout& layout,
                          const WeightFormat& format, double kv_element_bytes,
                          const Machine& machine, double prompt, double rows);

/// Generated tokens/s of requests of `prompt` and `output` tokens, when reading prompts and
/// generating take turns on the devices.
double served_rate(const Estimate& prefill, const Estimate& decode, double prompt, double output);

/// Seconds from the arrival of one prompt at an idle server to its first token.
double first_token_seconds(const model::ModelSpec& spec, const Layout& layout,
                           const WeightFormat& format, double kv_element_bytes,
                           const Machine& machine, double prompt, double rows);

}  // namespace moesaic::plan
