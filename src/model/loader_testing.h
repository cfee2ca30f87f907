#pragma once

// For tests of loading: a backend that packs row-major on several threads and counts, a small plan
// with every kind of item, and checkpoints that fit it.

#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "backend/ops.h"
#include "checkpoint/checkpoint_testing.h"
#include "model/weights.h"

namespace moesaic::model::testing {

/// Packs row-major in the descriptor's dtype. Operators do nothing.
class FakeBackend : public backend::Backend {
 public:
  explicit FakeBackend(std::string layout = "fake-1") : layout_(std::move(layout)) {}

  std::atomic<int> packs = 0;       ///< calls of pack
  std::atomic<bool> fail = false;   ///< pack throws
  std::atomic<int> misaligned = 0;  ///< views handed to pack that were not aligned

  std::string_view name() const override { return "fake"; }
  std::string layout_id() const override { return layout_; }
  std::string description() const override { return "fake"; }
  backend::Unsupported supports(tensor::DType) const override { return {}; }

  size_t packed_bytes(const backend::MatrixDesc& d) const override {
    return static_cast<size_t>(d.n * d.k) * tensor::size_of(d.dtype);
  }
  size_t packed_bytes(const backend::ExpertsDesc& d) const override {
    return static_cast<size_t>(d.experts * 3 * d.hidden * d.width) * tensor::size_of(d.dtype);
  }
  int64_t pack_units(const backend::MatrixDesc& d) const override { return d.n; }
  int64_t pack_units(const backend::ExpertsDesc& d) const override { return d.experts * 3; }

  void pack(const backend::MatrixDesc& d, const backend::MatrixSource& source, int64_t unit,
            std::byte* destination) const override {
    count();
    std::byte* row = destination + static_cast<size_t>(unit * d.k) * tensor::size_of(d.dtype);
    if (source.dummy) return fill(source.seed, unit * d.k, d.k, d.dtype, row);
    for (const tensor::View& part : source.parts) {
      if (unit < part.shape[0]) return copy(part, unit * d.k, d.k, d.dtype, row);
      unit -= part.shape[0];
    }
  }

  void pack(const backend::ExpertsDesc& d, const backend::ExpertsSource& source, int64_t unit,
            std::byte* destination) const override {
    count();
    const int64_t size = d.hidden * d.width;
    std::byte* out = destination + static_cast<size_t>(unit * size) * tensor::size_of(d.dtype);
    if (source.dummy) {
      return fill(source.seed + static_cast<uint64_t>(unit), 0, size, d.dtype, out);
    }
    const auto e = static_cast<size_t>(unit / 3);
    const auto* list = unit % 3 == 0 ? &source.gate : unit % 3 == 1 ? &source.up : &source.down;
    copy(list->at(e), 0, size, d.dtype, out);
  }

