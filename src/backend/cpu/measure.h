#pragma once

// What the processor can do at best.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "backend/cpu/layout.h"
#include "backend/measure.h"
#include "base/memory.h"
#include "base/thread_pool.h"
#include "tensor/weight_format.h"

namespace moesaic::backend::cpu {

/// Bytes of which hardly any are found in a cache when they are read again: four times what the
/// last-level caches hold together, at least `least`.
size_t beyond_caches(size_t least);

/// Measures memory and arithmetic, a few hundredths of a second each time. What a shared host gives
/// changes from second to second, so callers measure beside whatever they compare with.
class Meter final : public backend::Meter {
 public:
  /// `bytes` are read in one pass (allocated here; the default is far more than caches hold).
  /// `isa` is a name of available_cpu_isas; its best loop for weights of `format` is what
  /// peak_flops runs.
  Meter(base::ThreadPool& pool, const std::string& isa, const tensor::WeightFormat& format,
        size_t bytes = beyond_caches(size_t{1} << 30));

  /// Bytes per second that all threads of the pool together read from memory: by the pattern that
  /// was best so far, and by another one, in turn; the better counts.
  double read_bandwidth() override;

  /// Operations per second (a multiply-add is two) of all threads together, on registers only.
  double peak_flops() override;

 private:
  double read_pass(const ReadPattern& pattern);
  double peak() const;

  base::ThreadPool& pool_;
  const KernelTable& kernels_;
  ProductFormat format_;
  base::Region region_;
  size_t best_ = 0, next_ = 0;     ///< patterns
  int64_t iterations_ = 1 << 10;   ///< of the peak loop, for about 10 ms
  std::atomic<uint64_t> keep_{0};  ///< what was read, so that the loads stay
};

}  // namespace moesaic::backend::cpu
