#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "model/family.h"
#include "model/weights.h"

namespace moesaic::model {
namespace {

std::filesystem::path golden() {
  return std::filesystem::path(MOESAIC_SOURCE_DIR) / "tests/golden";
}

std::vector<std::filesystem::path> published_configs() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(golden() / "configs")) {
    files.push_back(entry.path());
  }
  return files;
}

/// What a layout holds, item by item.
struct Inventory {
  std::map<std::string, int64_t> tensors;          ///< name and elements
  std::set<std::string> fused;                     ///< other spellings
  std::vector<std::pair<int64_t, size_t>> places;  ///< offset and bytes
  int64_t elements = 0;

  Inventory(const WeightLayout& layout, const backend::Backend& backend) : backend_(backend) {
    for_each_item(layout, [&](const auto& placed, WeightPart, size_t) {
      if (placed.present()) add(placed);
    });
    std::sort(places.begin(), places.end());
  }

 private:
  void name(const Slice& slice) {
    const int64_t size = slice.rows * slice.cols;
    EXPECT_TRUE(tensors.emplace(slice.name, size).second) << slice.name << " is planned twice";
    elements += size;
  }
  void add(const Placed<MatrixItem>& placed) {
    int64_t rows = 0;
    for (const Slice& slice : placed.item.slices) {
      name(slice);
      rows += slice.rows;
      EXPECT_EQ(slice.cols, placed.item.desc.k);
    }
    EXPECT_EQ(rows, placed.item.desc.n);
    places.emplace_back(placed.offset, backend_.packed_bytes(placed.item.desc));
  }
  void add(const Placed<VectorItem>& placed) {
    for (const Slice& slice : placed.item.slices) name(slice);
    places.emplace_back(placed.offset, static_cast<size_t>(placed.item.size()) * sizeof(float));
  }
  void add(const Placed<ExpertsItem>& placed) {
    const ExpertsItem& item = placed.item;
    EXPECT_EQ(item.gate.size(), static_cast<size_t>(item.desc.experts));
    for (const auto* slices : {&item.gate, &item.up, &item.down}) {
      for (const Slice& slice : *slices) name(slice);
    }
    if (!item.fused_gate_up.empty()) fused.insert({item.fused_gate_up, item.fused_down});
    places.emplace_back(placed.offset, backend_.packed_bytes(item.desc));
  }

  const backend::Backend& backend_;
};

class WeightLayoutTest : public testing::Test {
 protected:
  std::unique_ptr<backend::Backend> backend_ = backend::make_reference_backend();
};

TEST_F(WeightLayoutTest, HoldsExactlyTheParametersOfTheSpec) {
  for (const std::filesystem::path& file : published_configs()) {
    SCOPED_TRACE(file.string());
    const ModelSpec spec = load_spec(file);
    const Inventory inventory(lay_out_weights(spec, *backend_, tensor::DType::kBF16), *backend_);
    EXPECT_EQ(inventory.elements, count_parameters(spec).total);
  }
}

TEST_F(WeightLayoutTest, PlacesAreAlignedAndApart) {
  for (const std::filesystem::path& file : published_configs()) {
    SCOPED_TRACE(file.string());
    const WeightLayout layout = lay_out_weights(load_spec(file), *backend_, tensor::DType::kBF16);
    int64_t end = 0;
    for (const auto& [offset, bytes] : Inventory(layout, *backend_).places) {
      EXPECT_EQ(offset % 64, 0);
      EXPECT_GE(offset, end);
      end = offset + static_cast<int64_t>(bytes);
    }
    EXPECT_LE(static_cast<size_t>(end), layout.bytes);
    EXPECT_LT(layout.bytes - static_cast<size_t>(end), 64u);
  }
}

TEST_F(WeightLayoutTest, NamesTheTensorsOfEveryGoldenCheckpoint) {
  for (const auto& entry : std::filesystem::directory_iterator(golden() / "checkpoints")) {
    SCOPED_TRACE(entry.path().string());
    const WeightLayout layout =
        lay_out_weights(load_spec(entry.path()), *backend_, tensor::DType::kF32);
    Inventory inventory(layout, *backend_);
    const auto checkpoint = checkpoint::Checkpoint::open(entry.path());
    for (const checkpoint::TensorEntry& tensor : checkpoint.tensors()) {
      if (inventory.fused.contains(tensor.name)) continue;
      const auto planned = inventory.tensors.find(tensor.name);
      if (planned == inventory.tensors.end()) {
        const bool ignored =
            std::any_of(layout.ignored_suffixes.begin(), layout.ignored_suffixes.end(),
                        [&](const std::string& suffix) { return tensor.name.ends_with(suffix); });
        EXPECT_TRUE(ignored) << tensor.name;
        continue;
      }
      EXPECT_EQ(planned->second, tensor.view.elements()) << tensor.name;
      inventory.tensors.erase(planned);
    }
    // Fused experts leave their single names unused; nothing else may be left over.
    for (const auto& [name, size] : inventory.tensors) {
      EXPECT_NE(name.find(".experts."), std::string::npos) << name;
      EXPECT_NE(entry.path().filename().string().find("fused"), std::string::npos) << name;
    }
  }
}

