#pragma once

// The operators that read weights: linear and the grouped experts. They cut the work into tasks for
// the pool and leave the arithmetic to a kernel table.

#include <atomic>
#include <cstdint>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/layout.h"
#include "backend/host/host_ops.h"
#include "base/memory.h"
#include "base/thread_pool.h"

namespace moesaic::backend::cpu {

/// Where the pieces of one experts() call lie in the scratch region, in bytes.
struct ExpertScratch {
  ProductFormat gate_up, down;
  ActivationLayout x_layout;  ///< rounded inputs; unused when the kernel takes f32 rows
  ActivationLayout h_layout;  ///< silu(gate) * up
  size_t x = 0;
  size_t h = 0;
  size_t index = 0;    ///< int32 [slots] the input row of each slot
  size_t scale = 0;    ///< float [slots]
  size_t offsets = 0;  ///< int32 [experts + 1] first slot of each expert
  size_t order = 0;    ///< int32 [experts] experts with rows, most rows first
  size_t bytes = 0;

  ExpertScratch(const KernelTable& kernels, const ExpertsDesc& desc, int64_t top_k, int64_t rows);
};

class Products {
 public:
  Products(base::ThreadPool& pool, const KernelTable& kernels) : pool_(pool), kernels_(kernels) {}

  size_t scratch_bytes(const ExpertsDesc& largest, int64_t top_k, int64_t max_rows) const;
  void reserve(size_t bytes);

  void linear(const Matrix& w, const float* bias, const float* x, int64_t rows, float* y,
              int64_t stride);
  void experts(const Experts& w, const Routing& routing, const float* x, int64_t rows,
               bool accumulate, float* y);

 private:
  /// Makes of rows what products of `format` take.
  void round_rows(const ProductFormat& format, const float* x, const int32_t* index, int64_t rows,
                  int64_t k, std::byte* out, const ActivationLayout& layout);
  void multiply(const ProductFormat& format, const ProductFormat* then, const Gemm& task) const;
  void linear_rows(const ProductFormat& format, const Matrix& w, const float* bias, const float* x,
                   int64_t rows, float* y, int64_t stride);
  void gate_up(const Experts& w, const ExpertScratch& scratch, const std::byte* x);
  void down(const Experts& w, const ExpertScratch& scratch, int64_t rows, bool accumulate,
            float* y);

  /// Runs body(task, next) for every task; `next` is the task that the same thread takes after, or
  /// -1 where that is not known yet.
  template <typename Body>
  void run(int64_t tasks, const Body& body) {
    if (tasks <= 0) return;
    if (tasks == 1) {
      body(int64_t{0}, int64_t{-1});
      return;
    }
    // A task claimed ahead can be prefetched for; the last ones stay unclaimed so that threads end
    // together.
    const int64_t claimable = tasks - 2 * pool_.size();
    alignas(64) std::atomic<int64_t> counter{0};
    pool_.share([&](int) {
      int64_t task = counter.fetch_add(1, std::memory_order_relaxed);
      while (task < tasks) {
        const bool ahead = task < claimable;
        int64_t next = ahead ? counter.fetch_add(1, std::memory_order_relaxed) : -1;
        body(task, next < tasks ? next : -1);
        task = ahead ? next : counter.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }

  base::ThreadPool& pool_;
  const KernelTable& kernels_;
  base::Region scratch_;
  // Of the experts() call under way.
  int64_t active_ = 0;           ///< experts with rows
  std::vector<int32_t> counts_;  ///< rows of each expert
};

/// The layout of rows of `k` inputs as products of a format want them, and the bytes that `rows`
/// take.
ActivationLayout activation_layout(const KernelTable& kernels, const ProductFormat& format,
                                   int64_t k);
size_t activation_bytes(const ActivationLayout& layout, int64_t rows);

}  // namespace moesaic::backend::cpu
