// Quantised checkpoints against their float twins: a small model of random weights, written in
// every format by the writers of stored_testing.h, is the model whose weights are the floats that
// those writers say. A shifted scale, swapped nibbles or a moved zero point makes it another.

#include "model/stored_weights.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/error.h"
#include "model/family.h"
#include "model/golden_testing.h"
#include "model/stored_testing.h"

namespace moesaic::model {
namespace {

using checkpoint::testing::TempFolder;
using checkpoint::testing::write_file;
using golden::Runner;
using golden::Tokens;
using tensor::DType;
using testing::FakeBackend;
using testing::FakeTensor;
using testing::FakeTensors;
using testing::Fault;
using testing::Integers;
using testing::Writer;
using testing::Written;

using Weights = std::vector<float>;

struct Stored {
  const char* name;
  const char* config;
  Writer write;
  std::vector<Fault> faults;
};

void PrintTo(const Stored& stored, std::ostream* out) { *out << stored.name; }

const std::vector<Fault> kAll = {Fault::kScale, Fault::kNibbles, Fault::kZero};
const std::vector<Fault> kNoZero = {Fault::kScale, Fault::kNibbles};

/// Tensors under the names of compressed-tensors or ModelOpt, which share the rest.
Written named(Written made, const std::string& values, const std::string& scales,
              const std::string& outer = {}, float outer_value = 0) {
  Written renamed{.tensors = {{values, made.tensors["values"]}, {scales, made.tensors["scales"]}},
                  .values = std::move(made.values)};
  if (!outer.empty()) {
    renamed.tensors[outer] = testing::floats(DType::kF32, {1}, {outer_value});
  }
  return renamed;
}

std::vector<Stored> all_stored() {
  return {
      {"awq_gemm",
       R"({"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": true,
           "version": "gemm", "modules_to_not_convert": ["gate"]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_awq_gemm(Integers(w, n, k, 4, 8, true), fault);
       },
       kAll},
      {"awq_gemv", R"({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_awq_gemv(Integers(w, n, k, 4, 32, true), fault);
       },
       kAll},
      {"awq_gemm_in_groups_of_32",
       R"({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_awq_gemm(Integers(w, n, k, 4, 32, true), fault);
       },
       kAll},
      {"gptq_in_groups_of_32",
       R"({"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": false, "sym": false})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_gptq(Integers(w, n, k, 8, 32, true), 1, true, fault);
       },
       kAll},
      {"gptq_in_groups_of_32_reordered",
       R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_gptq(Integers(w, n, k, 4, 32, true, true), 1, true, fault);
       },
       kAll},
      {"packed_in_groups_of_32",
       R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g":
           {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group",
           "group_size": 32, "symmetric": true}}}, "ignore": ["lm_head", "re:.*mlp.gate$"]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_packed(Integers(w, n, k, 4, 32, false), false, fault);
       },
       kNoZero},
      {"gptq",
       R"({"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": false, "sym": false})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_gptq(Integers(w, n, k, 4, 16, true), 1, false, fault);
       },
       kAll},
      {"gptq_symmetric_by_channel",
       R"({"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": false, "sym": true})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_gptq(Integers(w, n, k, 4, -1, false), 1, true, fault);
       },
       kAll},
      {"gptq_v2_of_8_bits",
       R"({"quant_method": "gptq", "bits": 8, "group_size": 8, "checkpoint_format": "gptq_v2"})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_gptq(Integers(w, n, k, 8, 8, true), 0, true, fault);
       },
       kAll},
      {"gptq_of_2_bits_reordered",
       R"({"quant_method": "gptq", "bits": 2, "group_size": 16, "desc_act": true})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_gptq(Integers(w, n, k, 2, 16, true, true), 1, true, fault);
       },
       kAll},
      {"packed_symmetric",
       R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g":
           {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group",
           "group_size": 16, "symmetric": true}}}, "ignore": ["lm_head", "re:.*mlp.gate$"]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_packed(Integers(w, n, k, 4, 16, false), false, fault);
       },
       kNoZero},
      {"packed_with_zeros",
       R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g":
           {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group",
           "group_size": 8, "symmetric": false, "actorder": "group"}}}, "ignore": ["lm_head"]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_packed(Integers(w, n, k, 4, 8, true, true), true, fault);
       },
       kAll},
      {"packed_8_bits_by_channel",
       R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g":
           {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel",
           "symmetric": true}}}, "ignore": ["lm_head"]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_packed(Integers(w, n, k, 8, -1, false), false, fault);
       },
       kNoZero},
      {"int8_with_zeros",
       R"({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"g":
           {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel",
           "symmetric": false}, "input_activations": {"num_bits": 8, "dynamic": true}}}})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_bytes(Integers(w, n, k, 8, -1, true), fault);
       },
       {Fault::kScale, Fault::kZero}},
      {"int8_symmetric",
       R"({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"g":
           {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel",
           "symmetric": true}}}})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_bytes(Integers(w, n, k, 8, -1, false), fault);
       },
       {Fault::kScale}},
      {"fp8_by_tensor",
       R"({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         Written made = testing::write_fp8(w, n, k, 0, 0, DType::kF32, {}, ".weight_scale", fault);
         made.tensors[".input_scale"] = testing::floats(DType::kF32, {1}, {0.5f});
         return made;
       },
       {Fault::kScale}},
      {"fp8_in_blocks",
       R"({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [24, 40]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_fp8(w, n, k, 24, 40, DType::kF32, {0, 0}, ".weight_scale_inv",
                                   fault);
       },
       {Fault::kScale}},
      {"fp8_by_channel",
       R"({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"g":
           {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy":
           "channel"}}}, "ignore": ["lm_head"]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_fp8(w, n, k, 1, 0, DType::kBF16, {0, 0}, ".weight_scale", fault);
       },
       {Fault::kScale}},
      {"mxfp4",
       R"({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "config_groups":
           {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "strategy":
           "group", "group_size": 32}}}})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return named(testing::write_e2m1(w, n, k, 32, 0, fault), ".weight_packed",
                      ".weight_scale");
       },
       kNoZero},
      {"nvfp4_divided",
       R"({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups":
           {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "strategy":
           "tensor_group", "group_size": 16}}}})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return named(testing::write_e2m1(w, n, k, 16, 1.0 / 1024, fault), ".weight_packed",
                      ".weight_scale", ".weight_global_scale", 1024);
       },
       kNoZero},
      {"nvfp4_multiplied",
       R"({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return named(testing::write_e2m1(w, n, k, 16, 1.0 / 512, fault), ".weight",
                      ".weight_scale", ".weight_scale_2", 1.0f / 512);
       },
       kNoZero},
      {"nf4",
       R"({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_nf4(w, n, k, false, fault);
       },
       kNoZero},
      {"nf4_nested",
       R"({"quant_method": "bitsandbytes", "_load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
           "bnb_4bit_use_double_quant": true})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_nf4(w, n, k, true, fault);
       },
       kNoZero},
      {"bitsandbytes_int8",
       R"({"quant_method": "bitsandbytes", "load_in_8bit": true,
           "llm_int8_skip_modules": ["lm_head"]})",
       [](const Weights& w, int64_t n, int64_t k, Fault fault) {
         return testing::write_scb(Integers(w, n, k, 8, -1, false), fault);
       },
       {Fault::kScale}},
  };
}

