// The sampler's second kernel: a block a row, from the statistics of the first to a token and its
// log-probabilities. It looks only at runs of ids whose largest value says that they matter.
//
// What is kept is always an upper set in the order "greater value, then lower id". It is found from
// a band of values that surely holds its lower end: for top_k the k-th largest of the runs' maxima
// begins one, for top_p a width below the best entry that is grown until it weighs enough. A band
// of at most kCapacity entries is sorted in shared memory; a larger one is halved first.

#include <new>

#include "backend/cuda/launch.h"
#include "backend/cuda/sample_row.cuh"

namespace moesaic::backend::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kCapacity = 4096;
constexpr float kLowest = -3.402823466e38f;
constexpr float kAboveAll = __builtin_huge_valf();
constexpr int kNone = INT32_MAX;
constexpr int kBounds = 4;  // that measure() looks at together

/// A row's entries, raw or as the choice sees them, with its softmax's constants.
struct RowView {
  LogitsRow logits;
  int granules;
  bool raw;
  float best, scale;

  __device__ float4 at(int id) const { return raw ? logits.raw(id) : logits.seen(id); }
};

struct Shared {
  alignas(RowView) uint8_t row[sizeof(RowView)];
  uint64_t list[kCapacity];   // order keys in the upper halves, complements of ids in the lower
  double weights[kCapacity];  // of the runs or of the list
  float largest[kMostGranules];
  uint16_t looked[kMostGranules];  // the runs that a pass looks at
  bool matched[kMostBadWords];
  double sums[2][kWarps];
  double masses[kWarps][kBounds];
  alignas(16) int counts[2][kWarps];
  double before;
  int first, last, listed, looks;
};
static_assert(kMostGranules <= kCapacity);

__device__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ int lane_index() { return static_cast<int>(threadIdx.x) % 32; }
__device__ int warp_index() { return static_cast<int>(threadIdx.x) / 32; }

/// Sums over the block, in an order that does not change; every thread gets them.
__device__ double sum_block(Shared& s, double x) {
  x = warp_sum(x);
  __syncthreads();
  if (lane_index() == 0) s.sums[0][warp_index()] = x;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += s.sums[0][w];
  return sum;
}
/// `turn` alternates between calls that follow each other, which saves a barrier.
__device__ int sum_block(Shared& s, int x, int turn) {
  x = warp_sum(x);
  if (lane_index() == 0) s.counts[turn % 2][warp_index()] = x;
  __syncthreads();
  int sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += s.counts[turn % 2][w];
  return sum;
}
__device__ int min_block(Shared& s, int x) {
  x = __reduce_min_sync(kAllLanes, x);
  __syncthreads();
  if (lane_index() == 0) s.counts[0][warp_index()] = x;
  __syncthreads();
  int least = kNone;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) least = min(least, s.counts[0][w]);
  return least;
}

/// Entries kept: those that are greater, and those of this value with at most this id.
struct Cut {
  float value = kLowest;
  int id = kNone;
};

/// What a pass over the row takes in and how it weighs it.
struct Band {
  float low = kLowest;
  float high = kAboveAll;  // not in it
  Cut cut;
  float floor = kNegativeInfinity;  // entries below weigh nothing
  bool unit = false;                // every entry weighs 1

  __device__ bool holds(float x, int id) const {
    return x >= low && x < high && (x > cut.value || (x == cut.value && id <= cut.id));
  }
  __device__ float weight(const RowView& row, float x) const {
    if (unit) return 1.0f;
    return x < floor ? 0.0f : weight_of(x, row.best, row.scale);
  }
};

struct Measured {
  int count;
  double mass;
};

