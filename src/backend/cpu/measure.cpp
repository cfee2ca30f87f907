#include "backend/cpu/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "backend/cpu/isa.h"
#include "backend/cpu/kernel_tables.h"
#include "base/machine.h"

namespace moesaic::backend::cpu {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr ReadPattern kPatterns[] = {{1, 0}, {1, 2048}, {1, 8192}, {1, 16384},
                                     {2, 0}, {2, 8192}, {4, 0},    {4, 8192}};

/// Handed out by a counter: a thread that loses its core for a while then costs a pass little.
constexpr size_t kStretch = size_t{2} << 20;

/// Calls body(first byte) for every stretch of the region, on all threads.
template <typename Body>
void for_stretches(base::ThreadPool& pool, const base::Region& region, const Body& body) {
  pool.parallel_for(static_cast<int64_t>(region.size() / kStretch), [&](int64_t i, int) {
    body(region.data() + static_cast<size_t>(i) * kStretch);
  });
}

}  // namespace

size_t beyond_caches(size_t least) {
  return std::max(least, 4 * base::discover_topology().all_l3_bytes);
}

Meter::Meter(base::ThreadPool& pool, const std::string& isa, const tensor::WeightFormat& format,
             size_t bytes)
    : pool_(pool),
      kernels_(kernel_table(isa_from_name(isa))),
      format_(kernels_, format),
      region_(base::MemoryTag::kRuntime, std::max<size_t>(1, bytes / kStretch) * kStretch) {
  for_stretches(pool_, region_, [](std::byte* at) { std::memset(at, 1, kStretch); });
  for (;;) {
    const double start = seconds_now();
    peak();
    if (seconds_now() - start > 0.01) break;
    iterations_ *= 2;
  }
  double best = 0;
  for (size_t i = 0; i < std::size(kPatterns); ++i) {
    const double bandwidth = read_pass(kPatterns[i]);
    if (bandwidth > best) best_ = i;
    best = std::max(best, bandwidth);
  }
}

double Meter::read_bandwidth() {
  const double best = read_pass(kPatterns[best_]);
  next_ = (next_ + 1) % std::size(kPatterns);
  const double other = read_pass(kPatterns[next_]);
  if (other > best) best_ = next_;
  return std::max(best, other);
}

double Meter::read_pass(const ReadPattern& pattern) {
  const double start = seconds_now();
  for_stretches(pool_, region_, [&](std::byte* at) {
    keep_ += kernels_.read(at, static_cast<int64_t>(kStretch), pattern);
  });
  return static_cast<double>(region_.size()) / (seconds_now() - start);
}

double Meter::peak() const {
  return format_.integers ? kernels_.integers->peak(iterations_)
                          : kernels_.peak(format_.type, iterations_);
}

double Meter::peak_flops() {
  std::atomic<double> operations{0};
  const double start = seconds_now();
  pool_.run_on_all([&](int) { operations.fetch_add(peak()); });
  return operations.load() / (seconds_now() - start);
}

}  // namespace moesaic::backend::cpu
