#pragma once

// For tests of loading: a backend that packs row-major and counts, a small layout with every kind
// of item, and checkpoints that fit it.

#include <atomic>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend/host/host_backend.h"
#include "checkpoint/checkpoint_testing.h"
#include "model/loader_sources.h"
#include "model/weights.h"

namespace moesaic::model::testing {

/// The reference backend, with an eye on what is packed.
class FakeBackend : public backend::HostBackend {
 public:
  explicit FakeBackend(std::string layout = "fake-1", bool opaque = false)
      : HostBackend(backend::make_reference_ops()), layout_(std::move(layout)), opaque_(opaque) {}

  std::atomic<int> packs = 0;       ///< calls of pack
  std::atomic<bool> fail = false;   ///< pack throws
  std::atomic<int> misaligned = 0;  ///< views handed to pack that were not aligned

  std::string layout_id() const override { return layout_; }
  /// An opaque one is as if its memory were a device's.
  std::span<std::byte> host_view(const backend::Buffer& buffer) override {
    return opaque_ ? std::span<std::byte>() : HostBackend::host_view(buffer);
  }
  void pack(const backend::MatrixDesc& desc, const backend::MatrixSource& source, int64_t unit,
            backend::Address destination) override {
    look_at(source.parts);
    HostBackend::pack(desc, source, unit, destination);
  }
  void pack(const backend::ExpertsDesc& desc, const backend::ExpertsSource& source, int64_t unit,
            backend::Address destination) override {
    for (const auto* list : {&source.gate, &source.up, &source.down}) look_at(*list);
    HostBackend::pack(desc, source, unit, destination);
  }

 private:
  void look_at(const std::vector<backend::SourcePart>& parts) {
    ++packs;
    if (fail) throw std::runtime_error("pack failed");
    for (const backend::SourcePart& part : parts) {
      const tensor::View& view = part.part.values;
      if (reinterpret_cast<uintptr_t>(view.data) % tensor::size_of(view.dtype) != 0) ++misaligned;
    }
  }

  std::string layout_;
  bool opaque_;
};

inline constexpr int64_t kHidden = 8, kWidth = 4, kExperts = 3, kVocab = 10;

/// A model of two layers, the second dense, with every kind of item but QK-norms.
inline ModelSpec small_spec() {
  ModelSpec spec;
  spec.family = "qwen2_moe";
  spec.vocab_size = kVocab;
  spec.hidden = kHidden;
  spec.max_position = 64;
  spec.rope.rotary_dim = 4;
  LayerSpec layer;
  layer.attention.heads = 2;
  layer.attention.kv_heads = 1;
  layer.attention.head_dim = 4;
  layer.attention.qkv_bias = true;
  layer.attention.scale = 0.5;
  layer.ffn.moe = true;
  layer.ffn.width = kWidth;
  layer.ffn.experts = kExperts;
  layer.ffn.router.top_k = 2;
  layer.ffn.shared_width = kWidth;
  layer.ffn.shared_gate = true;
  spec.layers.push_back(layer);
  layer.ffn = {};
  layer.ffn.width = kWidth;
  spec.layers.push_back(layer);
  return spec;
}

inline WeightLayout small_layout(tensor::DType dtype, const Shard& shard = {}) {
  return lay_out_weights(small_spec(), FakeBackend(), dtype, shard);
}

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

/// The tensors that the layout of a whole model asks for, in one dtype.
inline FakeTensors tensors_for(const WeightLayout& layout, tensor::DType dtype) {
  FakeTensors all;
  const auto add = [&](const std::vector<Slice>& slices, bool vector) {
    for (const Slice& slice : slices) {
      const tensor::Shape shape = vector ? tensor::Shape{slice.tensor_rows}
                                         : tensor::Shape{slice.tensor_rows, slice.tensor_cols};
      all[slice.name] = numbered(dtype, shape, all.size() + 1);
    }
  };
  for (const WeightItem& item : list_items(layout)) {
    if (item.matrix != nullptr) add(item.matrix->slices, false);
    if (item.vector != nullptr) add(item.vector->slices, true);
    if (item.experts == nullptr) continue;
    add(item.experts->gate, false);
    add(item.experts->up, false);
    add(item.experts->down, false);
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

inline std::string bytes_of(backend::Backend& backend, const backend::Buffer& buffer) {
  std::string bytes(buffer.size(), 0);
  backend.wait(backend.read(buffer.address(), std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

}  // namespace moesaic::model::testing
