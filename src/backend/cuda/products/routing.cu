#include "backend/cuda/products/routing.cuh"

#include "backend/cuda/products/format.cuh"

namespace moesaic::backend::cuda {

__global__ void __launch_bounds__(kPlanThreads, 1) plan_kernel(const __grid_constant__ PlanArgs a) {
  __shared__ int counts[kMaxExperts];
  __shared__ int warp_matches[kPlanThreads / 32];
  __shared__ int sums[2];  // pairs and tiles of the experts before
  release_successor();
  for (int e = threadIdx.x; e < a.experts; e += blockDim.x) counts[e] = 0;
  if (threadIdx.x < 2) sums[threadIdx.x] = 0;
  __syncthreads();
  wait_for_predecessor();

  const int expert = blockIdx.x;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int warps = blockDim.x / 32;
  const int pairs = (a.count == nullptr ? a.rows : min(a.rows, *a.count)) * a.top_k;
  // Each warp has a contiguous part, whole 32s but for the last.
  const int part = (pairs + 32 * warps - 1) / (32 * warps) * 32;
  const int begin = warp * part;
  const int end = min(pairs, begin + part);
  int matches = 0;
  for (int i = begin + lane; i < end; i += 32) {
    const int id = a.ids[i];
    if (id < 0 || id >= a.experts) continue;
    atomicAdd(&counts[id], 1);
    matches += id == expert;
  }
  matches = __reduce_add_sync(0xffffffffu, matches);
  if (lane == 0) warp_matches[warp] = matches;
  __syncthreads();
  int before[2] = {0, 0};
  for (int e = threadIdx.x; e < expert; e += blockDim.x) {
    before[0] += counts[e];
    before[1] += (counts[e] + a.tokens - 1) / a.tokens;
  }
  for (int i = 0; i < 2; ++i) {
    const int sum = __reduce_add_sync(0xffffffffu, before[i]);
    if (lane == 0 && sum > 0) atomicAdd(&sums[i], sum);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    a.first[expert] = sums[0];
    a.tiles[expert] = sums[1];
    if (expert + 1 == a.experts) {
      a.first[a.experts] = sums[0] + counts[expert];
      a.tiles[a.experts] = sums[1] + (counts[expert] + a.tokens - 1) / a.tokens;
    }
  }
  int at = sums[0];
  for (int w = 0; w < warp; ++w) at += warp_matches[w];
  for (int i = begin; i < end; i += 32) {
    const bool match = i + lane < end && a.ids[i + lane] == expert;
    const unsigned lanes = __ballot_sync(0xffffffffu, match);
    if (match) a.pairs[at + __popc(lanes & ((1u << lane) - 1))] = i + lane;
    at += __popc(lanes);
  }
}

__global__ void __launch_bounds__(256) gather_kernel(const __grid_constant__ GatherArgs a) {
  release_successor();
  wait_for_predecessor();
  const int place = blockIdx.x * 8 + threadIdx.x / 32;
  if (place >= a.product.plan.first[a.product.experts]) return;
  const int row = a.product.x_row(a.product.plan.pairs[place]);
  const uint8_t* from = a.from + row * a.from_stride;
  uint8_t* to = a.to + place * a.to_stride;
  constexpr int kAtOnce = 8;
  for (int base = threadIdx.x % 32 * 16; base < a.bytes; base += kAtOnce * 512) {
    uint4 values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (base + i * 512 < a.bytes) {
        values[i] = __ldg(reinterpret_cast<const uint4*>(from + base + i * 512));
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (base + i * 512 < a.bytes) *reinterpret_cast<uint4*>(to + base + i * 512) = values[i];
    }
  }
}

__global__ void __launch_bounds__(256) round_kernel(const __grid_constant__ RoundArgs a) {
  release_successor();
  wait_for_predecessor();
  const ProductArgs& p = a.product;
  const bool routed = p.plan.first != nullptr;
  const int place = blockIdx.x;
  if (place >= (routed ? p.plan.first[p.experts] : p.row_count())) return;
  int row = place;
  if (!p.x_in_order) {
    if (routed) row = p.x_row(p.plan.pairs[place]);
    if (p.index != nullptr) row = p.index[row];
  }
  const int lane = threadIdx.x % 32;
  for (int k = threadIdx.x / 32; k < p.tiles_k; k += 8) {
    const int input = k * 128 + lane * 4;
    const auto* from = reinterpret_cast<const __nv_bfloat16*>(a.from + row * a.from_stride) + input;
    uint32_t words[2] = {0, 0};
    if (input + 3 < p.k) {
      const uint2 v = *reinterpret_cast<const uint2*>(from);
      words[0] = v.x;
      words[1] = v.y;
    } else {
      for (int i = 0; i < 4; ++i) {
        if (input + i < p.k) {
          words[i / 2] |= static_cast<uint32_t>(__bfloat16_as_ushort(from[i])) << (i % 2 * 16);
        }
      }
    }
    float v[4];
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
      most = fmaxf(most, fabsf(v[i]));
    }
    for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
    const Rounding rounding = Rounding::of(most);
    // Inputs 2t, 2t+1, 2t+8, 2t+9 of each 16 lie together, as the weights' do (layout.h).
    const int quarter = lane % 4;
    uint8_t* to = a.to + static_cast<int64_t>(place) * p.tiles_k * 128 + k * 128 + lane / 4 * 16 +
                  quarter % 2 * 8 + quarter / 2 * 2;
    *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(rounding.pair(v[0], v[1]));
    *reinterpret_cast<uint16_t*>(to + 4) = static_cast<uint16_t>(rounding.pair(v[2], v[3]));
    if (lane == 0) a.scales[k * a.scale_stride + place] = rounding.scale;
  }
}

__global__ void __launch_bounds__(256) combine_kernel(const __grid_constant__ CombineArgs a) {
  __shared__ int order[kMaxTopK];
  __shared__ float weights[kMaxTopK];
  __shared__ int used;
  release_successor();
  wait_for_predecessor();
  const int row = blockIdx.x;
  if (row >= a.out.row_count()) return;
  if (threadIdx.x == 0) used = 0;
  __syncthreads();
  if (threadIdx.x < a.top_k) {
    const int32_t* ids = a.ids + static_cast<int64_t>(row) * a.top_k;
    const int i = threadIdx.x;
    auto valid = [&](int j) { return ids[j] >= 0 && ids[j] < a.experts; };
    if (valid(i)) {
      int place = 0;
      for (int j = 0; j < a.top_k; ++j) {
        place += valid(j) && (ids[j] < ids[i] || (ids[j] == ids[i] && j < i));
      }
      order[place] = row * a.top_k + i;
      weights[place] =
          a.weights == nullptr ? 1.0f : a.weights[static_cast<int64_t>(row) * a.top_k + i];
      atomicAdd(&used, 1);
    }
  }
  __syncthreads();
  const int channel = blockIdx.y * kCombineOutputs + threadIdx.x * 8;
  if (channel >= a.out.n) return;
  float total[8] = {};
#pragma unroll 4
  for (int e = 0; e < used; ++e) {
    const auto v = *reinterpret_cast<const uint4*>(a.values + order[e] * a.stride + channel);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float value =
          __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
      total[i] = add_weighted(total[i], weights[e], value, e == 0);
    }
  }
  store_sums(a.out, row, channel, make_float4(total[0], total[1], total[2], total[3]));
  store_sums(a.out, row, channel + 4, make_float4(total[4], total[5], total[6], total[7]));
}

}  // namespace moesaic::backend::cuda
