#pragma once

// A backend whose memory is the host's: the operators of ops.h composed of those of host_ops.h.

#include <atomic>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "backend/host/host_ops.h"

namespace moesaic::backend {

class HostBackend : public Backend {
 public:
  /// `pool` chooses tokens, where there is one, and outlives the backend.
  explicit HostBackend(std::unique_ptr<HostOps> ops, base::ThreadPool* pool = nullptr);
  ~HostBackend() override;

  std::string_view name() const override { return ops_->name(); }
  std::string layout_id() const override { return ops_->layout_id(); }
  std::string description() const override { return ops_->description(); }
  Unsupported supports(const WeightFormat& format) const override { return ops_->supports(format); }
  bool rows_are_independent() const override { return true; }

  Buffer allocate(base::MemoryTag tag, size_t bytes) override;
  MemoryInfo memory() const override;
  void write(Address to, std::span<const std::byte> from) override;
  Fence read(Address from, std::span<std::byte> into) override;
  Fence fence() override { return {}; }
  void wait(Fence) override {}
  std::span<std::byte> host_view(const Buffer& buffer) override;

  size_t packed_alignment() const override { return 64; }
  size_t packed_bytes(const MatrixDesc& desc) const override { return ops_->packed_bytes(desc); }
  size_t packed_bytes(const ExpertsDesc& desc) const override { return ops_->packed_bytes(desc); }
  int64_t pack_units(const MatrixDesc& desc) const override { return ops_->pack_units(desc); }
  int64_t pack_units(const ExpertsDesc& desc) const override { return ops_->pack_units(desc); }
  PackUnit pack_unit(const MatrixDesc& desc, int64_t unit) const override {
    return ops_->pack_unit(desc, unit);
  }
  PackUnit pack_unit(const ExpertsDesc& desc, int64_t unit) const override {
    return ops_->pack_unit(desc, unit);
  }
  void pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
            Address destination) override;
  void pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
            Address destination) override;
  size_t kv_block_bytes(const KvDesc& desc) const override {
    return desc.kv_heads == 0 ? 0 : ops_->kv_block_bytes(desc);
  }

  size_t activation_bytes(const ModelShape& shape) const override;
  void reserve(const ModelShape& shape) override;
  Activation activation(ActivationKind kind) const override;
  int64_t logits_at_once() const override;
  void expert_counts(std::span<uint64_t> counts) const override;

  StepView begin_step(const StepBatch& batch, const RopeTable& rope) override;
  void embed(const StepView& step, const Matrix& table, int64_t first_row) override;
  void attention_in(const StepView& step, const AttentionWeights& weights, const KvLayer& cache,
                    Communicator& ranks) override;
  void attention(const StepView& step, const AttentionDesc& desc, const KvLayer& cache) override;
  void attention_out(const StepView& step, const AttentionWeights& weights) override;
  void ffn_in(const StepView& step, const FfnWeights& weights) override;
  void ffn(const StepView& step, const FfnWeights& weights) override;
  void head(const StepView& step, const HeadWeights& weights, int64_t first,
            int64_t count) override;

  Unsupported samples(const SampleRow&) const override { return {}; }
  void set_sampling_state(int32_t slot, SamplingState state) override;
  void sample(const StepView& step, int64_t first, std::span<const SampleRow> rows) override;
  Fence end_step(const StepView& step) override;
  std::vector<Sampled> take_samples(Fence end) override;

 private:
  struct Layout;
  struct Step;
  float* at(size_t offset) const;
  void add_and_norm(const StepView& step, Address weight, float eps);
  void sum_squares(const AttentionDesc& desc, int64_t rows, Communicator& ranks);
  void gather_logit_rows();
  void count_rows(const FfnWeights& weights);
  void keep_own_experts(const FfnWeights& weights);
  const AttentionPlan& plan_for(const AttentionDesc& desc);

  std::unique_ptr<HostOps> ops_;
  base::ThreadPool* pool_;
  ModelShape shape_;
  std::unique_ptr<Layout> layout_;
  Buffer activations_;
  std::unique_ptr<Step> step_;
  Routing routing_, shared_routing_, dense_routing_;
  std::vector<std::atomic<uint64_t>> counts_;  ///< [moe_layers, router_experts]
  std::vector<SamplingState> states_;
  uint64_t steps_ended_ = 0;
  std::vector<int32_t> chosen_;  ///< by wanted row of the step before
  std::deque<std::pair<uint64_t, std::vector<Sampled>>> results_;  ///< of steps not taken yet
};

}  // namespace moesaic::backend
