// In place of the CUDA backend where this program is built without it.

#include "backend/ops.h"
#include "base/error.h"

namespace moesaic::backend {

std::unique_ptr<Backend> make_cuda_backend(int) {
  throw base::UnavailableError(
      "this program was built without the CUDA backend; build it with 'make serve CUDA=1', or take "
      "--backend cpu");
}

int cuda_devices() { return 0; }

}  // namespace moesaic::backend
