#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <limits>
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
using testing::PlanMaker;

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

LoadedWeights load(const WeightPlan& plan, FakeBackend& backend, const FakeTensors& tensors,
                   size_t remainder = 0) {
  TempFolder folder;
  testing::write_checkpoint(folder.path(), tensors, remainder);
  return load_weights(plan, backend, Checkpoint::open(folder.path()), {});
}

std::vector<float> floats(const std::byte* packed, DType dtype, int64_t count) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(tensor::load_float(dtype, packed, i));
  return values;
}

std::vector<float> joined(const FakeTensors& tensors, const std::vector<std::string>& names) {
  std::vector<float> all;
  for (const std::string& name : names) {
    const auto& values = tensors.at(name).values;
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

void expect_all_items(const LoadedWeights& loaded, const FakeTensors& tensors, DType dtype) {
  const WeightPlan& plan = loaded.plan;
  const LayerPlan& layer = plan.layers[0];
  EXPECT_EQ(floats(loaded.matrix(plan.embed).packed, dtype, kVocab * kHidden),
            joined(tensors, {"model.embed_tokens.weight"}));
  EXPECT_EQ(floats(loaded.matrix(plan.lm_head).packed, dtype, kVocab * kHidden),
            joined(tensors, {"lm_head.weight"}));
  EXPECT_EQ(floats(loaded.matrix(layer.qkv).packed, dtype, 16 * kHidden),
            joined(tensors, layer.qkv.item.parts));
  EXPECT_EQ(floats(loaded.matrix(layer.router).packed, DType::kF32, kExperts * kHidden),
            joined(tensors, layer.router.item.parts));
  const float* bias = loaded.vector(layer.qkv_bias);
  EXPECT_EQ(std::vector<float>(bias, bias + 16), joined(tensors, layer.qkv_bias.item.parts));
  const float* norm = loaded.vector(plan.final_norm);
  EXPECT_EQ(std::vector<float>(norm, norm + kHidden), joined(tensors, {"model.norm.weight"}));
  EXPECT_EQ(loaded.vector(layer.q_norm), nullptr);
  std::vector<std::string> order;
  for (size_t e = 0; e < kExperts; ++e) {
    for (const auto* list :
         {&layer.experts.item.gate, &layer.experts.item.up, &layer.experts.item.down}) {
      order.push_back((*list)[e]);
    }
  }
  EXPECT_EQ(floats(loaded.experts(layer.experts).packed, dtype, 9 * kHidden * kWidth),
            joined(tensors, order));
  EXPECT_EQ(loaded.experts(layer.experts).desc.experts, kExperts);
}

TEST(Loader, PutsEveryTensorInItsPlace) {
  for (DType stored : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (DType wanted : {DType::kF32, DType::kBF16, DType::kF16}) {
      SCOPED_TRACE(std::string(tensor::to_string(stored)) + " to " +
                   std::string(tensor::to_string(wanted)));
      const WeightPlan plan = PlanMaker(wanted).make();
      const FakeTensors tensors = testing::tensors_for(plan, stored);
      FakeBackend backend;
      const LoadedWeights loaded = load(plan, backend, tensors);
      EXPECT_EQ(loaded.source, LoadSource::kCheckpoint);
      EXPECT_TRUE(loaded.ignored.empty());
      expect_all_items(loaded, tensors, wanted);
    }
  }
}

TEST(Loader, MisalignedFilesLoadTheSame) {
  const WeightPlan plan = PlanMaker(DType::kBF16).make();
  const FakeTensors tensors = testing::tensors_for(plan, DType::kBF16);
  FakeBackend backend;
  for (size_t remainder : {1, 3, 6}) {
    expect_all_items(load(plan, backend, tensors, remainder), tensors, DType::kBF16);
  }
  EXPECT_EQ(backend.misaligned, 0);
}

TEST(Loader, AcceptsFusedExperts) {
  const WeightPlan plan = PlanMaker(DType::kF32).make();
  const FakeTensors split = testing::tensors_for(plan, DType::kBF16);
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
  const LoadedWeights loaded = load(plan, backend, fused);
  expect_all_items(loaded, split, DType::kF32);
  EXPECT_EQ(testing::bytes_of(load(plan, backend, split).region), testing::bytes_of(loaded.region));

  fused.erase(prefix + "down_proj");
  EXPECT_THROW(load(plan, backend, fused), base::ModelFileError);
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
       "model.layers.0.self_attn.q_proj.weight", "quantised checkpoint"},
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
  const WeightPlan plan = PlanMaker(DType::kF32).make();
  for (const BadCheckpoint& bad : cases) {
    SCOPED_TRACE(bad.what);
    FakeTensors tensors = testing::tensors_for(plan, DType::kF32);
    bad.spoil(tensors);
    FakeBackend backend;
    try {
      load(plan, backend, tensors);
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
  WeightPlan plan = PlanMaker(DType::kF32).make();
  FakeTensors tensors = testing::tensors_for(plan, DType::kF32);
  for (const char* name :
       {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.2.input_layernorm.weight",
        "model.layers.61.eh_proj.weight"}) {
    tensors[name] = testing::numbered(DType::kF32, {2}, 1);
  }
  // Tied: the head is no item, and known by name.
  plan.lm_head = {};
  plan.ignored_suffixes.push_back("lm_head.weight");
  FakeBackend backend;
  EXPECT_EQ(load(plan, backend, tensors).ignored,
            (std::vector<std::string>{"lm_head.weight",
                                      "model.layers.0.self_attn.rotary_emb."
                                      "inv_freq",
                                      "model.layers.2.input_layernorm.weight",
                                      "model.layers.61.eh_proj.weight"}));
}

TEST(Loader, WarnsOfNonFiniteRoutersAndVectors) {
  const WeightPlan plan = PlanMaker(DType::kBF16).make();
  FakeBackend backend;
  for (const char* name : {"model.layers.0.mlp.gate.weight", "model.norm.weight",
                           "model.layers.1.self_attn.v_proj.bias"}) {
    for (float value : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
      FakeTensors tensors = testing::tensors_for(plan, DType::kBF16);
      tensors[name].values.back() = value;
      const LogCapture log;
      load(plan, backend, tensors);
      EXPECT_NE(log.text().find(name), std::string::npos) << log.text();
      EXPECT_EQ(log.text().find("NaN"), log.text().rfind("NaN"));
    }
  }
  const LogCapture log;
  load(plan, backend, testing::tensors_for(plan, DType::kBF16));
  EXPECT_EQ(log.text(), "");
}

TEST(Loader, ReportsProgressUpToTheTotal) {
  const WeightPlan plan = PlanMaker(DType::kF32).make();
  FakeBackend backend;
  TempFolder folder;
  testing::write_checkpoint(folder.path(), testing::tensors_for(plan, DType::kF32));
  std::atomic<int> inside = 0;
  uint64_t last = 0;
  int calls = 0;
  LoadOptions options;
  options.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_EQ(++inside, 1);
    EXPECT_GE(done, last);
    EXPECT_LE(done, total);
    EXPECT_EQ(total, plan.bytes);
    last = done;
    ++calls;
    --inside;
  };
  load_weights(plan, backend, Checkpoint::open(folder.path()), options);
  EXPECT_EQ(last, plan.bytes);
  EXPECT_GT(calls, 2);
}

TEST(Loader, AFailureInPackingReachesTheCaller) {
  const WeightPlan plan = PlanMaker(DType::kF32).make();
  FakeBackend backend;
  backend.fail = true;
  EXPECT_THROW(load(plan, backend, testing::tensors_for(plan, DType::kF32)), std::runtime_error);
  EXPECT_LE(backend.packs, 4);
}

TEST(Loader, AFileWrittenToWhileLoadingIsRefused) {
  const WeightPlan plan = PlanMaker(DType::kF32).make();
  TempFolder folder;
  testing::write_checkpoint(folder.path(), testing::tensors_for(plan, DType::kF32));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  std::filesystem::resize_file(folder / "model.safetensors",
                               std::filesystem::file_size(folder / "model.safetensors") + 1);
  FakeBackend backend;
  EXPECT_THROW(load_weights(plan, backend, checkpoint, {}), base::ModelFileError);
}

TEST(Loader, DummyWeightsFollowTheSeed) {
  const WeightPlan plan = PlanMaker(DType::kBF16).make();
  FakeBackend backend;
  const LoadedWeights first = make_dummy_weights(plan, backend, 1, {});
  EXPECT_EQ(first.source, LoadSource::kDummy);
  const std::string bytes = testing::bytes_of(first.region);
  EXPECT_EQ(testing::bytes_of(make_dummy_weights(plan, backend, 1, {}).region), bytes);
  EXPECT_NE(testing::bytes_of(make_dummy_weights(plan, backend, 2, {}).region), bytes);
  for (int64_t i = 0; i < kHidden; ++i) EXPECT_EQ(first.vector(plan.final_norm)[i], 1.0f);
  for (int64_t i = 0; i < 16; ++i) EXPECT_EQ(first.vector(plan.layers[1].qkv_bias)[i], 0.0f);
  // Layers differ from one another.
  EXPECT_NE(floats(first.matrix(plan.layers[0].qkv).packed, DType::kBF16, 128),
            floats(first.matrix(plan.layers[1].qkv).packed, DType::kBF16, 128));
}

TEST(Loader, ItemsAreListedOnceAndDoNotOverlap) {
  const WeightPlan plan = PlanMaker(DType::kF32).make();
  std::vector<int64_t> offsets;
  for (const PlanItem& item : list_items(plan)) {
    EXPECT_EQ((item.matrix != nullptr) + (item.experts != nullptr) + (item.vector != nullptr), 1);
    offsets.push_back(item.offset);
  }
  EXPECT_EQ(offsets.size(), 14U);
  std::sort(offsets.begin(), offsets.end());
  EXPECT_EQ(std::adjacent_find(offsets.begin(), offsets.end()), offsets.end());
}

}  // namespace
}  // namespace moesaic::model
