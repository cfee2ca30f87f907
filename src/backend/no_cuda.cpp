// In place of the CUDA backend where this program is built without it.

#include "backend/measure.h"
#include "backend/ops.h"
#include "base/error.h"

namespace moesaic::backend {
namespace {

[[noreturn]] void refuse() {
  throw base::UnavailableError(
      "this program was built without the CUDA backend; build it with 'make build CUDA=1', or take "
      "--backend cpu");
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int, bool) { refuse(); }

std::unique_ptr<Meter> make_cuda_meter(int, bool) { refuse(); }

int cuda_devices() { return 0; }

}  // namespace moesaic::backend
