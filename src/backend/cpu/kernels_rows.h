#pragma once

// The kernels of an instruction set that work on one row of activations: norms, and QK-norm, rope
// and KV append. Like kernels.h this is included by sources compiled for each set: plain data only.

#include <cstdint>

#include "backend/cpu/kernels_attention.h"

namespace moesaic::backend::cpu {

/// One row of qkv_rope_append.
struct QkvRow {
  float* q = nullptr;  ///< q, then k, then v
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;
  bool norm_per_head = false;     ///< else over all heads, if the weights are given
  const float* q_norm = nullptr;  ///< null: no QK-norm
  const float* k_norm = nullptr;
  float eps = 0;
  /// Sums of squares of q and of k over the heads of all ranks, and how many those are; null: this
  /// row's own.
  const float* squares = nullptr;
  int64_t all_heads = 0;
  int64_t all_kv_heads = 0;
  float clip = 0;
  const float* cos = nullptr;
  const float* sin = nullptr;
  KvView kv;
  int64_t slot = 0;
};

struct RowTable {
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t width, float* out);
  /// residual += delta, then as rms_norm.
  void (*add_rms_norm)(float* residual, const float* delta, const float* weight, float eps,
                       int64_t width, float* out);
  void (*qkv_row)(const QkvRow& row);
};

extern const RowTable kRowsBaseline;
extern const RowTable kRowsAvx2;
extern const RowTable kRowsVnni;
extern const RowTable kRowsAvx512;
extern const RowTable kRowsAmx;

}  // namespace moesaic::backend::cpu