/// Two layers of qwen3_moe, the second dense, of sizes that every format divides.
boost::json::object small_config() {
  return boost::json::parse(R"({
      "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 96,
      "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
      "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
      "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
      "norm_topk_prob": true, "mlp_only_layers": [1], "max_position_embeddings": 64,
      "tie_word_embeddings": false, "torch_dtype": "float32"})")
      .as_object();
}

/// Of the weights that quantising tools quantise: attention and feed-forward, no router, no head.
bool is_quantised(const std::string& name) { return name.ends_with("_proj.weight"); }

FakeTensors random_tensors(const WeightLayout& layout) {
  FakeTensors all = testing::tensors_for(layout, DType::kF32);
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0.0f, 0.15f);
  for (auto& [name, made] : all) {
    for (float& value : made.values) {
      value = made.shape.size() == 1 ? 1.0f + normal(random) / 4 : normal(random);
    }
  }
  return all;
}

ModelSpec spec_of(const boost::json::object& config) { return parse_spec(config, "config.json"); }

/// A model in two folders: as quantised, and as the floats that this means.
struct Twins {
  TempFolder quantised, floats;
  FakeTensors tensors;  ///< of the first
  boost::json::object config;

  Twins(const std::string& quantization, const Writer& write, Fault fault = Fault::kNone) {
    config = small_config();
    const WeightLayout layout = lay_out_weights(spec_of(config), FakeBackend(), DType::kF32);
    FakeTensors twin = random_tensors(layout);
    for (auto& [name, made] : twin) {
      if (!is_quantised(name)) {
        tensors[name] = made;
        continue;
      }
      Written written = write(made.values, made.shape[0], made.shape[1], fault);
      made.values = written.values;
      const std::string module = name.substr(0, name.size() - std::string(".weight").size());
      for (auto& [suffix, tensor] : written.tensors) tensors[module + suffix] = tensor;
    }
    testing::write_checkpoint(floats.path(), twin);
    write_file(floats / "config.json", boost::json::serialize(config));
    config["quantization_config"] = boost::json::parse(quantization);
    save();
  }