TEST_F(WeightLayoutTest, IsAPureFunction) {
  const ModelSpec spec = load_spec(golden() / "configs/qwen1.5-moe-a2.7b.json");
  const WeightLayout once = lay_out_weights(spec, *backend_, tensor::DType::kBF16);
  const WeightLayout again = lay_out_weights(spec, *backend_, tensor::DType::kBF16);
  EXPECT_EQ(Inventory(once, *backend_).places, Inventory(again, *backend_).places);
  EXPECT_EQ(once.bytes, again.bytes);
}

/// What the ranks of a model hold together is the model: each element once, but for what every rank
/// needs (norms, routers, the shared expert's gate) and the KV heads that several share.
TEST_F(WeightLayoutTest, RanksShareTheModel) {
  for (const auto& entry : std::filesystem::directory_iterator(golden() / "checkpoints")) {
    const ModelSpec spec = load_spec(entry.path());
    const Inventory whole(lay_out_weights(spec, *backend_, tensor::DType::kF32), *backend_);
    for (const int64_t ranks : {2, 3, 4, 7}) {
      for (const bool expert_parallel : {false, true}) {
        SCOPED_TRACE(entry.path().string() + ", " + std::to_string(ranks) + " ranks");
        std::map<std::string, int64_t> held;
        for (int64_t rank = 0; rank < ranks; ++rank) {
          const Shard shard{ranks, rank, expert_parallel};
          const WeightLayout layout = lay_out_weights(spec, *backend_, tensor::DType::kF32, shard);
          for (const auto& [name, elements] : Inventory(layout, *backend_).tensors) {
            held[name] += elements;
          }
          const WeightParts parts = weight_parts(layout);
          EXPECT_EQ(parts.attention + parts.experts + parts.shared + parts.embeddings,
                    layout.bytes);
        }
        for (const auto& [name, elements] : whole.tensors) {
          const bool everywhere = name.find("norm") != std::string::npos ||
                                  name.find("mlp.gate.") != std::string::npos ||
                                  name.find("block_sparse_moe.gate.") != std::string::npos ||
                                  name.find("shared_expert_gate") != std::string::npos;
          const bool kv =
              name.find("k_proj") != std::string::npos || name.find("v_proj") != std::string::npos;
          if (everywhere || kv) {
            EXPECT_GE(held[name], elements) << name;
            EXPECT_LE(held[name], elements * ranks) << name;
          } else {
            EXPECT_EQ(held[name], elements) << name;
          }
        }
      }
    }
  }
}

TEST_F(WeightLayoutTest, KeepsRoutersInFloat32) {
  const WeightLayout layout = lay_out_weights(
      load_spec(golden() / "configs/qwen1.5-moe-a2.7b.json"), *backend_, tensor::DType::kBF16);
  EXPECT_EQ(layout.layers[0].router.item.desc.format.base, tensor::DType::kF32);
  EXPECT_EQ(layout.layers[0].shared_gate.item.desc.format.base, tensor::DType::kF32);
  EXPECT_EQ(layout.layers[0].qkv.item.desc.format.base, tensor::DType::kBF16);
}

TEST_F(WeightLayoutTest, TiedModelsHaveNoHeadAndMayRepeatIt) {
  const WeightLayout layout = lay_out_weights(load_spec(golden() / "configs/qwen3-0.6b.json"),
                                              *backend_, tensor::DType::kBF16);
  EXPECT_FALSE(layout.lm_head.present());
  EXPECT_EQ(
      std::count(layout.ignored_suffixes.begin(), layout.ignored_suffixes.end(), "lm_head.weight"),
      1);
  const WeightLayout untied = lay_out_weights(load_spec(golden() / "configs/llama-3.1-8b.json"),
                                              *backend_, tensor::DType::kBF16);
  EXPECT_TRUE(untied.lm_head.present());
  EXPECT_EQ(
      std::count(untied.ignored_suffixes.begin(), untied.ignored_suffixes.end(), "lm_head.weight"),
      0);
}

TEST_F(WeightLayoutTest, RefusesATypeTheBackendCannotCompute) {
  EXPECT_THROW(lay_out_weights(load_spec(golden() / "configs/qwen3-0.6b.json"), *backend_,
                               tensor::DType::kI8),
               base::ConfigError);
}

}  // namespace
}  // namespace moesaic::model
