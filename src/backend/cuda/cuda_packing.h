#pragma once

// Weights from the host into the device's layout: values are copied as they lie in the checkpoint,
// and kernels round and place them (products/pack.cu). Routers keep their float32, as three
// matrices in one (products/split.h).

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/cuda/cuda_memory.h"
#include "backend/cuda/products/products.h"
#include "backend/weights.h"

namespace moesaic::backend::cuda {

constexpr size_t kWeightAlignment = 1024;

/// Whether a matrix is packed in three parts, a router's.
inline bool is_split(const MatrixDesc& desc) { return desc.format == WeightFormat(DType::kF32); }

/// What the layers' matrices are multiplied as: bf16, or e4m3 with activations rounded to it where
/// the device has products for that.
Format format_of(const WeightFormat& format);
LinearShape shape_of(const MatrixDesc& desc);
ExpertsShape shape_of(const ExpertsDesc& desc);

/// The work of packing one item, cut into units; thread-safe.
class Packing {
 public:
  explicit Packing(int device);
  ~Packing();

  static size_t bytes(const MatrixDesc& desc) { return packed_bytes(shape_of(desc)); }
  static size_t bytes(const ExpertsDesc& desc) { return packed_bytes(shape_of(desc)); }
  static int64_t units(const MatrixDesc& desc);
  static int64_t units(const ExpertsDesc& desc) { return desc.experts; }
  static PackUnit unit(const MatrixDesc& desc, int64_t index);
  static PackUnit unit(const ExpertsDesc& desc, int64_t index);

  void pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit, std::byte* to);
  void pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit, std::byte* to);

 private:
  /// What one thread needs to bring values to the device.
  class Lane;
  class Lease;

  void pack_split(const MatrixDesc& desc, const MatrixSource& source, std::byte* to) const;

  int device_;
  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<std::unique_ptr<Lane>> idle_;
  int leased_ = 0;
};

}  // namespace moesaic::backend::cuda