  void parallel_for(int64_t tasks, const std::function<void(int64_t, int)>& body) override {
    std::atomic<int64_t> next = 0;
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int worker = 0; worker < 4; ++worker) {
      threads.emplace_back([&, worker] {
        for (int64_t task = next++; task < tasks; task = next++) body(task, worker);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  size_t kv_block_bytes(const backend::KvDesc&) const override { return 0; }
  size_t scratch_bytes(const backend::ExpertsDesc&, int64_t, int64_t) const override { return 0; }
  void reserve(const backend::ExpertsDesc&, int64_t, int64_t) override {}
  void embed(const backend::Matrix&, std::span<const int32_t>, float*) override {}
  void rms_norm(const float*, const float*, float, int64_t, int64_t, float*) override {}
  void add_rms_norm(float*, const float*, const float*, float, int64_t, int64_t, float*) override {}
  void linear(const backend::Matrix&, const float*, const float*, int64_t, float*) override {}
  void qkv_rope_append(const backend::AttentionDesc&, const backend::QkvInputs&, int64_t, float*,
                       const backend::KvLayer&) override {}
  void attention(const backend::AttentionDesc&, const backend::KvLayer&,
                 const backend::AttentionBatch&, const float*, float*) override {}
  void route(const backend::RouterDesc&, const float*, int64_t, backend::Routing&) override {}
  void experts(const backend::Experts&, const backend::Routing&, const float*, int64_t, bool,
               float*) override {}

 private:
  void count() const {
    ++const_cast<FakeBackend*>(this)->packs;
    if (fail) throw std::runtime_error("pack failed");
  }
  void copy(const tensor::View& view, int64_t first, int64_t elements, tensor::DType dtype,
            std::byte* out) const {
    if (reinterpret_cast<uintptr_t>(view.data) % tensor::size_of(view.dtype) != 0) {
      ++const_cast<FakeBackend*>(this)->misaligned;
    }
    for (int64_t i = 0; i < elements; ++i) {
      tensor::store_float(dtype, out, i, tensor::load_float(view.dtype, view.data, first + i));
    }
  }
  static void fill(uint64_t seed, int64_t first, int64_t elements, tensor::DType dtype,
                   std::byte* out) {
    for (int64_t i = 0; i < elements; ++i) {
      const uint64_t mixed = (seed + static_cast<uint64_t>(first + i)) * 0x9e3779b97f4a7c15u;
      tensor::store_float(dtype, out, i, static_cast<float>(mixed >> 44) * 0x1p-20f);
    }
  }

  std::string layout_;
};

inline constexpr int64_t kHidden = 8, kWidth = 4, kExperts = 3, kVocab = 10;

/// A model of two layers, the second dense, with every kind of item.
class PlanMaker {
 public:
  explicit PlanMaker(tensor::DType dtype) : dtype_(dtype) {}

  WeightPlan make() {
    WeightPlan plan;
    plan.embed = matrix(dtype_, kHidden, {{"model.embed_tokens.weight", kVocab}});
    for (int64_t i = 0; i < 2; ++i) plan.layers.push_back(layer(i));
    plan.final_norm = vector({{"model.norm.weight", kHidden}}, 1);
    plan.lm_head = matrix(dtype_, kHidden, {{"lm_head.weight", kVocab}});
    plan.bytes = bytes_;
    plan.ignored_suffixes = {".rotary_emb.inv_freq"};
    return plan;
  }

 private:
  using Parts = std::vector<std::pair<std::string, int64_t>>;

  int64_t place(size_t bytes) {
    const size_t at = bytes_;
    bytes_ += (bytes + 63) / 64 * 64;
    return static_cast<int64_t>(at);
  }
  Placed<MatrixItem> matrix(tensor::DType dtype, int64_t k, const Parts& parts) {
    Placed<MatrixItem> placed;
    placed.item.desc = {.n = 0, .k = k, .dtype = dtype};
    for (const auto& [name, rows] : parts) {
      placed.item.parts.push_back(name);
      placed.item.part_rows.push_back(rows);
      placed.item.desc.n += rows;
    }
    placed.offset = place(FakeBackend().packed_bytes(placed.item.desc));
    return placed;
  }
  Placed<VectorItem> vector(const Parts& parts, float dummy) {
    Placed<VectorItem> placed;
    placed.item.dummy = dummy;
    size_t size = 0;
    for (const auto& [name, n] : parts) {
      placed.item.parts.push_back(name);
      placed.item.part_sizes.push_back(n);
      size += static_cast<size_t>(n);
    }
    placed.offset = place(size * sizeof(float));
    return placed;
  }
  Placed<ExpertsItem> experts(const std::string& prefix, int64_t count) {
    Placed<ExpertsItem> placed;
    placed.item.desc = {.experts = count, .hidden = kHidden, .width = kWidth, .dtype = dtype_};
    for (int64_t e = 0; e < count; ++e) {
      const std::string one = count == 1 ? prefix : prefix + std::to_string(e) + ".";
      placed.item.gate.push_back(one + "gate_proj.weight");
      placed.item.up.push_back(one + "up_proj.weight");
      placed.item.down.push_back(one + "down_proj.weight");
    }
    if (count > 1) {
      placed.item.fused_gate_up = prefix + "gate_up_proj";
      placed.item.fused_down = prefix + "down_proj";
    }
    placed.offset = place(FakeBackend().packed_bytes(placed.item.desc));
    return placed;
  }
  LayerPlan layer(int64_t index) {
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const std::string attention = prefix + "self_attn.";
    LayerPlan plan;
    plan.input_norm = vector({{prefix + "input_layernorm.weight", kHidden}}, 1);
    plan.qkv = matrix(dtype_, kHidden,
                      {{attention + "q_proj.weight", 8},
                       {attention + "k_proj.weight", 4},
                       {attention + "v_proj.weight", 4}});
    plan.qkv_bias = vector({{attention + "q_proj.bias", 8},
                            {attention + "k_proj.bias", 4},
                            {attention + "v_proj.bias", 4}},
                           0);
    if (index == 1) {
      plan.experts = experts(prefix + "mlp.", 1);
      return plan;
    }
    plan.router = matrix(tensor::DType::kF32, kHidden, {{prefix + "mlp.gate.weight", kExperts}});
    plan.experts = experts(prefix + "mlp.experts.", kExperts);
    plan.shared = experts(prefix + "mlp.shared_expert.", 1);
    plan.shared_gate =
        matrix(tensor::DType::kF32, kHidden, {{prefix + "mlp.shared_expert_gate.weight", 1}});
    return plan;
  }

  tensor::DType dtype_;
  size_t bytes_ = 0;
};

struct FakeTensor {
  tensor::DType dtype = tensor::DType::kF32;
  tensor::Shape shape;
  std::vector<float> values;
  std::string raw_dtype, raw_bytes;  ///< instead, for dtypes that are no floats
};
using FakeTensors = std::map<std::string, FakeTensor>;

/// Small whole numbers, exact in every float type, different per tensor.
inline FakeTensor numbered(tensor::DType dtype, const tensor::Shape& shape, size_t salt) {
  FakeTensor made{.dtype = dtype, .shape = shape, .values = {}, .raw_dtype = {}, .raw_bytes = {}};
  const auto count = static_cast<size_t>(tensor::element_count(shape));
  for (size_t i = 0; i < count; ++i) {
    made.values.push_back(static_cast<float>((i * 7 + salt * 13) % 251) - 100.0f);
  }
  return made;
}

/// The tensors that the plan asks for, in one dtype.
inline FakeTensors tensors_for(const WeightPlan& plan, tensor::DType dtype) {
  FakeTensors all;
  const auto add = [&](const std::string& name, const tensor::Shape& shape) {
    all[name] = numbered(dtype, shape, all.size() + 1);
  };
  const auto add_matrix = [&](const Placed<MatrixItem>& placed) {
    for (size_t i = 0; i < placed.item.parts.size(); ++i) {
      add(placed.item.parts[i], {placed.item.part_rows[i], placed.item.desc.k});
    }
  };
  const auto add_vector = [&](const Placed<VectorItem>& placed) {
    for (size_t i = 0; i < placed.item.parts.size(); ++i) {
      add(placed.item.parts[i], {placed.item.part_sizes[i]});
    }
  };
  const auto add_experts = [&](const Placed<ExpertsItem>& placed) {
    for (size_t e = 0; e < placed.item.gate.size(); ++e) {
      add(placed.item.gate[e], {kWidth, kHidden});
      add(placed.item.up[e], {kWidth, kHidden});
      add(placed.item.down[e], {kHidden, kWidth});
    }
  };
  add_matrix(plan.embed);
  add_matrix(plan.lm_head);
  add_vector(plan.final_norm);
  for (const LayerPlan& layer : plan.layers) {
    add_vector(layer.input_norm);
    add_matrix(layer.qkv);
    add_vector(layer.qkv_bias);
    add_matrix(layer.router);
    add_experts(layer.experts);
    add_matrix(layer.shared_gate);
    add_experts(layer.shared);
  }
  return all;
}

/// Writes model.safetensors; `remainder` is its data's alignment modulo 8.
inline void write_checkpoint(const std::filesystem::path& folder, const FakeTensors& tensors,
                             size_t remainder = 0) {
  checkpoint::testing::SafetensorsWriter writer;
  for (const auto& [name, made] : tensors) {
    if (made.raw_dtype.empty()) {
      writer.add_floats(name, made.dtype, made.shape, made.values);
    } else {
      writer.add(name, made.raw_dtype, made.shape, made.raw_bytes);
    }
  }
  checkpoint::testing::write_file(folder / "model.safetensors", writer.bytes(remainder));
}

inline std::string bytes_of(const base::Region& region) {
  return {reinterpret_cast<const char*>(region.data()), region.size()};
}

}  // namespace moesaic::model::testing
