#pragma once

// What this machine can do at best: the denominators of every share of the limit that is reported.

#include <cstddef>
#include <string>

#include "base/thread_pool.h"
#include "tensor/dtype.h"

namespace moesaic::backend::cpu {

/// Bytes per second that all threads of the pool together read from memory: the best of several
/// passes over `bytes` (at least 1 GiB for a true figure), each thread its own stretch.
double measure_read_bandwidth(base::ThreadPool& pool, size_t bytes);

/// Operations per second (a multiply-add is two) of all threads together in the best loop that the
/// instruction set `isa` (a name of available_cpu_isas) has for weights of `dtype`, on registers
/// only.
double measure_peak_flops(base::ThreadPool& pool, const std::string& isa, tensor::DType dtype);

}  // namespace moesaic::backend::cpu