/// Calls look(run of eight, value, id) for all entries of the runs whose largest value reaches
/// `low`, eight neighbouring runs at a time by one warp, always in the same order, and then
/// over(first run) for the eight. All lanes of a warp call either together.
template <typename Look, typename Over>
__device__ __forceinline__ void for_each_octet(const RowView& row, const Shared& s, float low,
                                               Look&& look, Over&& over) {
  for (int first = warp_index() * 8; first < row.granules; first += kWarps * 8) {
    const int own = first + lane_index() % 8;
    const bool reaches = own < row.granules && s.largest[own] >= low;
    const unsigned looked = __ballot_sync(kAllLanes, reaches) & 255;
#pragma unroll
    for (int half = 0; half < 8; half += 4) {
      if ((looked >> half & 15) == 0) continue;
      float4 x[4];  // all loaded before the first is used
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if ((looked >> (half + k) & 1) != 0) {
          x[k] = row.at((first + half + k) * kGranule + lane_index() * 4);
        }
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if ((looked >> (half + k) & 1) == 0) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          look(half + k, lane_of(x[k], i), (first + half + k) * kGranule + lane_index() * 4 + i);
        }
      }
    }
    over(first);
  }
}

/// Number and weight of the band's entries; leaves the runs' weights in s.weights and, with
/// `gather`, the entries in s.list, in no order and as many as fit.
__device__ __noinline__ Measured pass(const RowView& row, Shared& s, const Band band, bool gather) {
  constexpr int kAtOnce = 4;
  __syncthreads();  // uses of the list and weights before
  if (thread_index() == 0) s.listed = s.looks = 0;
  __syncthreads();
  for (int g = thread_index(); g < row.granules; g += kThreads) {
    if (s.largest[g] >= band.low) s.looked[atomicAdd(&s.looks, 1)] = static_cast<uint16_t>(g);
    s.weights[g] = 0;
  }
  __syncthreads();
  const int looks = s.looks;
  int count = 0;
  for (int base = warp_index(); base < looks; base += kWarps * kAtOnce) {
    float4 x[kAtOnce];
    int first[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int look = base + k * kWarps;
      first[k] = look < looks ? s.looked[look] * kGranule + lane_index() * 4 : -1;
      if (first[k] >= 0) x[k] = row.at(first[k]);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (first[k] < 0) continue;
      float mass = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float value = lane_of(x[k], i);
        const bool held = band.holds(value, first[k] + i);
        if (held) {
          ++count;
          mass += band.weight(row, value);
        }
        const unsigned holders = gather ? __ballot_sync(kAllLanes, held) : 0;
        if (holders == 0) continue;
        const int leader = __ffs(static_cast<int>(holders)) - 1;
        int place = 0;
        if (lane_index() == leader) place = atomicAdd(&s.listed, __popc(holders));
        place =
            __shfl_sync(kAllLanes, place, leader) + __popc(holders & ((1u << lane_index()) - 1));
        if (held && place < kCapacity) {
          s.list[place] =
              static_cast<uint64_t>(order_key(value)) << 32 | ~static_cast<uint32_t>(first[k] + i);
        }
      }
      mass = warp_sum(mass);
      if (lane_index() == 0) s.weights[first[k] / kGranule] = static_cast<double>(mass);
    }
  }
  Measured all;
  all.count = sum_block(s, count, 0);
  double mass = 0;
  for (int g = thread_index(); g < row.granules; g += kThreads) mass += s.weights[g];
  all.mass = sum_block(s, mass);
  return all;
}

struct ManyMeasured {
  Measured from[kBounds];
};

