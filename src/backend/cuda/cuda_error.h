#pragma once

#include <string>

#include "base/error.h"

namespace moesaic::backend::cuda {

/// A failed CUDA call or a launch that was refused; the message names the call.
class CudaError : public base::UnavailableError {
 public:
  explicit CudaError(const std::string& message) : base::UnavailableError("CUDA: " + message) {}
};

}  // namespace moesaic::backend::cuda
