#include "backend/cpu/measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "backend/cpu/isa.h"
#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/layout.h"
#include "base/memory.h"

namespace moesaic::backend::cpu {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr int kPasses = 5;

}  // namespace

double measure_read_bandwidth(base::ThreadPool& pool, size_t bytes) {
  const KernelTable& kernels = kernel_table(available_isas().back());
  // Stretches of 2 MiB handed out by a counter: a thread that loses its core for a while then costs
  // the pass little.
  constexpr size_t kStretch = size_t{2} << 20;
  const size_t stretches = std::max<size_t>(1, bytes / kStretch);
  const base::Region region(base::MemoryTag::kRuntime, stretches * kStretch);
  auto each = [&](const auto& body) {
    pool.parallel_for(static_cast<int64_t>(stretches), [&](int64_t i, int) {
      body(region.data() + static_cast<size_t>(i) * kStretch);
    });
  };
  each([](std::byte* at) { std::memset(at, 1, kStretch); });
  double best = 0;
  std::atomic<uint64_t> keep{0};
  for (int pass = 0; pass < kPasses; ++pass) {
    const double start = seconds_now();
    each([&](std::byte* at) { keep += kernels.read(at, static_cast<int64_t>(kStretch)); });
    best = std::max(best, static_cast<double>(stretches * kStretch) / (seconds_now() - start));
  }
  return best;
}

double measure_peak_flops(base::ThreadPool& pool, const std::string& isa, tensor::DType dtype) {
  const KernelTable& kernels = kernel_table(isa_from_name(isa));
  const WeightType type = weight_type(dtype);
  // Enough work for about 10 ms.
  int64_t iterations = 1 << 10;
  for (;;) {
    const double start = seconds_now();
    kernels.peak(type, iterations);
    if (seconds_now() - start > 0.01) break;
    iterations *= 2;
  }
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::atomic<double> operations{0};
    const double start = seconds_now();
    pool.run_on_all([&](int) { operations.fetch_add(kernels.peak(type, iterations)); });
    best = std::max(best, operations.load() / (seconds_now() - start));
  }
  return best;
}

}  // namespace moesaic::backend::cpu