/// Number and weight of the band's entries that reach each of some bounds, instead of its low end.
/// Bounds ascend.
__device__ __noinline__ ManyMeasured measure(const RowView& row, Shared& s, Band band,
                                             const float (&bounds)[kBounds]) {
  band.low = bounds[0];
  int counts[kBounds] = {};
  double masses[kBounds] = {};
  float own[kBounds] = {};  // of the lane's entries of an octet
  for_each_octet(
      row, s, band.low,
      [&](int, float value, int id) {
        if (!band.holds(value, id)) return;
        const float weight = band.weight(row, value);
#pragma unroll
        for (int b = 0; b < kBounds; ++b) {
          if (value >= bounds[b]) own[b] += weight, ++counts[b];
        }
      },
      [&](int) {
#pragma unroll
        for (int b = 0; b < kBounds; ++b) {
          masses[b] += static_cast<double>(own[b]);
          own[b] = 0;
        }
      });
  __syncthreads();  // the last use of s.masses
#pragma unroll
  for (int b = 0; b < kBounds; ++b) {
    const double mass = warp_sum(masses[b]);
    if (lane_index() == 0) s.masses[warp_index()][b] = mass;
  }
  ManyMeasured all;
#pragma unroll
  for (int b = 0; b < kBounds; ++b) {
    all.from[b].count = sum_block(s, counts[b], b);
    all.from[b].mass = 0;
    for (int w = 0; w < kWarps; ++w) all.from[b].mass += s.masses[w][b];
  }
  return all;
}

/// Sorts the first `count` of the list, greatest first.
__device__ __noinline__ void sort_list(Shared& s, int count) {
  int size = 2;
  while (size < count) size *= 2;
  for (int i = count + thread_index(); i < size; i += kThreads) s.list[i] = 0;
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = thread_index(); i < size / 2; i += kThreads) {
        const int a = 2 * i - (i & (step - 1));
        const int b = a + step;
        const bool descending = (a & run) == 0;
        const uint64_t x = s.list[a];
        const uint64_t y = s.list[b];
        if ((x < y) == descending) {
          s.list[a] = y;
          s.list[b] = x;
        }
      }
      __syncthreads();
    }
  }
}

__device__ float list_value(const Shared& s, int i) {
  return key_value(static_cast<uint32_t>(s.list[i] >> 32));
}
__device__ int list_id(const Shared& s, int i) {
  return static_cast<int>(~static_cast<uint32_t>(s.list[i]));
}

/// Puts the weights of the first `count` of the list into s.weights and returns their sum.
__device__ __noinline__ double weigh_list(const RowView& row, Shared& s, const Band band,
                                          int count) {
  __syncthreads();
  double sum = 0;
  for (int i = thread_index(); i < count; i += kThreads) {
    s.weights[i] = static_cast<double>(band.weight(row, list_value(s, i)));
    sum += s.weights[i];
  }
  return sum_block(s, sum);
}

struct Found {
  int index;      // kNone: no item reaches the target
  int last;       // the last item that weighs anything; 0 when none does
  double before;  // the weight before `index`, or before `last` where there is no index
};

/// The first of `count` items at which the running sum of s.weights is above `target`, or, with
/// `reaching`, reaches it.
__device__ __noinline__ Found find_first(Shared& s, int count, double target, bool reaching) {
  const int share = (count + kThreads - 1) / kThreads;
  const int begin = min(count, thread_index() * share);
  const int end = min(count, begin + share);
  __syncthreads();
  double own = 0;
  for (int i = begin; i < end; ++i) own += s.weights[i];
  double sum = own;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const double below = __shfl_up_sync(kAllLanes, sum, step);
    if (lane_index() >= step) sum += below;
  }
  if (lane_index() == 31) s.sums[1][warp_index()] = sum;
  if (thread_index() == 0) s.first = kNone, s.last = 0;
  __syncthreads();
  double before = sum - own;
  double warps_before = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) warps_before += w < warp_index() ? s.sums[1][w] : 0.0;
  before += warps_before;
  double running = before;
  int first = kNone;
  int last = 0;
  for (int i = begin; i < end; ++i) {
    const double w = s.weights[i];
    running += w;
    if (w > 0) last = i;
    if (first == kNone && (reaching ? running >= target : running > target)) first = i;
  }
  if (first != kNone) atomicMin(&s.first, first);
  if (last > 0) atomicMax(&s.last, last);
  __syncthreads();
  const int index = s.first;
  const int stop = index != kNone ? index : s.last;
  if (begin <= stop && stop < end) {
    running = before;
    for (int i = begin; i < stop; ++i) running += s.weights[i];
    s.before = running;
  }
  __syncthreads();
  return {index, s.last, s.before};
}

