#pragma once

// The backend on an NVIDIA device: the operators of ops.h as sequences of kernels on one stream.
// Activations are bf16, the residual stream float32; products add to it as they are stored, so that
// nothing is ever pending in a delta. One rank.

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/attention.h"
#include "backend/cuda/cuda_graphs.h"
#include "backend/cuda/cuda_memory.h"
#include "backend/cuda/cuda_packing.h"
#include "backend/cuda/cuda_sampler.h"
#include "backend/cuda/products/products.h"
#include "backend/cuda/route.h"
#include "backend/cuda/step.h"
#include "backend/ops.h"

namespace moesaic::backend::cuda {

class CudaBackend final : public Backend {
 public:
  /// Throws UnavailableError when there is no such device or it is too old. Decode steps are run
  /// as graphs unless `graphs` is false.
  explicit CudaBackend(int device, bool graphs = true);
  ~CudaBackend() override;

  std::string_view name() const override { return "cuda"; }
  std::string layout_id() const override { return "cuda-1"; }
  std::string description() const override { return description_; }
  Unsupported supports(const WeightFormat& format) const override;
  bool rows_are_independent() const override { return true; }

  Buffer allocate(base::MemoryTag tag, size_t bytes) override;
  MemoryInfo memory() const override;
  void write(Address to, std::span<const std::byte> from) override;
  Fence read(Address from, std::span<std::byte> into) override;
  Fence fence() override;
  void wait(Fence fence) override;
  std::span<std::byte> host_view(const Buffer&) override { return {}; }

  size_t packed_alignment() const override { return kWeightAlignment; }
  size_t packed_bytes(const MatrixDesc& desc) const override { return Packing::bytes(desc); }
  size_t packed_bytes(const ExpertsDesc& desc) const override { return Packing::bytes(desc); }
  int64_t pack_units(const MatrixDesc& desc) const override { return Packing::units(desc); }
  int64_t pack_units(const ExpertsDesc& desc) const override { return Packing::units(desc); }
  PackUnit pack_unit(const MatrixDesc& desc, int64_t unit) const override {
    return Packing::unit(desc, unit);
  }
  PackUnit pack_unit(const ExpertsDesc& desc, int64_t unit) const override {
    return Packing::unit(desc, unit);
  }
  void pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
            Address destination) override;
  void pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
            Address destination) override;
  /// Throws ConfigError for a cache that the attention kernels do not read.
  size_t kv_block_bytes(const KvDesc& desc) const override;

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

  Unsupported samples(const backend::SampleRow& row) const override;
  void set_sampling_state(int32_t slot, SamplingState state) override;
  void sample(const StepView& step, int64_t first,
              std::span<const backend::SampleRow> rows) override;
  Fence end_step(const StepView& step) override;
  std::vector<backend::Sampled> take_samples(Fence end) override;

 private:
  struct Layout;
  struct Upload;
  struct Flight;
  struct AttentionWork;

  template <typename T>
  T* at(size_t offset) const {
    return activations_->as<T>(offset);
  }
  void use_device() const;
  void upload(const StepBatch& batch);
  void make_angles(const RopeTable& rope, int32_t most_position);

  // Operators are kept until all that come before the first logits are known, then started.
  void defer(Operator::Kind kind, const void* weights, const KvLayer& cache = {});
  void flush();
  void start(const Operator& deferred);
  void start_embed(const Matrix& table);
  void start_attention_in(const AttentionWeights& weights, const KvLayer& cache);
  void start_attention(const AttentionDesc& desc, const KvLayer& cache);
  void start_attention_out(const AttentionWeights& weights);
  void start_ffn_in(const FfnWeights& weights);
  void start_ffn(const FfnWeights& weights);
  void start_head(const HeadWeights& weights, int64_t first, int64_t count);

  AttentionWork& planned(const AttentionDesc& desc, const KvDesc& cache);
  AttentionSequences sequences() const;
  void score_and_route(const Matrix& matrix, const RouterDesc& desc, RowCount rows,
                       uint64_t* totals);
  RowCount rows() const;
  RowCount chunk_of(int64_t first, int64_t count) const;

  int device_;
  std::string description_;
  Products products_;
  Stream stream_;
  Packing packing_;

  ModelShape shape_;
  std::unique_ptr<Layout> layout_;
  std::unique_ptr<base::CountedBytes> counted_;
  std::unique_ptr<DeviceMemory> activations_;
  std::unique_ptr<Sampler> sampler_;

  // Angles of all positions met so far.
  DeviceMemory angles_;
  int64_t angle_positions_ = 0;

  // The step under way.
  std::vector<std::unique_ptr<Upload>> uploads_;  ///< taken in turn
  size_t next_upload_ = 0;
  const Upload* step_ = nullptr;
  DeviceMemory step_memory_;
  std::vector<Operator> deferred_;
  bool with_graphs_;
  StepGraphs graphs_;
  std::vector<std::unique_ptr<AttentionWork>> attention_;
  std::vector<std::unique_ptr<Flight>> idle_flights_;
  std::unique_ptr<Flight> flight_;
  uint64_t tickets_ = 0;
  std::deque<std::unique_ptr<Flight>> flights_;

  // Points that somebody may wait for.
  std::deque<std::pair<uint64_t, std::unique_ptr<Event>>> fences_;

  // For expert_counts(), from any thread.
  mutable std::mutex counts_mutex_;
  Stream counts_stream_;
};

}  // namespace moesaic::backend::cuda
