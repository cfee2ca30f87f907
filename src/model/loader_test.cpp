#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <limits>
#include <map>
#include <sstream>

#include "base/error.h"
#include "checkpoint/checkpoint_testing.h"
#include "model/loader_sources.h"
#include "model/loader_testing.h"
#include "model/weights.h"

namespace moesaic::model {
namespace {

using checkpoint::Checkpoint;
using checkpoint::testing::TempFolder;
using tensor::DType;
using testing::FakeBackend;
using testing::FakeTensors;
using testing::kExperts;
using testing::kHidden;
using testing::kVocab;
using testing::kWidth;

/// Everything logged while it lives.
class LogCapture {
 public:
  LogCapture() : old_(spdlog::default_logger()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "capture", std::make_shared<spdlog::sinks::ostream_sink_mt>(stream_)));
  }
  ~LogCapture() { spdlog::set_default_logger(old_); }
  std::string text() const { return stream_.str(); }

 private:
  std::ostringstream stream_;
  std::shared_ptr<spdlog::logger> old_;
};

LoadedWeights load(const WeightLayout& layout, FakeBackend& backend, const FakeTensors& tensors,
                   size_t remainder = 0) {
  TempFolder folder;
  testing::write_checkpoint(folder.path(), tensors, remainder);
  base::ThreadPool pool(4, /*pin=*/false);
  return load_weights(layout, backend, pool, Checkpoint::open(folder.path()), {});
}

LoadedWeights load_dummy(const WeightLayout& layout, FakeBackend& backend, uint64_t seed) {
  base::ThreadPool pool(2, /*pin=*/false);
  return make_dummy_weights(layout, backend, pool, seed, {});
}

std::vector<float> floats(FakeBackend& backend, backend::Address packed, DType dtype,
                          int64_t count) {
  std::vector<std::byte> bytes(static_cast<size_t>(count) * tensor::size_of(dtype));
  backend.wait(backend.read(packed, bytes));
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(tensor::load_float(dtype, bytes.data(), i));
  return values;
}