/// The entry of a run at which the running sum of weights in the order of ids is above `target`;
/// the last that weighs anything where none is.
__device__ int find_in_run(const RowView& row, const Band& band, int granule, double target) {
  // All warps do the same, so all threads know.
  const int id = granule * kGranule + lane_index() * 4;
  const float4 x = row.at(id);
  double weights[4];
  double own = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float value = lane_of(x, i);
    const bool held = band.holds(value, id + i);
    weights[i] = held ? static_cast<double>(band.weight(row, value)) : 0.0;
    own += weights[i];
  }
  double sum = own;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const double below = __shfl_up_sync(kAllLanes, sum, step);
    if (lane_index() >= step) sum += below;
  }
  double running = sum - own;
  int first = kNone;
  int last = -1;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    running += weights[i];
    if (weights[i] > 0) last = id + i;
    if (first == kNone && weights[i] > 0 && running > target) first = id + i;
  }
  first = __reduce_min_sync(kAllLanes, first);
  last = __reduce_max_sync(kAllLanes, last);
  return first != kNone ? first : max(last, 0);
}

/// The entry at which the running weight of the band's entries, in the order of ids, is above
/// `target`, given the runs' weights in s.weights.
__device__ __noinline__ int find_by_id(const RowView& row, Shared& s, const Band band,
                                       double target) {
  const Found found = find_first(s, row.granules, target, false);
  const int granule = found.index != kNone ? found.index : found.last;
  return find_in_run(row, band, granule, target - found.before);
}

__device__ float next_above(float x) { return key_value(order_key(x) + 1); }

/// The id of the n-th entry, from 1, that has this value and is in the cut.
__device__ int nth_with_value(const RowView& row, Shared& s, float value, const Cut& cut, int n) {
  const Band band{.low = value, .high = next_above(value), .cut = cut, .unit = true};
  pass(row, s, band, false);
  return find_by_id(row, s, band, n - 0.5);
}

/// A value that at least `count` runs' maxima reach, and not many more; the lowest value where
/// there are fewer runs.
__device__ __noinline__ float bound_of_maxima(const RowView& row, Shared& s, int count) {
  constexpr int kOwn = kMostGranules / kThreads;
  uint32_t keys[kOwn];
  const uint32_t lowest = order_key(kLowest);
  int present = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int g = thread_index() + i * kThreads;
    keys[i] = g < row.granules ? order_key(s.largest[g]) : 0;
    present += keys[i] >= lowest ? 1 : 0;
  }
  __syncthreads();  // uses of s.counts before
  int turn = 0;
  if (sum_block(s, present, turn++) < count) return kLowest;
  uint32_t low = lowest;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t tried = low | (1u << bit);
    if (tried == low) continue;
    int reached = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) reached += keys[i] >= tried ? 1 : 0;
    reached = sum_block(s, reached, turn++);
    if (reached < count) continue;
    low = tried;
    if (reached <= 2 * count) break;
  }
  return key_value(low);
}

/// What narrow() found: `listed` entries in the sorted list, and what lies above them. listed = -1:
/// the entries of one value are too many for the list.
struct Narrowed {
  Band band;
  int listed = 0;
  int above_count = 0;
  double above_mass = 0;
};

