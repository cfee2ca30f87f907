#pragma once

// Routing on the device: from router logits to each row's experts and weights.

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/step.h"

namespace moesaic::backend::cuda {

enum class RouteScoring : uint8_t { kSoftmax, kSigmoid };

/// What a group of experts is worth where only some groups may be chosen from.
enum class GroupScore : uint8_t {
  kBest,    ///< its best expert (DeepSeek-V2, https://arxiv.org/abs/2405.04434)
  kTopTwo,  ///< the sum of its two best (DeepSeek-V3, https://arxiv.org/abs/2412.19437)
};

struct RouteShape {
  int experts = 0;  ///< up to 512
  int top_k = 0;    ///< up to 16
  RouteScoring scoring = RouteScoring::kSoftmax;
  bool renormalize = false;  ///< divide the chosen weights by their sum
  float scale = 1.0f;        ///< multiplies the weights last
  int groups = 1;            ///< equal runs of experts, up to 32; 1 = no groups
  int top_groups = 1;        ///< groups that may be chosen from
  GroupScore group_score = GroupScore::kBest;
  int parts = 1;  ///< a logit is the sum of so many values (products.h, split_f32)
};

/// What routing leaves, in device memory.
struct Routed {
  int32_t* experts = nullptr;  ///< [rows, top_k], best first; ties go to the lowest index
  float* weights = nullptr;    ///< [rows, top_k]
  uint64_t* totals = nullptr;  ///< [experts] rows of each are added to them; may be null
};

/// Scores are softmax or sigmoid of the logits [rows, parts, experts]. Experts are chosen by score
/// + bias where `bias` [experts] is given, else by logit; they are weighed by score. A NaN comes
/// after every number.
void route(const RouteShape& shape, const float* logits, const float* bias, RowCount rows,
           const Routed& routed, cudaStream_t stream);

}  // namespace moesaic::backend::cuda
