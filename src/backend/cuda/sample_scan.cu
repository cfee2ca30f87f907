// The sampler's one pass over whole rows of logits: maximum and sum of weights of every run of 128
// ids. All that follows looks at few runs.

#include <new>

#include "backend/cuda/launch.h"
#include "backend/cuda/sample_row.cuh"

namespace moesaic::backend::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kRuns = 8;  // of a warp, all loaded before the first is used: an octet

/// Largest value of each run and, with `scale` not 0, its sum of weights.
__device__ void write_stats(const float4 (&x)[kRuns], float scale, int first, int granules,
                            GranuleStats* stats) {
  constexpr float kMost = 3.402823466e38f;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sums[kRuns];
  float own = 0;  // lane l keeps the largest of run l / 4
#pragma unroll
  for (int i = 0; i < kRuns; ++i) {
    const float4 v = x[i];
    const bool good = v.x <= kMost && v.y <= kMost && v.z <= kMost && v.w <= kMost;
    const uint32_t key = order_key(fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)));
    float largest = key_value(__reduce_max_sync(kAllLanes, key));
    if (!__all_sync(kAllLanes, good)) largest = __uint_as_float(0x7fffffffu);
    if (lane / 4 == i) own = largest;
    if (scale == 0) continue;
    const float best = largest == kNegativeInfinity ? 0.0f : largest;
    sums[i] = (weight_of(v.x, best, scale) + weight_of(v.y, best, scale)) +
              (weight_of(v.z, best, scale) + weight_of(v.w, best, scale));
  }
  const float sum = scale != 0 ? sum_of_eight(sums) : 0.0f;
  const int granule = first + lane / 4;
  if (lane % 4 == 0 && granule < granules) stats[granule] = {own, sum};
}

__global__ __launch_bounds__(32 * kWarps) void sample_scan_kernel(const SampleParams p) {
  __shared__ bool matched[kMostBadWords];
  begin_dependent();
  const auto index = static_cast<int>(blockIdx.y);
  if (index >= *p.count) return;
  const SampleRow& row = p.rows[index];
  __shared__ alignas(LogitsRow) uint8_t memory[sizeof(LogitsRow)];
  LogitsRow& logits = *reinterpret_cast<LogitsRow*>(memory);
  if (threadIdx.x == 0) {
    new (memory) LogitsRow(p.vocab, p.logits, p.stride, row, p.state, matched);
  }
  __syncthreads();
  logits.prepare();
  const int granules = granules_of(p.vocab);
  const int warp = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = warp * kRuns;
  if (first >= granules) return;
  float4 x[kRuns];
#pragma unroll
  for (int i = 0; i < kRuns; ++i) x[i] = logits.raw((first + i) * kGranule + lane * 4);
  const int64_t at = static_cast<int64_t>(index) * granules;
  if (row.logprobs >= 0) write_stats(x, kLog2E, first, granules, p.work.raw + at);
  if (row.given >= 0) return;
  bool bad = false;  // NaN and +inf count where a mask hides them too
  if (logits.changed()) {
    constexpr float kMost = 3.402823466e38f;
    LogitsRow::Marks marks[kRuns];  // all loaded before the first is used
#pragma unroll
    for (int i = 0; i < kRuns; ++i) marks[i] = logits.marks((first + i) * kGranule + lane * 4);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const float4 v = x[i];
      bad = bad || !(v.x <= kMost && v.y <= kMost && v.z <= kMost && v.w <= kMost);
      x[i] = logits.changed((first + i) * kGranule + lane * 4, v, marks[i]);
    }
    bad = __any_sync(kAllLanes, bad);
  }
  if (bad) x[0].x = __uint_as_float(0x7fffffffu);
  const bool greedy = row.temperature < kGreedyBelow;
  write_stats(x, greedy ? 0.0f : kLog2E / row.temperature, first, granules, p.work.seen + at);
}

}  // namespace

void start_sample_scan(const SampleParams& params, int most_rows, cudaStream_t stream) {
  const int warps = (granules_of(params.vocab) + kRuns - 1) / kRuns;
  const auto blocks = static_cast<unsigned>((warps + kWarps - 1) / kWarps);
  launch<sample_scan_kernel>(dim3(blocks, static_cast<unsigned>(most_rows)), dim3(32 * kWarps), 0,
                             stream, params);
}

}  // namespace moesaic::backend::cuda