/// Shrinks a band, from whose low end on `reached(count, weight)` holds, to what fits the list and
/// holds the greatest value from which on it does. `found` is where to begin; `count` is that of
/// the band's entries, -1 where it is not known.
template <typename Reached>
__device__ __forceinline__ Narrowed narrow(const RowView& row, Shared& s, Narrowed found, int count,
                                           Reached reached) {
  for (;;) {
    if (count <= kCapacity) {
      count = pass(row, s, found.band, true).count;
      if (count <= kCapacity) {
        found.listed = count;
        sort_list(s, count);
        return found;
      }
    }
    const float high = fminf(found.band.high, next_above(row.best));
    const uint32_t low_key = order_key(found.band.low);
    const uint32_t keys = order_key(high) - low_key;
    if (keys <= 1) {
      found.listed = -1;
      return found;
    }
    // Parts of equal width; where floats are too coarse for that, of equal numbers of floats.
    float bounds[kBounds];
#pragma unroll
    for (int b = 0; b < kBounds; ++b) {
      const float part = static_cast<float>(b + 1) / (kBounds + 1);
      bounds[b] = found.band.low * (1 - part) + high * part;
    }
    bool apart = bounds[0] > found.band.low && bounds[kBounds - 1] < high &&
                 found.band.low > row.best - 1e6f;  // else what is -3e38 would take long
#pragma unroll
    for (int b = 1; b < kBounds; ++b) apart = apart && bounds[b] > bounds[b - 1];
    if (!apart) {
#pragma unroll
      for (int b = 0; b < kBounds; ++b) {
        const auto step =
            static_cast<uint32_t>(static_cast<uint64_t>(keys) * (b + 1) / (kBounds + 1));
        bounds[b] = key_value(low_key + max(step, 1u));
      }
    }
    const ManyMeasured parts = measure(row, s, found.band, bounds);
    // The greatest bound that is reached becomes the low end, the one above it the high end.
    Measured above{0, 0};
    bool settled = false;
#pragma unroll
    for (int b = kBounds - 1; b >= 0; --b) {
      if (settled) continue;
      const Measured& part = parts.from[b];
      if (reached(found.above_count + part.count, found.above_mass + part.mass)) {
        found.band.low = bounds[b];
        count = part.count - above.count;
        settled = true;
      } else {
        found.band.high = bounds[b];
        above = part;
      }
    }
    if (!settled) count = count - above.count;
    found.above_count += above.count;
    found.above_mass += above.mass;
  }
}

/// Takes a band down to its `count` best entries, given what narrow() found around the last of
/// them. Returns how many are in the sorted list, or -1 where they are too many; then the band is
/// cut to them.
__device__ __noinline__ int keep_best(const RowView& row, Shared& s, Band& band,
                                      const Narrowed& found, int count) {
  if (found.listed >= 0 && found.above_count == 0) return min(count, found.listed);
  const int rest = count - found.above_count;
  if (found.listed < 0) {
    band.cut = {.value = found.band.low,
                .id = nth_with_value(row, s, found.band.low, band.cut, rest)};
  } else if (rest > 0 && rest <= found.listed) {
    band.cut = {.value = list_value(s, rest - 1), .id = list_id(s, rest - 1)};
  }
  band.low = fmaxf(band.low, band.cut.value);
  if (count > kCapacity) return -1;
  const int listed = pass(row, s, band, true).count;
  if (listed > kCapacity) return -1;
  sort_list(s, listed);
  return listed;
}

__device__ uint64_t split_mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// The largest entry's lowest id.
__device__ int choose_greedy(const RowView& row, Shared& s) {
  int first = kNone;
  for (int g = thread_index(); g < row.granules; g += kThreads) {
    if (s.largest[g] == row.best) first = min(first, g);
  }
  const int granule = min_block(s, first);
  const int id = granule * kGranule + lane_index() * 4;
  const float4 x = row.at(id);
  int at = kNone;
#pragma unroll
  for (int i = 3; i >= 0; --i) {
    if (lane_of(x, i) == row.best) at = id + i;
  }
  return __reduce_min_sync(kAllLanes, at);
}

