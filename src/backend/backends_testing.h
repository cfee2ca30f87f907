#pragma once

// Backends by name, for tests of what stands on them.

#include <memory>
#include <string>
#include <vector>

#include "backend/ops.h"

namespace moesaic::backend::testing {

/// "reference" and every instruction set of the CPU backend that this machine has.
inline std::vector<std::string> backend_names(bool with_reference = true) {
  std::vector<std::string> names = available_cpu_isas();
  if (with_reference) names.insert(names.begin(), "reference");
  return names;
}

/// Why a backend cannot be tested here; empty when it can.
inline std::string missing(const std::string& name) {
  return name == "cuda" && cuda_devices() == 0 ? "no CUDA device" : "";
}

/// A backend and the threads it runs on: one of backend_names(), or "cuda".
struct NamedBackend {
  explicit NamedBackend(const std::string& name, int threads = 2)
      : pool(std::make_unique<base::ThreadPool>(threads, /*pin=*/false)),
        backend(name == "reference" ? make_reference_backend()
                : name == "cuda"    ? make_cuda_backend(0)
                                    : make_cpu_backend(*pool, name)) {}

  std::unique_ptr<base::ThreadPool> pool;
  std::unique_ptr<Backend> backend;
};

}  // namespace moesaic::backend::testing
