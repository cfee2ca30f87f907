#include <fmt/format.h>

#include "backend/cpu/isa.h"
#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/layout.h"
#include "backend/cpu/misc.h"
#include "backend/cpu/products.h"
#include "backend/ops.h"
#include "base/error.h"

namespace moesaic::backend::cpu {
namespace {

/// The CPU backend: packed weights (layout.h), matrix products (products.h) and the other operators
/// (misc.h), each over the kernels of one instruction set.
class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options)
      : isa_(isa_from_name(options.isa)),
        pool_(options.threads, options.pin),
        kernels_(kernel_table(isa_)),
        misc_(misc_kernels(isa_)),
        products_(pool_, kernels_) {}

  std::string_view name() const override { return "cpu"; }
  std::string layout_id() const override { return std::string(cpu::layout_id(kernels_)); }
  std::string description() const override {
    return fmt::format("cpu, {}, {} thread{}", title(isa_), pool_.size(),
                       pool_.size() == 1 ? "" : "s");
  }
  Unsupported supports(DType dtype) const override {
    if (dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16) return {};
    return fmt::format("weights of type {} are not supported", tensor::to_string(dtype));
  }

  size_t packed_bytes(const MatrixDesc& desc) const override {
    return static_cast<size_t>(matrix_shape(desc).bytes());
  }
  size_t packed_bytes(const ExpertsDesc& desc) const override {
    return static_cast<size_t>(desc.experts * ExpertShape(desc).bytes());
  }
  int64_t pack_units(const MatrixDesc& desc) const override { return matrix_shape(desc).panels; }
  int64_t pack_units(const ExpertsDesc& desc) const override {
    return desc.experts * ExpertShape(desc).units();
  }
  void pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
            std::byte* destination) const override {
    pack_matrix(kernels_, desc, source, unit, destination);
  }
  void pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
            std::byte* destination) const override {
    pack_experts(kernels_, desc, source, unit, destination);
  }

  size_t kv_block_bytes(const KvDesc& desc) const override { return cpu::kv_block_bytes(desc); }

  size_t scratch_bytes(const ExpertsDesc& largest, int64_t top_k, int64_t max_rows) const override {
    return products_.scratch_bytes(largest, top_k, max_rows) +
           attention_scratch_bytes(pool_.size());
  }
  void reserve(const ExpertsDesc& largest, int64_t top_k, int64_t max_rows) override {
    products_.reserve(products_.scratch_bytes(largest, top_k, max_rows));
    if (attention_.size() == 0) {
      attention_ =
          base::Region(base::MemoryTag::kActivations, attention_scratch_bytes(pool_.size()));
    }
  }

  void parallel_for(int64_t tasks, const std::function<void(int64_t, int)>& body) override {
    pool_.parallel_for(tasks, body);
  }

  void embed(const Matrix& table, std::span<const int32_t> ids, float* out) override {
    for (size_t i = 0; i < ids.size(); ++i) {
      unpack_row(kernels_, table, ids[i], out + static_cast<int64_t>(i) * table.desc.k);
    }
  }
  void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
                float* out) override {
    cpu::rms_norm(pool_, misc_, x, weight, eps, rows, width, out);
  }
  void add_rms_norm(float* residual, const float* delta, const float* weight, float eps,
                    int64_t rows, int64_t width, float* out) override {
    cpu::add_rms_norm(pool_, misc_, residual, delta, weight, eps, rows, width, out);
  }
  void linear(const Matrix& w, const float* bias, const float* x, int64_t rows, float* y) override {
    products_.linear(w, bias, x, rows, y);
  }
  void qkv_rope_append(const AttentionDesc& desc, const QkvInputs& inputs, int64_t rows, float* qkv,
                       const KvLayer& cache) override {
    cpu::qkv_rope_append(pool_, misc_, desc, inputs, rows, qkv, cache);
  }
  void attention(const AttentionDesc& desc, const KvLayer& cache, const AttentionBatch& batch,
                 const float* qkv, float* out) override {
    if (attention_.size() == 0) {
      attention_ =
          base::Region(base::MemoryTag::kActivations, attention_scratch_bytes(pool_.size()));
    }
    cpu::attention(pool_, misc_, desc, cache, batch, qkv, out, attention_.as<float>());
  }
  void route(const RouterDesc& desc, const float* logits, int64_t rows, Routing& routing) override {
    cpu::route(pool_, desc, logits, rows, routing);
  }
  void experts(const Experts& w, const Routing& routing, const float* x, int64_t rows,
               bool accumulate, float* y) override {
    products_.experts(w, routing, x, rows, accumulate, y);
  }

 private:
  Isa isa_;
  base::ThreadPool pool_;
  const KernelTable& kernels_;
  const MiscTable& misc_;
  Products products_;
  base::Region attention_;
};

}  // namespace
}  // namespace moesaic::backend::cpu

namespace moesaic::backend {

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  return std::make_unique<cpu::CpuBackend>(options);
}

}  // namespace moesaic::backend