/// Puts the weights of all entries, by the scan's sums, into s.weights and returns their sum.
__device__ __noinline__ double mass_of_stats(const RowView& row, Shared& s,
                                             const GranuleStats* stats) {
  __syncthreads();
  double mass = 0;
  for (int g = thread_index(); g < row.granules; g += kThreads) {
    const float weight = weight_of(s.largest[g], row.best, row.scale);
    s.weights[g] = static_cast<double>(stats[g].sum) * static_cast<double>(weight);
    mass += s.weights[g];
  }
  return sum_block(s, mass);
}

__device__ __noinline__ int choose_at_random(const RowView& row, Shared& s, const SampleRow& params,
                                             int vocab, const GranuleStats* stats) {
  const double share =
      static_cast<double>(
          split_mix(split_mix(params.seed) ^ static_cast<uint64_t>(params.position)) >> 11) *
      0x1p-53;
  Band band;
  if (params.min_p > 0) {
    band.floor = __fadd_rn(row.best, __fmul_rn(params.temperature, logf(params.min_p)));
  }
  int kept = -1;  // not -1: the first of the sorted list are what is kept
  const bool by_rank = params.top_k > 0 && params.top_k < vocab;
  if (by_rank) {
    const int wanted = params.top_k;
    Band begun = band;
    begun.low = bound_of_maxima(row, s, wanted);
    const Narrowed found = narrow(row, s, Narrowed{.band = begun}, -1,
                                  [&](int count, double) { return count >= wanted; });
    kept = keep_best(row, s, band, found, wanted);
  }
  if (params.top_p < 1.0f && kept >= 0) {
    const double needed = static_cast<double>(params.top_p) * weigh_list(row, s, band, kept);
    const Found found = find_first(s, kept, needed, true);
    if (found.index != kNone) kept = found.index + 1;
  } else if (params.top_p < 1.0f) {
    const bool all = !by_rank && params.min_p <= 0;
    if (params.min_p > 0) band.low = fmaxf(band.low, band.floor);
    const double needed = static_cast<double>(params.top_p) *
                          (all ? mass_of_stats(row, s, stats) : pass(row, s, band, false).mass);
    // A width below the best entry that holds enough: most rows need a small one, which is cheap.
    Narrowed begun{.band = band};
    int entries = -1;
    bool enough = false;
    float held = 0;  // a width that does not hold enough
    for (float width = 3 * params.temperature; !enough; width *= 4) {
      float bounds[kBounds];
#pragma unroll
      for (int b = 0; b < kBounds; ++b) {
        const float part = static_cast<float>(kBounds - b) / kBounds;
        bounds[b] = fmaxf(band.low, row.best - (held + (width - held) * part));
      }
      const ManyMeasured parts = measure(row, s, band, bounds);
#pragma unroll
      for (int b = 0; b < kBounds; ++b) {
        if (parts.from[b].mass < needed) continue;
        enough = true;
        entries = parts.from[b].count;
        begun = {.band = band};
        begun.band.low = bounds[b];
        if (entries <= kCapacity || b + 1 == kBounds) continue;
        // Too many for the list: without those that the next bound holds.
        entries -= parts.from[b + 1].count;
        begun.band.high = bounds[b + 1];
        begun.above_count = parts.from[b + 1].count;
        begun.above_mass = parts.from[b + 1].mass;
      }
      if (bounds[0] == band.low) break;
      held = width;
    }
    const Narrowed found =
        narrow(row, s, begun, entries, [&](int, double mass) { return mass >= needed; });
    int count = 1;
    if (found.listed < 0) {
      const float weight = band.weight(row, found.band.low);
      const double rest = (needed - found.above_mass) / static_cast<double>(weight);
      if (weight > 0 && rest > 1) count = static_cast<int>(fmin(ceil(rest), 1e9));
    } else {
      weigh_list(row, s, band, found.listed);
      const Found end = find_first(s, found.listed, needed - found.above_mass, true);
      count = end.index != kNone ? end.index + 1 : found.listed;
    }
    kept = keep_best(row, s, band, found, found.above_count + count);
  }

  if (kept >= 0) {
    const double target = share * weigh_list(row, s, band, kept);
    const Found found = find_first(s, kept, target, false);
    return list_id(s, found.index != kNone ? found.index : found.last);
  }
  const bool whole = !by_rank && params.top_p >= 1.0f && params.min_p <= 0;
  if (params.min_p > 0) band.low = fmaxf(band.low, band.floor);
  const double total = whole ? mass_of_stats(row, s, stats) : pass(row, s, band, false).mass;
  return find_by_id(row, s, band, share * total);
}