  void save() const {
    testing::write_checkpoint(quantised.path(), tensors);
    write_file(quantised / "config.json", boost::json::serialize(config));
  }
};

class StoredFormats : public ::testing::TestWithParam<Stored> {};

std::string name_of(const ::testing::TestParamInfo<Stored>& info) { return info.param.name; }

/// Weights of one rank, as floats in the order of the layout.
Weights weights_of(const std::filesystem::path& folder, const Shard& shard) {
  FakeBackend backend;
  base::ThreadPool pool(1, false);
  const WeightLayout layout = lay_out_weights(load_spec(folder), backend, DType::kF32, shard);
  const LoadedWeights loaded =
      load_weights(layout, backend, pool, checkpoint::Checkpoint::open(folder), {});
  const std::string bytes = testing::bytes_of(backend, loaded.buffer);
  Weights values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

/// One rounding of a product apart at most: 2^-23 of a value, and of the offset of nested scales.
TEST_P(StoredFormats, EveryValueIsTheFormulas) {
  const Twins twins(GetParam().config, GetParam().write);
  for (const Shard& shard : {Shard{}, Shard{.ranks = 2, .rank = 0}, Shard{.ranks = 2, .rank = 1},
                             Shard{.ranks = 2, .rank = 1, .expert_parallel = true}}) {
    const Weights read = weights_of(twins.quantised.path(), shard);
    const Weights meant = weights_of(twins.floats.path(), shard);
    ASSERT_EQ(read.size(), meant.size());
    for (size_t i = 0; i < read.size(); ++i) {
      ASSERT_NEAR(read[i], meant[i], 3e-7f * std::fabs(meant[i])) << i;
    }
  }
}

std::map<int32_t, std::vector<float>> logits_of(const std::filesystem::path& folder,
                                                const std::string& backend, bool as_stored) {
  Runner runner(folder, backend, DType::kF32, 1, as_stored);
  const Tokens prompt = {5, 17, 80, 3, 41, 60, 9, 22, 13, 71};
  std::set<int32_t> positions;
  for (size_t i = 0; i < prompt.size(); ++i) positions.insert(static_cast<int32_t>(i));
  return runner.run({prompt}, 64, 4, {positions})[0].logits;
}

float difference(const std::filesystem::path& a, const std::filesystem::path& b,
                 const std::string& backend, bool as_stored = false) {
  const auto left = logits_of(a, backend, as_stored);
  const auto right = logits_of(b, backend, false);
  float largest = 0;
  for (const auto& [position, row] : left) {
    for (size_t i = 0; i < row.size(); ++i) {
      const float apart = std::fabs(row[i] - right.at(position)[i]);
      if (!(apart <= largest)) largest = apart;  // NaN sticks
    }
  }
  return largest;
}

/// Logits of a few units; what is read right differs by roundings alone.
constexpr float kBound = 2e-4f;

TEST_P(StoredFormats, ServesWhatItsFloatTwinDoes) {
  const Twins twins(GetParam().config, GetParam().write);
  for (const std::string& backend : golden::backend_names(true)) {
    EXPECT_LE(difference(twins.quantised.path(), twins.floats.path(), backend), kBound) << backend;
  }
}

/// Activations of this small model are rounded to bytes, each layer's anew.
constexpr float kIntegerBound = 0.2f;

/// Whether a case's groups are such as kernels have.
bool has_integers(const std::string& name) {
  static const std::set<std::string> kNames = {
      "awq_gemv",          "awq_gemm_in_groups_of_32", "gptq_in_groups_of_32",
      "bitsandbytes_int8", "packed_in_groups_of_32",   "gptq_symmetric_by_channel",
      "int8_with_zeros",   "int8_symmetric",           "packed_8_bits_by_channel"};
  return kNames.contains(name);
}

bool in_integers(const std::filesystem::path& folder, const std::string& backend) {
  const Runner runner(folder, backend, DType::kF32, 1, true);
  const LayerLayout& layer = runner.weights().layout.layers.front();
  return !layer.qkv.item.desc.format.plain() && !layer.experts.item.desc.format.plain();
}

TEST_P(StoredFormats, ServesInIntegersWhatItsFloatTwinDoes) {
  const Twins twins(GetParam().config, GetParam().write);
  for (const std::string& backend : golden::backend_names(false)) {
    EXPECT_EQ(in_integers(twins.quantised.path(), backend), has_integers(GetParam().name))
        << backend;
    EXPECT_LE(difference(twins.quantised.path(), twins.floats.path(), backend, true), kIntegerBound)
        << backend;
  }
}

TEST_P(StoredFormats, IsAnotherModelWithAFault) {
  const std::string cpu = golden::backend_names(false).back();
  for (const Fault fault : GetParam().faults) {
    const Twins twins(GetParam().config, GetParam().write, fault);
    EXPECT_GT(difference(twins.quantised.path(), twins.floats.path(), "reference"), 20 * kBound)
        << static_cast<int>(fault);
    if (!has_integers(GetParam().name)) continue;
    EXPECT_GT(difference(twins.quantised.path(), twins.floats.path(), cpu, true), 2 * kIntegerBound)
        << static_cast<int>(fault);
  }
}

/// Every tensor of a quantised matrix in turn: absent, of another shape, of another type.
TEST_P(StoredFormats, RefusesEveryTensorThatIsNotAsTheFormatHasIt) {
  Twins twins(GetParam().config, GetParam().write);
  const FakeTensors sound = twins.tensors;
  const std::string module = "model.layers.0.mlp.experts.1.down_proj";
  int spoiled = 0;
  for (const auto& [name, made] : sound) {
    if (!name.starts_with(module + ".") || name.ends_with(".input_scale") ||
        name.ends_with(".weight_format")) {
      continue;
    }
    const auto refused = [&](const char* what) {
      ++spoiled;
      twins.save();
      try {
        weights_of(twins.quantised.path(), {});
        ADD_FAILURE() << name << ' ' << what;
      } catch (const base::ModelFileError& error) {
        EXPECT_NE(std::string(error.what()).find(module), std::string::npos) << error.what();
      }
      twins.tensors = sound;
    };
    const std::string config = GetParam().config;
    const bool ordered = config.find("\"desc_act\": true") != std::string::npos ||
                         config.find("\"actorder\": \"group\"") != std::string::npos;
    const bool optional = name.ends_with(".weight_shape") || (name.ends_with("g_idx") && !ordered);
    if (!optional) {
      twins.tensors.erase(name);
      refused("missing");
    }
    FakeTensor& longer = twins.tensors[name];
    const size_t element = std::max<size_t>(
        1, longer.raw_dtype.empty()
               ? 0
               : longer.raw_bytes.size() / static_cast<size_t>(tensor::element_count(made.shape)));
    const int64_t count = tensor::element_count(made.shape) + 1;
    longer.shape = {count};
    longer.raw_bytes.resize(longer.raw_bytes.size() + element);
    longer.values.resize(longer.raw_dtype.empty() ? static_cast<size_t>(count) : 0);
    refused("longer");
    twins.tensors[name] =
        testing::raw("BOOL", made.shape,
                     std::vector<char>(static_cast<size_t>(tensor::element_count(made.shape))));
    refused("of another type");
  }
  EXPECT_GE(spoiled, 5);
}

INSTANTIATE_TEST_SUITE_P(All, StoredFormats, ::testing::ValuesIn(all_stored()), name_of);

const Stored& stored(const std::string& name) {
  static const std::vector<Stored> kStored = all_stored();
  return *std::find_if(kStored.begin(), kStored.end(),
                       [&](const Stored& each) { return each.name == name; });
}

std::string refusal(const Twins& twins) {
  try {
    weights_of(twins.quantised.path(), {});
  } catch (const base::ModelFileError& error) {
    return error.what();
  }
  return "nothing";
}

TEST(StoredWeights, RefusesScalesThatAreNoNumbersAndGroupsThatAreNone) {
  const std::string module = "model.layers.0.mlp.experts.1.down_proj";
  Twins gptq(stored("gptq_of_2_bits_reordered").config, stored("gptq_of_2_bits_reordered").write);
  const FakeTensors sound = gptq.tensors;
  gptq.tensors[module + ".scales"].values[3] = NAN;
  gptq.save();
  EXPECT_NE(refusal(gptq).find(module + ".scales"), std::string::npos) << refusal(gptq);
  EXPECT_NE(refusal(gptq).find("has the scale nan at 3"), std::string::npos) << refusal(gptq);
  for (const char group : {'\x02', '\xff'}) {
    gptq.tensors = sound;
    gptq.tensors[module + ".g_idx"].raw_bytes[4 * 5 + 3] = group == '\xff' ? group : '\0';
    gptq.tensors[module + ".g_idx"].raw_bytes[4 * 5] = group;
    gptq.save();
    EXPECT_NE(refusal(gptq).find("puts input 5 into group"), std::string::npos) << refusal(gptq);
  }
  Twins nvfp4(stored("nvfp4_divided").config, stored("nvfp4_divided").write);
  nvfp4.tensors[module + ".weight_scale"].raw_bytes[2] = '\x7f';
  nvfp4.save();
  EXPECT_NE(refusal(nvfp4).find("has the scale nan at 2"), std::string::npos) << refusal(nvfp4);
}

TEST(StoredWeights, LeavesPlainWhatIsPlainAndDropsABiasOfZeros) {
  Twins twins(stored("gptq").config, stored("gptq").write);
  const std::string module = "model.layers.0.self_attn.o_proj";
  // One module that the tool left as it was, which the config need not say.
  for (auto at = twins.tensors.begin(); at != twins.tensors.end();) {
    at = at->first.starts_with(module + ".") ? twins.tensors.erase(at) : std::next(at);
  }
  Weights values(64 * 64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) / 8;
  twins.tensors[module + ".weight"] = testing::floats(DType::kF16, {64, 64}, values);
  const std::string bias = "model.layers.0.mlp.experts.1.down_proj.bias";
  twins.tensors[bias] = testing::floats(DType::kF16, {64}, Weights(64));
  twins.tensors["model.layers.0.self_attn.k_proj.k_scale"] =
      testing::floats(DType::kF32, {1}, {1.0f});
  twins.save();
  EXPECT_EQ(refusal(twins), "nothing");
  twins.tensors[bias].values[5] = 1;
  twins.save();
  EXPECT_NE(refusal(twins).find("unexpected tensor"), std::string::npos) << refusal(twins);
}

TEST(StoredWeights, RefusesWhatTheConfigLeavesAloneAndWhatItSaysNothingOf) {
  Twins twins(R"({"quant_method": "awq", "group_size": 8, "modules_to_not_convert": ["q_proj"]})",
              stored("awq_gemm").write);
  EXPECT_NE(refusal(twins).find("leaves model.layers.0.self_attn.q_proj alone"), std::string::npos)
      << refusal(twins);
  twins.config.erase("quantization_config");
  twins.save();
  EXPECT_NE(refusal(twins).find("no quantization_config"), std::string::npos) << refusal(twins);
}

/// Numbers of the config, and tensors that change places, shapes or types, at random: whatever
/// comes of it is loaded or refused.
TEST(StoredWeights, RandomChangesAreLoadedOrRefused) {
  std::mt19937 random(17);
  const auto pick = [&](size_t count) { return random() % count; };
  const std::vector<int64_t> numbers = {-1, 0, 1, 2, 3, 4, 7, 8, 16, 24, 64, 1000, 1 << 20};
  const std::function<void(boost::json::value&)> spoil = [&](boost::json::value& value) {
    if (value.is_object()) {
      for (auto& [key, inside] : value.get_object()) {
        if (pick(3) == 0) spoil(inside);
      }
    } else if (value.is_int64()) {
      value = numbers[pick(numbers.size())];
    } else if (value.is_bool()) {
      value = !value.get_bool();
    } else if (value.is_string() && pick(4) == 0) {
      value = "gptq";
    }
  };
  int loaded = 0;
  int refused = 0;
  for (const Stored& each : all_stored()) {
    Twins twins(each.config, each.write);
    const auto sound = std::pair(twins.config, twins.tensors);
    for (int round = 0; round < 25; ++round) {
      std::tie(twins.config, twins.tensors) = sound;
      if (round % 2 == 0) spoil(twins.config["quantization_config"]);
      const auto any = [&] {
        return std::next(twins.tensors.begin(), static_cast<int64_t>(pick(twins.tensors.size())));
      };
      for (int i = 0; round % 2 == 1 && i < 4; ++i) {
        const auto at = any();
        if (!at->first.starts_with("model.layers.0.mlp.experts")) continue;
        const auto other = any();
        if (pick(2) == 0) std::swap(at->second.shape, other->second.shape);
        if (pick(2) == 0) std::swap(at->second, other->second);
        if (pick(3) == 0 && at->second.raw_bytes.size() > 1) {
          at->second.raw_bytes[pick(at->second.raw_bytes.size())] ^=
              static_cast<char>(1 + pick(255));
        }
      }
      try {
        twins.save();
        weights_of(twins.quantised.path(), {});
        ++loaded;
      } catch (const base::ModelFileError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(loaded, 50);
  EXPECT_GT(refused, 200);
}

/// GPTQModel's "dynamic": experts of 8 bits in smaller groups, the rest of 4.
TEST(StoredWeights, FollowsOverridesByModule) {
  // Down projections of experts are the only matrices of 32 inputs.
  const Writer write = [](const Weights& w, int64_t n, int64_t k, Fault fault) {
    const bool expert = k == 32;
    return testing::write_gptq(Integers(w, n, k, expert ? 8 : 4, expert ? 8 : 16, true), 1, false,
                               fault);
  };
  const Twins twins(R"({"quant_method": "gptq", "bits": 4, "group_size": 16, "dynamic":
                        {"+:.*experts\\.[0-9]+\\.down_proj": {"bits": 8, "group_size": 8}}})",
                    write);
  EXPECT_LE(difference(twins.quantised.path(), twins.floats.path(), "reference"), kBound);
}

}  // namespace
}  // namespace moesaic::model