std::vector<float> joined(const FakeTensors& tensors, const std::vector<Slice>& slices) {
  std::vector<float> all;
  for (const Slice& slice : slices) {
    const auto& values = tensors.at(slice.name).values;
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

void expect_all_items(FakeBackend& backend, const LoadedWeights& loaded, const FakeTensors& tensors,
                      DType dtype) {
  const auto expect_matrix = [&](const Placed<MatrixItem>& placed) {
    const backend::Matrix matrix = loaded.matrix(placed);
    EXPECT_EQ(floats(backend, matrix.packed, matrix.desc.format.base, matrix.desc.n * kHidden),
              joined(tensors, placed.item.slices));
  };
  const auto expect_vector = [&](const Placed<VectorItem>& placed) {
    EXPECT_EQ(floats(backend, loaded.vector(placed), DType::kF32, placed.item.size()),
              joined(tensors, placed.item.slices));
  };
  const WeightLayout& layout = loaded.layout;
  const LayerLayout& layer = layout.layers[0];
  for (const auto* matrix :
       {&layout.embed, &layout.lm_head, &layer.qkv, &layer.o, &layer.router, &layer.shared_gate}) {
    expect_matrix(*matrix);
  }
  EXPECT_EQ(loaded.matrix(layer.router).desc.format.base, DType::kF32);
  EXPECT_EQ(loaded.matrix(layer.qkv).desc.format.base, dtype);
  expect_vector(layer.qkv_bias);
  expect_vector(layout.final_norm);
  EXPECT_FALSE(loaded.vector(layer.q_norm));
  std::vector<Slice> order;
  for (size_t e = 0; e < kExperts; ++e) {
    for (const auto* list :
         {&layer.experts.item.gate, &layer.experts.item.up, &layer.experts.item.down}) {
      order.push_back((*list)[e]);
    }
  }
  EXPECT_EQ(floats(backend, loaded.experts(layer.experts).packed, dtype, 9 * kHidden * kWidth),
            joined(tensors, order));
  EXPECT_EQ(loaded.experts(layer.experts).desc.experts, kExperts);
}

TEST(Loader, PutsEveryTensorInItsPlace) {
  for (DType stored : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (DType wanted : {DType::kF32, DType::kBF16, DType::kF16}) {
      SCOPED_TRACE(std::string(tensor::to_string(stored)) + " to " +
                   std::string(tensor::to_string(wanted)));
      const WeightLayout layout = testing::small_layout(wanted);
      const FakeTensors tensors = testing::tensors_for(layout, stored);
      FakeBackend backend;
      const LoadedWeights loaded = load(layout, backend, tensors);
      EXPECT_EQ(loaded.source, LoadSource::kCheckpoint);
      EXPECT_TRUE(loaded.ignored.empty());
      expect_all_items(backend, loaded, tensors, wanted);
    }
  }
}

TEST(Loader, MisalignedFilesLoadTheSame) {
  const WeightLayout layout = testing::small_layout(DType::kBF16);
  const FakeTensors tensors = testing::tensors_for(layout, DType::kBF16);
  FakeBackend backend;
  for (size_t remainder : {1, 3, 6}) {
    expect_all_items(backend, load(layout, backend, tensors, remainder), tensors, DType::kBF16);
  }
  EXPECT_EQ(backend.misaligned, 0);
}

TEST(Loader, AcceptsFusedExperts) {
  const WeightLayout layout = testing::small_layout(DType::kF32);
  const FakeTensors split = testing::tensors_for(layout, DType::kBF16);
  FakeTensors fused = split;
  const std::string prefix = "model.layers.0.mlp.experts.";
  auto gate_up = testing::numbered(DType::kBF16, {kExperts, 2 * kWidth, kHidden}, 0);
  auto down = testing::numbered(DType::kBF16, {kExperts, kHidden, kWidth}, 0);
  gate_up.values.clear();
  down.values.clear();
  for (int64_t e = 0; e < kExperts; ++e) {
    const std::string one = prefix + std::to_string(e) + ".";
    for (const char* name : {"gate_proj.weight", "up_proj.weight"}) {
      const auto& values = split.at(one + name).values;
      gate_up.values.insert(gate_up.values.end(), values.begin(), values.end());
      fused.erase(one + name);
    }
    const auto& values = split.at(one + "down_proj.weight").values;
    down.values.insert(down.values.end(), values.begin(), values.end());
    fused.erase(one + "down_proj.weight");
  }
  fused[prefix + "gate_up_proj"] = gate_up;
  fused[prefix + "down_proj"] = down;
  FakeBackend backend;
  const LoadedWeights loaded = load(layout, backend, fused);
  expect_all_items(backend, loaded, split, DType::kF32);
  EXPECT_EQ(testing::bytes_of(backend, load(layout, backend, split).buffer),
            testing::bytes_of(backend, loaded.buffer));

  fused.erase(prefix + "down_proj");
  EXPECT_THROW(load(layout, backend, fused), base::ModelFileError);
}

struct BadCheckpoint {
  const char* what;
  std::function<void(FakeTensors&)> spoil;
  const char* tensor;
  const char* message;
};

TEST(Loader, RefusesWhatDoesNotFitThePlan) {
  const std::string layer0 = "model.layers.0.";
  const auto rename = [](FakeTensors& t, const std::string& from, const std::string& to) {
    auto node = t.extract(from);
    node.key() = to;
    t.insert(std::move(node));
  };
  const std::vector<BadCheckpoint> cases = {
      {"matrix missing", [](auto& t) { t.erase("model.layers.1.self_attn.k_proj.weight"); },
       "model.layers.1.self_attn.k_proj.weight", "missing from the checkpoint"},
      {"norm missing", [](auto& t) { t.erase("model.norm.weight"); }, "model.norm.weight",
       "missing from the checkpoint"},
      {"head missing", [](auto& t) { t.erase("lm_head.weight"); }, "lm_head.weight",
       "missing from the checkpoint"},
      {"expert missing", [](auto& t) { t.erase("model.layers.0.mlp.experts.2.up_proj.weight"); },
       "model.layers.0.mlp.experts.2.up_proj.weight", "missing from the checkpoint"},
      {"quantised instead",
       [&](auto& t) {
         rename(t, "model.layers.0.self_attn.q_proj.weight",
                "model.layers.0.self_attn.q_proj.qweight");
       },
       "model.layers.0.self_attn.q_proj.qweight", "quantised checkpoint"},
      {"vocabulary differs",
       [](auto& t) {
         t["model.embed_tokens.weight"] = testing::numbered(DType::kF32, {kVocab + 1, kHidden}, 1);
       },
       "model.embed_tokens.weight", "has shape [11, 8], but config.json asks for [10, 8]"},
      {"transposed",
       [](auto& t) {
         t["model.layers.0.mlp.experts.0.down_proj.weight"] =
             testing::numbered(DType::kF32, {kWidth, kHidden}, 1);
       },
       "model.layers.0.mlp.experts.0.down_proj.weight", "has shape [4, 8]"},
      {"bias with an extra dimension",
       [](auto& t) {
         t["model.layers.0.self_attn.q_proj.bias"] = testing::numbered(DType::kF32, {1, 8}, 1);
       },
       "model.layers.0.self_attn.q_proj.bias", "has shape [1, 8]"},
      {"whole numbers",
       [](auto& t) {
         t["model.norm.weight"] = {.dtype = {},
                                   .shape = {8},
                                   .values = {},
                                   .raw_dtype = "I32",
                                   .raw_bytes = std::string(32, 'x')};
       },
       "model.norm.weight", "is I32"},
      {"eight-bit floats",
       [](auto& t) {
         t["lm_head.weight"] = {.dtype = {},
                                .shape = {kVocab, kHidden},
                                .values = {},
                                .raw_dtype = "F8_E4M3",
                                .raw_bytes = std::string(80, 'x')};
       },
       "lm_head.weight", "is F8_E4M3"},
      {"unexpected tensor",
       [](auto& t) { t["model.extra.weight"] = testing::numbered(DType::kF32, {1}, 1); },
       "model.extra.weight", "unexpected tensor"},
      {"more unexpected tensors",
       [](auto& t) {
         for (int i = 0; i < 9; ++i) {
           t["model.x" + std::to_string(i)] = testing::numbered(DType::kF32, {1}, 1);
         }
       },
       "model.x0", "9 in all"},
      {"an expert too many",
       [](auto& t) {
         t["model.layers.0.mlp.experts.3.up_proj.weight"] =
             testing::numbered(DType::kF32, {kWidth, kHidden}, 1);
       },
       "model.layers.0.mlp.experts.3.up_proj.weight", "unexpected tensor"},
      {"layer number that is none",
       [](auto& t) { t["model.layers.9x.norm"] = testing::numbered(DType::kF32, {1}, 1); },
       "model.layers.9x.norm", "unexpected tensor"},
  };
  const WeightLayout layout = testing::small_layout(DType::kF32);
  for (const BadCheckpoint& bad : cases) {
    SCOPED_TRACE(bad.what);
    FakeTensors tensors = testing::tensors_for(layout, DType::kF32);
    bad.spoil(tensors);
    FakeBackend backend;
    try {
      load(layout, backend, tensors);
      ADD_FAILURE() << "was accepted";
    } catch (const base::ModelFileError& error) {
      EXPECT_EQ(error.tensor(), bad.tensor);
      EXPECT_NE(std::string(error.what()).find(bad.message), std::string::npos) << error.what();
      EXPECT_FALSE(error.file().empty());
    }
    EXPECT_EQ(backend.packs, 0) << "packed before everything was checked";
  }
}

TEST(Loader, ListsWhatItIgnores) {
  WeightLayout layout = testing::small_layout(DType::kF32);
  FakeTensors tensors = testing::tensors_for(layout, DType::kF32);
  for (const char* name :
       {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.2.input_layernorm.weight",
        "model.layers.61.eh_proj.weight"}) {
    tensors[name] = testing::numbered(DType::kF32, {2}, 1);
  }
  // Tied: the head is no item, and known by name.
  layout.lm_head = {};
  layout.ignored_suffixes.push_back("lm_head.weight");
  FakeBackend backend;
  EXPECT_EQ(load(layout, backend, tensors).ignored,
            (std::vector<std::string>{"lm_head.weight",
                                      "model.layers.0.self_attn.rotary_emb."
                                      "inv_freq",
                                      "model.layers.2.input_layernorm.weight",
                                      "model.layers.61.eh_proj.weight"}));
}

TEST(Loader, WarnsOfNonFiniteRoutersAndVectors) {
  const WeightLayout layout = testing::small_layout(DType::kBF16);
  FakeBackend backend;
  for (const char* name : {"model.layers.0.mlp.gate.weight", "model.norm.weight",
                           "model.layers.1.self_attn.v_proj.bias"}) {
    for (float value : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
      FakeTensors tensors = testing::tensors_for(layout, DType::kBF16);
      tensors[name].values.back() = value;
      const LogCapture log;
      load(layout, backend, tensors);
      EXPECT_NE(log.text().find(name), std::string::npos) << log.text();
      EXPECT_EQ(log.text().find("NaN"), log.text().rfind("NaN"));
    }
  }
  const LogCapture log;
  load(layout, backend, testing::tensors_for(layout, DType::kBF16));
  EXPECT_EQ(log.text(), "");
}

TEST(Loader, ReportsProgressUpToTheTotal) {
  const WeightLayout layout = testing::small_layout(DType::kF32);
  FakeBackend backend;
  TempFolder folder;
  testing::write_checkpoint(folder.path(), testing::tensors_for(layout, DType::kF32));
  std::atomic<int> inside = 0;
  uint64_t last = 0;
  int calls = 0;
  LoadOptions options;
  options.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_EQ(++inside, 1);
    EXPECT_GE(done, last);
    EXPECT_LE(done, total);
    EXPECT_EQ(total, layout.bytes);
    last = done;
    ++calls;
    --inside;
  };
  base::ThreadPool pool(4, /*pin=*/false);
  load_weights(layout, backend, pool, Checkpoint::open(folder.path()), options);
  EXPECT_EQ(last, layout.bytes);
  EXPECT_GT(calls, 2);
}

TEST(Loader, AFailureInPackingReachesTheCaller) {
  const WeightLayout layout = testing::small_layout(DType::kF32);
  FakeBackend backend;
  backend.fail = true;
  EXPECT_THROW(load(layout, backend, testing::tensors_for(layout, DType::kF32)),
               std::runtime_error);
  EXPECT_LE(backend.packs, 4);
}

TEST(Loader, AFileWrittenToWhileLoadingIsRefused) {
  const WeightLayout layout = testing::small_layout(DType::kF32);
  TempFolder folder;
  testing::write_checkpoint(folder.path(), testing::tensors_for(layout, DType::kF32));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  std::filesystem::resize_file(folder / "model.safetensors",
                               std::filesystem::file_size(folder / "model.safetensors") + 1);
  FakeBackend backend;
  base::ThreadPool pool(1);
  EXPECT_THROW(load_weights(layout, backend, pool, checkpoint, {}), base::ModelFileError);
}

TEST(Loader, DummyWeightsFollowTheSeed) {
  const WeightLayout layout = testing::small_layout(DType::kBF16);
  FakeBackend backend;
  const auto bytes_of = [&](uint64_t seed) {
    return testing::bytes_of(backend, load_dummy(layout, backend, seed).buffer);
  };
  const LoadedWeights first = load_dummy(layout, backend, 1);
  EXPECT_EQ(first.source, LoadSource::kDummy);
  EXPECT_EQ(testing::bytes_of(backend, first.buffer), bytes_of(1));
  EXPECT_NE(bytes_of(2), bytes_of(1));
  const auto vector = [&](const Placed<VectorItem>& placed) {
    return floats(backend, first.vector(placed), DType::kF32, placed.item.size());
  };
  EXPECT_EQ(vector(layout.final_norm), std::vector<float>(kHidden, 1.0f));
  EXPECT_EQ(vector(layout.layers[1].qkv_bias), std::vector<float>(16, 0.0f));
  // Layers differ from one another.
  EXPECT_NE(floats(backend, first.matrix(layout.layers[0].qkv).packed, DType::kBF16, 128),
            floats(backend, first.matrix(layout.layers[1].qkv).packed, DType::kBF16, 128));
}

/// Rank `rank` of two's part of every matrix of a model of one rank, row-major.
std::vector<float> part_of_whole(FakeBackend& backend, const LoadedWeights& whole,
                                 const Placed<MatrixItem>& all, const MatrixItem& part) {
  std::vector<float> values;
  const std::vector<float> rows =
      floats(backend, whole.matrix(all).packed, DType::kF32, all.item.desc.n * all.item.desc.k);
  for (const Slice& slice : part.slices) {
    for (int64_t row = slice.row; row < slice.row + slice.rows; ++row) {
      const auto begin = rows.begin() + (slice.stacked_at + row) * slice.tensor_cols + slice.col;
      values.insert(values.end(), begin, begin + slice.cols);
    }
  }
  return values;
}

TEST(Loader, RanksHoldTheirPartsOfTheSameModel) {
  const WeightLayout whole_layout = testing::small_layout(DType::kF32);
  const FakeTensors tensors = testing::tensors_for(whole_layout, DType::kBF16);
  FakeBackend backend;
  for (const bool dummy : {false, true}) {
    const auto make = [&](const WeightLayout& layout) {
      return dummy ? load_dummy(layout, backend, 3) : load(layout, backend, tensors);
    };
    const LoadedWeights whole = make(whole_layout);
    const LayerLayout& all = whole.layout.layers[0];
    for (const bool expert_parallel : {false, true}) {
      for (int64_t rank = 0; rank < 2; ++rank) {
        const LoadedWeights part =
            make(testing::small_layout(DType::kF32, {2, rank, expert_parallel}));
        const LayerLayout& own = part.layout.layers[0];
        const auto expect_part = [&](const Placed<MatrixItem>& placed,
                                     const Placed<MatrixItem>& of) {
          const backend::Matrix matrix = part.matrix(placed);
          EXPECT_EQ(floats(backend, matrix.packed, DType::kF32, matrix.desc.n * matrix.desc.k),
                    part_of_whole(backend, whole, of, placed.item));
        };
        expect_part(part.layout.embed, whole.layout.embed);
        expect_part(part.layout.lm_head, whole.layout.lm_head);
        expect_part(own.qkv, all.qkv);
        expect_part(own.o, all.o);
        expect_part(own.router, all.router);
        EXPECT_EQ(part.matrix(own.o).desc.k, 4);
        EXPECT_EQ(part.matrix(own.qkv).desc.n, 12) << "one head each, and the KV head";

        // Each of a rank's experts, by its place among all.
        const backend::Experts experts = part.experts(own.experts);
        EXPECT_EQ(experts.desc.experts, expert_parallel ? 2 - rank : kExperts);
        EXPECT_EQ(experts.desc.width, expert_parallel ? kWidth : kWidth / 2);
        const int64_t size = kHidden * kWidth;
        const int64_t share = kHidden * experts.desc.width;
        const std::vector<float> every =
            floats(backend, whole.experts(all.experts).packed, DType::kF32, 9 * size);
        const std::vector<float> mine =
            floats(backend, experts.packed, DType::kF32, 3 * experts.desc.experts * share);
        const int64_t first_row = expert_parallel ? 0 : rank * kWidth / 2;
        for (int64_t e = 0; e < experts.desc.experts; ++e) {
          const int64_t of = e + own.experts.item.first_expert;
          for (int64_t m = 0; m < 3; ++m) {
            for (int64_t r = 0; r < experts.desc.width; ++r) {
              for (int64_t c = 0; c < kHidden; ++c) {
                const int64_t from =
                    m < 2 ? (first_row + r) * kHidden + c : c * kWidth + first_row + r;
                const int64_t to = m < 2 ? r * kHidden + c : c * experts.desc.width + r;
                ASSERT_EQ(mine[static_cast<size_t>((3 * e + m) * share + to)],
                          every[static_cast<size_t>((3 * of + m) * size + from)])
                    << e << " " << m << " " << r << " " << c;
              }
            }
          }
        }
      }
    }
  }
}

/// The tensors of a checkpoint of testing::small_spec(), written by hand from the files that
/// transformers saves of qwen2_moe, and not from a layout: name and elements.
std::map<std::string, int64_t> small_checkpoint() {
  std::map<std::string, int64_t> tensors = {
      {"model.embed_tokens.weight", kVocab * kHidden},
      {"model.norm.weight", kHidden},
      {"lm_head.weight", kVocab * kHidden},
      {"model.layers.0.mlp.gate.weight", kExperts * kHidden},
      {"model.layers.0.mlp.shared_expert_gate.weight", kHidden},
  };
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      tensors[layer + norm + ".weight"] = kHidden;
    }
    // Two query heads of four elements over one key head.
    for (const auto& [name, rows] : {std::pair("q_proj", 8), {"k_proj", 4}, {"v_proj", 4}}) {
      tensors[layer + "self_attn." + name + ".weight"] = rows * kHidden;
      tensors[layer + "self_attn." + name + ".bias"] = rows;
    }
    tensors[layer + "self_attn.o_proj.weight"] = kHidden * 8;
  }
  for (const char* ffn : {"model.layers.0.mlp.experts.0.", "model.layers.0.mlp.experts.1.",
                          "model.layers.0.mlp.experts.2.", "model.layers.0.mlp.shared_expert.",
                          "model.layers.1.mlp."}) {
    for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
      tensors[std::string(ffn) + name + ".weight"] = kWidth * kHidden;
    }
  }
  return tensors;
}