/// Log-probabilities of `token` and of the best entries, from the raw row.
__device__ __noinline__ void write_chances(const RowView& row, Shared& s, const GranuleStats* stats,
                                           int vocab, int wanted, int token, TokenChance* to) {
  const double norm = static_cast<double>(row.best) + log(mass_of_stats(row, s, stats));
  const float own = row.logits.raw_one(token);
  Band above;
  above.low = own < kLowest ? kLowest : next_above(own);
  const int rank = 1 + pass(row, s, above, false).count;
  if (thread_index() == 0) {
    to[0] = {token, static_cast<float>(static_cast<double>(own) - norm), rank};
  }
  wanted = min(wanted, vocab);
  if (wanted <= 0) return;
  Band band;
  Band begun = band;
  begun.low = bound_of_maxima(row, s, wanted);
  const Narrowed found = narrow(row, s, Narrowed{.band = begun}, -1,
                                [&](int count, double) { return count >= wanted; });
  const int listed = keep_best(row, s, band, found, wanted);
  for (int i = thread_index(); i < min(wanted, listed); i += kThreads) {
    const float value = list_value(s, i);
    to[1 + i] = {list_id(s, i), static_cast<float>(static_cast<double>(value) - norm), i + 1};
  }
}

__global__ __launch_bounds__(kThreads, 2) void sample_choose_kernel(const SampleParams p) {
  extern __shared__ __align__(16) uint8_t memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  begin_dependent();
  const auto index = static_cast<int>(blockIdx.x);
  if (index >= *p.count) return;
  const SampleRow& params = p.rows[index];
  RowView& row = *reinterpret_cast<RowView*>(s.row);
  const int granules = granules_of(p.vocab);
  if (thread_index() == 0) {
    new (s.row) RowView{LogitsRow(p.vocab, p.logits, p.stride, params, p.state, s.matched),
                        granules, false, 0.0f, 0.0f};
  }
  __syncthreads();
  row.logits.prepare();

  // Loads the runs' maxima; the best, or none where the row is broken.
  const auto load_maxima = [&](const GranuleStats* stats) {
    __syncthreads();
    uint32_t best = 0;
    bool good = true;
    for (int g = thread_index(); g < granules; g += kThreads) {
      const float largest = stats[g].largest;
      s.largest[g] = largest;
      good = good && largest == largest;
      best = max(best, order_key(largest));
    }
    best = __reduce_max_sync(kAllLanes, best);
    const bool all_good = __syncthreads_and(good) != 0;
    if (lane_index() == 0) s.counts[0][warp_index()] = static_cast<int>(best);
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) best = max(best, static_cast<uint32_t>(s.counts[0][w]));
    if (thread_index() == 0) row.best = key_value(best);
    __syncthreads();
    return all_good && best >= order_key(kLowest);
  };

  const int64_t at = static_cast<int64_t>(index) * granules;
  int token = params.given;
  bool good = true;
  if (token < 0) {
    const GranuleStats* stats = p.work.seen + at;
    good = load_maxima(stats);
    if (good && params.temperature < kGreedyBelow) {
      token = choose_greedy(row, s);
    } else if (good) {
      if (thread_index() == 0) row.scale = kLog2E / params.temperature;
      __syncthreads();
      token = choose_at_random(row, s, params, p.vocab, stats);
    }
  }
  if (good && params.logprobs >= 0) {
    __syncthreads();
    if (thread_index() == 0) row.raw = true, row.scale = kLog2E;
    const GranuleStats* stats = p.work.raw + at;
    good = load_maxima(stats);
    if (good) {
      write_chances(row, s, stats, p.vocab, params.logprobs, token,
                    p.sampled.chances + static_cast<int64_t>(index) * (1 + kMostLogprobs));
    }
  }
  __syncthreads();  // all looks at the slot are over
  if (thread_index() != 0) return;
  p.sampled.tokens[index] = good ? token : 0;
  p.sampled.broken[index] = good ? 0 : 1;
  if (good && params.given < 0) row.logits.count(token);
}

