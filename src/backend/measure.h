#pragma once

// What a device can do at best: the denominators of every share of a limit that is reported.

#include <memory>

namespace moesaic::backend {

/// Measures memory and arithmetic, a few hundredths of a second each time. What a shared host or a
/// warm card gives changes from second to second, so callers measure beside whatever they compare
/// with.
class Meter {
 public:
  virtual ~Meter() = default;
  /// Bytes per second read from the device's memory.
  virtual double read_bandwidth() = 0;
  /// Operations per second (a multiply-add is two).
  virtual double peak_flops() = 0;
};

/// CUDA device `index`: reads of memory beyond the L2, and products of the tensor cores on operands
/// that stay in shared memory or registers, of bf16 or, with `fp8` and where the backend has them,
/// of e4m3. Throws UnavailableError as make_cuda_backend does.
std::unique_ptr<Meter> make_cuda_meter(int index, bool fp8 = false);

}  // namespace moesaic::backend