TEST(Loader, EveryTensorOfACheckpointIsInOneItemAndItemsDoNotOverlap) {
  const FakeBackend backend;
  const WeightLayout layout = testing::small_layout(DType::kF32);
  std::map<std::string, int64_t> found;
  std::map<int64_t, int64_t> ranges;  // begin to end, in the buffer
  const auto count = [&](const std::vector<Slice>& slices) {
    for (const Slice& slice : slices) found[slice.name] += slice.rows * slice.cols;
  };
  for (const WeightItem& item : list_items(layout)) {
    ASSERT_EQ((item.matrix != nullptr) + (item.experts != nullptr) + (item.vector != nullptr), 1);
    size_t bytes = 0;
    if (item.matrix != nullptr) {
      count(item.matrix->slices);
      bytes = packed_bytes(backend, *item.matrix);
    } else if (item.vector != nullptr) {
      count(item.vector->slices);
      bytes = packed_bytes(backend, *item.vector);
    } else {
      for (const auto* slices : {&item.experts->gate, &item.experts->up, &item.experts->down}) {
        count(*slices);
      }
      bytes = packed_bytes(backend, *item.experts);
    }
    ASSERT_GT(bytes, 0U);
    EXPECT_TRUE(ranges.emplace(item.offset, item.offset + static_cast<int64_t>(bytes)).second)
        << item.offset;
  }
  // An element that two items hold, or none, makes its tensor's count another.
  EXPECT_EQ(found, small_checkpoint());
  int64_t end = 0;
  for (const auto& [first, last] : ranges) {
    EXPECT_GE(first, end);
    end = last;
  }
  EXPECT_LE(end, static_cast<int64_t>(layout.bytes));
}

}  // namespace
}  // namespace moesaic::model