/// Replaces what one slot knows; a block a slot.
__global__ __launch_bounds__(1024) void update_slots_kernel(int vocab, void* state,
                                                            const SlotUpdate* updates,
                                                            const int32_t* payload) {
  begin_dependent();
  const SlotUpdate update = updates[blockIdx.x];
  const SlotView slot(vocab, state, update.slot);
  const SlotLayout layout(vocab);
  const int thread = thread_index();
  const int threads = static_cast<int>(blockDim.x);
  auto* clear = reinterpret_cast<uint4*>(slot.prompt);
  for (int i = thread; i < static_cast<int>(layout.bytes / 16); i += threads) clear[i] = uint4{};
  __syncthreads();
  const auto known = [&](int id) { return id >= 0 && id < vocab; };
  const auto set = [&](uint32_t* bits, int id) {
    if (known(id)) atomicOr(bits + id / 32, 1u << (id % 32));
  };
  const int32_t* next = payload + update.at;
  const auto take = [&](int count) {
    const int32_t* list = next;
    next += count;
    return list;
  };
  SlotLists& lists = *slot.lists;
  const int32_t* prompt = take(update.prompt);
  for (int i = thread; i < update.prompt; i += threads) set(slot.prompt, prompt[i]);
  const int32_t* output = take(update.output);
  for (int i = thread; i < update.output; i += threads) {
    if (known(output[i])) atomicAdd(slot.counts + output[i], 1);
    if (i >= update.output - kTail) lists.tail[i % kTail] = output[i];
  }
  const int32_t* allowed = take(update.allowed);
  for (int i = thread; i < update.allowed; i += threads) set(slot.allowed, allowed[i]);
  const int32_t* bias_ids = take(update.biases);
  const int32_t* biases = take(update.biases);
  for (int i = thread; i < update.biases; i += threads) {
    lists.bias_id[i] = bias_ids[i];
    lists.bias[i] = __int_as_float(biases[i]);
    set(slot.special, bias_ids[i]);
  }
  const int32_t* stop_ids = take(update.stop_ids);
  for (int i = thread; i < update.stop_ids; i += threads) {
    lists.stop_id[i] = stop_ids[i];
    set(slot.special, stop_ids[i]);
  }
  if (thread != 0) return;
  lists.biases = update.biases;
  lists.stop_ids = update.stop_ids;
  lists.words = update.words;
  int end = 0;
  for (int w = 0; w < update.words; ++w) {
    const int length = *next++;
    for (int i = 0; i < length; ++i) lists.word_token[end++] = *next++;
    lists.word_end[w] = end;
    set(slot.special, lists.word_token[end - 1]);
  }
}

}  // namespace

void start_sample_choose(const SampleParams& params, int most_rows, cudaStream_t stream) {
  launch<sample_choose_kernel>(dim3(static_cast<unsigned>(most_rows)), dim3(kThreads),
                               sizeof(Shared), stream, params);
}

void update_slots(int vocab, void* state, const SlotUpdate* updates, int count,
                  const int32_t* payload, cudaStream_t stream) {
  if (count == 0) return;
  launch<update_slots_kernel>(dim3(static_cast<unsigned>(count)), dim3(1024), 0, stream, vocab,
                              state, updates, payload);
}

}  // namespace moesaic::backend::cuda
