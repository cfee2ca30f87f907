#include <fmt/format.h>

#include "backend/cpu/attention.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/layout.h"
#include "backend/cpu/products.h"
#include "backend/cpu/rows.h"
#include "backend/host/host_ops.h"
#include "base/error.h"
#include "tensor/integers.h"

namespace moesaic::backend::cpu {
namespace {

/// The CPU's operators: packed weights (layout.h), matrix products (products.h), attention and what
/// works row by row, each over the kernels of one instruction set.
class CpuOps final : public HostOps {
 public:
  CpuOps(base::ThreadPool& pool, const std::string& isa)
      : isa_(isa_from_name(isa)),
        pool_(pool),
        kernels_(kernel_table(isa_)),
        rows_(row_kernels(isa_)),
        attention_(attention_kernels(isa_)),
        products_(pool_, kernels_) {}

  std::string_view name() const override { return "cpu"; }
  std::string layout_id() const override { return std::string(cpu::layout_id(kernels_)); }
  std::string description() const override {
    return fmt::format("cpu, {}, {} thread{}", title(isa_), pool_.size(),
                       pool_.size() == 1 ? "" : "s");
  }
  Unsupported supports(const WeightFormat& format) const override {
    const DType type = format.base;
    const bool known = type == DType::kF32 || type == DType::kBF16 || type == DType::kF16;
    if ((format.plain() && known) || tensor::integers_of(format)) return {};
    return fmt::format("weights of type {} are not supported",
                       format.plain() ? tensor::to_string(type) : format.name);
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
  PackUnit pack_unit(const MatrixDesc& desc, int64_t unit) const override {
    return matrix_unit(desc, unit);
  }
  PackUnit pack_unit(const ExpertsDesc& desc, int64_t unit) const override {
    return experts_unit(desc, unit);
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

  size_t scratch_bytes(const ModelShape::Ffn& ffn, int64_t max_rows) const override {
    return products_.scratch_bytes(ffn.desc, ffn.top_k, max_rows) +
           attention_scratch_bytes(pool_.size());
  }
  void reserve(const ModelShape::Ffn& ffn, int64_t max_rows) override {
    products_.reserve(products_.scratch_bytes(ffn.desc, ffn.top_k, max_rows));
    reserve_attention();
  }

  void embed(const Matrix& table, std::span<const int32_t> ids, float* out) override {
    for (const int32_t id : ids) {
      if (id >= 0 && id < table.desc.n) {
        unpack_row(kernels_, table, id, out);
      } else {
        std::fill_n(out, table.desc.k, 0.0f);
      }
      out += table.desc.k;
    }
  }
  void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width,
                float* out) override {
    cpu::rms_norm(pool_, rows_, x, weight, eps, rows, width, out);
  }
  void add_rms_norm(float* residual, const float* delta, const float* weight, float eps,
                    int64_t rows, int64_t width, float* out) override {
    cpu::add_rms_norm(pool_, rows_, residual, delta, weight, eps, rows, width, out);
  }
  void linear(const Matrix& w, const float* bias, const float* x, int64_t rows, float* y,
              int64_t stride) override {
    products_.linear(w, bias, x, rows, y, stride);
  }
  void qkv_rope_append(const AttentionDesc& desc, const QkvInputs& inputs, int64_t rows, float* qkv,
                       const KvLayer& cache) override {
    cpu::qkv_rope_append(pool_, rows_, desc, inputs, rows, qkv, cache);
  }
  std::unique_ptr<AttentionPlan> plan_attention(const AttentionDesc& desc,
                                                const AttentionBatch& batch) const override {
    return cpu::plan_attention(pool_, desc, batch);
  }
  void attention(const AttentionDesc& desc, const KvLayer& cache, const AttentionBatch& batch,
                 const AttentionPlan& plan, const float* qkv, float* out) override {
    reserve_attention();
    cpu::attention(pool_, attention_, desc, cache, batch, plan, qkv, out, scratch_.as<float>());
  }
  void route(const RouterDesc& desc, const float* logits, int64_t rows, Routing& routing) override {
    cpu::route(pool_, desc, logits, rows, routing);
  }
  void experts(const Experts& w, const Routing& routing, const float* x, int64_t rows,
               bool accumulate, float* y) override {
    products_.experts(w, routing, x, rows, accumulate, y);
  }

 private:
  void reserve_attention() {
    if (scratch_.size() > 0) return;
    scratch_ = base::Region(base::MemoryTag::kActivations, attention_scratch_bytes(pool_.size()));
  }

  Isa isa_;
  base::ThreadPool& pool_;
  const KernelTable& kernels_;
  const RowTable& rows_;
  const AttentionTable& attention_;
  Products products_;
  base::Region scratch_;  ///< attention's
};

}  // namespace
}  // namespace moesaic::backend::cpu

namespace moesaic::backend {

std::unique_ptr<HostOps> make_cpu_ops(base::ThreadPool& pool, const std::string& isa) {
  return std::make_unique<cpu::CpuOps>(pool, isa);
}

}  // namespace moesaic::backend
